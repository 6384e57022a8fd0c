"""A home that fails on command: around any other, by a script, by chance, or by a rule of the test's own."""

from __future__ import annotations

import builtins
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from coppice.store import MAX_READ_BYTES, Entry, Home, PermanentStoreError, TransientStoreError

T = TypeVar("T")


class Fault(Enum):
    """What happens to one call."""

    BEFORE = "nothing is done, TransientStoreError: the connection was refused"
    AFTER = "the call is done, TransientStoreError: the reply was lost"
    PERMANENT = "nothing is done, PermanentStoreError: no permission"
    KILL_BEFORE = "nothing is done, `Killed`: the process died before the call"
    KILL_AFTER = "the call is done, `Killed`: the process died before it heard"


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it; the test throws the role away and starts another."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call on a home."""

    operation: str
    """The method's name."""
    paths: tuple[str, ...]
    number: int
    """Counts the calls of this operation, from 1."""
    total: int
    """Counts all calls, from 1."""


Plan = Callable[[Call], "Fault | None"]
"""Decides what happens to a call; may also do something first, such as let a rival act."""


class FailingHome(Home):
    """`inner`, but each call suffers what `plan` says. `log` keeps (call, fault) in the order of calling.

    `parallel` is 1 unless given, so that the order is the program's own.
    """

    def __init__(self, inner: Home, plan: Plan, parallel: int = 1) -> None:
        self.inner = inner
        self.plan = plan
        self.parallel = parallel
        self.url = inner.url
        self.log: builtins.list[tuple[Call, Fault | None]] = []
        self._numbers: Counter[str] = Counter()
        self._lock = threading.Lock()

    def list(self, folder: str) -> builtins.list[Entry]:
        """See `Home.list`."""
        return self._do("list", (folder,), lambda: self.inner.list(folder))

    def stat(self, path: str) -> Entry | None:
        """See `Home.stat`."""
        return self._do("stat", (path,), lambda: self.inner.stat(path))

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """See `Home.read`."""
        return self._do("read", (path,), lambda: self.inner.read(path, max_bytes))

    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """See `Home.put`."""
        return self._do("put", (path,), lambda: self.inner.put(path, data, durable, parents))

    def rename(self, source: str, target: str) -> bool:
        """See `Home.rename`."""
        return self._do("rename", (source, target), lambda: self.inner.rename(source, target))

    def rename_folder(self, source: str, target: str) -> bool:
        """See `Home.rename_folder`."""
        return self._do("rename_folder", (source, target), lambda: self.inner.rename_folder(source, target))

    def rename_over(self, source: str, target: str) -> bool:
        """See `Home.rename_over`."""
        return self._do("rename_over", (source, target), lambda: self.inner.rename_over(source, target))

    def touch(self, path: str) -> bool:
        """See `Home.touch`."""
        return self._do("touch", (path,), lambda: self.inner.touch(path))

    def delete(self, path: str) -> bool:
        """See `Home.delete`."""
        return self._do("delete", (path,), lambda: self.inner.delete(path))

    def delete_tree(self, folder: str) -> bool:
        """See `Home.delete_tree`."""
        return self._do("delete_tree", (folder,), lambda: self.inner.delete_tree(folder))

    def make_folder(self, folder: str) -> None:
        """See `Home.make_folder`."""
        self._do("make_folder", (folder,), lambda: self.inner.make_folder(folder))

    def close(self) -> None:
        """See `Home.close`."""
        self.inner.close()

    @property
    def operations(self) -> builtins.list[str]:
        """The operations called so far, in order."""
        return [call.operation for call, _ in self.log]

    def _do(self, operation: str, paths: tuple[str, ...], act: Callable[[], T]) -> T:
        with self._lock:
            self._numbers[operation] += 1
            call = Call(operation, paths, self._numbers[operation], sum(self._numbers.values()))
            fault = self.plan(call)
            self.log.append((call, fault))
        where = f"{operation} {' '.join(paths)}"
        if fault is Fault.KILL_BEFORE:
            raise Killed(where)
        if fault is Fault.BEFORE:
            raise TransientStoreError(f"cannot {where}: connection refused, says the test")
        if fault is Fault.PERMANENT:
            raise PermanentStoreError(f"cannot {where}: no permission, says the test")
        answer = act()
        if fault is Fault.KILL_AFTER:
            raise Killed(where)
        if fault is Fault.AFTER:
            raise TransientStoreError(f"cannot {where}: reply lost, says the test")
        return answer


def scripted(faults: Mapping[tuple[str, int], Fault]) -> Plan:
    """Faults by (operation, which of its calls, from 1)."""
    return lambda call: faults.get((call.operation, call.number))


def at_total(fault: Fault, total: int) -> Plan:
    """One fault at the `total`-th call, whatever it is: for trying every place in turn."""
    return lambda call: fault if call.total == total else None


def by_chance(
    rng: random.Random,
    before: float = 0.0,
    after: float = 0.0,
    operations: Iterable[str] | None = None,
) -> Plan:
    """Each call (of `operations`, or any) is refused or loses its reply with these probabilities."""
    chosen = None if operations is None else frozenset(operations)

    def plan(call: Call) -> Fault | None:
        if chosen is not None and call.operation not in chosen:
            return None
        draw = rng.random()
        if draw < before:
            return Fault.BEFORE
        return Fault.AFTER if draw < before + after else None

    return plan


def nothing(call: Call) -> Fault | None:
    """No fault; for counting calls."""
    return None
