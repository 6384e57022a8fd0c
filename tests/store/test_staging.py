"""A staged folder is published whole, once, or not at all: on a home that fails on command."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.store import TEMPORARY_FOLDER, PermanentStoreError, Retry, Store, TransientStoreError
from coppice.store.memory import MemoryHome
from tests.support.clocks import FakeClock
from tests.support.failing_home import (
    Call,
    FailingHome,
    Fault,
    Killed,
    Plan,
    at_total,
    by_chance,
    nothing,
    scripted,
)

TOKENS = {"i00": b"", "i01": b"one"}
MORE = {"solutions": b"s" * 100}
CONTENT = TOKENS | MORE


def failing_store(
    plan: Plan, inner: MemoryHome | None = None, parallel: int = 1
) -> tuple[Store, FailingHome]:
    clock = FakeClock()
    home = FailingHome(inner or MemoryHome(clock=clock), plan, parallel)
    return Store(home, clock=clock, retry=Retry(patience_s=60.0), rng=random.Random(1)), home


def content(home: MemoryHome, folder: str) -> dict[str, bytes | None]:
    return {entry.name: home.read(f"{folder}/{entry.name}") for entry in home.list(folder)}


def publish(store: Store, path: str) -> bool:
    return store.stage(TOKENS).publish(path, MORE)


def count_calls() -> tuple[int, int]:
    """How many calls it takes, to publish where the parent is missing, and a taken name too."""
    store, home = failing_store(nothing)
    assert publish(store, "sub/one")
    first = len(home.log)
    assert not publish(store, "sub/one")
    return first, len(home.log)


CALLS_OF_FIRST, CALLS = count_calls()


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.parametrize("total", range(1, CALLS + 1))
def test_one_fault_anywhere_changes_no_outcome(fault: Fault, total: int) -> None:
    inner = MemoryHome()
    store, home = failing_store(at_total(fault, total), inner)
    assert publish(store, "sub/one")
    assert not store.stage(TOKENS).publish("sub/one", {"other": b""})
    assert content(inner, "sub/one") == CONTENT
    assert sum(fault is not None for _, fault in home.log) == 1
    store.create("next", b"")  # by now the home has answered
    assert inner.list(TEMPORARY_FOLDER) == []


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(0, 0.3), st.floats(0, 0.3))
def test_many_faults_change_no_outcome(seed: int, before: float, after: float) -> None:
    inner = MemoryHome()
    home = FailingHome(inner, by_chance(random.Random(seed), before, after))
    store = Store(home, clock=FakeClock(), retry=Retry(patience_s=1e6), rng=random.Random(seed))
    for index in range(5):
        assert publish(store, f"sub/{index}")
        assert not store.stage(TOKENS).publish(f"sub/{index}", {"other": b""})
    assert [entry.name for entry in inner.list("sub")] == [str(index) for index in range(5)]
    assert all(content(inner, f"sub/{index}") == CONTENT for index in range(5))


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_after_a_put_in_doubt_everything_is_written_elsewhere(number: int, parallel: int) -> None:
    """It may still arrive, even after the folder was published."""
    inner = MemoryHome()
    store, home = failing_store(scripted({("put", number): Fault.AFTER}), inner, parallel)
    tokens = {f"i{index:02}": str(index).encode() for index in range(6)}
    with store:
        assert store.stage(tokens).publish("one", MORE)
        assert content(inner, "one") == tokens | MORE
        doubtful = next(call.paths[0].rpartition("/")[0] for call, fault in home.log if fault is not None)
        published = [call.paths[0] for call, _ in home.log if call.operation == "rename_folder"]
        assert published != [doubtful]
        assert len(published) == 1
        assert inner.list(TEMPORARY_FOLDER) == []  # what was in doubt was cleared away
        assert inner.put(f"{doubtful}/i00", b"late")
        assert content(inner, "one") == tokens | MORE


@pytest.mark.parametrize("total", range(1, CALLS + 1))
def test_a_folder_that_somebody_removes_at_any_time_is_written_again(total: int) -> None:
    inner = MemoryHome()

    def plan(call: Call) -> Fault | None:
        if call.total == total:
            inner.delete_tree(TEMPORARY_FOLDER)
        return None

    store, _ = failing_store(plan, inner)
    assert publish(store, "sub/one")
    assert not store.stage(TOKENS).publish("sub/one", {"other": b""})
    assert content(inner, "sub/one") == CONTENT
    store.create("next", b"")
    assert inner.list(TEMPORARY_FOLDER) == []


def test_a_folder_that_another_has_moved_on_before_we_looked_is_written_again() -> None:
    """It looks like one that was lost, and twice is better than not at all."""
    inner = MemoryHome()

    def plan(call: Call) -> Fault | None:
        if call.operation == "rename_folder" and call.number == 2:  # between our lost reply and our look
            assert inner.rename_folder("one", "moved on")
        return Fault.AFTER if call.operation == "rename_folder" and call.number == 1 else None

    store, _ = failing_store(plan, inner)
    inner.make_folder("")
    assert publish(store, "one")
    assert content(inner, "moved on") == content(inner, "one") == CONTENT


def test_a_lost_reply_does_not_make_a_rivals_folder_ours() -> None:
    inner = MemoryHome()

    def plan(call: Call) -> Fault | None:
        if (
            call.operation == "rename_folder" and call.number == 1
        ):  # the rival is quicker, our request is lost
            inner.put("one/theirs", b"")
            return Fault.BEFORE
        return None

    store, _ = failing_store(plan, inner)
    assert not publish(store, "one")
    assert content(inner, "one") == {"theirs": b""}
    assert inner.list(TEMPORARY_FOLDER) == []


class MovesInto(MemoryHome):
    """Loses a race as on an HttpFS that could not be asked a second time: the folder is in the winner's."""

    def rename_folder(self, source: str, target: str) -> bool:
        if self.stat(target) is not None:
            return False
        self.put(f"{target}/theirs", b"")
        assert super().rename_folder(source, f"{target}/{source.rpartition('/')[2]}")
        raise TransientStoreError("reply lost, says the test")


def test_a_folder_that_lies_in_the_winners_has_lost_and_is_removed() -> None:
    inner = MovesInto()
    store, _ = failing_store(nothing, inner)
    assert not publish(store, "one")
    assert content(inner, "one") == {"theirs": b""}


@pytest.mark.parametrize("total", range(1, CALLS + 1))
def test_a_refusal_anywhere_leaves_nothing_behind(total: int) -> None:
    inner = MemoryHome()
    store, home = failing_store(at_total(Fault.PERMANENT, total), inner)
    published = []
    with contextlib.suppress(PermanentStoreError):
        published.append(publish(store, "sub/one"))
        published.append(publish(store, "sub/one"))
    # The last call of all removes the draft that has lost: nobody minds if it is refused.
    assert published == [True, False][: 0 if total <= CALLS_OF_FIRST else 1 if total < CALLS else 2]
    assert content(inner, "sub/one") == (CONTENT if published else {})
    assert len(inner.list(TEMPORARY_FOLDER)) == (total == CALLS)
    assert home.log[total - 1][1] is Fault.PERMANENT


@pytest.mark.parametrize("total", range(1, CALLS + 1))
@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER])
def test_a_process_that_dies_anywhere_leaves_no_part_of_a_folder(fault: Fault, total: int) -> None:
    inner = MemoryHome()
    store, _ = failing_store(at_total(fault, total), inner)
    with pytest.raises(Killed):
        _ = publish(store, "sub/one"), publish(store, "sub/one")
    assert content(inner, "sub/one") in ({}, CONTENT)
    again, _ = failing_store(nothing, inner)
    publish(again, "sub/one")
    assert content(inner, "sub/one") == CONTENT


def test_giving_up_never_raises() -> None:
    inner = MemoryHome()
    for fault in (Fault.BEFORE, Fault.AFTER, Fault.PERMANENT):
        store, home = failing_store(scripted({("delete_tree", 1): fault}), inner)
        store.stage(TOKENS).discard()
        assert home.operations[-1] == "delete_tree"
        store.create(f"next-{fault.name}", b"")  # by now the home answers
        assert len(inner.list(TEMPORARY_FOLDER)) == (fault is Fault.PERMANENT)


def test_patience_ends_with_one_line() -> None:
    for operation in ("put", "rename_folder"):
        store, home = failing_store(
            lambda call, operation=operation: Fault.BEFORE if call.operation == operation else None  # type: ignore[misc]
        )
        with pytest.raises(TransientStoreError, match=r"(stage 2 files|publish one): .*tried for 60 s"):
            publish(store, "one")
        assert home.inner.stat("one") is None
        home.plan = nothing
        assert publish(store, "one")
