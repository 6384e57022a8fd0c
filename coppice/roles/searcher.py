"""loop_ncs: searches the layers' crates, one generation of solution files after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from coppice.roles.context import Board, Context, Ticker, in_office, wait_for_run
from coppice.roles.history import SearchHistory
from coppice.runfile import RunFile
from coppice.search import Optimizer, make_optimizer
from coppice.search.optimizer import Float64s, State
from coppice.work import names
from coppice.work.checkpoints import Checkpoints
from coppice.work.contents import (
    NcsOver,
    NcsStart,
    array_from_bytes,
    array_to_bytes,
    bundle_from_bytes,
    bundle_to_bytes,
)
from coppice.work.errors import BadContent
from coppice.work.names import SolutionId, Waiting
from coppice.work.solutions import (
    announced_scores,
    claimed_solutions,
    publish_missing,
    put_aside,
    read_fit,
    waiting_solutions,
)
from coppice.work.waiting import Every

SET_ASIDE_FITNESS = 2.0
"""Told for a solution that no evaluator survived: as infeasible as can be."""
LOOK_S = 0.5
"""While scores are awaited, how often the rest of the folder is looked at: sentinels, fit files."""
HEAL_S = 3.0
"""After so long without a new score, solutions that have vanished are published again."""


@dataclass(slots=True)
class Progress:
    """Where the search stands; kept with the optimiser in one checkpoint, and read by `coppice status`."""

    search: int
    budget: int
    """Evaluations this search will make."""
    generation: int = 0
    """Generations told."""
    evaluations: int = 0
    fitness: float | None = None
    """The best told so far."""
    over: bool = False


def ncs(context: Context) -> None:
    """Serve a run's searches until `exit`. Raises `RunFailed` and other `CoppiceError`s."""
    record, run = wait_for_run(context)
    with in_office(context, "ncs") as tick:
        _Searcher(context, record.run_id, run, tick).serve()


@dataclass(frozen=True, slots=True)
class _Finished:
    """What a finished search leaves at the top of the work folder."""

    over: NcsOver
    crates: bytes
    """crates_list.npy."""


class _Searcher:
    def __init__(self, context: Context, run_id: str, run: RunFile, tick: Ticker) -> None:
        self.context = context
        self.store = context.store
        self.run_id = run_id
        self.run = run
        self.tick = tick
        self.board = Board(context, run_id)
        self.checkpoints = Checkpoints(context.store, names.NCS, context.say)

    def serve(self) -> None:
        """The whole life of the role."""
        parts = self.checkpoints.load()
        # The last search that is done: its result stands in the folder until a new search is ordered.
        finished: _Finished | None = None
        if parts is not None and _progress(parts).over:
            finished = self._finish(parts)
        backoff = self.context.backoff()
        while True:
            self.tick()
            self.board.look()
            order = self.board.get(names.NCS_START, NcsStart)
            if order is not None and order.crates is None:
                self._sweep(everything=True)
                self.context.say("exit: no more searches")
                return
            if order is not None and (finished is None or order.search > finished.over.search):
                finished = self._search(order, parts)
                parts = None
                backoff.reset()
            if order is not None and finished is not None and order.search == finished.over.search:
                self.board.ensure_bytes(names.CRATES, finished.crates)
                self.board.ensure(names.NCS_OVER, finished.over)
            backoff.pause()

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
        # After a restart the next two generations may be out already: the one after the checkpoint, and
        # the one that was being published together with the next checkpoint.
        look_first = 2
        if parts is not None and _progress(parts).search == order.search:
            progress = _progress(parts)
            optimizer.restore(_arrays(parts["optimizer.zip"]))
            history = SearchHistory.from_bytes(parts["history.zip"], names.NCS, order.search)
            self.context.say(f"search {order.search} goes on after generation {progress.generation}")
        else:
            self.context.say(f"search {order.search}: {progress.budget} evaluations")
            self.store.delete(names.NCS_OVER)
        self._sweep(everything=False, search=order.search)
        unsaved: dict[str, bytes] | None = None
        while not optimizer.done:
            rows = optimizer.ask()
            solutions = self._solutions(order.search, progress.generation + 1, start, searched, rows)
            # The last generation's checkpoint travels with this generation's solutions, so that it costs no
            # wait of its own; until it is written, the scores it rests on stay in the folder.
            self._publish(solutions, unsaved, look_first > 0)
            look_first -= 1
            if unsaved is not None:
                self._sweep_generation(order.search, progress.generation)
            self._await_scores(solutions, history, progress.generation + 1)
            optimizer.tell(np.array(history.fitness[-len(rows) :], dtype=np.float64))
            progress.generation += 1
            progress.evaluations = optimizer.evaluations
            progress.fitness = float(optimizer.best_fitness)
            progress.over = optimizer.done
            unsaved = _parts(progress, optimizer, history, start, searched)
        last = unsaved or _parts(progress, optimizer, history, start, searched)
        self.checkpoints.save(last)
        self._sweep_generation(order.search, progress.generation)
        return self._finish(last)

    def _finish(self, parts: dict[str, bytes]) -> _Finished:
        """Keep the history of a finished search, and say what its sentinels must hold."""
        progress = _progress(parts)
        self.store.create(names.history(progress.search), parts["history.zip"], durable=True)
        over = NcsOver(
            run=self.run_id,
            search=progress.search,
            evaluations=progress.evaluations,
            generations=progress.generation,
            fitness=SET_ASIDE_FITNESS if progress.fitness is None else progress.fitness,
            crates_sha256=hashlib.sha256(parts["crates.npy"]).hexdigest(),
        )
        return _Finished(over, parts["crates.npy"])

    def _solutions(
        self, search: int, generation: int, start: Float64s, searched: npt.NDArray[np.bool_], rows: Float64s
    ) -> dict[SolutionId, Float64s]:
        solutions = np.repeat(start[None, :], len(rows), axis=0)  # (rows, layers)
        solutions[:, searched] = rows
        return {SolutionId(self.run_id, search, generation, i): x for i, x in enumerate(solutions)}

    def _publish(
        self, solutions: dict[SolutionId, Float64s], checkpoint: dict[str, bytes] | None, look_first: bool
    ) -> None:
        folder = next(iter(solutions)).scores_folder
        extra = None if checkpoint is None else self.checkpoints.next(checkpoint)
        self.store.make_folder(folder)  # so that no evaluator has to
        if look_first:
            scored = announced_scores(self.store, folder)
            _, created = publish_missing(self.store, self.run_id, solutions, scored.__contains__, extra)
        else:
            files = [(Waiting(id_).file, array_to_bytes(x)) for id_, x in solutions.items()]
            created = self.store.create_many([*([extra] if extra else []), *files])[0]
        if extra is not None:
            self.checkpoints.saved(created)

    def _await_scores(
        self, solutions: dict[SolutionId, Float64s], history: SearchHistory, generation: int
    ) -> None:
        """Wait until every solution is scored, then record them in the order of their index."""
        folder = next(iter(solutions)).scores_folder
        by_hand: dict[int, float] = {}
        backoff = self.context.backoff()
        look, heal = Every(self.context.clock, LOOK_S), Every(self.context.clock, HEAL_S)
        known = 0
        while True:
            self.tick()
            scores = announced_scores(self.store, folder)
            missing = {i: x for i, x in solutions.items() if i.index not in scores and i.index not in by_hand}
            if not missing:
                break
            if len(missing) != known:
                known = len(missing)
                backoff.reset()
                heal = Every(self.context.clock, HEAL_S)
            elif look.due():
                self.board.look()
                by_hand.update(self._fits_by_hand(missing))
                if heal.due():
                    lost, _ = publish_missing(
                        self.store, self.run_id, missing, announced_scores(self.store, folder).__contains__
                    )
                    if lost:
                        self.context.say(
                            f"{lost} solutions of generation {generation} were gone; published again"
                        )
            backoff.pause()
        for id_, x in solutions.items():
            score = scores.get(id_.index)
            if score is None:
                history.add(generation, x, by_hand[id_.index], float("nan"), "")
            elif score.fitness is None or score.accuracy is None:
                history.add(generation, x, SET_ASIDE_FITNESS, float("nan"), score.worker)
                self.context.say(f"{id_} was set aside: see {names.ASIDE}/")
            else:
                history.add(generation, x, score.fitness, score.accuracy, score.worker)

    def _fits_by_hand(self, missing: dict[SolutionId, Float64s]) -> dict[int, float]:
        """Fit files that stand for solutions without an announced score: somebody's own evaluator."""
        found = {}
        for id_, x in missing.items():
            if not self.board.has(id_.fit_file):
                continue
            try:
                fitness = read_fit(self.store, id_, x)
            except BadContent as error:
                self.context.say(f"{error}; put aside, the solution will be scored again")
                put_aside(self.store, id_.fit_file, str(error))
                continue
            if fitness is not None:
                found[id_.index] = fitness
        return found

    # Tidying

    def _sweep_generation(self, search: int, generation: int) -> None:
        """Remove what a told generation left: its scores, and files of it and of older ones at the top."""
        self.store.delete_tree(names.scores_folder(self.run_id, search, generation))
        last = (search, generation)
        self._sweep_top(lambda id_: (id_.search, id_.generation) <= last)

    def _sweep(self, everything: bool, search: int = 0) -> None:
        """Remove what earlier searches left (or all of them): leftovers of crashes and of slow evaluators."""

        def old(id_: SolutionId) -> bool:
            return everything or id_.search < search

        self._sweep_top(old)
        self.store.delete_many([c.file for c in claimed_solutions(self.store, self.run_id) if old(c.id)])
        for entry in self.store.list(names.SCORES):
            number = names.parse_scores_folder(entry.name)
            if number is None or number[0] != self.run_id or everything or number[1] < search:
                self.store.delete_tree(f"{names.SCORES}/{entry.name}")

    def _sweep_top(self, old: Callable[[SolutionId], bool]) -> None:
        entries = self.store.list()
        paths = [w.file for w in waiting_solutions(entries, self.run_id) if old(w.id)]
        fits = [(e.name, names.parse_fit(e.name)) for e in entries]
        paths += [name for name, id_ in fits if id_ is not None and id_.run == self.run_id and old(id_)]
        self.store.delete_many(paths)


def _progress(parts: dict[str, bytes]) -> Progress:
    try:
        return Progress(**json.loads(parts["progress.json"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadContent(f"{names.NCS}: the checkpoint is of another version of Coppice ({error})") from error


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
