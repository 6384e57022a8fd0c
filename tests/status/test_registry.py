"""Work orders tell how far they are: the worker hands on what scripts report, and tells their end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coppice.registry.registry import Registry
from coppice.registry.workflows import run_pass
from coppice.status import StatusSettingsError
from coppice.status.metrics import read_curves
from coppice.store import Store
from tests.registry.support import ARCHITECTURE, add_task, do_all, new_registry
from tests.registry.test_processes import TINY, trained_digits
from tests.status.conftest import bodies, settings_of
from tests.status.rabbitmq import RabbitMQ

REPORTS = b"""
from coppice.registry.scripting import report
for epoch in (1, 2, 3):
    report(epoch, 100 * epoch / 3, loss={"epoch": epoch, "training": 1 / epoch})
"""


@pytest.fixture
def shared(rabbitmq: RabbitMQ, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file without ids, which all workers share; named by the environment."""
    path = tmp_path / "status.yaml"
    content = settings_of(rabbitmq, queue, model_id=None, model_write_path=str(tmp_path / "models"))
    path.write_text(json.dumps(content))
    monkeypatch.setenv("COPPICE_STATUS", str(path))
    return path


def train(store: Store, script: bytes) -> Registry:
    registry = new_registry(store)
    task = add_task(registry, scripts={"train": script})
    registry.order_set(task, "train")
    registry.order_set(task, "test")
    do_all(registry)
    run_pass(registry, "train", print)
    do_all(registry)
    run_pass(registry, "test", print)
    do_all(registry)
    return registry


def told(rabbitmq: RabbitMQ, queue: str) -> list[tuple[Any, ...]]:
    return [
        (body["cmd"], body.get("model_id") or body["validation_id"], body["status"], body.get("percentage"))
        for body in bodies(rabbitmq, queue)
    ]


def test_training_and_validation_are_told(
    store: Store, shared: Path, rabbitmq: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    train(store, ARCHITECTURE["train"] + REPORTS)
    assert told(rabbitmq, queue) == [
        ("training_status", "MDL000001", "training_ing", 0),
        ("training_status", "MDL000001", "training_ing", 33),
        ("training_status", "MDL000001", "training_ing", 66),
        ("training_status", "MDL000001", "training_ing", 100),
        ("training_status", "MDL000001", "training_done", None),
        ("validation_status", "SCR000001", "validation_ing", 0),
        ("validation_status", "SCR000001", "validation_done", None),
    ]
    log = tmp_path / "models/MDL000001/save/metrics/loss.log"
    curves = read_curves(log.read_bytes(), "loss.log")
    assert curves.names == ("epoch", "training")
    assert curves.values[:, 0].tolist() == [1, 2, 3]


def test_a_script_that_fails_is_told_as_an_error(
    store: Store, shared: Path, rabbitmq: RabbitMQ, queue: str
) -> None:
    train(store, REPORTS + b"\nraise SystemExit('out of ideas')")
    last = bodies(rabbitmq, queue)[-1]
    assert last["status"] == "training_error"
    assert last["message"] == "arch/ARC000001_train.py: exit status 1: out of ideas"


def test_what_is_no_report_is_said_in_the_log(
    store: Store, shared: Path, rabbitmq: RabbitMQ, queue: str
) -> None:
    nonsense = b"""
import os
open(os.environ["COPPICE_REPORT"], "a").write('nonsense\\n[1]\\n{"metrics": 7}\\n')
"""
    registry = train(store, ARCHITECTURE["train"] + nonsense + REPORTS)
    (ticket,) = registry.queues["train"].tickets("success")
    assert (store.read(ticket.log) or b"").count(b"is no report") == 1
    assert ("training_status", "MDL000001", "training_ing", 100) in told(rabbitmq, queue)


def test_a_pruning_run_tells_of_the_model_that_it_makes(
    store: Store,
    shared: Path,
    rabbitmq: RabbitMQ,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("COPPICE_STATUS")
    registry, task = trained_digits(store)
    order = registry.pruning_of(task, registry.model(task, "MDL000001"), TINY)
    registry.order(order)
    monkeypatch.setenv("COPPICE_STATUS", str(shared))
    do_all(registry, "prune")
    messages = told(rabbitmq, queue)
    assert {message[1] for message in messages} == {order.makes}
    assert messages[-1][2] == "training_done"
    assert (tmp_path / f"models/{order.makes}/save/metrics/compression.log").exists()


def test_settings_that_cannot_be_used_are_said_before_any_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from coppice.registry.reporting import check_settings

    monkeypatch.setenv("COPPICE_STATUS", str(tmp_path / "nowhere.yaml"))
    with pytest.raises(StatusSettingsError, match=r"nowhere\.yaml: cannot be read"):
        check_settings()
