"""Transient errors are borne, lost replies are resolved by looking: a home that fails on command."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.store import (
    TEMPORARY_FOLDER,
    PermanentStoreError,
    Retry,
    Store,
    StoreError,
    TransientStoreError,
)
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


def failing_store(plan: Plan, inner: MemoryHome | None = None) -> tuple[Store, FailingHome, FakeClock]:
    clock = FakeClock()
    home = FailingHome(inner or MemoryHome(clock=clock), plan)
    return Store(home, clock=clock, retry=Retry(patience_s=60.0), rng=random.Random(1)), home, clock


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
@pytest.mark.parametrize("total", range(1, 8))
def test_one_fault_anywhere_changes_no_outcome(fault: Fault, total: int) -> None:
    store, home, _ = failing_store(at_total(fault, total))
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.rename("a", "claims/a")
    assert not store.rename("a", "claims/b")
    store.replace("a", b"3")
    store.replace("a", b"4")
    assert store.read("a") == b"4"
    assert store.read("claims/a") == b"1"
    assert [entry.name for entry in store.list("claims")] == ["a"]
    assert store.list(TEMPORARY_FOLDER) == []
    assert sum(fault is not None for _, fault in home.log) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.4), st.floats(0, 0.4))
def test_many_faults_change_no_outcome(seed: int, before: float, after: float) -> None:
    inner = MemoryHome()
    clock = FakeClock()
    home = FailingHome(inner, by_chance(random.Random(seed), before, after))
    store = Store(home, clock=clock, retry=Retry(patience_s=1e6), rng=random.Random(seed))
    for index in range(10):
        assert store.create(f"new/{index}", str(index).encode())
        assert not store.create(f"new/{index}", b"late")
        assert store.rename(f"new/{index}", f"claims/{index}")
        assert not store.rename(f"new/{index}", f"claims/other-{index}")
        store.replace("state", str(index).encode())
        assert store.read("state") == str(index).encode()
    assert [entry.name for entry in inner.list("claims")] == [str(index) for index in range(10)]
    assert all(inner.read(f"claims/{index}") == str(index).encode() for index in range(10))
    assert inner.list("new") == []


def test_a_file_that_another_has_moved_on_before_we_looked_is_written_again() -> None:
    """It looks like one that was lost, and twice is better than not at all."""
    inner = MemoryHome()

    def plan(call: Call) -> Fault | None:
        if call.operation == "rename" and call.number == 2:  # between our lost reply and our look
            assert inner.rename("solution", "claimed")
        return Fault.AFTER if call.operation == "rename" and call.number == 1 else None

    store, _, _ = failing_store(plan, inner)
    inner.make_folder("")
    assert store.create("solution", b"x")
    assert [entry.name for entry in inner.list("")] == [TEMPORARY_FOLDER, "claimed", "solution"]


@pytest.mark.parametrize("operation", ["create", "replace"])
def test_a_draft_that_is_cleared_away_while_a_rename_is_in_doubt_is_written_again(operation: str) -> None:
    inner = MemoryHome()
    inner.make_folder("")
    if operation == "replace":
        inner.put("file", b"old")

    def plan(call: Call) -> Fault | None:
        if call.operation in ("rename", "rename_over") and call.number == 1:
            inner.delete_tree(TEMPORARY_FOLDER)
            return Fault.BEFORE
        return None

    store, _, _ = failing_store(plan, inner)
    getattr(store, operation)("file", b"new")
    assert inner.read("file") == b"new"


def test_a_lost_reply_does_not_make_a_rivals_claim_ours() -> None:
    inner = MemoryHome()

    def plan(call: Call) -> Fault | None:
        if call.operation == "rename" and call.number == 1:  # the rival is quicker, our request is lost
            assert inner.rename("solution", "claims/rival")
            return Fault.BEFORE
        return None

    store, _, _ = failing_store(plan, inner)
    inner.make_folder("claims")
    inner.put("solution", b"x")
    assert not store.rename("solution", "claims/ours")
    assert [entry.name for entry in inner.list("claims")] == ["rival"]


def test_a_put_that_arrives_late_cannot_spoil_the_file() -> None:
    """Every try writes a name of its own, so the first one's late arrival hits nothing that counts."""
    store, home, _ = failing_store(scripted({("put", 1): Fault.AFTER, ("put", 2): Fault.BEFORE}))
    assert store.create("a", b"1")
    tries = [call.paths[0] for call, _ in home.log if call.operation == "put"]
    assert len(set(tries)) == 3
    assert store.list(TEMPORARY_FOLDER) == []  # what the first try left was cleared away


def test_temporary_files_that_somebody_removes_are_written_again() -> None:
    inner = MemoryHome()

    def plan(call: Call) -> Fault | None:
        if call.operation in ("rename", "rename_over") and call.number == 1:
            inner.delete_tree(TEMPORARY_FOLDER)
        return None

    store, _, _ = failing_store(plan, inner)
    assert store.create("a", b"1")
    store.replace("b", b"2")
    assert (inner.read("a"), inner.read("b")) == (b"1", b"2")


def test_patience_ends_with_one_line() -> None:
    told: list[str | None] = []
    clock = FakeClock()
    home = FailingHome(MemoryHome("here"), lambda call: Fault.BEFORE)
    store = Store(home, clock=clock, retry=Retry(patience_s=60.0), on_trouble=told.append)
    began = clock.monotonic()
    with pytest.raises(
        TransientStoreError, match=r"^memory:here: read a: .*connection refused.*60 s.*$"
    ) as caught:
        store.read("a")
    assert "\n" not in str(caught.value)
    assert clock.monotonic() - began == pytest.approx(60.0)
    assert len(told) == 1
    assert told[0] is not None
    assert told[0].startswith("memory:here: read a")
    home.plan = nothing
    assert store.read("a") is None
    assert told[1:] == [None]
    assert store.read("a") is None
    assert len(told) == 2


def test_waits_grow_and_are_spread() -> None:
    retry = Retry(patience_s=1000.0, first_wait_s=0.05, longest_wait_s=10.0)
    slept = []
    for seed in (1, 2):
        clock = FakeClock()
        home = FailingHome(MemoryHome(), lambda call: Fault.BEFORE if call.total <= 12 else None)
        Store(home, clock=clock, retry=retry, rng=random.Random(seed)).stat("a")
        assert len(clock.slept) == 12
        for count, wait_s in enumerate(clock.slept):
            most_s = min(10.0, 0.05 * 2**count)
            assert most_s / 2 <= wait_s <= most_s
        slept.append(clock.slept)
    assert slept[0] != slept[1]


def test_permanent_errors_are_raised_at_once() -> None:
    store, home, clock = failing_store(lambda call: Fault.PERMANENT)
    for act in (store.list, store.make_folder, lambda: store.read("a"), lambda: store.create("a", b"")):
        with pytest.raises(PermanentStoreError, match="no permission"):
            act()
    assert len(home.log) == 4
    assert clock.slept == []


def test_a_refused_publication_leaves_no_temporary_file() -> None:
    store, home, _ = failing_store(
        scripted({("rename", 1): Fault.PERMANENT, ("rename_over", 1): Fault.PERMANENT})
    )
    for act in (lambda: store.create("a", b""), lambda: store.replace("a", b"")):
        with pytest.raises(PermanentStoreError):
            act()
    assert home.inner.list(TEMPORARY_FOLDER) == []


@pytest.mark.parametrize("total", range(1, 7))
@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER])
def test_a_process_that_dies_anywhere_leaves_no_part_of_a_file(fault: Fault, total: int) -> None:
    inner = MemoryHome()
    inner.put("replaced", b"old")
    store, _, _ = failing_store(at_total(fault, total), inner)

    def publish() -> None:
        for _ in range(3):
            store.create("created", b"new")
            store.replace("replaced", b"new")

    with pytest.raises(Killed):
        publish()
    assert inner.read("created") in (None, b"new")
    assert inner.read("replaced") in (b"old", b"new")
    again, _, _ = failing_store(nothing, inner)
    again.create("created", b"new")
    again.replace("replaced", b"new")
    assert (inner.read("created"), inner.read("replaced")) == (b"new", b"new")


def test_one_story_for_many_threads_in_trouble() -> None:
    told: list[str | None] = []
    clock = FakeClock()
    inner = MemoryHome()
    inner.put("a", b"1")
    home = FailingHome(inner, lambda call: Fault.BEFORE if call.total <= 20 else None, parallel=4)
    with Store(home, clock=clock, on_trouble=told.append) as store:
        assert store.read_many(["a"] * 8) == [b"1"] * 8
    assert told[-1] is None
    assert [each is None for each in told] == [False, True] * (len(told) // 2)


def test_an_error_among_many_does_not_stop_the_others() -> None:
    clock = FakeClock()
    home = FailingHome(MemoryHome(), scripted({("delete", 2): Fault.PERMANENT}), parallel=4)
    with Store(home, clock=clock) as store:
        for name in "abcd":
            home.inner.put(name, b"")
        with pytest.raises(StoreError, match="no permission"):
            store.delete_many(list("abcd"))
        assert len(store.list()) == 1


def test_a_role_that_is_stopped_in_an_outage_does_not_say_that_it_is_over() -> None:
    class Stop(Exception):
        """What a role's clock raises when the role is asked to end."""

    class StoppedClock(FakeClock):
        def sleep(self, seconds: float) -> None:
            raise Stop

    told: list[str | None] = []
    clock = StoppedClock()
    home = FailingHome(MemoryHome(clock=clock), scripted({("read", 1): Fault.BEFORE}))
    with Store(home, clock=clock, on_trouble=told.append) as store:
        with pytest.raises(Stop):
            store.read("a")
        assert len(told) == 1
        store.read("a")
        assert told[1:] == [None]
