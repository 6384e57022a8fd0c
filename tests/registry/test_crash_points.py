"""Every crash point of the registry: workers and workflows are killed at each of their store operations,
before or after it, or hear nothing of what it did; whoever comes next must bring all to the same end."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from coppice.registry.job import Job
from coppice.registry.orders import KINDS
from coppice.registry.registry import Registry, SetKind
from coppice.registry.worker import Conduct, work
from coppice.registry.workflows import EVERY_S, run_pass
from coppice.store import Retry, Store
from coppice.store.memory import MemoryHome
from tests.registry.support import add_task, context_for
from tests.support.clocks import FakeClock
from tests.support.failing_home import Call, FailingHome, Fault, Killed

FAULTS = (Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.AFTER)


def stand_in(job: Job, script: str, *arguments: Path) -> None:
    """What the quick scripts write, without a process."""
    kind = script.rpartition("_")[2]
    if script.startswith("gen/"):
        x = np.ones((4, 2), np.float32)
        for path, array in zip(arguments, (x, np.array([0, 1, 0, 1])), strict=False):
            path.write_bytes(_npy(array))
    elif kind == "train.py":
        arguments[2].write_bytes(bytes(save({"weight": np.ones((2, 2))}, {"architecture": "mlp"})))
    elif kind == "test.py":
        arguments[3].write_text("0.5")
    else:
        arguments[2].write_bytes(_npy(np.ones((4, 1))))


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


class World:
    """A registry with a task whose sets are ordered, on a home that fails at one operation."""

    def __init__(self, at: int | None = None, fault: Fault | None = None) -> None:
        self.home = MemoryHome("registry")
        with Store(self.home) as store:
            self._set_up(Registry.init(store))
        self.clock = FakeClock()
        self.calls = 0
        self._at, self._fault = at, fault

    @staticmethod
    def _set_up(registry: Registry) -> None:
        task = add_task(registry)
        kinds: tuple[SetKind, ...] = ("train", "test", "predict")
        for kind in kinds:
            registry.order_set(task, kind)

    def plan(self, call: Call) -> Fault | None:
        self.calls += 1
        return self._fault if self.calls == self._at else None

    def live(self) -> None:
        """Workflows and a worker in turn, started again when they are killed, until nothing is left to do."""
        while True:
            try:
                with Store(FailingHome(self.home, self.plan), clock=self.clock, retry=Retry()) as store:
                    if self._settle(store):
                        return
            except Killed:
                continue

    def _settle(self, store: Store) -> bool:
        registry = Registry.open(store, self.clock)
        while True:
            context = context_for(store, self.clock)
            work(context, registry, KINDS, Conduct(until_empty=True))
            if not [
                each for workflow in EVERY_S for each in run_pass(registry, workflow, self._no_complaint)
            ]:
                return True

    @staticmethod
    def _no_complaint(line: str) -> None:
        raise AssertionError(line)

    def end(self) -> dict[str, Any]:
        """What is to be the same, whatever happened."""
        with Store(self.home) as store:
            registry = Registry.open(store)
            files = {
                f"{folder}/{entry.name}"
                for folder in (
                    "train",
                    "test",
                    "predict",
                    "model",
                    "score",
                    "out",
                    "ids/MDL",
                    "ids/SCR",
                    "task",
                )
                for entry in store.list(folder)
            }
            tables = {
                kind: sorted(
                    line.partition(", ")[2] for line in (store.read(path) or b"").decode().splitlines()
                )
                for kind in ("model", "score", "predict")
                if (path := f"task/TSK000001_{kind}.csv")
            }
            orders = {
                f"{kind}/{entry.name.removesuffix('.log')}": state
                for kind in KINDS
                for state in ("wait", "running", "success", "fail")
                for entry in store.list(f"wo/{kind}/{state}")
                if entry.name.endswith(".wo")
            }
            assert registry.predictions("TSK000001").read()[1] == []
            return {"files": files, "tables": tables, "orders": orders}


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "run_script", stand_in)


def test_every_crash_point(record_property: Any) -> None:
    undisturbed = World()
    undisturbed.live()
    expected = undisturbed.end()
    assert set(expected["orders"].values()) == {"success"}
    assert len(expected["orders"]) == 3 + 1 + 1 + 1
    assert [len(lines) for lines in expected["tables"].values()] == [2, 2, 2]  # with their headings
    # Day to day one of the faults at each operation, in turn; in CI all of them.
    points = [(at, fault) for at in range(1, undisturbed.calls + 1) for fault in FAULTS]
    tried = points if os.environ.get("CI") else points[::4]
    for at, fault in tried:
        world = World(at, fault)
        world.live()
        assert world.end() == expected, f"{fault.name} at operation {at}"
    record_property("tried", f"{len(tried)} crash points of the registry")
