"""evaluator: claims solutions, scores them, announces the scores. Any number, coming and going."""

from __future__ import annotations

import math
import queue
import threading
import traceback
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from coppice.pruning.contract import Float64s, Scorer
from coppice.roles.context import Board, Context, Stopped, saying_goodbye, wait_for_run
from coppice.runfile import RunFile
from coppice.store import Entry, Store, StoreError
from coppice.work import names
from coppice.work.contents import array_from_bytes, vector_from_bytes
from coppice.work.errors import BadContent
from coppice.work.names import SolutionId, Waiting
from coppice.work.presence import (
    LeaseWatch,
    Presence,
    announce_evaluator,
    evaluator_file,
    gone_from_this_machine,
    read_role_file,
    role_files,
)
from coppice.work.solutions import (
    Claim,
    claim,
    claimed_solutions,
    fit_bytes,
    return_failed,
    waiting_solutions,
)
from coppice.work.waiting import Every, Rhythm

MakeScorer = Callable[[RunFile, bytes, npt.NDArray[np.float32], npt.NDArray[np.int64], float], Scorer]
"""(run, weights, x, y, reference accuracy) -> scorer."""


COUNT_S = 10.0
"""How often an evaluator counts its peers."""
FIT_FILE_DELAY_S = 0.3
"""On a home where a file with content is dear, a generation must stand so long to get its fit files."""


class _ClaimLost(Exception):
    """The claim was taken back while it was being scored."""


def evaluator(context: Context, make_scorer: MakeScorer) -> None:
    """Serve a run until it is over: ends by `RunOver`, `RunFailed` or another `CoppiceError`."""
    record, run = wait_for_run(context)
    presence = announce_evaluator(context.store, context.clock, context.me)
    with saying_goodbye(presence):
        _Evaluator(context, record.run_id, run, make_scorer, presence).serve()


class _Evaluator:
    def __init__(
        self, context: Context, run_id: str, run: RunFile, make_scorer: MakeScorer, presence: Presence
    ) -> None:
        self.context = context
        self.store = context.store
        self.run_id = run_id
        self.run = run
        self.make_scorer = make_scorer
        self.presence = presence
        self.board = Board(context, run_id)
        self.scorer: Scorer | None = None
        self.scorer_search = 0
        self.samples: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], float] | None = None
        self.watch = LeaseWatch(context.clock, run.evaluators.lease_s)
        self.watch_now = Every(context.clock, min(2.0, run.evaluators.lease_s / 4))
        self.count_now = Every(context.clock, COUNT_S, at_once=True)
        self.place = (0, 1)
        self.fit_files = FitFiles(context)

    def serve(self) -> None:
        """The whole life of the role; ends by an exception that says why."""
        backoff, rhythm = self.context.backoff(), Rhythm()
        dear = self.store.home.parallel > 1  # a look costs a NameNode call, so useless ones are spared
        while True:
            self.context.check()
            self.presence.beat()
            entries = self.board.look()
            waiting = waiting_solutions(entries, self.run_id)
            if waiting:
                self.fit_files.newest = max(self.fit_files.newest, _generation(waiting[-1].id))
            if self._score_some(waiting, entries):
                if backoff.waited_s:
                    rhythm.add(backoff.waited_s)
                backoff.reset(rhythm.head_start_s if dear else 0.0)
                continue
            if self.watch_now.due():
                self._take_back()
            backoff.pause()

    def _score_some(self, waiting: list[Waiting], entries: list[Entry]) -> bool:
        """Work through this evaluator's share of a listing; True: scored some.

        Evaluators that each keep to a share of their own seldom reach for the same solution, and a fresh
        listing costs no more than a claim that comes too late.
        """
        scorable = {number for e in entries if (number := names.parse_weights(e.name)) is not None}
        todo = [w for w in waiting if w.id.search in scorable]
        if not todo:
            return False
        place, peers = self._my_place()
        first = len(todo) * place // peers
        last = max(first + 1, len(todo) * (place + 1) // peers)
        scored = False
        for solution in todo[first:last]:
            mine = claim(self.store, solution, self.context.me.worker)
            if mine is None:
                break
            self._handle(mine)
            scored = True
        return scored

    def _my_place(self) -> tuple[int, int]:
        """This evaluator's place among its peers, from 0, and how many they are."""
        if self.count_now.due():
            peers = sorted(f.worker for f in role_files(self.store) if f.worker is not None and not f.ended)
            me = self.context.me.worker
            self.place = (peers.index(me), len(peers)) if me in peers else (0, 1)
        return self.place

    # One solution

    def _handle(self, mine: Claim) -> None:
        beat = Every(self.context.clock, self.run.evaluators.lease_s / 4)

        def tick() -> None:
            self.context.check()
            self.presence.beat()
            if beat.due() and not mine.beat():
                raise _ClaimLost

        try:
            scorer = self._scorer(mine.what.id.search, tick)
        except BaseException:  # the reference is at fault, or we are: not this solution
            mine.give_back()
            raise
        if scorer is None:
            mine.give_back()
            return
        try:
            crates = mine.read(scorer.layers)
            score = scorer.score(crates, tick)
            if not (math.isfinite(score.fitness) and math.isfinite(score.accuracy)):
                raise ArithmeticError(f"the score is not a number: {score}")
        except BadContent as error:
            self.context.say(f"{error}; put aside")
            mine.unusable(str(error))
        except _ClaimLost:
            self.context.say(f"{mine.what.id}: the claim was taken back, its score will not count")
        except (Stopped, StoreError):
            mine.give_back()
            raise
        except Exception as error:
            self.context.say(f"{mine.what.id}: scoring failed ({type(error).__name__}: {error})"[:300])
            if mine.failed(traceback.format_exc(), self.run.evaluators.tries):
                self.context.say(f"{mine.what.id}: set aside after {mine.what.attempt} tries")
        else:
            if mine.announce(score.fitness, score.accuracy):
                self.fit_files.put(mine.what.id, crates, score.fitness)
            elif mine.beat():
                # Still ours, so the very same score stands there already: it was published twice.
                mine.discard()

    def _scorer(self, search: int, tick: Callable[[], None]) -> Scorer | None:
        """The scorer for the weights of one search; None: those weights are not there (any more)."""
        if self.scorer is None or self.scorer_search != search:
            name = names.weights(search)
            weights = self.store.read(name)
            samples = self.samples or self._read_samples()
            if weights is None or samples is None:
                return None
            tick()
            self.samples = samples
            self.scorer = self.make_scorer(self.run, weights, *samples)
            self.scorer_search = search
            tick()
        return self.scorer

    def _read_samples(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], float] | None:
        files = (names.DATA, names.LABELS, names.ACCURACY)
        data, labels, accuracy = self.store.read_many(files)
        if data is None or labels is None or accuracy is None:
            return None
        x = array_from_bytes(data, names.DATA)
        y = array_from_bytes(labels, names.LABELS)
        if len(x) != len(y):
            raise BadContent(f"{names.LABELS}: {len(y)} labels for {len(x)} samples")
        return x, y, float(vector_from_bytes(accuracy, names.ACCURACY, 1)[0])

    # Other evaluators' claims

    def _take_back(self) -> None:
        """Give the solutions of evaluators that stopped beating another try."""
        claims = claimed_solutions(self.store, self.run_id)
        by_file = {c.file: c for c in claims}
        stale = set(self.watch.stale({c.file: mtime for c, mtime in claims.items()}))
        for file, held in by_file.items():
            silent = file in stale
            if not silent:
                content = read_role_file(self.store, evaluator_file(held.worker))
                if content is None or not gone_from_this_machine(content):
                    continue
            why = f"did not beat for {self.watch.lease_s:g} s" if silent else "is dead"
            self.context.say(f"{held.id}: its evaluator {held.worker} {why}; taking it back")
            return_failed(
                self.store,
                held,
                f"try {held.attempt}: evaluator {held.worker} {why}",
                self.run.evaluators.tries,
            )


def _generation(id_: SolutionId) -> tuple[int, int]:
    return (id_.search, id_.generation)


class FitFiles:
    """Writes fit_solution_<id>.npy for those who inspect the folder.

    The searcher goes by the announced score; this file says the same with solution and fitness in it. On an
    untouched HDFS a file with content may cost 400 ms, so it is written on a thread of its own, and not at
    all once its generation is over: nobody could see it.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store: Store = context.store
        self._delay_s = FIT_FILE_DELAY_S if context.store.home.parallel > 1 else 0.0
        self._queue: queue.SimpleQueue[tuple[float, SolutionId, Float64s, float]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._given_up = False
        self.newest = (0, 0)
        """Search and generation last seen to be under way."""

    def put(self, id_: SolutionId, crates: Float64s, fitness: float) -> None:
        """Have it written soon."""
        if self._given_up:
            return
        if not self._context.background:
            self._write(id_, crates, fitness)
            return
        self._queue.put((self._context.clock.monotonic() + self._delay_s, id_, crates, fitness))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fit files", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        clock = self._context.clock
        try:
            while not self._given_up:
                due, id_, crates, fitness = self._queue.get()
                clock.sleep(max(0.0, due - clock.monotonic()))
                self._write(id_, crates, fitness)
        except Stopped:
            return

    def _write(self, id_: SolutionId, crates: Float64s, fitness: float) -> None:
        if _generation(id_) < self.newest:
            return
        try:
            self._store.create(id_.fit_file, fit_bytes(crates, fitness))
        except StoreError as error:
            # No reason to end: the score is announced, and a rename needs no space.
            self._given_up = True
            self._context.say(f"fit files are no longer written: {error}")
