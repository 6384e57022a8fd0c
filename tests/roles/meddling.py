"""Whole runs, and somebody who meddles with their folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.roles.context import read_record
from coppice.roles.evaluator import evaluator
from coppice.store import Store
from coppice.work.generation import Claim, claim, look_at, newest_generation, read_solutions
from coppice.work.names import GenerationId
from tests.roles.threads import Crew, small_run
from tests.support.standins import CheapScorer


class SlowScorer(CheapScorer):
    """Leaves time to interfere with a solution while it waits."""

    def score(self, crates: Float64s, tick: Tick) -> Score:
        time.sleep(0.03)
        return super().score(crates, tick)


def meddle(store: Store, crew: Crew, act: Callable[[list[str]], bool]) -> list[bool]:
    """Call `act` with the names at the top of the folder again and again until it says that it has acted."""
    acted: list[bool] = []

    def loop() -> None:
        while not crew.stopping.is_set():
            if act([entry.name for entry in store.list()]):
                acted.append(True)
                return
            time.sleep(0.001)

    threading.Thread(target=loop, daemon=True).start()
    return acted


def run_meddled(
    opened: Callable[[], Store], act: Callable[[Store, list[str]], bool], evaluators: int = 1
) -> Crew:
    """A whole run in which `act` interferes once."""
    store = opened()
    crew = Crew(opened)
    acted = meddle(store, crew, lambda top: act(store, top))
    crew.start_all(small_run(), evaluators=evaluators, make_scorer=SlowScorer)
    crew.join()
    assert acted, "the test never got to interfere"
    return crew


def newest(store: Store) -> GenerationId | None:
    record = read_record(store)
    return newest_generation(store, record.run_id) if record else None


def take(store: Store, worker: str) -> tuple[Claim, Float64s] | None:
    """Claim the last solution that waits, and read it."""
    generation = newest(store)
    waiting = look_at(store, generation).waiting if generation else []
    mine = claim(store, generation, waiting[-1], worker) if generation and waiting else None
    if mine is None:
        return None
    solutions = read_solutions(store, mine.generation)
    assert solutions is not None
    return mine, solutions[mine.token.index]


def run_damaged(opened: Callable[[], Store], damage: Callable[[Store, GenerationId], None]) -> Crew:
    """A whole run whose first generation is damaged before an evaluator comes."""
    crew = Crew(opened)
    crew.start_all(small_run(), evaluators=0)
    while (generation := newest(opened())) is None:
        time.sleep(0.001)
    damage(opened(), generation)
    crew.start("evaluator0", lambda c: evaluator(c, CheapScorer))
    crew.join()
    return crew
