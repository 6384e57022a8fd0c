"""One simulated run from start to end, and everything that must hold after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from coppice.errors import CoppiceError
from coppice.pruning.contract import Float64s, Score, Scorer, Tick
from coppice.roles.context import Context, read_record
from coppice.roles.evaluator import MakeScorer, evaluator
from coppice.roles.master import master
from coppice.roles.outer import outer
from coppice.roles.searcher import ncs
from coppice.roles.status import read_status
from coppice.runfile import RunFile
from coppice.store import Home, Store
from coppice.work import names
from tests.roles.threads import history_of, result_of, small_run
from tests.simulation.world import Call, Fate, Process, World
from tests.support.failing_home import Killed
from tests.support.standins import CheapPruner, CheapScorer

LONGEST_S = 4 * 3600.0
MOST_CALLS = 60_000

WORLD_SEED = 1
"""Of the undisturbed world, in which crash points are numbered."""
LETHAL_SEED = 3
"""With this seed a solution of the first generation has its first crate where `LethalScorer` dies."""


class LethalScorer(CheapScorer):
    """One solution takes the whole process with it, every time: a driver that crashes, say."""

    def score(self, crates: Float64s, tick: Tick) -> Score:
        if 0.2 < crates[0] < 0.3:
            raise Killed("the scorer took its process with it")
        return super().score(crates, tick)


@dataclass(frozen=True, slots=True)
class Ending:
    """What a run came to, less what may differ between two runs of one seed."""

    history: list[list[str]]
    result: dict[str, Any]

    @classmethod
    def of(cls, disk: Home) -> Ending:
        """Read from the folder."""
        store = Store(disk)
        return cls(history_of(store), result_of(store))


@cache
def _places(evaluators: int) -> dict[str, str]:
    crew = {f"evaluator{i}": "evaluator" for i in range(1, evaluators + 1)}
    return {"master": "master", "outer": "outer", "ncs": "ncs", **crew}


@dataclass
class Trial:
    """A run with its supervisor, who starts again whatever ends without the run being over."""

    world: World
    run: RunFile
    evaluators: int = 2
    make_scorer: MakeScorer = CheapScorer
    batch: int = 2
    """Solutions that an evaluator claims at once."""
    fresh: bool = False
    restart_s: Callable[[], float] = lambda: 1.0
    over: set[str] = field(default_factory=set)
    """Places whose work is done."""
    ghosts: Callable[[], bool] = lambda: False
    """Whether something may have been written when the run was over: by a request that came late, by a
    process that slept."""
    gone: set[str] = field(default_factory=set)
    """Evaluators that left and do not come back."""
    restarts: int = 0
    scored: int = 0
    """How often a solution was scored, also one whose score was lost."""

    def __post_init__(self) -> None:
        self.world.ended = self._ended
        record = read_record(Store(self.world.disk))
        self.old_run = record.run_id if record else None

    @property
    def places(self) -> dict[str, str]:
        """Every job of the run: place to role."""
        return _places(self.evaluators)

    def start(self, place: str) -> Process:
        """Start a process in one of the run's places."""
        role = self.places[place]
        serve: dict[str, Callable[[Context], Any]] = {
            "master": self._master,
            "outer": lambda context: outer(context, CheapPruner),
            "ncs": ncs,
            "evaluator": lambda context: evaluator(context, self._counting_scorer),
        }
        return self.world.start(place, role, serve[role])

    def _counting_scorer(self, *reference: Any) -> Scorer:
        trial, scorer = self, self.make_scorer(*reference)

        class Counting:
            layers = scorer.layers
            batch = trial.batch

            def score_many(self, solutions: Sequence[Float64s], tick: Tick) -> list[Score]:
                trial.scored += len(solutions)
                return scorer.score_many(solutions, tick)

        return Counting()

    def _master(self, context: Context) -> None:
        master(context, self.run, self.fresh)

    def _ended(self, process: Process) -> None:
        if isinstance(process.outcome, BaseException):
            self._check_last_words(process)
        if process.outcome == "done" or (process.outcome == "run over" and self._is_over(process)):
            self.over.add(process.place)
        if process.place in self.over | self.gone:
            return
        self.restarts += 1
        self.world.after(self.restart_s(), lambda: self._start_again(process.place))

    def _is_over(self, process: Process) -> bool:
        """Whether it was right. (One that finds an old finished run for long enough ends, too: with --fresh,
        start the master first.)"""
        record = read_record(Store(self.world.disk))
        right = record is not None and record.state == "over" and record.run_id != self.old_run
        assert right or self.old_run, f"{process.place} ended before the run was over"
        return right

    def _check_last_words(self, process: Process) -> None:
        """A role ends by its own errors only, and each is one line."""
        error = process.outcome
        if not isinstance(error, CoppiceError):
            assert isinstance(error, BaseException)
            raise AssertionError(f"{process.place} broke: {error!r}") from error
        assert "\n" not in str(error), f"{process.place} ended with more than a line: {error}"

    def _start_again(self, place: str) -> None:
        alive = any(process.alive and process.place == place for process in self.world.processes)
        if not alive and place not in self.over | self.gone:
            self.start(place)

    def serve(self) -> Ending:
        """Run to the end; raises `AssertionError` for the first promise that does not hold."""
        for place in self.places:
            self.start(place)
        self.world.run(self._all_over, LONGEST_S, MOST_CALLS)
        self._check_tidy()
        return Ending.of(self.world.disk)

    def _all_over(self) -> bool:
        served = self.over | self.gone
        return len(served) == len(self.places) and not any(p.alive for p in self.world.processes)

    def _check_tidy(self) -> None:
        disk = self.world.disk
        status = read_status(Store(disk))
        assert status.state == "over", status.state
        served = {
            p.pid for p in self.world.processes if p.outcome in ("done", "run over") and not p.speechless
        }
        unsaid = [role for role in status.roles if role.state == "alive" and role.pid in served]
        assert not unsaid, f"ended, but did not say so: {unsaid}"
        if not self.ghosts():
            top = [entry.name for entry in disk.list("")]
            assert not [name for name in top if names.parse_solution(name)], top
            assert not disk.list(names.GENERATIONS), disk.list(names.GENERATIONS)
        rounds = [entry.name for entry in disk.list(names.ROUNDS)]
        assert len(rounds) == len(set(rounds)) == 3, rounds


@cache
def undisturbed(lethal: bool = False, tries: int = 3) -> tuple[Ending, dict[str, int], float]:
    """What every disturbed run of this kind must come to; each place's calls; how long it took, seconds."""
    trial = Trial(World(WORLD_SEED), run_of(lethal, tries), make_scorer=scorer_of(lethal))
    ending = trial.serve()
    return ending, dict(trial.world.calls_of), trial.world.now


def run_of(lethal: bool, tries: int) -> RunFile:
    """The run file of a trial."""
    return small_run(seed=LETHAL_SEED if lethal else 7, evaluators={"lease_s": 20, "tries": tries})


def scorer_of(lethal: bool) -> MakeScorer:
    """The scorer of a trial."""
    return LethalScorer if lethal else CheapScorer


def no_trouble(call: Call) -> Fate:
    """Nothing happens."""
    return Fate()
