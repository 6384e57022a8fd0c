"""evaluator: claims solutions, scores them, announces the scores. Any number, coming and going."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from coppice.pruning.contract import Float64s, Score, Scorer
from coppice.roles.context import Board, Context, Stopped, saying_goodbye, wait_for_run
from coppice.roles.views import Views
from coppice.runfile import RunFile
from coppice.store import StoreError
from coppice.work import names
from coppice.work.contents import accuracy_from_bytes, array_from_bytes
from coppice.work.errors import BadContent
from coppice.work.generation import (
    Claim,
    Tokens,
    claim,
    fit_bytes,
    look_at,
    newest_generation,
    put_aside,
    read_solutions,
    return_failed,
)
from coppice.work.limits import MAX_SAMPLES_BYTES, MAX_WEIGHTS_BYTES, read_limited, read_many_limited
from coppice.work.names import GenerationId
from coppice.work.presence import (
    LeaseWatch,
    Presence,
    announce_evaluator,
    evaluator_file,
    gone_from_this_machine,
    read_role_file,
    role_files,
)
from coppice.work.waiting import Every, Rhythm

MakeScorer = Callable[[RunFile, bytes, npt.NDArray[np.float32], npt.NDArray[np.int64], float], Scorer]
"""(run, weights, x, y, reference accuracy) -> scorer."""


COUNT_S = 10.0
"""How often an evaluator counts its peers."""
LOOK_S = 0.5
"""How often it looks at the sentinels, and while nothing waits for it, at the claims of others."""


class _ClaimLost(Exception):
    """The claim was taken back while it was being scored."""


def evaluator(context: Context, make_scorer: MakeScorer) -> None:
    """Serve a run until it is over: ends by `RunOver`, `RunFailed` or another `CoppiceError`."""
    record, run = wait_for_run(context)
    presence = announce_evaluator(context.store, context.clock, context.me)
    role = _Evaluator(context, record.run_id, run, make_scorer, presence)
    with saying_goodbye(presence), role.views:
        role.serve()


class _Held:
    """Claims in hand, as long as nobody takes them back. What is left of them at the end is given back."""

    def __init__(self, evaluator: _Evaluator) -> None:
        self.claims: list[Claim] = []
        self._evaluator = evaluator
        self._beat = Every(evaluator.context.clock, evaluator.run.evaluators.lease_s / 4)

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What ends the whole process may be a solution's doing: then the lease runs out, which counts a try.
        if kind is None or issubclass(kind, Exception):
            for each in self.claims:
                each.give_back()

    def tick(self) -> None:
        """Beat, if it is time. Raises `_ClaimLost` when no claim is left."""
        self._evaluator.context.check()
        self._evaluator.presence.beat()
        if not self._beat.due():
            return
        for lost in [each for each in self.claims if not each.beat()]:
            self.let_go(lost)
            self._evaluator.context.say(f"{lost.id}: the claim was taken back, its score will not count")
        if not self.claims:
            raise _ClaimLost

    def let_go(self, one: Claim) -> bool:
        """It is dealt with, or lost; False: it was lost before."""
        held = one in self.claims
        self.claims = [each for each in self.claims if each != one]
        return held


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
        self.generation: GenerationId | None = None
        self.solutions: tuple[GenerationId, Float64s] | None = None
        self.busy = False
        """Solutions were waiting at the last look."""
        self.watch = LeaseWatch(context.clock, run.evaluators.lease_s)
        self.board_now = Every(context.clock, LOOK_S, at_once=True)
        self.look_now = Every(context.clock, LOOK_S)
        self.watch_now = Every(context.clock, min(2.0, run.evaluators.lease_s / 4))
        self.count_now = Every(context.clock, COUNT_S, at_once=True)
        self.place = (0, 1)
        self.views = Views(context)

    def serve(self) -> None:
        """The whole life of the role; ends by an exception that says why."""
        backoff, rhythm = self.context.backoff(), Rhythm()
        dear = self.store.home.parallel > 1  # a look costs a NameNode call, so useless ones are spared
        while True:
            self.context.check()
            self.presence.beat()
            if self.board_now.due():
                self.board.look()
            before = self.generation
            tokens = self._look()
            if self.generation != before:
                if dear and backoff.waited_s:
                    rhythm.add(backoff.waited_s)
                backoff.reset()  # whoever came too late for this generation must not for the next
            self.busy = tokens is not None and bool(tokens.waiting)
            if tokens is not None and self._score_some(tokens):
                backoff.reset(rhythm.head_start_s, rhythm.first_s)
                continue
            backoff.pause()

    def _look(self) -> Tokens | None:
        """The newest generation's tokens, where there may be something new to see."""
        if self.busy and self.generation is not None:
            return look_at(self.store, self.generation)
        newest = newest_generation(self.store, self.run_id)
        if newest == self.generation and not (newest and self.look_now.due()):
            return None
        self.generation = newest
        if newest is None:
            return None
        self.views.advance(newest)
        tokens = look_at(self.store, newest)
        if self.watch_now.due():
            self._take_back(newest, tokens)
        return tokens

    def _score_some(self, tokens: Tokens) -> bool:
        """Work through this evaluator's share of a listing; True: scored some.

        Evaluators that each keep to a share of their own seldom reach for the same solution, and a fresh
        listing costs no more than a claim that comes too late.
        """
        generation = self.generation
        if not tokens.waiting or generation is None:
            return False
        solutions = self._solutions_of(generation)
        if solutions is None or not self._has_weights(generation.search):
            return False
        todo = [waiting for waiting in tokens.waiting if waiting.index < len(solutions)]
        if not todo:  # foreign tokens, or not the solutions that were published: the searcher mends both
            self.solutions = None
            return False
        place, peers = self._my_place()
        first = len(todo) * place // peers
        last = max(first + 1, len(todo) * (place + 1) // peers)
        share, scored = todo[first:last], False
        while share:
            some = share[: self._batch(generation.search)]
            share = share[len(some) :]
            with _Held(self) as held:
                for waiting in some:
                    claimed = claim(self.store, generation, waiting, self.context.me.worker)
                    if claimed is None:  # somebody else works here: look again
                        share = []
                        break
                    held.claims.append(claimed)
                if not held.claims or not self._handle(held, solutions):
                    break
            scored = True
        return scored

    def _batch(self, search: int) -> int:
        """How many solutions to claim at once: never more than this evaluator's share, so that nobody else
        runs out of work."""
        return self.scorer.batch if self.scorer is not None and self.scorer_search == search else 1

    def _solutions_of(self, generation: GenerationId) -> Float64s | None:
        """All its solutions, float64 (population, layers); None: they are not there, or cannot be used."""
        if self.solutions is None or self.solutions[0] != generation:
            try:
                solutions = read_solutions(self.store, generation)
            except BadContent as error:
                self._put_aside(generation, str(error))
                return None
            if solutions is None:
                return None
            self.solutions = generation, solutions
        return self.solutions[1]

    def _put_aside(self, generation: GenerationId, reason: str) -> None:
        """Have the searcher publish a generation's solutions again."""
        self.context.say(f"{reason}; put aside")
        self.solutions = None
        put_aside(self.store, generation.solutions_file, f"{generation}_{names.SOLUTIONS}", reason)

    def _has_weights(self, search: int) -> bool:
        return self.scorer_search == search or self.board.sees(names.weights(search))

    def _my_place(self) -> tuple[int, int]:
        """This evaluator's place among its peers, from 0, and how many they are."""
        if self.count_now.due():
            peers = sorted(f.worker for f in role_files(self.store) if f.worker is not None and not f.ended)
            me = self.context.me.worker
            self.place = (peers.index(me), len(peers)) if me in peers else (0, 1)
        return self.place

    # Claimed solutions

    def _handle(self, held: _Held, solutions: Float64s) -> bool:
        """Score what was claimed; False: it could not be, for a reason that others share.

        `solutions`: those of the whole generation, float64 (population, layers).
        """
        generation = held.claims[0].generation
        try:
            scorer = self._scorer(generation.search, held.tick)
        except _ClaimLost:  # reading the reference took too long for others to wait
            return False
        if scorer is None:
            return False
        layers = solutions.shape[1]
        if layers != scorer.layers:
            file = generation.solutions_file
            self._put_aside(generation, f"{file}: expected {scorer.layers} layers, found {layers}")
            return False
        with suppress(_ClaimLost):
            self._score(scorer, held, held.claims, solutions)
        return True

    def _score(self, scorer: Scorer, held: _Held, mine: list[Claim], solutions: Float64s) -> None:
        """`mine`, all at once; the others that are held wait for their turn."""
        try:
            scores = scorer.score_many([solutions[each.token.index] for each in mine], held.tick)
            for score in scores:
                if not (math.isfinite(score.fitness) and math.isfinite(score.accuracy or 0.0)):
                    raise ArithmeticError(f"the score is not a number: {score}")
        except (_ClaimLost, Stopped, StoreError):
            raise
        except Exception as error:
            if len(mine) > 1:  # alone, each shows whether it is at fault
                for each in mine:
                    if each in held.claims:
                        self._score(scorer, held, [each], solutions)
                return
            [alone] = mine
            self.context.say(f"{alone.id}: scoring failed ({type(error).__name__}: {error})"[:300])
            if held.let_go(alone) and alone.failed(traceback.format_exc(), self.run.evaluators.tries):
                self.context.say(f"{alone.id}: set aside after {alone.token.attempt} tries")
        else:
            for each, score in zip(mine, scores, strict=True):
                if held.let_go(each):
                    self._announce(each, solutions[each.token.index], score)

    def _announce(self, mine: Claim, crates: Float64s, score: Score) -> None:
        if mine.announce(score.fitness, score.accuracy):
            self.views.put(mine.generation, mine.id.fit_file, fit_bytes(crates, score.fitness))
        elif mine.beat():
            # Still ours, so the very same score stands there already: it was published twice.
            mine.discard()

    def _scorer(self, search: int, tick: Callable[[], None]) -> Scorer | None:
        """The scorer for the weights of one search; None: those weights are not there (any more)."""
        if self.scorer is None or self.scorer_search != search:
            name = names.weights(search)
            weights = read_limited(self.store, name, MAX_WEIGHTS_BYTES)
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
        data, labels, accuracy = read_many_limited(self.store, files, MAX_SAMPLES_BYTES)
        if data is None or labels is None or accuracy is None:
            return None
        x = array_from_bytes(data, names.DATA)
        y = array_from_bytes(labels, names.LABELS)
        if x.dtype != np.float32 or x.ndim < 2 or x.size == 0:
            raise BadContent(f"{names.DATA}: expected float32 samples, found {x.dtype} of shape {x.shape}")
        if y.dtype != np.int64 or y.shape != (len(x),):
            raise BadContent(
                f"{names.LABELS}: expected {len(x)} int64 labels, found {y.dtype} of shape {y.shape}"
            )
        return x, y, accuracy_from_bytes(accuracy, names.ACCURACY)

    # Other evaluators' claims

    def _take_back(self, generation: GenerationId, tokens: Tokens) -> None:
        """Give the solutions of evaluators that stopped beating another try."""
        stale = set(self.watch.stale({generation.path(c.name): t for c, t in tokens.claimed.items()}))
        for held in tokens.claimed:
            silent = generation.path(held.name) in stale
            if not silent:
                content = read_role_file(self.store, evaluator_file(held.worker))
                if content is None or not gone_from_this_machine(content):
                    continue
            why = f"did not beat for {self.watch.lease_s:g} s" if silent else "is dead"
            id_ = generation.solution(held.index)
            self.context.say(f"{id_}: its evaluator {held.worker} {why}; taking it back")
            reason = f"try {held.attempt}: evaluator {held.worker} {why}"
            return_failed(self.store, generation, held, reason, self.run.evaluators.tries)
