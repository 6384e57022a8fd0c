"""The four roles as threads of the test, over any store, with stand-ins for training and scoring."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coppice.clock import SystemClock
from coppice.roles.context import Context, RunOver, Stopped
from coppice.roles.evaluator import MakeScorer, evaluator
from coppice.roles.master import master
from coppice.roles.outer import outer
from coppice.roles.searcher import ncs
from coppice.runfile import RunFile, parse_run_file
from coppice.store import Store
from coppice.work import names
from coppice.work.errors import RunFailed
from coppice.work.presence import Identity
from tests.support.standins import CheapPruner, CheapScorer

_numbers = itertools.count(1)
HASTE = 20
"""How much faster time passes for the roles: waits and leases are theirs, the work is real."""


class HastyClock(SystemClock):
    """The system's clock, `haste` times as fast."""

    def __init__(self, haste: int = HASTE) -> None:
        self._haste = haste

    def monotonic(self) -> float:
        return time.monotonic() * self._haste

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self._haste)


OpenStore = Callable[[], Store]


def small_run(**sections: Any) -> RunFile:
    """Three rounds, the first two with a search of 3 generations."""
    settings: dict[str, Any] = {
        "name": "small",
        "seed": 7,
        "reference": {"iterations": 60},
        "rounds": {"iterations": 40, "tmax": 110},
        "surgery": {"prune_until": 80},
        "search": {"population": 4, "evaluations": 11, "sigma": 0.3},
        "constraint": {"accuracy_drop": 0.02},
        "evaluators": {"lease_s": 20, "tries": 3},
    }
    return parse_run_file({**settings, **sections}, "small")


def context(
    open_store: OpenStore, name: str = "role", say: list[str] | None = None, haste: int = HASTE
) -> Context:
    """A role's world with an identity of its own; nothing here waits for real leases by process id."""
    number = next(_numbers)
    lines = [] if say is None else say
    return Context(
        store=open_store(),
        clock=HastyClock(haste),
        me=Identity(f"{name}-{number}", "testhost", number, "", ""),
        rng=random.Random(number),
        say=lambda line: lines.append(f"{name}: {line}"),
        background=False,
    )


@dataclass
class Crew:
    """Roles under way."""

    open_store: OpenStore
    haste: int = HASTE
    said: list[str] = field(default_factory=list)
    errors: dict[str, BaseException] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str, serve: Callable[[Context], Any]) -> None:
        """Run `serve` on a thread; `RunOver` is its proper end."""
        own = context(self.open_store, name, self.said, self.haste)
        own.stopping = self.stopping.is_set

        def run() -> None:
            try:
                serve(own)
            except (RunOver, Stopped):
                pass
            except BaseException as error:
                self.errors[name] = error

        thread = threading.Thread(target=run, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()

    def start_all(
        self,
        run: RunFile,
        evaluators: int = 2,
        make_scorer: MakeScorer = CheapScorer,
        make_pruner: Callable[[RunFile], Any] = CheapPruner,
    ) -> None:
        """All four roles."""
        self.start("master", lambda c: master(c, run))
        self.start("outer", lambda c: outer(c, make_pruner))
        self.start("ncs", ncs)
        for i in range(evaluators):
            self.start(f"evaluator{i}", lambda c: evaluator(c, make_scorer))

    def join(self, timeout_s: float = 120.0) -> None:
        """Wait for the end; a role that hangs or failed fails the test."""
        for thread in self.threads:
            thread.join(timeout_s)
        hanging = [thread.name for thread in self.threads if thread.is_alive()]
        self.stopping.set()
        if hanging or self.errors:
            raise AssertionError(f"hanging: {hanging}, errors: {self.errors}, said: {self.said[-20:]}")

    def join_failed(self, timeout_s: float = 120.0) -> None:
        """Wait for the end of a run that failed: whoever is left ends by `RunFailed`."""
        for thread in self.threads:
            thread.join(timeout_s)
        assert not [thread.name for thread in self.threads if thread.is_alive()]
        assert all(isinstance(error, RunFailed) for error in self.errors.values()), self.errors
        self.errors.clear()


def run_all(open_store: OpenStore, run: RunFile, haste: int = HASTE, **crew: Any) -> Crew:
    """A whole run."""
    all_roles = Crew(open_store, haste)
    all_roles.start_all(run, **crew)
    all_roles.join()
    return all_roles


def result_of(store: Store) -> dict[str, Any]:
    """result.json without what two runs of the same seed may differ in."""
    data = store.read(names.RESULT_JSON)
    assert data is not None
    result: dict[str, Any] = json.loads(data)
    for key in ("run_id", "seconds", "evaluators", "export"):
        result.pop(key)
    for record in result["round_history"]:
        record.pop("run")
    return result


def history_of(store: Store) -> list[list[str]]:
    """The rows of history.csv without the column that says who scored."""
    data = store.read(names.RESULT_HISTORY)
    assert data is not None
    rows = list(csv.reader(io.StringIO(data.decode())))
    assert rows[0][-1] == "evaluator"
    return [row[:-1] for row in rows]
