"""Workers carry out orders: from a data set to a prediction, and whatever can be wrong on the way."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.registry.orders import Kind, Order
from coppice.registry.queue import path_of
from coppice.registry.registry import Registry
from coppice.registry.worker import Conduct, work
from coppice.registry.workflows import run_pass
from coppice.roles.context import Context, Stopped
from coppice.store import Store
from tests.registry.support import (
    ARCHITECTURE,
    GENERATORS,
    add_task,
    context_for,
    do_all,
    new_registry,
    settle,
)
from tests.support.homes import over_homes

TASK = "TSK000001"
pytestmark = over_homes("folder", "webhdfs")


@pytest.fixture
def registry(store: Store) -> Registry:
    return new_registry(store)


def log_of(registry: Registry, kind: Kind, state: str) -> str:
    (ticket,) = registry.queues[kind].tickets(state)  # type: ignore[arg-type]
    return (registry.store.read(ticket.log) or b"").decode()


def reason(registry: Registry, kind: Kind) -> str:
    return log_of(registry, kind, "fail").rstrip("\n").splitlines()[-1]


def order_train_set(registry: Registry, script: bytes, **settings: Any) -> None:
    task = add_task(registry, **settings)
    registry.store.replace(layout.generator_file(task, "train"), script)
    registry.order_set(task, "train")
    do_all(registry)


WRITE = b"""
import sys, numpy as np
x, y = np.zeros((4, 2)), np.zeros(4, int)
%s
np.save(sys.argv[1], x)
np.save(sys.argv[2], y)
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            b"raise ValueError('no such sensor')",
            "gen/TSK000001_train.py: exit status 1: ValueError: no such sensor",
        ),
        (b"import sys; sys.exit(7)", "gen/TSK000001_train.py: exit status 7: it said nothing"),
        (b"import os; os.kill(os.getpid(), 11)", "gen/TSK000001_train.py: killed by signal 11"),
        (b"this is no Python", "gen/TSK000001_train.py: exit status 1: SyntaxError: invalid syntax"),
        (b"pass", "train/TRD000001_x.npy was not written, though the script ended with status 0"),
        (
            WRITE % b"y = y[:3]",
            "train/TRD000001_y.npy: expected 4 labels, as many as samples, found shape (3,)",
        ),
        (
            WRITE % b"x = x[:, 0]",
            "train/TRD000001_x.npy: expected numbers of shape (samples, ...), found float64 (4,)",
        ),
        (
            WRITE % b"x = x[:0]; y = y[:0]",
            "train/TRD000001_x.npy: expected numbers of shape (samples, ...), found",
        ),
        (WRITE % b"x[0] = np.nan", "train/TRD000001_x.npy: holds NaN or infinite numbers"),
        (
            WRITE % b"x = np.array([[{}], [1]], object)",
            "train/TRD000001_x.npy: holds object, expected plain numbers",
        ),
        (
            WRITE % b"y = np.array(['a', 'b', 'c', 'd'])",
            "train/TRD000001_y.npy: holds <U1, expected plain numbers",
        ),
        (
            b"import sys\nfor path in sys.argv[1:]: open(path, 'w').write('hello')",
            "train/TRD000001_x.npy: not a whole .npy file",
        ),
    ],
)
def test_scripts_that_go_wrong(registry: Registry, script: bytes, expected: str) -> None:
    order_train_set(registry, script)
    assert reason(registry, "traingen").startswith(expected)
    assert registry.sets(TASK, "train") == []


def test_a_script_that_hangs_is_ended(registry: Registry) -> None:
    order_train_set(registry, b"import time; print('begun', flush=True); time.sleep(1000)", limit_s=1.5)
    assert reason(registry, "traingen") == (
        "gen/TSK000001_train.py: not done after 1.5 s, ended (limit_s in the task's settings)"
    )
    assert "begun" in log_of(registry, "traingen", "fail")


def test_a_script_that_prints_without_end(registry: Registry) -> None:
    order_train_set(registry, b"while True: print('x' * 1000)", limit_s=3.0)
    assert len(log_of(registry, "traingen", "fail")) < 200_000


def train_with(registry: Registry, **scripts: bytes) -> None:
    task = add_task(registry, scripts=scripts)  # type: ignore[arg-type]
    registry.order_set(task, "train")
    registry.order_set(task, "test")
    registry.order_set(task, "predict")
    settle(registry)


@pytest.mark.parametrize(
    ("scripts", "kind", "expected"),
    [
        ({"train": b"pass"}, "train", "model/MDL000001.safetensors was not written"),
        (
            {"train": b"import sys; open(sys.argv[3], 'wb').write(b'x' * 100)"},
            "train",
            "model/MDL000001.safetensors: not a whole safetensors file",
        ),
        (
            {"train": ARCHITECTURE["train"].replace(b", metadata=said", b"")},
            "train",
            "model/MDL000001.safetensors: does not say its architecture; write it with coppice",
        ),
        (
            {"test": b"import sys; open(sys.argv[4], 'w').write('good')"},
            "test",
            "score/SCR000001.txt: expected one finite",
        ),
        (
            {"test": b"import sys; open(sys.argv[4], 'w').write('nan')"},
            "test",
            "score/SCR000001.txt: expected one finite",
        ),
        (
            {"test": b"import sys; open(sys.argv[4], 'w').write('1' * 100000)"},
            "test",
            "score/SCR000001.txt: expected one",
        ),
        (
            {"predict": b"import sys, numpy as np; np.save(sys.argv[3], np.zeros((2, 1)))"},
            "predict",
            "out/PRD000001_yhat.npy: expected a row for each of 3 samples, found shape (2, 1)",
        ),
    ],
)
def test_architectures_that_go_wrong(
    registry: Registry, scripts: dict[str, bytes], kind: Kind, expected: str
) -> None:
    train_with(registry, **scripts)
    assert reason(registry, kind).startswith(expected)


def test_an_order_that_says_something_else_fails(registry: Registry) -> None:
    task = add_task(registry)
    registry.order_set(task, "train")
    (ticket,) = registry.queues["traingen"].tickets("wait")
    registry.store.replace(ticket.path, b"python traingen.py ../../etc/passwd train/TRD000001_x.npy\n")
    do_all(registry)
    assert reason(registry, "traingen") == (
        "line 1: argument 1 is '../../etc/passwd', expected gen/TSK000001_train.py"
    )


def test_an_order_too_large_fails(registry: Registry) -> None:
    task = add_task(registry)
    registry.order_set(task, "train")
    (ticket,) = registry.queues["traingen"].tickets("wait")
    registry.store.replace(ticket.path, b"#" * (2 << 20))
    do_all(registry)
    assert reason(registry, "traingen").endswith("too large for a work order")


def test_missing_arrays_and_models_are_named(registry: Registry) -> None:
    task = add_task(registry)
    for order in (
        Order("train", (task, "ARC000001", "TRD000009", "MDL000009")),
        Order("test", (task, "ARC000001", "MDL000008", "TST000001", "SCR000001")),
    ):
        registry.order(order)
    do_all(registry)
    assert reason(registry, "train") == (
        "train/TRD000009_x.npy is not there; what should make it: coppice registry ls"
    )
    assert reason(registry, "test").startswith("model/MDL000008.safetensors is not there")


def test_a_task_whose_settings_are_broken(registry: Registry) -> None:
    task = add_task(registry)
    registry.order_set(task, "train")
    registry.store.replace(layout.settings_file(task), b"name: x\nbetter: bigger\n")
    do_all(registry)
    assert "better: Input should be 'higher' or 'lower', found 'bigger'" in reason(registry, "traingen")
    registry.store.replace(layout.settings_file(task), b"name: [")
    with pytest.raises(RegistryError, match="not valid YAML"):
        registry.settings(task)


def test_what_was_done_before_is_not_done_again(registry: Registry) -> None:
    train_with(registry)
    before = {path: registry.store.read(path) for path in _records(registry)}
    for queue in registry.queues.values():
        for ticket in queue.tickets("success"):
            queue.put(ticket.order)  # as a workflow might that did not see it on its way
    do_all(registry)
    assert {path: registry.store.read(path) for path in _records(registry)} == before
    assert "trained" in log_of(registry, "train", "success")
    (ticket,) = registry.queues["train"].tickets("success")
    registry.store.delete(ticket.path)  # and if that is forgotten, too
    registry.queues["train"].put(ticket.order)
    do_all(registry)
    assert {path: registry.store.read(path) for path in _records(registry)} == before
    assert [each.state for each in registry.queues["train"].all()] == ["success"]


def _records(registry: Registry) -> list[str]:
    return [f"task/{e.name}" for e in registry.store.list("task") if e.name.endswith(".csv")]


def test_a_worker_that_is_told_to_end_gives_its_order_back(registry: Registry) -> None:
    task = add_task(registry)
    registry.store.replace(layout.generator_file(task, "train"), b"import time; time.sleep(1000)")
    registry.order_set(task, "train")
    stop = threading.Event()
    said: list[str] = []
    plain = context_for(registry.store, said=said)
    context = Context(plain.store, plain.clock, plain.me, plain.rng, said.append, stop.is_set)
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(Stopped):
        work(context, registry, ["traingen"], Conduct())
    assert [t.turn for t in registry.queues["traingen"].tickets("wait")] == [1]
    assert registry.queues["traingen"].tickets("running") == []


def test_a_worker_whose_order_was_taken_back_leaves_it_alone(registry: Registry) -> None:
    task = add_task(registry)
    registry.store.replace(layout.generator_file(task, "train"), b"import time; time.sleep(1000)")
    registry.order_set(task, "train")
    said: list[str] = []

    def take_it_back() -> None:
        (ticket,) = registry.queues["traingen"].tickets("running")
        registry.queues["traingen"].take_back(ticket, tries=3)
        registry.store.replace(layout.generator_file(task, "train"), GENERATORS["train"])

    timer = threading.Timer(1.0, take_it_back)
    timer.start()
    do_all(registry, "traingen", said=said, lease_s=2.0)
    assert any("was taken from this worker" in line for line in said)
    assert [t.state for t in registry.queues["traingen"].all()] == ["success"]
    assert registry.sets(task, "train") == ["TRD000001"]


def test_a_silent_workers_order_is_done_by_another(registry: Registry) -> None:
    task = add_task(registry)
    registry.order_set(task, "train")
    queue = registry.queues["traingen"]
    assert queue.claim(queue.tickets("wait")[0], "gone-1-0000") is not None
    said: list[str] = []
    do_all(registry, "traingen", said=said, lease_s=1.0)
    assert any("gone-1-0000 is silent, put back for try 2" in line for line in said)
    assert [t.state for t in queue.all()] == ["success"]


def test_given_arrays_need_no_script(registry: Registry) -> None:
    task = add_task(registry)
    x, y = io.BytesIO(), io.BytesIO()
    np.save(x, np.zeros((4, 2)))
    np.save(y, np.zeros(4, int))
    assert registry.add_set(task, "train", (x.getvalue(), y.getvalue())) == "TRD000001"
    assert registry.sets(task, "train") == ["TRD000001"]
    few = io.BytesIO()
    np.save(few, np.zeros(3, int))
    with pytest.raises(RegistryError, match="expected 4 labels"):
        registry.add_set(task, "train", (x.getvalue(), few.getvalue()))


def test_a_set_half_published_is_completed(registry: Registry) -> None:
    """Its worker died between the two renames."""
    task = add_task(registry)
    name = registry.order_set(task, "train")
    x, y = io.BytesIO(), io.BytesIO()
    np.save(x, np.full((2, 2), 7.0))
    np.save(y, np.zeros(2, int))
    registry.store.create(f"train/{name}_x.npy", x.getvalue())
    registry.store.create(f"train/{name}.whole/{name}_y.npy", y.getvalue())
    do_all(registry)
    assert registry.store.read(f"train/{name}_x.npy") == x.getvalue()
    assert registry.store.read(f"train/{name}_y.npy") == y.getvalue()
    assert [entry.name for entry in registry.store.list("train")] == [f"{name}_x.npy", f"{name}_y.npy"]


def test_passes_at_once_order_nothing_twice(registry: Registry) -> None:
    task = add_task(registry, archs=3)
    for _ in range(2):
        registry.order_set(task, "train")
    do_all(registry)
    twin = Registry.open(registry.store)
    threads = [
        threading.Thread(target=run_pass, args=(each, "train", print)) for each in (registry, twin) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting = [ticket.order.name for ticket in registry.queues["train"].tickets("wait")]
    assert len(waiting) == 6
    assert sorted(name[-9:] for name in waiting) == [layout.make_id("MDL", number) for number in range(1, 7)]


def test_a_pass_that_died_between_number_and_order_is_gone_on_with(registry: Registry) -> None:
    task = add_task(registry)
    registry.order_set(task, "train")
    do_all(registry)
    (order,) = run_pass(registry, "train", print)
    registry.store.delete(path_of(order, "wait"))
    assert run_pass(Registry.open(registry.store), "train", print) == [order]
    assert run_pass(registry, "train", print) == []


@pytest.mark.parametrize("path", ["gen/TSK000001_train.py", "train/TRD000001_x.npy", "task/TSK000001.yaml"])
def test_a_folder_where_a_file_should_be_fails_its_order_and_no_worker(registry: Registry, path: str) -> None:
    task, sound = add_task(registry), add_task(registry)
    registry.order_set(task, "train")
    registry.order_set(sound, "train")
    registry.store.delete(path)
    registry.store.make_folder(path)
    registry.store.create(f"{path}/x", b"")
    do_all(registry)
    states = {ticket.order.task: ticket.state for ticket in registry.queues["traingen"].all()}
    assert states[sound] == "success"
    assert states[task] == "fail" or path.startswith("train/")


def test_a_trained_model_has_no_parent_whatever_its_script_says(registry: Registry) -> None:
    said = b'{"architecture": "mlp", "parent": "MDL000001", "parameters": "1", "compression": "9", "run": ""}'
    script = ARCHITECTURE["train"].replace(b"metadata=said", b"metadata=" + said)
    task = add_task(registry, scripts={"train": script})
    registry.order_set(task, "train")
    settle(registry)
    assert registry.model(task, "MDL000001").parent is None


def test_files_that_are_no_orders_fail_with_a_reason(registry: Registry) -> None:
    add_task(registry)
    registry.store.create("wo/train/wait/trian_TSK000001_ARC000001_TRD000001_MDL000001.wo", b"rm -rf /")
    registry.store.create("wo/train/wait/notes.txt", b"")
    said: list[str] = []
    do_all(registry, "train", said=said)
    assert any("no name of a train order" in line for line in said)
    assert [entry.name for entry in registry.store.list("wo/train/wait")] == ["notes.txt"]
    log = registry.store.read("wo/train/fail/trian_TSK000001_ARC000001_TRD000001_MDL000001.log") or b""
    assert b"no name of a train order" in log


def test_what_a_script_leaves_running_fails_no_order(registry: Registry) -> None:
    left = b"""
import subprocess, sys
code = "import time\\nfor n in range(40): open(str(n), 'w'); time.sleep(0.02)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
"""
    order_train_set(registry, GENERATORS["train"] + left)
    assert [ticket.state for ticket in registry.queues["traingen"].all()] == ["success"]
