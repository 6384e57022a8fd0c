"""loop_ncs: searches the layers' crates, one generation of solution files after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from coppice.roles.context import Board, Context, Ticker, in_office, wait_for_run
from coppice.roles.history import SearchHistory
from coppice.roles.rounds import Count, checked
from coppice.roles.telling import FitnessLog
from coppice.roles.views import Views
from coppice.runfile import RunFile
from coppice.search import Optimizer, make_optimizer
from coppice.search.optimizer import Float64s, State
from coppice.status import StatusSettings
from coppice.store import Staging
from coppice.work import names
from coppice.work.checkpoints import Checkpoints
from coppice.work.contents import (
    array_from_bytes,
    array_to_bytes,
    bundle_from_bytes,
    bundle_to_bytes,
    json_from_bytes,
)
from coppice.work.errors import BadContent
from coppice.work.generation import (
    Tokens,
    generations,
    holds,
    look_at,
    prepare,
    publish,
    put_aside,
    read_fit,
    repair,
)
from coppice.work.names import GenerationId, Scored, SolutionId
from coppice.work.sentinels import NcsOver, NcsStart
from coppice.work.waiting import Every

SET_ASIDE_FITNESS = 2.0
"""Told for a solution that no evaluator survived: as infeasible as can be."""
BY_HAND = "hand"
"""Who scored what was taken from a fit file."""
LOOK_S = 0.5
"""While scores are awaited, how often the rest of the folder is looked at: sentinels, fit files."""
HEAL_S = 3.0
"""After so long without a new score, solutions that have vanished are published again."""
CHECKPOINT_S = 0.5
"""Generations that follow each other faster share a checkpoint; after a restart the scores of those since the
last one, which stay in the folder until the next, are told again."""


@dataclass(slots=True)
class Progress:
    """Where the search stands; kept with the optimiser in one checkpoint, and read by `coppice status`."""

    search: Count
    budget: Count
    """Evaluations this search will make."""
    generation: Count = 0
    """Generations told."""
    evaluations: Count = 0
    fitness: float | None = None
    """The best told so far."""
    over: bool = False


_PROGRESS = TypeAdapter(Progress)


def ncs(context: Context, settings: StatusSettings | None = None) -> None:
    """Serve a run's searches until `exit`. Raises `RunFailed` and other `CoppiceError`s.

    `settings`: where its metric log goes, if anywhere.
    """
    record, run = wait_for_run(context)
    with in_office(context, "ncs") as tick:
        fitness_log = FitnessLog(context, settings)
        role = _Searcher(context, record.run_id, run, tick, fitness_log)
        try:
            with role.views:
                role.serve()
        finally:
            fitness_log.close()


@dataclass(frozen=True, slots=True)
class _Finished:
    """What a finished search leaves at the top of the work folder."""

    over: NcsOver
    crates: bytes
    """crates_list.npy."""


class _Searcher:
    def __init__(
        self, context: Context, run_id: str, run: RunFile, tick: Ticker, fitness_log: FitnessLog
    ) -> None:
        self.context = context
        self.store = context.store
        self.run_id = run_id
        self.run = run
        self.tick = tick
        self.fitness_log = fitness_log
        self.board = Board(context, run_id)
        self.checkpoints = Checkpoints(context.store, names.NCS, context.say)
        self.views = Views(context)
        # On a home where a listing is cheap every generation's views are gone before the next one's come.
        self.look_now = Every(context.clock, LOOK_S if context.store.home.parallel > 1 else 0.0)
        self.prepared: tuple[int, Staging] | None = None
        """Tokens laid out for a generation to come, and how many."""

    def serve(self) -> None:
        """The whole life of the role."""
        parts = self.checkpoints.load()
        # The last search that is done: its result stands in the folder until a new search is ordered.
        finished: _Finished | None = None
        if parts is not None and read_progress(parts).over:
            finished = self._finish(parts)
        backoff = self.context.backoff()
        while True:
            self.tick()
            self.board.look()
            order = self.board.get(names.NCS_START, NcsStart)
            if order is not None and order.crates is None:
                self._sweep(None)
                self._sweep_views(lambda id_: True)
                self.context.say("exit: no more searches")
                return
            if order is not None and (finished is None or self._is_new(order, finished.over)):
                finished = self._search(order, parts)
                parts = None
                backoff.reset()
            if order is not None and finished is not None and order.search == finished.over.search:
                self._sweep_views(lambda id_: True)
                self.board.ensure_bytes(names.CRATES, finished.crates)
                self.board.ensure(names.NCS_OVER, finished.over)
            backoff.pause()

    def _is_new(self, order: NcsStart, over: NcsOver) -> bool:
        """Whether it is yet to be searched: the next one, or one that the outer loop, which has lost its
        checkpoints and begins anew, can no longer find what came of it."""
        lost = order.search < over.search and self.store.stat(names.history(order.search)) is None
        return lost or order.search > over.search

    # One search

    def _search(self, order: NcsStart, parts: dict[str, bytes] | None) -> _Finished:
        start = np.array(order.crates, dtype=np.float64)
        searched = np.array(order.searched, dtype=np.bool_)
        optimizer = make_optimizer(
            self.run.search.method,
            start=start[searched],
            lower=self.run.search.lower,
            upper=self.run.search.upper,
            population=self.run.search.population,
            evaluations=self.run.search.evaluations,
            sigma=self.run.search.sigma,
            seed=(self.run.seed, order.search),
        )
        progress = Progress(order.search, self.run.search.evaluations)
        history = SearchHistory(order.search, len(start))
        if parts is not None and read_progress(parts).search == order.search:
            progress = read_progress(parts)
            optimizer.restore(_arrays(_part(parts, "optimizer.zip")))
            history = SearchHistory.from_bytes(_part(parts, "history.zip"), names.NCS, order.search)
            self.context.say(f"search {order.search} goes on after generation {progress.generation}")
        else:
            self.context.say(f"search {order.search}: {progress.budget} evaluations")
            self.store.delete(names.NCS_OVER)
        self.fitness_log.begin(history)
        told = GenerationId(self.run_id, order.search, progress.generation)
        self._sweep(told)
        save_now = Every(self.context.clock, CHECKPOINT_S)
        unsaved: dict[str, bytes] | None = None
        while not optimizer.done:
            rows = optimizer.ask()
            generation = GenerationId(self.run_id, order.search, progress.generation + 1)
            solutions = np.repeat(start[None, :], len(rows), axis=0)  # (rows, layers)
            solutions[:, searched] = rows
            self._publish(generation, solutions)
            # What can wait is done while the evaluators work: the last checkpoint, and removing what it makes
            # needless. Until it is written, the scores it rests on stay in the folder.
            if unsaved is not None:
                self._save(unsaved, told)
                unsaved = None
            if self.look_now.due():
                self._glance(generation)
            left = progress.budget - progress.evaluations - len(rows)
            if left > 0:
                self._prepare(min(left, self.run.search.population))
            self._await_scores(generation, solutions, history)
            optimizer.tell(np.array(history.fitness[-len(rows) :], dtype=np.float64))
            self.fitness_log.told(history)
            told = generation
            progress.generation += 1
            progress.evaluations = optimizer.evaluations
            progress.fitness = float(optimizer.best_fitness)
            progress.over = optimizer.done
            if optimizer.done or save_now.due():
                unsaved = _parts(progress, optimizer, history, start, searched)
        self.views.settle()
        last = unsaved or _parts(progress, optimizer, history, start, searched)
        self._save(last, told)
        return self._finish(last)

    def _finish(self, parts: dict[str, bytes]) -> _Finished:
        """Keep the history of a finished search, and say what its sentinels must hold."""
        progress = read_progress(parts)
        crates = _part(parts, "crates.npy")
        self.store.create(names.history(progress.search), _part(parts, "history.zip"), durable=True)
        over = NcsOver(
            run=self.run_id,
            search=progress.search,
            evaluations=progress.evaluations,
            generations=progress.generation,
            fitness=SET_ASIDE_FITNESS if progress.fitness is None else progress.fitness,
            crates_sha256=hashlib.sha256(crates).hexdigest(),
        )
        return _Finished(over, crates)

    def _prepare(self, population: int) -> None:
        if self.prepared is not None and self.prepared[0] == population:
            return
        if self.prepared is not None:
            self.prepared[1].discard()
        self.prepared = population, prepare(self.store, population)

    def _publish(self, generation: GenerationId, solutions: Float64s) -> None:
        self._drop_fits(generation)
        self._prepare(len(solutions))
        assert self.prepared is not None
        staging, self.prepared = self.prepared[1], None
        if not publish(staging, generation, solutions):
            self._find(generation, solutions)
        self.views.advance(generation)
        for index, x in enumerate(solutions):
            self.views.put(generation, generation.solution(index).solution_file, array_to_bytes(x))

    def _drop_fits(self, generation: GenerationId) -> None:
        """Remove what is left of a generation that was removed, and is now to be published again.

        Such fit files are our own evaluators'. Taken for somebody else's they would cost the accuracy, which
        the lost scores had and they have not.
        """
        views = self._listed_views()
        left = [name for name, id_ in views if id_.generation == generation and name == id_.fit_file]
        if left and self.store.stat(generation.solutions_file) is None:
            self.store.delete_many(left)

    def _find(self, generation: GenerationId, solutions: Float64s) -> None:
        """Go on with a generation that was published before a restart, and may be scored in part."""
        there = self.store.stat(generation.solutions_file) is not None
        if there and not holds(self.store, generation, array_to_bytes(solutions)):
            # The same seed gives the same solutions on the same kind of machine; but whatever happened, what
            # was scored there answers other questions.
            self.context.say(f"{generation.folder}: holds other solutions than this search; published anew")
            self.store.delete_tree(generation.folder)
            publish(prepare(self.store, len(solutions)), generation, solutions)

    def _save(self, parts: dict[str, bytes], told: GenerationId) -> None:
        self.checkpoints.save(parts)
        self._sweep(told)

    def _await_scores(self, generation: GenerationId, solutions: Float64s, history: SearchHistory) -> None:
        """Wait until every solution is scored, then record them in the order of their index."""
        backoff = self.context.backoff()
        heal = Every(self.context.clock, HEAL_S)
        known = 0
        while True:
            self.tick()
            tokens = look_at(self.store, generation)
            scored = sum(index in tokens.scored for index in range(len(solutions)))
            if scored == len(solutions):
                break
            if scored != known:
                known = scored
                backoff.reset()
                heal = Every(self.context.clock, HEAL_S)
            elif self.look_now.due():
                self._glance(generation)
                self._take_fits(generation, solutions, tokens)
                if not tokens.has_solutions or heal.due():
                    self._heal(generation, solutions)
            backoff.pause()
        for index, x in enumerate(solutions):
            score = tokens.scored[index]
            fitness = SET_ASIDE_FITNESS if score.fitness is None else score.fitness
            accuracy = float("nan") if score.accuracy is None else score.accuracy
            history.add(generation.number, x, fitness, accuracy, score.worker)
            if score.fitness is None:
                self.context.say(f"{generation.solution(index)} was set aside: see {names.ASIDE}/")

    def _glance(self, generation: GenerationId) -> None:
        """Look at the top of the folder, and remove what older generations left there."""
        self.board.look()
        self._sweep_views(lambda id_: id_.generation < generation)

    def _heal(self, generation: GenerationId, solutions: Float64s) -> None:
        """Publish again what has vanished from a generation; newer ones, which rest on it, go."""
        for each in generations(self.store):
            if each.run == self.run_id and each > generation:
                self.store.delete_tree(each.folder)
        # Fit files of ours that are left say less than the score did that is gone.
        gone = [index for index in range(len(solutions)) if index not in look_at(self.store, generation)]
        self.store.delete_many([generation.solution(index).fit_file for index in gone])
        done = repair(self.store, generation, solutions)
        if done:
            self.context.say(f"generation {generation.number}: {'; '.join(done)}")

    def _take_fits(self, generation: GenerationId, solutions: Float64s, tokens: Tokens) -> None:
        """Take fit files for solutions that no evaluator of ours has scored: somebody's own evaluator.

        The solution's token is renamed to say so. One that an evaluator of ours scored meanwhile is not there
        to be renamed, so its fit file, which says the same with less in it, is never taken for another's.
        """
        for token in tokens.unscored():
            id_ = generation.solution(token.index)
            if token.index >= len(solutions) or not self.board.has(id_.fit_file):
                continue
            try:
                fitness = read_fit(self.store, id_, solutions[token.index])
            except BadContent as error:
                self.context.say(f"{error}; put aside, the solution will be scored again")
                put_aside(self.store, id_.fit_file, id_.fit_file, str(error))
                continue
            if fitness is not None:
                scored = Scored(token.index, token.attempt, fitness, None, BY_HAND)
                self.store.rename(generation.path(token.name), generation.path(scored.name))

    # Tidying

    def _sweep(self, told: GenerationId | None) -> None:
        """Remove generations up to `told`, None for all: they are told, or leftovers of earlier searches."""
        for each in generations(self.store):
            if told is None or each.run != self.run_id or each <= told:
                self.store.delete_tree(each.folder)

    def _sweep_views(self, old: Callable[[SolutionId], bool]) -> None:
        """Remove the views of what is over, as of the last look at the board."""
        self.store.delete_many([name for name, id_ in self._listed_views() if old(id_)])

    def _listed_views(self) -> list[tuple[str, SolutionId]]:
        """Solution and fit files that the last look at the board saw, and whose they are."""
        found = ((name, names.parse_solution(name)) for name in self.board.listed())
        return [(name, id_) for name, id_ in found if id_ is not None]


def _part(parts: dict[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise BadContent(f"{names.NCS}: the checkpoint is of another version of Coppice ({name} is missing)")
    return parts[name]


def read_progress(parts: dict[str, bytes]) -> Progress:
    """From the parts of a checkpoint. Raises `BadContent`."""
    return checked(_PROGRESS, json_from_bytes(_part(parts, "progress.json"), names.NCS), names.NCS)


def _arrays(data: bytes) -> State:
    parts = bundle_from_bytes(data, names.NCS)
    return {name.removesuffix(".npy"): array_from_bytes(part, names.NCS) for name, part in parts.items()}


def _parts(
    progress: Progress,
    optimizer: Optimizer,
    history: SearchHistory,
    start: Float64s,
    searched: npt.NDArray[np.bool_],
) -> dict[str, bytes]:
    best = start.copy()
    best[searched] = optimizer.best_solution
    state = {f"{name}.npy": array_to_bytes(np.asarray(value)) for name, value in optimizer.state().items()}
    return {
        "progress.json": json.dumps(asdict(progress)).encode(),
        "optimizer.zip": bundle_to_bytes(state),
        "history.zip": history.to_bytes(),
        "crates.npy": array_to_bytes(best),
    }
