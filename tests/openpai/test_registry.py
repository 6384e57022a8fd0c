"""Pruning runs of a registry as jobs of a cluster."""

from __future__ import annotations

import base64
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from coppice.registry.worker import Conduct, work
from coppice.store import Store, open_store
from tests.openpai.server import Pai, token_of
from tests.registry.support import context_for
from tests.registry.test_processes import TINY, trained_digits
from tests.roles.processes import simulate
from tests.support.http_server import FakeServer

OPTIONS = ("--image", "coppice:test")  # without --storage: there is nothing to mount in a test


def prune(store: Store, kinds: tuple[str, ...] = OPTIONS) -> str:
    """A prune order, carried out by a worker that submits; the last line of its log."""
    registry, task = trained_digits(store)
    order = registry.pruning_of(task, registry.model(task, "MDL000001"), TINY)
    registry.order(order)
    work(context_for(store), registry, ["prune"], Conduct(until_empty=True, openpai=kinds))
    (ticket,) = registry.queues["prune"].all()
    log = (store.read(ticket.log) or b"").decode()
    assert (ticket.state == "success") == (registry.models(task).find(order.makes) is not None), log
    return log.rstrip("\n").rpartition("\n")[2]


@pytest.fixture
def cluster(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known to the worker by its environment."""
    monkeypatch.setenv("COPPICE_OPENPAI_URL", f"http://{server.host}")
    monkeypatch.setenv("COPPICE_OPENPAI_TOKEN", token_of("anna"))


def test_a_pruning_run_is_submitted_and_waited_for(
    store: Store, cluster: None, pai: Pai, tmp_path: Path
) -> None:
    ran: list[subprocess.CompletedProcess[str]] = []

    def machines() -> None:
        while not pai.jobs:
            time.sleep(0.1)
        (job,) = pai.jobs.values()
        commands = job.config["taskRoles"]["master"]["commands"]
        carried = re.search(r"echo (\S+) \| base64", " ".join(commands))
        folder = re.search(r"--work (\S+)", commands[-1])
        assert carried is not None
        assert folder is not None
        run_file = tmp_path / "carried.yaml"
        run_file.write_bytes(base64.b64decode(carried[1]))
        job.states[:] = ["RUNNING"]
        ran.append(simulate(run_file, folder[1]))
        job.states[:] = ["SUCCEEDED"]

    cluster_thread = threading.Thread(target=machines)
    cluster_thread.start()
    last = prune(store)
    cluster_thread.join()
    assert ran[0].returncode == 0, ran[0].stderr
    assert last.startswith("$ python prune_record.py")


def test_a_registry_that_containers_cannot_read(cluster: None, pai: Pai, tmp_path: Path) -> None:
    with open_store(f"memory:{tmp_path.name}") as store:
        assert "is for a registry on one" in prune(store)
    assert not pai.jobs
