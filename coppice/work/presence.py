"""Who is there: each role's file in roles/, its heartbeat, and the office of the three roles that are one.

`roles/outer_0002.json` says who holds an office, under the term of office 2; `roles/evaluator_<worker>.json`
says which evaluator is there. The content is written once; beating is a touch of the file, which costs a
NameNode three milliseconds and a DataNode nothing. A role that ends renames its file to `....ended.json`.

Nobody compares two machines' clocks: a holder is dead when the file's mtime has not changed for the lease
on the *watcher's* monotonic clock, or at once if it ran on this very machine and its process is gone.
"""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coppice.clock import Clock
from coppice.container import this_container
from coppice.store import Entry, Store
from coppice.work import names
from coppice.work.contents import json_from_bytes, json_to_bytes
from coppice.work.errors import BadContent, Superseded
from coppice.work.generation import generations, look_at
from coppice.work.limits import MAX_TEXT_BYTES, read_limited
from coppice.work.waiting import Every

BEAT_S = 5.0
"""Seconds between two heartbeats."""
OFFICE_LEASE_S = 30.0
"""An office whose file did not change for so long is vacant."""

_FILE = re.compile(
    rf"(?P<role>master|outer|ncs|evaluator)_(?:(?P<term>\d{{4,60}})|(?P<worker>{names.WORKER}))"
    r"(?P<ended>\.ended)?\.json",
    re.ASCII,
)
_TERMS = "terms"
"""In roles/: an empty file for every term of office there ever was."""
_TERM = re.compile(r"(?P<role>master|outer|ncs)_(?P<term>\d{4,60})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, told apart from every other that ever was on any machine."""

    worker: str
    """Name in the work folder: host, task role and index in a container, process id, four random digits."""
    host: str
    pid: int
    machine: str
    """Boot and process-id name space: within one `machine`, a process id means one process..."""
    birth: str
    """...together with its start time."""
    container: str | None = None
    """The job and task that a cluster gave it, if any."""

    @classmethod
    def of_this_process(cls) -> Identity:
        """Read from the operating system and, in a cluster's container, its environment."""
        host = socket.gethostname() or "unknown"
        pid = os.getpid()
        container = this_container()
        # Containers of one machine may share its name and have the same process ids.
        tidy = _tidy(host, 32) or "host"
        tidy += f"-{short}" if container is not None and (short := _tidy(container.short, 24)) else ""
        return cls(
            worker=f"{tidy}-{pid}-{random.SystemRandom().randrange(16**4):04x}",
            host=host,
            pid=pid,
            machine=_machine(),
            birth=_birth(pid) or "",
            container=None if container is None else str(container),
        )


def _tidy(text: str, length: int) -> str:
    """What may stand in a worker's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:length].strip("-")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # not Linux: nobody here is ever known to be dead, only silent


def _birth(pid: int) -> str | None:
    """The start time of a living process, None if there is none (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def gone_from_this_machine(content: dict[str, Any]) -> bool:
    """Whether the process that wrote this role file is known to be dead: it ran here and is no more."""
    machine, pid, birth = content.get("machine"), content.get("pid"), content.get("birth")
    return bool(machine) and machine == _machine() and isinstance(pid, int) and _birth(pid) != birth


@dataclass(frozen=True, slots=True)
class RoleFile:
    """One file of roles/, from its name."""

    name: str
    role: str
    term: int | None
    worker: str | None
    ended: bool
    mtime_ms: int
    folder: str = names.ROLES

    @property
    def path(self) -> str:
        """Relative to the work folder."""
        return f"{self.folder}/{self.name}"


def role_files(store: Store) -> list[RoleFile]:
    """All of roles/; foreign names are left out."""
    return [file for entry in store.list(names.ROLES) if (file := _role_file(entry)) is not None]


def _role_file(entry: Entry, folder: str = names.ROLES) -> RoleFile | None:
    match = _FILE.fullmatch(entry.name)
    if match is None or entry.is_folder:
        return None
    term = int(match["term"]) if match["term"] else None
    ended = bool(match["ended"])
    return RoleFile(entry.name, match["role"], term, match["worker"], ended, entry.mtime_ms, folder)


def read_role_file(store: Store, path: str) -> dict[str, Any] | None:
    """Its content; None where the file is gone or damaged."""
    try:
        data = read_limited(store, path, MAX_TEXT_BYTES)
        return None if data is None else json_from_bytes(data, path)
    except BadContent:
        return None


class LeaseWatch:
    """Finds the files whose mtime has not changed for `lease_s` while this watcher looked on."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self.lease_s = lease_s
        self._seen: dict[str, tuple[int, float]] = {}

    def stale(self, mtimes: dict[str, int]) -> list[str]:
        """`mtimes`: name to mtime_ms, all files watched, as just listed. Returns the stale names."""
        now = self._clock.monotonic()
        seen = {}
        for name, mtime in mtimes.items():
            before = self._seen.get(name)
            seen[name] = before if before is not None and before[0] == mtime else (mtime, now)
        self._seen = seen
        return [name for name, (_, since) in seen.items() if now - since >= self.lease_s]


class Presence:
    """This process's file in roles/, while it is there."""

    def __init__(self, store: Store, clock: Clock, path: str, role: str, content: bytes) -> None:
        self._store = store
        self._path = path
        self._role = role
        self._content = content
        self._beat = Every(clock, BEAT_S)

    def beat(self, at_once: bool = False) -> None:
        """Touch the file if it is time, or `at_once`.

        Raises `Superseded` if an office's file is gone: someone took this process for dead and its office
        over. An evaluator, of which there may be many, just writes its file again.
        """
        if (self._beat.due() or at_once) and self._is_gone():
            self._come_back()

    def _is_gone(self) -> bool:
        return not self._store.touch(self._path)

    def _come_back(self) -> None:
        self._store.replace(self._path, self._content)

    def end(self) -> None:
        """Say that the role ended by itself."""
        self._store.rename(self._path, self._path.removesuffix(".json") + ".ended.json")


def _content(role: str, me: Identity, clock: Clock) -> bytes:
    return json_to_bytes(
        {
            "role": role,
            "worker": me.worker,
            "host": me.host,
            "pid": me.pid,
            "machine": me.machine,
            "birth": me.birth,
            "container": me.container,
            "started": clock.time(),
        }
    )


def announce_evaluator(store: Store, clock: Clock, me: Identity) -> Presence:
    """Say that this evaluator is there; tidy away those that died on this machine without a word.

    One that died holding a claim keeps its file: it is what proves the claim dead before its lease is over.
    """
    open_claims = (c for g in generations(store) for c in look_at(store, g).claimed)
    holders = {claimed.worker for claimed in open_claims}
    for file in role_files(store):
        if file.worker is None or file.ended or file.worker in holders:
            continue
        content = read_role_file(store, file.path)
        if content is not None and gone_from_this_machine(content):
            store.delete(file.path)
    path = evaluator_file(me.worker)
    content_bytes = _content("evaluator", me, clock)
    store.replace(path, content_bytes)
    return Presence(store, clock, path, "evaluator", content_bytes)


def evaluator_file(worker: str) -> str:
    """Where an evaluator says that it is there."""
    return f"{names.ROLES}/evaluator_{worker}.json"


def take_office(
    store: Store,
    clock: Clock,
    me: Identity,
    role: str,
    pause: Callable[[], None],
    say: Callable[[str], None],
) -> Presence:
    """Become the one `role` of this work folder; wait while another process lives that is it.

    The term of office is one more than the highest there ever was: a file in roles/terms/ that only one can
    create, and that nobody removes, so that a listing that is out of date cannot lead back to an old term.
    `pause` waits a little and may raise to give up.
    """
    watch = LeaseWatch(clock, OFFICE_LEASE_S)
    told: str | None = None
    while True:
        begun = _terms(store, role)
        offices = _offices(store, role)
        last = max([*begun, *offices], default=0)
        # Without an office's file, somebody has just begun the term, or died before showing the file.
        holder = offices.get(last) or begun.get(last)
        if holder is not None and not holder.ended:
            content = read_role_file(store, holder.path) or {}
            stale = watch.stale({holder.path: holder.mtime_ms})
            if not stale and not gone_from_this_machine(content):
                if told != holder.path:
                    told = holder.path
                    where = f"{content.get('host', 'another machine')} (process {content.get('pid', '?')})"
                    say(f"{where} is the {role} here; waiting to take over should it fall silent")
                pause()
                continue
        term = last + 1
        mine = _content(role, me, clock)
        if store.create(f"{names.ROLES}/{_TERMS}/{role}_{term:04d}.json", mine):
            office = _Office(store, clock, role, term, mine)
            if office.enter():
                return office
        watch = LeaseWatch(clock, OFFICE_LEASE_S)
        pause()


def _offices(store: Store, role: str) -> dict[int, RoleFile]:
    """The files of this office by term."""
    return {file.term: file for file in role_files(store) if file.role == role and file.term is not None}


def _terms(store: Store, role: str) -> dict[int, RoleFile]:
    """The beginnings of all terms there ever were."""
    found = (_role_file(entry, f"{names.ROLES}/{_TERMS}") for entry in store.list(f"{names.ROLES}/{_TERMS}"))
    return {file.term: file for file in found if file and file.role == role and file.term is not None}


class _Office(Presence):
    """A role of which there is one."""

    def __init__(self, store: Store, clock: Clock, role: str, term: int, content: bytes) -> None:
        super().__init__(store, clock, f"{names.ROLES}/{role}_{term:04d}.json", role, content)
        self._term = term

    def enter(self) -> bool:
        """Show the file and remove those of earlier terms; False: somebody began a later one meanwhile.

        First the one, then the other: so of two that begin at once the earlier sees the later, or the later
        removes the earlier's file.
        """
        self._store.create(self._path, self._content)
        offices = _offices(self._store, self._role)
        if max(offices, default=0) > self._term:
            self._store.delete(self._path)
            return False
        self._store.delete_many([file.path for term, file in offices.items() if term < self._term])
        return True

    def _is_gone(self) -> bool:
        return (
            not self._store.touch(self._path)
            or max(_offices(self._store, self._role), default=0) > self._term
        )

    def _come_back(self) -> None:
        raise Superseded(
            f"{self._role}: another process has taken over (this one was silent for too long); "
            "ending without writing anything more"
        )
