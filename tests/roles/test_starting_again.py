"""The same run, started again: what may have changed meanwhile, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import coppice.roles.master
from coppice.roles.context import Stopped, declare_failure, read_record, wait_for_run
from coppice.roles.master import master
from coppice.roles.outer import outer
from coppice.roles.rounds import read_rounds
from coppice.store import Store
from coppice.work import names
from coppice.work.errors import RunFailed, RunRefused, Superseded
from tests.hdfs.service import until
from tests.roles.threads import HASTE, Crew, context, result_of, run_all, small_run
from tests.support.standins import CheapPruner


def start_master(opened: Callable[[], Store], **sections: object) -> None:
    """Open the run, or go on with it, and stop at the first wait."""
    own = context(opened, "master")
    own.stopping = lambda: opened().stat(names.NEW_ITR) is not None
    opened().delete(names.NEW_ITR)
    with pytest.raises(Stopped):
        master(own, small_run(**sections))


@pytest.mark.parametrize("failed", [False, True])
def test_roles_go_by_what_was_changed_and_may_be(opened: Callable[[], Store], failed: bool) -> None:
    start_master(opened, evaluators={"device": "cuda"})
    first = read_record(opened())
    if failed:
        declare_failure(opened(), "outer", "there is no cuda here")
        with pytest.raises(RunFailed):
            master(context(opened), small_run(evaluators={"device": "cuda"}))
    start_master(opened, evaluators={"device": "cpu"}, work="elsewhere")
    record, run = wait_for_run(context(opened))
    assert first is not None
    assert (record.run_id, record.state, record.reason) == (first.run_id, "running", None)
    assert run == small_run(evaluators={"device": "cpu"}, work="elsewhere")


def test_what_stands_of_a_finished_run_is_left_as_it_was(opened: Callable[[], Store]) -> None:
    run_all(opened, small_run())
    before = opened().read(names.RUN)
    master(context(opened), small_run(evaluators={"count": 7}))
    assert opened().read(names.RUN) == before


@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_a_failure_without_words_is_told_in_words(opened: Callable[[], Store], content: bytes) -> None:
    start_master(opened)
    opened().replace(names.FAILED, content)
    with pytest.raises(RunFailed, match=r"^failed\.txt is empty$"):
        master(context(opened), small_run())
    record = read_record(opened())
    assert record is not None
    assert (record.state, record.reason) == ("failed", "failed.txt is empty")


# What a folder has lost


@pytest.mark.parametrize("kept", [names.HISTORY, names.ROUNDS, names.OUTER, names.NCS, names.RESULT])
def test_leftovers_of_a_run_are_not_taken_for_another_s(opened: Callable[[], Store], kept: str) -> None:
    run_all(opened, small_run())
    for entry in opened().list():
        if entry.name != kept:
            opened().delete_tree(entry.name) if entry.is_folder else opened().delete(entry.name)
    with pytest.raises(RunRefused, match=f"holds {kept} of a run whose run.json is gone; put that back, or"):
        master(context(opened), small_run(seed=8))
    assert opened().stat(kept) is not None
    own = context(opened)
    own.stopping = lambda: opened().stat(names.NEW_ITR) is not None
    with pytest.raises(Stopped):
        master(own, small_run(seed=8), fresh=True)
    assert opened().stat(kept) is None


def test_a_run_json_that_is_damaged_or_gone_comes_back(opened: Callable[[], Store]) -> None:
    crew = Crew(opened)
    crew.start("master", lambda c: master(c, small_run()))
    until(lambda: opened().stat(names.NEW_ITR) is not None, 20, "no round was opened")
    whole = opened().read(names.RUN)
    opened().replace(names.RUN, b'{"run_id": "0ba')
    until(lambda: opened().read(names.RUN) == whole, 20, "damaged for good")
    opened().delete(names.RUN)
    until(lambda: opened().read(names.RUN) == whole, 20, "gone for good")
    crew.stopping.set()
    crew.join()


def test_a_master_whose_folder_is_gone_opens_nothing_in_its_place(opened: Callable[[], Store]) -> None:
    crew = Crew(opened)
    crew.start("master", lambda c: master(c, small_run()))
    until(lambda: opened().stat(names.NEW_ITR) is not None, 20, "no round was opened")
    for entry in opened().list():
        opened().delete_tree(entry.name) if entry.is_folder else opened().delete(entry.name)
    crew.threads[0].join(20)
    assert isinstance(crew.errors.pop("master"), Superseded)
    assert opened().stat(names.RUN) is None


def test_a_master_that_died_while_it_tidied_up_is_followed_by_one_that_does(
    opened: Callable[[], Store],
) -> None:
    run_all(opened, small_run())
    record = read_record(opened())
    assert record is not None
    left = f"solution_{record.run_id}_s0002_g0003_i01.npy"
    opened().create(left, b"a view")
    opened().create(f"{names.GENERATIONS}/{record.run_id}_s0002_g0003/i01_t1_waiting", b"")
    master(context(opened), small_run())
    assert {names.GENERATIONS, left}.isdisjoint(entry.name for entry in opened().list())


def test_a_master_catches_up_with_one_that_was_only_silent(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the records, and the one before it, whose office it took, goes on for some rounds more."""
    run_all(opened, small_run())
    whole = result_of(opened())
    record = read_record(opened())
    assert record is not None
    opened().replace(names.RUN, replace(record, state="running").to_bytes())
    looks: list[int] = []

    def read_late(store: Store) -> list[dict[str, Any]]:
        looks.append(len(looks))
        return read_rounds(store)[: 0 if len(looks) == 1 else None]

    monkeypatch.setattr(coppice.roles.master, "read_rounds", read_late)
    own = context(opened)
    end = own.clock.monotonic() + 30 * HASTE
    own.stopping = lambda: own.clock.monotonic() > end
    master(own, small_run())
    assert len(looks) == 2
    assert result_of(opened()) == whole


def test_a_search_that_was_lost_is_made_again(opened: Callable[[], Store]) -> None:
    run_all(opened, small_run())
    whole = result_of(opened())
    record = read_record(opened())
    assert record is not None
    for folder in (names.OUTER, names.ROUNDS, names.HISTORY, names.RESULT):
        opened().delete_tree(folder)
    for name in (names.NCS_START, names.NEW_ITR, names.REPORT):
        opened().delete(name)
    opened().replace(names.RUN, replace(record, state="running").to_bytes())
    run_all(opened, small_run())
    assert result_of(opened()) == whole


def test_a_network_that_is_lost_with_its_searches_is_told(opened: Callable[[], Store]) -> None:
    run_all(opened, small_run())
    record = read_record(opened())
    assert record is not None
    for folder in (names.OUTER, names.HISTORY, names.RESULT):
        opened().delete_tree(folder)
    opened().replace(names.RUN, replace(record, state="running").to_bytes())
    with pytest.raises(RunRefused, match=r"outer/ holds no whole checkpoint, and history/search_0001.zip is"):
        outer(context(opened), CheapPruner)
