"""Orders on their way: claimed once, given back, taken back, ended."""

from __future__ import annotations

from typing import Any

import pytest

from coppice.registry import layout
from coppice.registry.orders import Order
from coppice.registry.queue import Patrol, Queue, make_folders
from coppice.store import Store
from tests.support import homes, racers
from tests.support.clocks import FakeClock
from tests.support.homes import HomeSpec, over_homes

RACERS = 3


def order(number: int = 1) -> Order:
    return Order("traingen", ("TSK000001", layout.make_id("TRD", number)))


def names(store: Store, state: str) -> list[str]:
    return [entry.name for entry in store.list(f"wo/traingen/{state}")]


NAME = "traingen_TSK000001_TRD000001"


@over_homes()
def test_an_orders_way(store: Store) -> None:
    make_folders(store)
    queue = Queue(store, "traingen")
    assert queue.put(order())
    assert not queue.put(order())
    (ticket,) = queue.tickets("wait")
    taken = queue.claim(ticket, "me-1-0000")
    assert taken is not None
    assert names(store, "running") == [f"{NAME}_t1_by_me-1-0000.wo"]
    assert queue.claim(ticket, "you-2-0000") is None
    assert queue.read(taken) == order().text()
    assert queue.beat(taken)
    assert queue.finish(taken, True, b"said\n")
    assert names(store, "success") == [f"{NAME}.log", f"{NAME}.wo"]
    assert store.read(f"wo/traingen/success/{NAME}.log") == b"said\n"
    assert not queue.beat(taken)
    assert [ticket.state for ticket in queue.all()] == ["success"]


def test_a_failed_order_is_tried_again_as_if_it_were_new(store: Store) -> None:
    queue = Queue(store, "traingen")
    queue.put(order())
    taken = queue.claim(queue.tickets("wait")[0], "me-1-0000")
    assert taken is not None
    assert queue.finish(taken, False, b"why\n")
    (failed,) = queue.tickets("fail")
    assert store.read(failed.log) == b"why\n"
    assert queue.retry(failed)
    assert names(store, "fail") == []
    assert names(store, "wait") == [f"{NAME}.wo"]
    assert not queue.retry(failed)


def test_what_is_given_back_was_no_try(store: Store) -> None:
    queue = Queue(store, "traingen")
    queue.put(order())
    taken = queue.claim(queue.tickets("wait")[0], "me-1-0000")
    assert taken is not None
    queue.give_back(taken)
    assert names(store, "wait") == [f"{NAME}.wo"]
    assert names(store, "running") == []


def test_what_is_silent_is_taken_back_and_fails_at_last(store: Store) -> None:
    clock = FakeClock()
    queue = Queue(store, "traingen")
    patrol = Patrol([queue], clock, lease_s=60.0, tries=2)
    queue.put(order())
    for turn in (1, 2):
        (ticket,) = queue.tickets("wait")
        assert ticket.turn == turn
        taken = queue.claim(ticket, "me-1-0000")
        assert taken is not None
        assert patrol.look() == []
        clock.sleep(59.0)
        assert queue.beat(taken)
        assert patrol.look() == []
        clock.sleep(59.0)
        assert patrol.look() == []
        clock.sleep(1.5)
        (line,) = patrol.look()
        assert line.startswith(f"{NAME}: ")
        assert not queue.beat(taken)
        if turn == 1:
            assert names(store, "wait") == [f"{NAME}_t2.wo"]
        # the worker that was only asleep changes nothing any more
        assert not queue.finish(taken, True, b"late\n")
    assert names(store, "success") == names(store, "running") == []
    assert names(store, "fail") == [f"{NAME}.log", f"{NAME}.wo"]
    log = store.read(f"wo/traingen/fail/{NAME}.log") or b""
    assert log == b"its workers fell silent 2 times, the last was me-1-0000\n"


def test_an_order_that_was_put_twice_ends_once(store: Store) -> None:
    queue = Queue(store, "traingen")
    for turn in range(2):
        queue.put(order())
        taken = queue.claim(queue.tickets("wait")[0], "me-1-0000")
        assert taken is not None
        assert queue.drop_if_done(taken) == (turn == 1)
        assert queue.finish(taken, True, f"log {turn}".encode()) == (turn == 0)
    assert [ticket.state for ticket in queue.all()] == ["success"]
    assert names(store, "running") == []
    assert store.read(f"wo/traingen/success/{NAME}.log") == b"log 0"


def test_a_late_worker_leaves_the_logs_of_others_alone(store: Store) -> None:
    queue = Queue(store, "traingen")
    queue.put(order())
    late = queue.claim(queue.tickets("wait")[0], "late-1-0000")
    assert late is not None
    assert queue.take_back(late, tries=3) is not None
    quick = queue.claim(queue.tickets("wait")[0], "quick-1-0000")
    assert quick is not None
    assert queue.finish(quick, True, b"quick's")
    for success in (True, False):
        assert not queue.finish(late, success, b"late's")
    assert queue.take_back(late, tries=1) is None
    assert store.read(f"wo/traingen/success/{NAME}.log") == b"quick's"
    assert names(store, "fail") == names(store, "running") == names(store, "wait") == []


def test_an_order_that_waits_already_is_not_retried(store: Store) -> None:
    queue = Queue(store, "traingen")
    queue.put(order())
    taken = queue.claim(queue.tickets("wait")[0], "me-1-0000")
    assert taken is not None
    queue.finish(taken, False, b"why")
    queue.put(order())
    assert not queue.retry(queue.tickets("fail")[0])
    assert store.read(f"wo/traingen/fail/{NAME}.log") == b"why"


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "traingen_TSK000001.wo",
        "train_TSK000001_TRD000001.wo",
        f"{NAME}_t0.wo",
        f"{NAME}_by_me.wo",
        f"{NAME}.wo.tmp",
        "testgen_TSK000001_TST000001.wo",
    ],
)
def test_what_is_no_order_is_left_alone(store: Store, name: str) -> None:
    store.create(f"wo/traingen/wait/{name}", b"")
    assert Queue(store, "traingen").all() == []


def claim_race(store: Store, racer: racers.Racer) -> list[Any]:
    """Racers empty a queue that all see; what each has claimed and ended."""
    queue, mine = Queue(store, "traingen"), []
    racer.wait()
    while waiting := queue.tickets("wait"):
        for ticket in waiting:
            taken = queue.claim(ticket, f"racer-{racer.number}-0000")
            if taken is not None and queue.finish(taken, True, b""):
                mine.append(ticket.order.name)
    return mine


@over_homes(*homes.SHARED)
def test_racing_workers_do_each_order_once(home_spec: HomeSpec) -> None:
    orders = 20
    with Store(home_spec.open()) as store:
        make_folders(store)
        queue = Queue(store, "traingen")
        for number in range(orders):
            queue.put(order(number + 1))
    results = racers.race_processes(home_spec, claim_race, RACERS, 1)
    done = sorted(name for result in results for name in result)
    assert done == [order(number + 1).name for number in range(orders)]
    with Store(home_spec.open()) as store:
        assert len(names(store, "success")) == 2 * orders
        assert names(store, "wait") == names(store, "running") == []
