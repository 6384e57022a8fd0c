"""What an evaluator does with several claims at once, when something is wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.roles import evaluator as role
from coppice.roles.context import Stopped
from coppice.roles.evaluator import _Evaluator
from coppice.store import Store, open_store
from coppice.work.generation import Claim, claim, look_at, prepare, publish
from coppice.work.names import GenerationId, Waiting
from coppice.work.presence import announce_evaluator
from tests.roles.threads import context, small_run

GENERATION = GenerationId("0123abcd", 1, 1)
SOLUTIONS = 8


@dataclass
class Choosy:
    """Scores single solutions only, all of them with 0.5."""

    meanwhile: Callable[[Tick], None] = lambda tick: tick()
    alone: int = 0
    layers: int = 3
    batch: int = SOLUTIONS
    done: list[Float64s] = field(default_factory=list)

    def score_many(self, solutions: Sequence[Float64s], tick: Tick) -> list[Score]:
        if len(solutions) > 1:
            raise ValueError("one of them is bad")
        self.alone += 1
        self.meanwhile(tick)
        return [Score(0.5, True, None)]


def published(place: str) -> Store:
    store = open_store(place)
    solutions = np.random.default_rng(0).normal(size=(SOLUTIONS, 3))
    assert publish(prepare(store, SOLUTIONS), GENERATION, solutions)
    return store


def evaluator_at(place: str, scorer: Choosy) -> _Evaluator:
    own = context(lambda: open_store(place), "evaluator")
    found = _Evaluator(
        own, "0123abcd", small_run(), lambda *_: scorer, announce_evaluator(own.store, own.clock, own.me)
    )
    found.scorer, found.scorer_search, found.generation = scorer, 1, GENERATION
    return found


def test_those_that_wait_for_their_turn_are_not_taken_for_dead() -> None:
    """Each takes most of a lease; time passes twenty times as fast."""
    store = published("memory:waiting-claims")

    def slow(tick: Tick) -> None:
        for _ in range(8):
            time.sleep(0.1)
            tick()

    busy = evaluator_at("memory:waiting-claims", Choosy(slow))
    other = evaluator_at("memory:waiting-claims", Choosy())
    thread = threading.Thread(target=lambda: busy._score_some(look_at(store, GENERATION)))
    thread.start()
    while thread.is_alive():
        other._take_back(GENERATION, look_at(store, GENERATION))
        time.sleep(0.05)
    tokens = look_at(store, GENERATION)
    assert len(tokens.scored) == SOLUTIONS // 2  # its share
    assert {each.attempt for each in tokens.scored.values()} == {1}
    assert {each.attempt for each in tokens.waiting} == {1}


def test_what_is_left_is_given_back_when_asked_to_stop() -> None:
    store = published("memory:stopped-claims")

    def stopping(tick: Tick) -> None:
        if scorer.alone == 4:
            evaluator.context.stopping = lambda: True
        tick()

    scorer = Choosy(stopping)
    evaluator = evaluator_at("memory:stopped-claims", scorer)
    with pytest.raises(Stopped):
        evaluator._score_some(look_at(store, GENERATION))
    tokens = look_at(store, GENERATION)
    assert (len(tokens.scored), len(tokens.waiting), len(tokens.claimed)) == (3, SOLUTIONS - 3, 0)


def test_what_takes_the_process_with_it_counts_as_a_try() -> None:
    """Given back, it would take the next, and the next."""
    store = published("memory:deadly-claims")

    def deadly(tick: Tick) -> None:
        raise SystemExit("a driver's crash")

    with pytest.raises(SystemExit):
        evaluator_at("memory:deadly-claims", Choosy(deadly))._score_some(look_at(store, GENERATION))
    assert len(look_at(store, GENERATION).claimed) == SOLUTIONS


def test_claims_are_given_back_when_the_next_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    store = published("memory:half-claimed")
    calls = []

    def failing(store: Store, generation: GenerationId, waiting: Waiting, worker: str) -> Claim | None:
        calls.append(waiting)
        if len(calls) == 4:
            raise Stopped
        return claim(store, generation, waiting, worker)

    monkeypatch.setattr(role, "claim", failing)
    with pytest.raises(Stopped):
        evaluator_at("memory:half-claimed", Choosy())._score_some(look_at(store, GENERATION))
    assert len(look_at(store, GENERATION).waiting) == SOLUTIONS
