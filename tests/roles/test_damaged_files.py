"""Files that are not what they should be: each is mended or put aside, and none changes the result."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from coppice.roles.evaluator import evaluator
from coppice.roles.master import master
from coppice.roles.outer import outer
from coppice.roles.searcher import ncs
from coppice.roles.status import read_status
from coppice.store import Store
from coppice.work import names
from coppice.work.contents import array_to_bytes
from coppice.work.generation import fit_bytes, prepare, publish
from coppice.work.names import GenerationId, Waiting
from coppice.work.sentinels import NcsStart
from tests.roles.meddling import newest, run_damaged, run_meddled, take
from tests.roles.threads import Crew, history_of, result_of, small_run
from tests.support.standins import CheapPruner, CheapScorer


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-5], id="truncated"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"solution", id="no-npy"),
        pytest.param(lambda data: array_to_bytes(np.zeros(3)), id="one-dimension"),
        pytest.param(lambda data: array_to_bytes(np.zeros((4, 7))), id="wrong-length"),
        pytest.param(lambda data: array_to_bytes(np.full((4, 3), np.nan)), id="nan"),
    ],
)
def test_damaged_solutions_are_put_aside_and_published_again(
    undisturbed: Store, opened: Callable[[], Store], damage: Callable[[bytes], bytes]
) -> None:
    def spoil(store: Store, generation: GenerationId) -> None:
        data = store.read(generation.solutions_file)
        assert data is not None
        store.replace(generation.solutions_file, damage(data))

    crew = run_damaged(opened, spoil)
    assert history_of(opened()) == history_of(undisturbed)
    aside = [e.name for e in opened().list(names.ASIDE)]
    assert [name.partition("_g0001_")[2] for name in aside] == ["solutions.npy", "solutions.npy.txt"]
    assert any("put aside" in line for line in crew.said)
    assert any("published again" in line for line in crew.said)


def test_too_few_solutions_and_tokens_of_none_are_mended(
    undisturbed: Store, opened: Callable[[], Store]
) -> None:
    def spoil(store: Store, generation: GenerationId) -> None:
        for index in range(4):
            store.delete(generation.path(Waiting(index).name))
        store.create(generation.path(Waiting(7).name), b"")
        store.replace(generation.solutions_file, array_to_bytes(np.zeros((2, 3))))

    crew = run_damaged(opened, spoil)
    assert history_of(opened()) == history_of(undisturbed)
    assert any("solutions.npy published again; 4 solutions were gone" in line for line in crew.said)
    assert any("1 that it never had were removed" in line for line in crew.said)


@pytest.mark.parametrize("what", ["a token", "the solutions", "the folder"])
def test_what_is_removed_from_a_generation_is_published_again(
    undisturbed: Store, opened: Callable[[], Store], what: str
) -> None:
    def remove(store: Store, generation: GenerationId) -> None:
        if what == "a token":
            store.delete(generation.path(Waiting(2).name))
        elif what == "the solutions":
            store.delete(generation.solutions_file)
        else:
            store.delete_tree(generation.folder)

    crew = run_damaged(opened, remove)
    assert history_of(opened()) == history_of(undisturbed)
    assert any("published again" in line for line in crew.said)


def test_a_generation_with_other_solutions_is_published_anew(
    undisturbed: Store, opened: Callable[[], Store]
) -> None:
    """What somebody scored there answers other questions than the search asks."""
    crew = Crew(opened)
    crew.start_all(small_run(), evaluators=0)
    while (first := newest(opened())) is None:
        time.sleep(0.001)
    planted = GenerationId(first.run, first.search, 2)
    assert publish(prepare(opened(), 4), planted, np.full((4, 3), 0.5))
    opened().rename(planted.path("i00_t1_waiting"), planted.path("i00_t1_f0.001_a0.9_by_ghost"))
    taken = opened().list(planted.folder)
    assert len(taken) == 5
    crew.start("evaluator0", lambda c: evaluator(c, CheapScorer))
    crew.join()
    assert history_of(opened()) == history_of(undisturbed)


@pytest.mark.parametrize("kind", ["nan", "other", "truncated"])
def test_a_fit_file_that_cannot_be_is_put_aside(
    undisturbed: Store, opened: Callable[[], Store], kind: str
) -> None:
    def act(store: Store, top: list[str]) -> bool:
        # Take the solution away first, so that the searcher has to look for a fit file.
        taken = take(store, "hand")
        if taken is None:
            return False
        mine, crates = taken
        content = {
            "nan": fit_bytes(crates, float("nan")),
            "other": fit_bytes(crates + 1, 0.001),
            "truncated": fit_bytes(crates, 0.5)[:-3],
        }[kind]
        store.create(mine.id.fit_file, content)
        return True

    crew = run_meddled(opened, act)
    assert history_of(opened()) == history_of(undisturbed)
    assert any("put aside, the solution will be scored again" in line for line in crew.said)


def test_a_solution_scored_by_hand_counts(opened: Callable[[], Store]) -> None:
    told = 0.0123456789

    def act(store: Store, top: list[str]) -> bool:
        taken = take(store, "hand")
        if taken is None:
            return False
        mine, crates = taken
        store.create(mine.id.fit_file, fit_bytes(crates, told))
        return True

    run_meddled(opened, act)
    assert [row[3] for row in history_of(opened())].count(repr(told)) == 1


def test_a_fit_file_of_an_older_generation_or_run_is_never_taken(
    undisturbed: Store, opened: Callable[[], Store]
) -> None:
    old: list[str] = []

    def act(store: Store, top: list[str]) -> bool:
        now = newest(store)
        if now is None or now.number < 2:
            return False
        for generation in (
            GenerationId(now.run, now.search, 1),
            GenerationId("deadbeef", now.search, now.number),
        ):
            old.append(generation.solution(0).fit_file)
            store.create(old[-1], fit_bytes(np.ones(3), 1e-6))
        return True

    run_meddled(opened, act)
    assert history_of(opened()) == history_of(undisturbed)
    assert opened().stat(old[0]) is None, "the old generation's file was not swept"


def test_a_fit_file_from_before_its_generation_was_removed_is_not_taken(
    undisturbed: Store, opened: Callable[[], Store]
) -> None:
    """It is an evaluator's of ours, and says less than the score did that went with the generation."""
    crew = Crew(opened)
    run = small_run()
    crew.start("master", lambda c: master(c, run))
    crew.start("outer", lambda c: outer(c, CheapPruner))
    while (order := opened().read(names.NCS_START)) is None:
        time.sleep(0.001)
    first = GenerationId(NcsStart.from_bytes(order, names.NCS_START).run, 1, 1)
    crates = np.array([float(text) for text in history_of(undisturbed)[1][6:]])
    left = first.solution(0).fit_file
    opened().create(left, fit_bytes(crates, 1e-6))
    crew.start("ncs", ncs)
    while newest(opened()) is None:
        time.sleep(0.001)
    assert opened().stat(left) is None
    crew.start("evaluator0", lambda c: evaluator(c, CheapScorer))
    crew.join()
    assert history_of(opened()) == history_of(undisturbed)


def test_foreign_files_are_left_alone_and_shown(undisturbed: Store, opened: Callable[[], Store]) -> None:
    foreign = ["notes.txt", "solution_17.npy", "fit_solution_17.npy"]

    def act(store: Store, top: list[str]) -> bool:
        return names.RUN in top and all(store.create(name, b"mine") for name in foreign)

    run_meddled(opened, act)
    assert history_of(opened()) == history_of(undisturbed)
    assert [opened().read(name) for name in foreign] == [b"mine"] * 3
    assert set(read_status(opened()).foreign) == set(foreign)


@pytest.mark.parametrize("name", [names.NEW_ITR, names.REPORT, names.NCS_START, names.NCS_OVER, names.CRATES])
@pytest.mark.parametrize("how", ["garbage", "removed"])
def test_a_sentinel_that_somebody_spoils_comes_back(
    undisturbed: Store, opened: Callable[[], Store], name: str, how: str
) -> None:
    def act(store: Store, top: list[str]) -> bool:
        if name not in top:
            return False
        store.delete(name)
        if how == "garbage":
            store.replace(name, b"\xff\x00 no such thing")
        return True

    run_meddled(opened, act)
    assert history_of(opened()) == history_of(undisturbed)
    assert result_of(opened()) == result_of(undisturbed)
