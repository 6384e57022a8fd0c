# The two commands that matter: `make run` prunes a network on this machine, `make test` passes all tests.
# Both set up whatever they need.

BIN := .venv/bin

N := 10000
FROM := 0
# Processes that share the tests, which wait more than they work. To see one test alone: .venv/bin/pytest PATH
WORKERS := 4

# A test run starts Python some hundred times, and each start would compile all of PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check setup hdfs crash-points schedules clean help

help:
	@echo 'make run    prune a small network with four kinds of processes on this machine (1 minute)'
	@echo 'make test   lint, types and all tests, on a real HDFS and RabbitMQ too (15 minutes)'
	@echo 'make check  lint and types only'
	@echo 'make crash-points            kill each role at each of its store operations (some minutes)'
	@echo 'make schedules N=10000 FROM=0   whole runs under seeded faults (20 minutes)'
	@echo 'make hdfs   start a real HDFS on this machine to play with'
	@echo 'make clean  remove what the above have made'

run: setup
	$(BIN)/coppice simulate jobs/digits.yaml

test: setup check
	scripts/java.sh
	scripts/rabbitmq.sh
	$(BIN)/python -m tests.hdfs.jars
	$(BIN)/python -m pytest -n $(WORKERS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

crash-points: setup
	$(BIN)/python -m tests.simulation.crash_points

schedules: setup
	$(BIN)/python -m tests.simulation.schedules $(N) --from $(FROM)

hdfs: setup
	scripts/java.sh
	$(BIN)/python -m tests.hdfs.cluster

setup: .venv/ready

.venv/ready: pyproject.toml requirements.txt scripts/setup.sh
	scripts/setup.sh

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis work
