"""A run of stand-ins over a store that is attacked meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.runfile import RunFile
from coppice.store import Retry, Store, open_store
from coppice.work import names
from tests.hdfs.service import until
from tests.roles.threads import Crew, HastyClock, history_of, result_of, run_all, small_run
from tests.support.standins import CheapScorer

HASTE = 4
"""Roles in more of a hurry keep a real HDFS busy by looking, and the attack takes longer."""
PATIENT = Retry(patience_s=3000.0 * HASTE)
"""The roles' clock is hasty, and no attack is to end a run."""
SCORING_S = 0.5
"""So long scoring takes while an attack is under way, which makes the run last as long as that."""
PATIENCE_S = 120.0


def long_run() -> RunFile:
    """Two searches of seven generations. No attack is to use up a solution's tries: that would be another
    result, and rightly so."""
    return small_run(
        search={"population": 4, "evaluations": 28, "sigma": 0.3},
        evaluators={"lease_s": 2 * HASTE, "tries": 1000},
    )


def undisturbed_run(name: str) -> Store:
    """The run that all others are compared with, in memory."""
    run_all(lambda: open_store(f"memory:{name}"), long_run())
    return open_store(f"memory:{name}")


@dataclass
class AttackedRun:
    """All four roles as threads over `url`; scoring is slow until the attack is over."""

    url: str
    troubles: list[str] = field(default_factory=list)
    """What the roles were told about the store, a line each."""
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.crew = Crew(self.open, HASTE)
        self.store = self.open()

    def open(self) -> Store:
        """A store as each role has it."""
        return open_store(self.url, clock=HastyClock(HASTE), retry=PATIENT, on_trouble=self._trouble)

    def begin(self) -> AttackedRun:
        """Start all roles."""
        self.crew.start_all(long_run(), make_scorer=self._scorer)
        return self

    def start(self) -> AttackedRun:
        """Start all roles and wait until the first scores are there: the middle of a run."""
        self.begin().wait_for_scores()
        return self

    def wait_for_scores(self, more: int = 2) -> None:
        """Wait until `more` solutions were scored since now."""
        already = self.scores()
        self._until(lambda: len(self.scores() - already) >= more, "no scores came")

    def scores(self) -> set[str]:
        """The tokens scored so far of the generations that still stand."""
        found = set()
        for generation in self.store.list(names.GENERATIONS):
            tokens = self.store.list(f"{names.GENERATIONS}/{generation.name}")
            found |= {f"{generation.name}/{each.name}" for each in tokens if "_f" in each.name}
        return found

    def wait_for_trouble(self, part: str = "", roles: int = 1) -> None:
        """Wait until `roles` of them were told of trouble whose line has `part` in it."""
        self._until(lambda: sum(part in line for line in tuple(self.troubles)) >= roles, f"{part!r} not met")

    def wait_for_more_trouble(self) -> None:
        """Wait until somebody is told of new trouble."""
        met = len(self.troubles)
        self._until(lambda: len(self.troubles) > met, "nobody met it")

    def finish(self, undisturbed: Store) -> None:
        """The attack is over: let the run go on to its end, and compare."""
        assert self.store.stat(names.RESULT_JSON) is None, "the run was over before the attack"
        self.over.set()
        self.crew.join(PATIENCE_S)
        check_same(self.store, undisturbed)

    def _until(self, ready: Callable[[], bool], complaint: str) -> None:
        def look() -> bool:
            assert not self.crew.errors, self.crew.errors
            return ready()

        until(look, PATIENCE_S, f"{complaint}; of late: {self.troubles[-3:]}, {self.crew.said[-3:]}:")

    def _trouble(self, line: str | None) -> None:
        if line is not None:
            self.troubles.append(line)

    def _scorer(
        self,
        run: RunFile,
        weights: bytes,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.int64],
        reference_accuracy: float,
    ) -> CheapScorer:
        return _SlowScorer(self.over, run, weights, x, y, reference_accuracy)


class _SlowScorer(CheapScorer):
    def __init__(self, over: threading.Event, *reference: Any) -> None:
        super().__init__(*reference)
        self._over = over

    def score(self, crates: Float64s, tick: Tick) -> Score:
        """As the base class, a little later."""
        self._over.wait(SCORING_S)
        return super().score(crates, tick)


def check_same(store: Store, undisturbed: Store) -> None:
    """History and result are those of the undisturbed run."""
    assert history_of(store) == history_of(undisturbed)
    assert result_of(store) == result_of(undisturbed)
