"""The queues: an order's way from wait/ to running/, and to success/ or fail/, each step one rename.

    wait/NAME.wo                      to be done; NAME_t2.wo: for the second time
    running/NAME_t1_by_<worker>.wo    being done: touched by its worker, which sees by it that it is still his
    success/NAME.wo, NAME.log         done, and what the scripts said
    fail/NAME.wo, NAME.log            the last line of the log says why

A claim's name is used by one worker only, so a lost reply is resolved by looking (see `Store.rename`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from coppice.clock import Clock
from coppice.registry.layout import ORDERS
from coppice.registry.orders import KINDS, Kind, Order, parse_name
from coppice.store import Entry, Store
from coppice.work.limits import MAX_TEXT_BYTES
from coppice.work.names import WORKER
from coppice.work.presence import LeaseWatch

LEASE_S = 60.0
"""An order that was not touched for so long has lost its worker."""
TRIES = 3
State = Literal["wait", "running", "success", "fail"]
STATES: tuple[State, ...] = ("wait", "running", "success", "fail")

_FILE = re.compile(
    rf"(?P<name>[a-z]+(?:_[A-Z]{{3}}\d{{6}})+)(?:_t(?P<turn>[1-9]\d{{0,3}}))?(?:_by_(?P<worker>{WORKER}))?\.wo",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order's file, as a listing showed it."""

    order: Order
    state: State
    turn: int
    """Which try it is, or will be; from 1."""
    worker: str | None
    """Whose it is, while it is running."""
    mtime_ms: int

    @property
    def path(self) -> str:
        """Of its file."""
        return path_of(self.order, self.state, self.turn, self.worker)

    @property
    def log(self) -> str:
        """Where its log is, once it has ended."""
        return f"{ORDERS}/{self.order.kind}/{self.state}/{self.order.name}.log"


def path_of(order: Order, state: State, turn: int = 1, worker: str | None = None) -> str:
    """The file of an order in some state."""
    name = order.name
    if state == "running":
        name += f"_t{turn}_by_{worker}"
    elif state == "wait" and turn > 1:
        name += f"_t{turn}"
    return f"{ORDERS}/{order.kind}/{state}/{name}.wo"


def make_folders(store: Store) -> None:
    """The empty queues."""
    for kind in KINDS:
        for state in STATES:
            store.make_folder(f"{ORDERS}/{kind}/{state}")


class Queue:
    """The orders of one kind."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self.kind = kind
        self._store = store

    def tickets(self, state: State) -> list[Ticket]:
        """What lies there, by name; files that are no orders of this kind are left out."""
        entries = self._store.list(f"{ORDERS}/{self.kind}/{state}")
        return [ticket for entry in entries if (ticket := self._ticket(entry, state)) is not None]

    def all(self) -> list[Ticket]:
        """Those of all states. An order that is moved on meanwhile is seen in one of them."""
        # Orders go from wait/ on, and sometimes back to it: so it is looked at first and last.
        found: dict[Order, Ticket] = {}
        for state in (*STATES, *STATES[:1]):
            found |= {ticket.order: ticket for ticket in self.tickets(state) if ticket.order not in found}
        return list(found.values())

    def put(self, order: Order) -> bool:
        """Order it; False: it waits already."""
        return self._store.create(path_of(order, "wait"), order.text())

    def claim(self, ticket: Ticket, worker: str) -> Ticket | None:
        """Take a waiting order; None: another was quicker."""
        taken = Ticket(ticket.order, "running", ticket.turn, worker, 0)
        return taken if self._store.rename(ticket.path, taken.path) else None

    def read(self, ticket: Ticket) -> bytes | None:
        """Its content; None: it is gone. Raises `TooLarge`."""
        return self._store.read(ticket.path, MAX_TEXT_BYTES)

    def beat(self, ticket: Ticket) -> bool:
        """Say that it is being worked on; False: it was taken back."""
        return self._store.touch(ticket.path)

    def finish(self, ticket: Ticket, success: bool, log: bytes) -> bool:
        """Move it to success/ or fail/, with its log; False: it had been taken back, nothing is changed."""
        ended = Ticket(ticket.order, "success" if success else "fail", 1, None, 0)
        # Under a name of its own until the order has moved: whoever has it by then has a log of his own.
        draft = path_of(ticket.order, "running", ticket.turn, ticket.worker).removesuffix(".wo") + ".log"
        if not self.beat(ticket):
            return False
        self._store.replace(draft, log)
        moved = self._store.rename(ticket.path, ended.path)
        if moved and self._store.rename(draft, ended.log):
            return True
        if moved:
            self._store.replace(ended.log, log)
        self._store.delete(draft)
        # It may have been ordered twice, and be done: then what was done first stays.
        return moved or (self._store.stat(ended.path) is not None and self._store.delete(ticket.path))

    def drop_if_done(self, ticket: Ticket) -> bool:
        """An order that was put twice, and has succeeded meanwhile, is not carried out again."""
        done = self._store.stat(path_of(ticket.order, "success")) is not None
        if done:
            self._store.delete(ticket.path)
        return done

    def give_back(self, ticket: Ticket) -> None:
        """For another to do; this try does not count."""
        self._put_back(ticket, ticket.turn)

    def take_back(self, ticket: Ticket, tries: int) -> str | None:
        """From a worker that is silent; a line about what was done, None if somebody was quicker."""
        name = ticket.order.name
        if ticket.turn >= tries:
            reason = f"its workers fell silent {ticket.turn} times, the last was {ticket.worker}"
            return f"{name}: failed; {reason}" if self.finish(ticket, False, f"{reason}\n".encode()) else None
        back = self._put_back(ticket, ticket.turn + 1)
        return f"{name}: {ticket.worker} is silent, put back for try {ticket.turn + 1}" if back else None

    def retry(self, ticket: Ticket) -> bool:
        """Put a failed order back, as if it were new; False: it is gone, or waits already."""
        waiting = path_of(ticket.order, "wait")
        if self._store.stat(ticket.path) is None or self._store.stat(waiting) is not None:
            return False
        self._store.delete(ticket.log)  # first: once it waits it may fail anew, with a log that is to stay
        return self._store.rename(ticket.path, waiting)

    def fail_strays(self) -> list[str]:
        """Files that wait under a name that no order has go to fail/, too; a line for each."""
        lines = []
        for name in self.strays("wait"):
            reason = f"{name}: no name of a {self.kind} order; see docs/registry.md, Work orders"
            place = f"{ORDERS}/{self.kind}/fail/{name}"
            if self._store.rename(f"{ORDERS}/{self.kind}/wait/{name}", place):
                self._store.replace(place.removesuffix(".wo") + ".log", f"{reason}\n".encode())
                lines.append(reason)
        return lines

    def strays(self, state: State) -> list[str]:
        """Files there that end as orders do, under a name that no order of this kind has."""
        return [
            entry.name
            for entry in self._store.list(f"{ORDERS}/{self.kind}/{state}")
            if entry.name.endswith(".wo") and not entry.is_folder and self._ticket(entry, state) is None
        ]

    def _put_back(self, ticket: Ticket, turn: int) -> bool:
        """To wait/, for its try number `turn`; False: it is gone, or waits there already, ordered again."""
        waiting = path_of(ticket.order, "wait", turn)
        if self._store.rename(ticket.path, waiting):
            return True
        if self._store.stat(waiting) is not None:
            self._store.delete(ticket.path)
        return False

    def _ticket(self, entry: Entry, state: State) -> Ticket | None:
        match = _FILE.fullmatch(entry.name)
        order = None if match is None or entry.is_folder else parse_name(match["name"])
        if match is None or order is None or order.kind != self.kind:
            return None
        if (match["worker"] is not None) != (state == "running"):
            return None
        return Ticket(order, state, int(match["turn"] or 1), match["worker"], entry.mtime_ms)


class Patrol:
    """Takes orders back whose workers have been silent for the lease, as this process saw it."""

    def __init__(self, queues: list[Queue], clock: Clock, lease_s: float, tries: int) -> None:
        self._queues = queues
        self._tries = tries
        self._watch = LeaseWatch(clock, lease_s)

    def look(self) -> list[str]:
        """Look once; a line for each order that was taken back, and each file that is no order."""
        running = {
            ticket.path: (queue, ticket) for queue in self._queues for ticket in queue.tickets("running")
        }
        stale = self._watch.stale({path: ticket.mtime_ms for path, (_, ticket) in running.items()})
        lines = [running[path][0].take_back(running[path][1], self._tries) for path in stale]
        strays = [line for queue in self._queues for line in queue.fail_strays()]
        return [line for line in lines if line is not None] + strays
