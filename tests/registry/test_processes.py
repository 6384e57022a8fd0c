"""Real worker processes: many at once, killed in the middle; a pruning; the demo."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from coppice.registry import layout
from coppice.registry.demo import demo
from coppice.registry.examples import install as examples
from coppice.registry.models import read_info
from coppice.registry.registry import Registry
from coppice.registry.tasks import TaskSettings
from coppice.registry.workflows import Workflow, run_pass
from coppice.store import Store
from coppice.store.memory import MemoryHome
from tests.registry.support import add_task, do_all, new_registry, processes
from tests.support.homes import over_homes

ORDERS, WORKERS, KILLED = 100, 10, 4
TINY = {
    "rounds": {"iterations": 30, "tmax": 90},
    "surgery": {"learning_rate": 0.05, "prune_until": 60},
    "search": {"evaluations": 10, "population": 5, "sigma": 0.3, "lower": -1.0, "upper": 5.0},
    "constraint": {"accuracy_drop": 0.2, "samples": 200},
}


def bytes_of(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


QUICK = f"""
import sys, time
time.sleep(0.1)
open(sys.argv[1], "wb").write({bytes_of(np.zeros((2, 2)))!r})
open(sys.argv[2], "wb").write({bytes_of(np.zeros(2))!r})
""".encode()


@over_homes("folder", "webhdfs")
def test_ten_workers_some_killed_and_a_hundred_orders(store: Store, tmp_path: Path) -> None:
    registry = new_registry(store)
    task = add_task(registry)
    store.replace(layout.generator_file(task, "train"), QUICK)
    for _ in range(ORDERS):
        registry.order_set(task, "train")
    queue, rng = registry.queues["traingen"], random.Random(3)
    commands = [["worker", "traingen", "--lease", "3", "--until-empty"]] * WORKERS
    with processes(store.url, *commands, logs=tmp_path) as workers:
        victims = rng.sample(workers, KILLED)
        while victims:
            time.sleep(0.1)
            held = {ticket.worker.split("-")[-2] for ticket in queue.tickets("running") if ticket.worker}
            for victim in list(victims):
                if str(victim.pid) in held:
                    victim.kill()
                    victims.remove(victim)
            if not queue.tickets("wait"):
                break
        assert not victims, "the queue was empty before all of them were killed"
        for worker in workers:
            worker.wait(300)
    states = [ticket.state for ticket in queue.all()]
    assert states == ["success"] * ORDERS, "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert len(registry.sets(task, "train")) == ORDERS
    said = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert said.count(": done") >= ORDERS - KILLED


_trained: dict[str, bytes] = {}


def trained_digits(store: Store) -> tuple[Registry, str]:
    """A registry in `store` with one model of the digits, trained and tested; made once by a test process."""
    if not _trained:
        with Store(MemoryHome("trained")) as first:
            _train(first)
            _trained.update(_files(first, ""))
    store.create_many(list(_trained.items()))
    return Registry.init(store), "TSK000001"  # which makes the empty folders


def _files(store: Store, folder: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in store.list(folder):
        path = f"{folder}/{entry.name}" if folder else entry.name
        found |= _files(store, path) if entry.is_folder else {path: store.read(path) or b""}
    return found


def _train(store: Store) -> None:
    registry = new_registry(store)
    task = examples.install(registry, "digits")
    wanted = registry.settings(task).model_copy(update={"prune": None})
    store.replace(layout.settings_file(task), wanted.to_bytes())
    store.delete(layout.arch_file("ARC000001", "train"))  # the slim one is enough
    store.delete("ids/ARC/ARC000001.json")
    do_all(registry)
    workflows: tuple[Workflow, ...] = ("train", "test")
    for workflow in workflows:
        run_pass(registry, workflow, print)
        do_all(registry)


@over_homes("webhdfs")  # the demo below prunes on a folder
def test_a_model_is_pruned_scored_and_chosen(store: Store) -> None:
    registry, task = trained_digits(store)
    settings = registry.settings(task)
    store.replace(
        layout.settings_file(task), settings.model_copy(update={"prune": TINY, "tolerance": 0.5}).to_bytes()
    )
    (dense,) = registry.models(task).read()[0]
    (order,) = run_pass(registry, "prune", print)
    assert order.name == f"prune_{task}_{dense.arch}_{dense.train}_{dense.model}_MDL000002"
    assert run_pass(registry, "prune", print) == []
    do_all(registry)
    (ended,) = registry.queues["prune"].all()
    assert ended.state == "success", store.read(ended.log)
    pruned = registry.model(task, "MDL000002")
    assert pruned.parent == dense.model
    assert pruned.compression is not None
    assert pruned.compression > 1.0
    assert pruned.parameters is not None
    result = json.loads(store.read("run/MDL000002/result/result.json") or b"")
    assert pruned.run == result["run_id"]
    assert pruned.parameters == result["parameters_remaining"]
    content = store.read(layout.model_file("MDL000002")) or b""
    assert read_info(content, "").architecture == "mlp"
    assert sum(int(np.count_nonzero(tensor)) for tensor in load(content).values()) <= pruned.parameters

    run_pass(registry, "test", print)
    registry.order_set(task, "predict")
    do_all(registry)
    best = registry.best(task)
    assert best is not None
    assert best[1].model == "MDL000002"  # within the tolerance, and smaller
    run_pass(registry, "predict", print)
    do_all(registry)
    assert [record.model for record in registry.predictions(task).read()[0]] == ["MDL000002"]
    assert run_pass(registry, "prune", print) == []

    found = subprocess.run(
        [sys.executable, "-m", "coppice", "registry", "lineage", "MDL000002", "--at", store.url],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = found.stdout.splitlines()
    assert lines[0].startswith(f"MDL000002: pruned from MDL000001, {pruned.compression:.2f} times fewer")
    assert lines[1].startswith("  MDL000001: trained by arch/ARC000002_train.py on TRD000001")
    assert lines[2] == f"    TRD000001: made by gen/{task}_train.py"


def test_a_pruning_whose_worker_was_killed_goes_on(store: Store, tmp_path: Path) -> None:
    registry, task = trained_digits(store)
    order = registry.pruning_of(task, registry.model(task, "MDL000001"), TINY)
    registry.order(order)
    command = ["worker", "prune", "--lease", "2", "--until-empty"]
    with processes(store.url, command, logs=tmp_path) as (worker,):
        deadline = time.monotonic() + 120
        while not store.list(f"run/{order.makes}/rounds") and time.monotonic() < deadline:
            time.sleep(0.05)
        worker.kill()
        worker.wait()
        assert len(registry.queues["prune"].tickets("running")) == 1
    run = json.loads(store.read(f"run/{order.makes}/run.json") or b"")["run_id"]
    do_all(registry, "prune", lease_s=2.0)
    assert [ticket.state for ticket in registry.queues["prune"].all()] == ["success"]
    assert registry.model(task, order.makes).run == run


def test_the_demo_comes_to_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TaskSettings.model_validate

    def shorter(content: dict[str, object]) -> TaskSettings:
        return whole({**content, "prune": TINY} if content.get("name") == "digits" else content)

    monkeypatch.setattr(TaskSettings, "model_validate", shorter)
    said: list[str] = []
    registry = new_registry(store)
    task = demo(registry, "digits", 2, said.append)
    assert len(registry.models(task).read()[0]) == 4
    assert len(registry.scores(task).read()[0]) == 4
    assert len(registry.predictions(task).read()[0]) == 1
    assert {ticket.state for queue in registry.queues.values() for ticket in queue.all()} == {"success"}
    assert said[-1].endswith(": success")
