"""What every role is given, and how it watches the work folder."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol, Self, TypeVar

from coppice.clock import Clock, SystemClock
from coppice.runfile import RunFile, parse_run_file
from coppice.store import Entry, Store, StoreError, open_store
from coppice.work import names
from coppice.work.errors import BadContent, RunFailed, RunRefused
from coppice.work.limits import MAX_TEXT_BYTES, read_limited
from coppice.work.presence import Identity, Presence, take_office
from coppice.work.sentinels import RunRecord
from coppice.work.waiting import Backoff

REMOVED_LOOKS, REMOVED_PAUSE_S = 10, 0.5
"""run.json must be missing for so long before a role believes that somebody removed the run."""
LOOK_AGAIN_S = 10.0
"""A role that starts and finds a finished run waits so long for a new one to be opened in its place."""

_MAX_REASON = 1000
"""Letters of why a run failed."""


class Stopped(Exception):
    """Somebody asked this process to end (SIGTERM, Ctrl-C): give back what is held, then go."""


class RunOver(Exception):
    """The run reached its end: this role's work is done."""


class StoppableClock(SystemClock):
    """The system's clock, whose sleep ends with `Stopped` when the process is asked to end."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def stop(self) -> None:
        """End this and every later sleep."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether the process was asked to end."""
        return self._stop.is_set()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`; raises `Stopped`."""
        if self._stop.wait(seconds):
            raise Stopped


@dataclass(slots=True)
class Context:
    """The world of one role. Everything that tests replace comes in here."""

    store: Store
    clock: Clock
    me: Identity
    rng: random.Random
    """For jitter and the order in which solutions are tried; never for anything that a result depends on."""
    say: Callable[[str], None]
    """One line for the person who reads this role's output."""
    stopping: Callable[[], bool] = field(default=lambda: False)
    background: bool = True
    """Whether work that nobody waits for may go on a thread of its own."""

    @classmethod
    def for_process(cls, role: str, work: str) -> Context:
        """The real one; SIGTERM and SIGINT are turned into `Stopped`."""
        clock = StoppableClock()

        def stop(number: int, frame: FrameType | None) -> None:
            clock.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

        def say(line: str) -> None:
            with suppress(OSError):  # a full disk, or a reader that is gone, ends no role
                print(f"{time.strftime('%H:%M:%S')} {role}: {line}", file=sys.stderr, flush=True)

        def trouble(line: str | None) -> None:
            say(line if line is not None else "the store answers again")

        store = open_store(work, clock=clock, on_trouble=trouble)
        return cls(
            store=store,
            clock=clock,
            me=Identity.of_this_process(),
            rng=random.Random(),
            say=say,
            stopping=lambda: clock.stopping,
        )

    def check(self) -> None:
        """Raises `Stopped` if the process was asked to end."""
        if self.stopping():
            raise Stopped

    def backoff(self) -> Backoff:
        """A fresh wait: 10 ms to 1 s."""
        return Backoff(self.clock, self.rng)


class Content(Protocol):
    """A sentinel's content."""

    @property
    def run(self) -> str:
        """The id of the run it belongs to."""
        ...

    def to_bytes(self) -> bytes:
        """Its form in the file."""
        ...

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Raises `BadContent`."""
        ...


C = TypeVar("C", bound=Content)


class Board:
    """The sentinels at the top of the work folder, as this role last saw them.

    A sentinel is a register: its writer replaces it, its readers take it by run id and number, so nothing
    that is old, foreign or repeated is ever taken for news. A file is read again only when its listing
    changed, so looking costs one call.
    """

    def __init__(self, context: Context, run: str, *, watch_state: bool = True) -> None:
        self._context = context
        self._run = run
        self._watch_state = watch_state
        self._listing: dict[str, Entry] = {}
        self._read: dict[str, tuple[Entry, bytes | BadContent | None]] = {}
        self._complained: set[tuple[str, int]] = set()

    def look(self) -> list[Entry]:
        """List the top of the work folder.

        Raises, if another role has ended the run meanwhile: `RunOver`, `RunFailed`; if somebody removed or
        replaced it: `RunRefused`; if somebody damaged run.json: `BadContent`.
        """
        entries = self._context.store.list()
        self._listing = {entry.name: entry for entry in entries}
        self._check_run()
        return entries

    def _check_run(self) -> None:
        if not self._watch_state:
            return
        if names.RUN not in self._listing:
            # One look is not enough: a home that replaces in two steps shows a moment without the file.
            for _ in range(REMOVED_LOOKS):
                if self._context.store.stat(names.RUN) is not None:
                    return
                self._context.clock.sleep(REMOVED_PAUSE_S)
            raise RunRefused(
                f"{self._context.store.url}: the run's files have been removed; start the master again"
            )
        before = self._read.get(names.RUN)
        data = self._content(names.RUN)
        if data is not None and (before is None or before[0] != self._listing[names.RUN]):
            if isinstance(data, BadContent):
                raise data
            record = RunRecord.from_bytes(data, names.RUN)
            if record.run_id != self._run:
                raise RunRefused(
                    f"{self._context.store.url}: now holds another run ({record.run_id}); this role served "
                    f"{self._run} and ends"
                )
            if record.state == "over":
                raise RunOver
            if record.state == "failed":
                raise RunFailed(record.reason or "the run failed")
        if names.FAILED in self._listing:
            raise RunFailed(read_failure(self._context.store) or "the run failed")

    def has(self, name: str) -> bool:
        """Whether the last `look` saw such a file."""
        return name in self._listing

    def entry(self, name: str) -> Entry | None:
        """How the last `look` saw a file listed; None where it saw none."""
        return self._listing.get(name)

    def sees(self, name: str) -> bool:
        """Whether there is such a file, looking again where the last `look` saw none."""
        if not self.has(name):
            self.look()
        return self.has(name)

    def listed(self) -> list[str]:
        """All names that the last `look` saw."""
        return list(self._listing)

    def _content(self, name: str) -> bytes | BadContent | None:
        """What a file holds, or why it cannot be read."""
        entry = self._listing.get(name)
        if entry is None:
            return None
        cached = self._read.get(name)
        if cached is None or cached[0] != entry:
            content: bytes | BadContent | None
            try:
                content = read_limited(self._context.store, name, MAX_TEXT_BYTES)
            except BadContent as error:
                content = error
            cached = (entry, content)
            self._read[name] = cached
        return cached[1]

    def get(self, name: str, kind: type[C]) -> C | None:
        """A sentinel as of the last `look`; None where there is none, it is another run's, or it is damaged
        (which is said once: its writer will notice and write it again)."""
        data = self._content(name)
        if data is None:
            return None
        try:
            if isinstance(data, BadContent):
                raise data
            content = kind.from_bytes(data, name)
        except BadContent as error:
            mark = (name, self._listing[name].mtime_ms)
            if mark not in self._complained:
                self._complained.add(mark)
                self._context.say(f"{error}; waiting for it to be written again")
            return None
        return content if content.run == self._run else None

    def is_damaged(self, name: str, parse: Callable[[bytes, str], object]) -> bool:
        """Whether there is such a file, as of the last `look`, and `parse` cannot read it."""
        data = self._content(name)
        try:
            if isinstance(data, BadContent):
                raise data
            if data is not None:
                parse(data, name)
        except BadContent:
            return True
        return False

    def ensure(self, name: str, content: Content) -> None:
        """Make a sentinel of this role's say `content`, as of the last `look`; free if it does already.

        Called at every turn of a wait, so that a sentinel that somebody damaged, removed or overwrote late
        comes back.
        """
        self.ensure_bytes(name, content.to_bytes())

    def ensure_bytes(self, name: str, data: bytes) -> None:
        """The same for a file that is no sentinel."""
        if self._content(name) != data:
            self._context.store.replace(name, data)
            # What the next look lists is unknown to the cache and read once: trust, but verify.
            self._read.pop(name, None)


def read_failure(store: Store) -> str | None:
    """The first line of failed.txt; it goes into run.json, so it must not fill that."""
    try:
        data = read_limited(store, names.FAILED, MAX_TEXT_BYTES)
    except BadContent as error:
        return str(error)
    if data is None:
        return None
    first = data.decode("utf-8", "replace").strip().split("\n")[0]
    return first[:_MAX_REASON] or f"{names.FAILED} is empty"


def declare_failure(store: Store, role: str, reason: str) -> None:
    """Give the run up, for a reason that starting again will not mend; the first to say so is heard."""
    store.create(names.FAILED, f"{role}: {reason}\n".encode())


def read_record(store: Store) -> RunRecord | None:
    """run.json, or None. Raises `BadContent` if it is damaged."""
    data = read_limited(store, names.RUN, MAX_TEXT_BYTES)
    return None if data is None else RunRecord.from_bytes(data, f"{store.url}/{names.RUN}")


def wait_for_run(context: Context) -> tuple[RunRecord, RunFile]:
    """Wait until the master has opened a run, and take the settings from it.

    A finished run that stands there already may be about to be replaced by a new one, so it is watched for
    `LOOK_AGAIN_S` before it counts: then `RunOver` or `RunFailed` is raised.
    """
    backoff = context.backoff()
    told = False
    since = context.clock.monotonic()
    while True:
        record = read_record(context.store)
        if record is not None and record.state == "running":
            return record, parse_run_file(record.run_file, names.RUN)
        if record is not None and context.clock.monotonic() - since >= LOOK_AGAIN_S:
            if record.state == "over":
                raise RunOver
            raise RunFailed(record.reason or "the run failed")
        if not told:
            told = True
            what = "no run yet" if record is None else f"run {record.run_id} is {record.state}"
            context.say(f"{context.store.url}: {what}; waiting for the master")
        context.check()
        backoff.pause()


@contextmanager
def in_office(context: Context, role: str) -> Iterator[Ticker]:
    """Be the one `role` of the work folder, waiting for its turn first; yields the role's `tick`."""
    backoff = context.backoff()

    def wait() -> None:
        context.check()
        backoff.pause()

    office = take_office(context.store, context.clock, context.me, role, wait, context.say)
    with saying_goodbye(office):
        yield Ticker(context, office)


@contextmanager
def saying_goodbye(presence: Presence) -> Iterator[None]:
    """Mark a role as ended however it ends, unless the store itself is what fails."""
    try:
        yield
    finally:
        with suppress(StoreError, Stopped):
            presence.end()


class Ticker:
    """The `tick` that long work calls: checks for a stop and beats this role's presence."""

    def __init__(self, context: Context, presence: Presence) -> None:
        self._context = context
        self._presence = presence

    def __call__(self) -> None:
        self._context.check()
        self._presence.beat()

    def now(self) -> None:
        """The same, whether a beat is due or not: before what must not be done by one that was superseded."""
        self._context.check()
        self._presence.beat(at_once=True)
