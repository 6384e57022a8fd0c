"""Faults and bad input: each has a clear outcome, and none of them changes the result."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from coppice.errors import CoppiceError
from coppice.pruning.contract import Float64s, Score, Tick
from coppice.roles.clearing import clean
from coppice.roles.context import declare_failure, read_record
from coppice.roles.evaluator import evaluator
from coppice.roles.master import master
from coppice.roles.outer import outer
from coppice.roles.searcher import ncs
from coppice.roles.status import read_status
from coppice.store import Store
from coppice.work import names
from coppice.work.errors import BadContent, RunFailed, RunRefused
from coppice.work.generation import claim, look_at, prepare, publish
from coppice.work.names import GenerationId, Waiting
from coppice.work.sentinels import NewItr, RunRecord
from tests.roles.meddling import SlowScorer, run_meddled, take
from tests.roles.threads import Crew, context, history_of, result_of, run_all, small_run
from tests.support.standins import CheapPruner, CheapScorer

# A scorer that fails


class Crashing(CheapScorer):
    """One of the solutions of the first generation brings it down."""

    def score(self, crates: Float64s, tick: Tick) -> Score:
        if 0.2 < crates[0] < 0.3:
            raise ZeroDivisionError("this solution is the end of me")
        return super().score(crates, tick)


def test_a_solution_that_always_crashes_is_set_aside_with_its_traceback(opened: Callable[[], Store]) -> None:
    crew = run_all(opened, small_run(seed=3), make_scorer=Crashing)
    store = opened()
    rows = history_of(store)[1:]
    crashed = [row for row in rows if 0.2 < float(row[6]) < 0.3]
    assert crashed, "no solution of this seed crashes the scorer: choose another range"
    assert {row[3] for row in crashed} == {"2.0"}
    notes = [entry.name for entry in store.list(names.ASIDE) if entry.name.endswith(".txt")]
    assert len(notes) == 3 * len(crashed)  # tries: 3
    assert (
        "ZeroDivisionError: this solution is the end of me"
        in (store.read(f"{names.ASIDE}/{notes[0]}") or b"").decode()
    )
    assert read_status(store).last_error is not None
    assert any("set aside" in line for line in crew.said)


# Evaluators that vanish


def test_the_claim_of_a_silent_evaluator_is_taken_back(
    undisturbed: Store, opened: Callable[[], Store]
) -> None:
    def act(store: Store, top: list[str]) -> bool:
        return take(store, "ghost-1-beef") is not None

    crew = run_meddled(opened, act)
    assert history_of(opened()) == history_of(undisturbed)
    assert any("ghost-1-beef did not beat for 20 s; taking it back" in line for line in crew.said)


def test_a_score_for_a_claim_that_was_taken_back_does_not_count(opened: Callable[[], Store]) -> None:
    store = opened()
    generation = GenerationId("0badcafe", 1, 1)
    assert publish(prepare(store, 1), generation, np.ones((1, 3)))
    mine = claim(store, generation, Waiting(0), "slow")
    assert mine is not None
    assert not mine.failed("silent", tries=3)  # somebody took it back
    assert not mine.announce(0.5, 0.9)
    assert not mine.beat()
    tokens = look_at(store, generation)
    assert tokens.waiting == [Waiting(0, 2)]
    assert not tokens.claimed
    assert not tokens.scored


# Runs that meet others


def test_two_of_each_role_do_no_harm(undisturbed: Store, opened: Callable[[], Store]) -> None:
    crew = Crew(opened)
    crew.start_all(small_run(), evaluators=2, make_scorer=SlowScorer)
    crew.start("master2", lambda c: master(c, small_run()))
    crew.start("outer2", lambda c: outer(c, CheapPruner))
    crew.start("ncs2", ncs)
    crew.join()
    assert history_of(opened()) == history_of(undisturbed)
    assert result_of(opened()) == result_of(undisturbed)
    assert any("waiting to take over" in line for line in crew.said)


def test_other_settings_are_refused_by_name(opened: Callable[[], Store]) -> None:
    run_all(opened, small_run())
    other = small_run(rounds={"iterations": 10, "tmax": 10}, evaluators={"count": 7})
    with pytest.raises(RunRefused, match=r"with other settings \(rounds\).*--fresh"):
        master(context(opened), other)


def test_a_finished_run_answers_again_and_fresh_begins_anew(opened: Callable[[], Store]) -> None:
    run_all(opened, small_run())
    first = read_record(opened())
    again = master(context(opened), small_run(evaluators={"count": 7}))
    assert first is not None
    assert again["run_id"] == first.run_id

    crew = Crew(opened)
    crew.start("master", lambda c: master(c, small_run(seed=8), fresh=True))
    crew.start(
        "outer", lambda c: outer(c, CheapPruner)
    )  # they meet the finished run, and wait for the new one
    crew.start("ncs", ncs)
    crew.start("evaluator", lambda c: evaluator(c, CheapScorer))
    crew.join()
    second = read_record(opened())
    assert second is not None
    assert second.run_id != first.run_id
    assert result_of(opened())["seed"] == 8


def test_a_living_run_is_neither_wiped_nor_cleaned(opened: Callable[[], Store]) -> None:
    crew = Crew(opened)
    crew.start("master", lambda c: master(c, small_run()))
    while not opened().stat(names.NEW_ITR):
        time.sleep(0.001)
    for attempt in (
        lambda: master(context(opened), small_run(seed=9), fresh=True),
        lambda: clean(context(opened)),
    ):
        with pytest.raises(RunRefused, match="a run is alive here: master"):
            attempt()
    assert opened().stat(names.RUN) is not None
    crew.stopping.set()
    crew.join()
    assert clean(context(opened)) == []
    assert opened().stat("") is None


def test_a_folder_with_other_things_in_it_is_refused(opened: Callable[[], Store]) -> None:
    opened().make_folder()
    opened().create("thesis.tex", b"years of work")
    for fresh in (False, True):
        with pytest.raises(RunRefused, match=r"not empty and no run of Coppice's \(it holds 'thesis.tex'\)"):
            master(context(opened), small_run(), fresh)
    assert opened().read("thesis.tex") == b"years of work"


def test_roles_end_when_their_run_is_replaced_or_removed(opened: Callable[[], Store]) -> None:
    crew = Crew(opened)
    crew.start("master", lambda c: master(c, small_run()))
    crew.start("ncs", ncs)
    while not any("ncs" in f.name for f in opened().list(names.ROLES)):
        time.sleep(0.001)
    record = read_record(opened())
    assert record is not None
    opened().replace(names.RUN, RunRecord("0badcafe", "running", record.run_file, record.version).to_bytes())
    crew.threads[1].join(20)
    assert isinstance(crew.errors.pop("ncs"), RunRefused)
    crew.stopping.set()
    crew.join()


# Runs that fail


def test_a_run_that_fails_ends_every_role_and_can_be_gone_on_with(
    undisturbed: Store, opened: Callable[[], Store]
) -> None:
    class Diverging(CheapPruner):
        def train(self, iterations: int, tick: Tick) -> None:
            if self.iteration > 50:
                raise CoppiceError("training diverged at iteration 51; lower surgery.learning_rate")
            super().train(iterations, tick)

    crew = Crew(opened)
    crew.start_all(small_run(), make_pruner=Diverging)
    for thread in crew.threads:
        thread.join(60)
    assert set(crew.errors) == {"master", "outer", "ncs", "evaluator0", "evaluator1"}
    for name, error in crew.errors.items():
        assert "training diverged at iteration 51" in str(error), name
        assert isinstance(error, RunFailed) or name == "outer"
    status = read_status(opened())
    assert status.state == "failed"
    assert "training diverged" in (status.reason or "")

    run_all(opened, small_run())  # mended, and started again with the same command
    assert history_of(opened()) == history_of(undisturbed)
    assert result_of(opened()) == result_of(undisturbed)


def test_the_first_failure_is_the_one_that_is_told(opened: Callable[[], Store]) -> None:
    store = opened()
    declare_failure(store, "outer", "no such data")
    declare_failure(store, "ncs", "nothing to search")
    assert (store.read(names.FAILED) or b"").decode() == "outer: no such data\n"


def test_an_order_for_another_run_is_not_obeyed(undisturbed: Store, opened: Callable[[], Store]) -> None:
    def act(store: Store, top: list[str]) -> bool:
        if names.NEW_ITR not in top:
            return False
        store.replace(names.NEW_ITR, NewItr("deadbeef", 1, None).to_bytes())
        return True

    run_meddled(opened, act)
    assert result_of(opened()) == result_of(undisturbed)


@pytest.mark.parametrize("what", ["all checkpoints", "the newest two"])
def test_lost_checkpoints_of_the_outer_loop_are_made_up_for(
    undisturbed: Store, opened: Callable[[], Store], what: str
) -> None:
    """A run is stopped in its last round, loses checkpoints, and is gone on with."""
    crew = Crew(opened)

    class Waits(CheapPruner):
        def train(self, iterations: int, tick: Tick) -> None:
            while self.iteration >= 80:  # of 110: until it is stopped
                tick()
                time.sleep(0.01)
            super().train(iterations, tick)

    crew.start_all(small_run(), make_scorer=SlowScorer, make_pruner=Waits)
    while len(opened().list(names.ROUNDS)) < 2:
        time.sleep(0.001)
    crew.stopping.set()
    for thread in crew.threads:
        thread.join(60)
    kept = opened().list(names.OUTER)
    for entry in kept:
        opened().delete(f"{names.OUTER}/{entry.name}")
        if what == "the newest two":
            opened().create(f"{names.OUTER}/{entry.name}", b"damaged")
    again = run_all(opened, small_run())
    assert any("its checkpoint is lost; doing it again" in line for line in again.said)
    assert history_of(opened()) == history_of(undisturbed)
    assert result_of(opened()) == result_of(undisturbed)


def test_a_score_that_is_no_number_counts_as_a_crash(opened: Callable[[], Store]) -> None:
    class NotANumber(CheapScorer):
        def score(self, crates: Float64s, tick: Tick) -> Score:
            score = super().score(crates, tick)
            return Score(float("nan"), False, 0.0) if 0.2 < crates[0] < 0.3 else score

    run_all(opened, small_run(seed=3), make_scorer=NotANumber)
    assert "2.0" in {row[3] for row in history_of(opened())[1:]}
    assert "the score is not a number" in (read_status(opened()).last_error or "")


def test_status_bears_what_people_did_to_the_folder(opened: Callable[[], Store]) -> None:
    run_all(opened, small_run())
    store = opened()
    role = next(entry.name for entry in store.list(names.ROLES))
    store.replace(f"{names.ROLES}/{role}", b'{"pid": null, "container": 7}')
    assert read_status(store).state == "over"
    store.replace(names.round_record(2), b'{"compression": "x"}')
    with pytest.raises(BadContent, match=r"round_0002.json: \w+: "):
        read_status(store)
