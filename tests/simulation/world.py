"""Processes, time and a disk, all simulated; only what runs in the processes is real.

Every process is a greenlet. It runs without interruption until it asks for a file or sleeps; then the world
goes on with whoever is due next. Two worlds with the same seed do the same, step by step.
"""

from __future__ import annotations

import builtins
import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

from greenlet import greenlet

from coppice.errors import CoppiceError
from coppice.roles.context import Context, RunOver, Stopped
from coppice.store import Entry, Home, Retry, Store
from coppice.store.home import MAX_READ_BYTES
from coppice.store.memory import MemoryHome
from coppice.work import presence
from coppice.work.presence import Identity
from tests.support.failing_home import Killed

T = TypeVar("T")

EPOCH_S = 1.7e9


class Stuck(AssertionError):
    """The run did not end in the time, or with the calls, that any run can need."""


class DiskClock:
    """The clock of the disk's own machine, true and steady."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        """See `coppice.clock.Clock`."""
        return self._world.now

    def time(self) -> float:
        """See `coppice.clock.Clock`."""
        return EPOCH_S + self._world.now

    def sleep(self, seconds: float) -> None:
        """Nobody sleeps by it."""
        raise NotImplementedError


class ProcessClock(DiskClock):
    """The clock of one process's machine: runs with the world's, but shows what it likes."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world)
        self._process = process
        self.offset_s = world.rng.uniform(0, 1e6)
        """Every machine counts from its own start."""
        self.wrong_by_s = 0.0
        """What its wall clock is off; may jump at any time."""

    def monotonic(self) -> float:
        """See `coppice.clock.Clock`."""
        return self._world.now + self.offset_s

    def time(self) -> float:
        """See `coppice.clock.Clock`."""
        return EPOCH_S + self._world.now + self.wrong_by_s

    def sleep(self, seconds: float) -> None:
        """Ends with `Stopped` when the process was asked to end, as `StoppableClock` does."""
        process = self._process
        if process.stopping:
            raise Stopped
        process.sleeping = True
        process.wait(seconds)
        process.sleeping = False
        if process.stopping:
            raise Stopped


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one process on the disk."""

    process: Process
    operation: str
    paths: tuple[str, ...]
    number: int
    """Counts the calls of the process's place (a role's first evaluator, say, over all its restarts)."""
    total: int
    """Counts the calls of all processes."""


@dataclass(slots=True)
class Fate:
    """What becomes of one call. The default: it is answered, at once."""

    travel_s: float = 0.001
    """How long the request is on its way..."""
    return_s: float = 0.0
    """...and the reply."""
    refuse: Exception | None = None
    """Raised instead of doing anything."""
    lose: Exception | None = None
    """Raised after it was done."""
    late_s: float | None = None
    """With `lose`: it is done so much later than the caller gave up."""
    kill: str | None = None
    """"before" or "after" it: the process dies."""
    stale_s: float = 0.0
    """A listing may be so old."""


class Process:
    """One process of one role. Dead, it is never resumed; what it had sent off may still arrive."""

    def __init__(self, world: World, place: str, role: str, serve: Callable[[Context], Any]) -> None:
        number = next(world.numbers)
        self.world = world
        self.place = place
        """Which of the run's jobs it is: `outer`, `evaluator2`."""
        self.role = role
        self.pid = number
        self.machine = f"machine-{world.rng.randrange(3)}"
        self.dead = False
        self.stopping = False
        self.sleeping = False
        self.stalled_until = 0.0
        self.speechless = False
        """It may have ended without saying so: in a hurry (SIGTERM), or with no right to write."""
        self.outcome: str | BaseException | None = None
        """None while it runs; "done", "run over" (it found it so), "stopped", "killed", or its error."""
        self.clock = ProcessClock(world, self)
        self.home = ProcessHome(world, self)
        self._wake = 0
        identity = Identity(
            f"{self.machine}-{number}-{number:04x}", self.machine, number, self.machine, f"born {number}"
        )
        self.context = Context(
            store=Store(
                self.home,
                clock=self.clock,
                retry=Retry(patience_s=world.patience_s),
                rng=random.Random(world.rng.getrandbits(32)),
            ),
            clock=self.clock,
            me=identity,
            rng=random.Random(world.rng.getrandbits(32)),
            say=lambda line: world.said.append((world.now, f"{place}/{number}: {line}")),
            stopping=lambda: self.stopping,
            background=False,
        )
        self._serve = serve
        self._greenlet = greenlet(self._main, parent=world.hub)

    def __lt__(self, other: Process) -> bool:
        return self.pid < other.pid

    @property
    def alive(self) -> bool:
        """Neither ended nor killed."""
        return self.outcome is None

    def _main(self) -> None:
        try:
            self._serve(self.context)
            self.outcome = "done"
        except RunOver:
            self.outcome = "run over"
        except Stopped:
            self.outcome = "stopped"
        except Killed:
            self.outcome = "killed"
        except BaseException as error:
            self.outcome = error

    def wait(self, seconds: float) -> None:
        """Called by the process itself: let the others run meanwhile."""
        if self.dead:
            raise Killed
        self._resume_in(seconds)
        self.world.hub.switch()

    def start(self) -> None:
        """Let it run from the world's next step on."""
        self._resume_in(0.0)

    def _resume_in(self, seconds: float) -> None:
        self._wake += 1
        self.world.after(seconds, lambda wake=self._wake: self._resume(wake))  # type: ignore[misc]

    def _resume(self, wake: int) -> None:
        if not self.alive or wake != self._wake:
            return
        if self.world.now < self.stalled_until:
            self.world.after(self.stalled_until - self.world.now, lambda: self._resume(wake))
            return
        self._switch(self._greenlet.switch)

    def _switch(self, how: Callable[..., Any], *what: Any) -> None:
        self.world.current = self
        try:
            how(*what)
        finally:
            self.world.current = None
        if not self.alive:
            self.world.ended(self)

    def kill(self) -> None:
        """SIGKILL, from outside."""
        if self.alive:
            self.dead = True
            if self._greenlet:
                self._switch(self._greenlet.throw, Killed)
            else:  # it had not begun
                self.outcome = "killed"
                self.world.ended(self)

    def terminate(self) -> None:
        """SIGTERM: it is told, and wakes if it was sleeping."""
        if self.alive:
            self.stopping = self.speechless = True
            if self.sleeping:
                self._resume_in(0.0)


class ProcessHome(Home):
    """The shared disk as one process sees it: every call suffers what `world.fate` says."""

    parallel = 1

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self.url = "simulated"

    def list(self, folder: str) -> builtins.list[Entry]:
        """See `Home.list`."""
        return self._do("list", (folder,), lambda: self._world.disk.list(folder))

    def stat(self, path: str) -> Entry | None:
        """See `Home.stat`."""
        return self._do("stat", (path,), lambda: self._world.disk.stat(path))

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """See `Home.read`."""
        return self._do("read", (path,), lambda: self._world.disk.read(path, max_bytes))

    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """See `Home.put`; not atomic: for a moment half of it is there."""

        def put() -> bool:
            half = self._world.disk.put(path, data[: len(data) // 2], durable, parents)
            if half and data:
                self._process.wait(0.0005)
                return self._world.disk.put(path, data, durable, parents)
            return half

        return self._do("put", (path,), put)

    def rename(self, source: str, target: str) -> bool:
        """See `Home.rename`."""
        return self._do("rename", (source, target), lambda: self._world.disk.rename(source, target))

    def rename_over(self, source: str, target: str) -> bool:
        """See `Home.rename_over`."""
        return self._do("rename_over", (source, target), lambda: self._world.disk.rename_over(source, target))

    def rename_folder(self, source: str, target: str) -> bool:
        """See `Home.rename_folder`."""
        disk = self._world.disk
        return self._do("rename_folder", (source, target), lambda: disk.rename_folder(source, target))

    def touch(self, path: str) -> bool:
        """See `Home.touch`."""
        return self._do("touch", (path,), lambda: self._world.disk.touch(path))

    def delete(self, path: str) -> bool:
        """See `Home.delete`."""
        return self._do("delete", (path,), lambda: self._world.disk.delete(path))

    def delete_tree(self, folder: str) -> bool:
        """See `Home.delete_tree`."""
        return self._do("delete_tree", (folder,), lambda: self._world.disk.delete_tree(folder))

    def make_folder(self, folder: str) -> None:
        """See `Home.make_folder`."""
        self._do("make_folder", (folder,), lambda: self._world.disk.make_folder(folder))

    def _do(self, operation: str, paths: tuple[str, ...], act: Callable[[], T]) -> T:
        world, process = self._world, self._process
        if process.dead:
            raise Killed
        call = world.count(process, operation, paths)
        fate = world.fate(call)
        if fate.kill == "before":
            process.dead = True
            raise Killed
        try:
            process.wait(fate.travel_s)
        except Killed:
            if world.rng.random() < 0.5 and fate.refuse is None and operation != "put":
                act()  # it was on its way already
            raise
        if fate.refuse is not None:
            raise fate.refuse
        if fate.lose is not None and fate.late_s is not None and operation != "put":
            world.after(fate.late_s, lambda: world.do_late(act))
            raise fate.lose
        answer = act() if fate.stale_s == 0.0 else world.stale_listing(paths[0], fate.stale_s, act)
        if fate.kill == "after":
            process.dead = True
            raise Killed
        if fate.return_s:
            process.wait(fate.return_s)
        if fate.lose is not None:
            raise fate.lose
        return answer


@dataclass
class World:
    """One simulated cluster. `fate` decides about every call; `ended` hears of every process that ended."""

    seed: int
    patience_s: float = 600.0
    fate: Callable[[Call], Fate] = field(default=lambda call: Fate())
    ended: Callable[[Process], None] = field(default=lambda process: None)
    now: float = 0.0
    calls: int = 0
    current: Process | None = None
    said: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.hub = greenlet.getcurrent()
        self.disk = MemoryHome("simulated", clock=DiskClock(self))
        self.numbers = itertools.count(1)
        self.processes: list[Process] = []
        self.calls_of: dict[str, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._listings: dict[str, list[tuple[float, Any]]] = {}

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self._events, (self.now + max(0.0, seconds), next(self._order), act))

    def start(self, place: str, role: str, serve: Callable[[Context], Any]) -> Process:
        """A new process."""
        process = Process(self, place, role, serve)
        self.processes.append(process)
        process.start()
        return process

    def run(self, until: Callable[[], bool], longest_s: float, most_calls: int) -> None:
        """Let time pass until it is so. Raises `Stuck`."""
        with self._reality_replaced():
            while not until():
                if not self._events:
                    raise Stuck("nothing will ever happen again")
                if self.now > longest_s or self.calls > most_calls:
                    raise Stuck(f"not over after {self.now:.0f} s and {self.calls} calls")
                self.now, _, act = heapq.heappop(self._events)
                act()

    def count(self, process: Process, operation: str, paths: tuple[str, ...]) -> Call:
        """Number a call."""
        self.calls += 1
        number = self.calls_of[process.place] = self.calls_of.get(process.place, 0) + 1
        return Call(process, operation, paths, number, self.calls)

    def stale_listing(self, folder: str, age_s: float, act: Callable[[], T]) -> T:
        """A listing up to `age_s` old, as somebody got it: what a share with an attribute cache shows."""
        kept = self._listings.setdefault(folder, [])
        old: T | None = next((listing for when, listing in kept if when >= self.now - age_s), None)
        return act() if old is None else old

    def keep_listing(self, folder: str) -> None:
        """Remember what the folder holds now, for `stale_listing`."""
        kept = self._listings.setdefault(folder, [])
        kept.append((self.now, self.disk.list(folder)))
        del kept[:-20]

    def do_late(self, act: Callable[[], Any]) -> None:
        """A request arrives that nobody waits for any more."""
        try:
            act()
        except CoppiceError:
            pass

    def lives(self, pid: int) -> str | None:
        """What the operating system says of a process id: the start time of the living."""
        found = [p for p in self.processes if p.pid == pid and p.alive]
        return f"born {pid}" if found else None

    @contextmanager
    def _reality_replaced(self) -> Iterator[None]:
        def machine() -> str:
            return "outside" if self.current is None else self.current.machine

        def token(size: int = 32) -> str:
            return f"{self.rng.getrandbits(8 * size):0{2 * size}x}"

        with (
            mock.patch.object(presence, "_machine", machine),
            mock.patch.object(presence, "_birth", self.lives),
            mock.patch("secrets.token_hex", token),
        ):
            yield
