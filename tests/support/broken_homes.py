"""Homes that break a promise, for whoever has to notice."""

from __future__ import annotations

import builtins
import functools
import os
import time
from collections.abc import Callable

from coppice.store import Entry, Retry, Store
from coppice.store.folder import FolderHome
from coppice.store.memory import MemoryHome
from tests.support.clocks import FakeClock


class OverwritingHome(FolderHome):
    """Renames as POSIX does: over whatever file is there."""

    def rename(self, source: str, target: str) -> bool:
        """See the class."""
        return self.rename_over(source, target)


class CopyingHome(FolderHome):
    """Renames by copying, as some object stores do: two callers can both win.

    A claim dawdles until it is not alone, 0.3 s at the most: so both win on a busy machine too.
    """

    def rename(self, source: str, target: str) -> bool:
        """See the class."""
        data = self.read(source)
        if data is None or self.stat(target) is not None or self.stat(target.rpartition("/")[0]) is None:
            return False
        copying = f"{source}.copying"
        self._dawdle(copying, 0.3 if "/race-" in source else 0.0)
        self.put(target, data)
        self.delete_tree(copying)
        self.delete(source)
        return True

    def rename_folder(self, source: str, target: str) -> bool:
        """See the class."""
        if not self.list(source) or self.stat(target) is not None:
            return False
        copying = f"{target}.copying"
        self._dawdle(copying, 0.3)
        for entry in self.list(source):
            self.put(f"{target}/{entry.name}", self.read(f"{source}/{entry.name}") or b"")
        self.delete_tree(copying)
        return self.delete_tree(source)

    def _dawdle(self, copying: str, most_s: float) -> None:
        self.put(f"{copying}/{os.getpid()}", b"")
        deadline = time.monotonic() + most_s
        while time.monotonic() < deadline and 0 < len(self.list(copying)) < 2:
            pass


class MergingHome(FolderHome):
    """Moves a folder file by file into whatever folder is there."""

    def rename_folder(self, source: str, target: str) -> bool:
        """See the class."""
        if self.list(source) == [] or (self.stat(target) is not None and not self.list(target)):
            return False
        self.make_folder(target)
        for entry in self.list(source):
            self.rename_over(f"{source}/{entry.name}", f"{target}/{entry.name}")
        return self.delete_tree(source)


class TearingHome(FolderHome):
    """Replaces files in place, so that readers see parts."""

    def rename_over(self, source: str, target: str) -> bool:
        """See the class."""
        data = self.read(source)
        if data is None:
            return False
        self.make_folder(target.rpartition("/")[0])
        with open(self._path(target), "wb", buffering=0) as file:
            for begin in range(0, len(data), 1000):
                file.write(data[begin : begin + 1000])
                os.fsync(file.fileno())
        return self.delete(source)


class ForgetfulHome(FolderHome):
    """Shows a list and a state again that it has seen already, a few times, as a cached mount does."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._lists: dict[str, tuple[int, builtins.list[Entry]]] = {}
        self._states: dict[str, tuple[int, Entry | None]] = {}

    def list(self, folder: str) -> builtins.list[Entry]:
        """See the class."""
        uses, known = self._lists.get(folder, (0, []))
        if uses == 0:
            uses, known = 4, super().list(folder)
        self._lists[folder] = uses - 1, known
        return known

    def stat(self, path: str) -> Entry | None:
        """See the class; what was missing is looked for again."""
        uses, known = self._states.get(path, (0, None))
        if uses == 0 or known is None:
            uses, known = 4, super().stat(path)
        self._states[path] = uses - 1, known
        return known


class ReadOnlyHome(FolderHome):
    """Lets nobody write, whoever runs the tests."""

    def make_folder(self, folder: str) -> None:
        """See the class."""
        raise self._explain(PermissionError(13, "Permission denied"), "make folder", folder)


KINDS: dict[str, Callable[[str], FolderHome]] = {
    "overwriting": OverwritingHome,
    "copying": CopyingHome,
    "merging": MergingHome,
    "tearing": TearingHome,
    "forgetful": ForgetfulHome,
    "read-only": ReadOnlyHome,
    "links": functools.partial(FolderHome, link_only=True),
}


def open_broken(kind: str, root: str) -> Store:
    """A store on a home of that kind; can be sent to another process."""
    return Store(KINDS[kind](root), retry=Retry(patience_s=5.0))


class DelayedHome(MemoryHome):
    """Takes 20 ms a file, and 400 ms more for every other one with content, like an untouched HDFS."""

    def __init__(self, clock: FakeClock, url: str) -> None:
        super().__init__("delayed", clock)
        self.url = url
        self._fake = clock
        self._puts = 0

    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """See the class."""
        self._puts += 1
        self._fake.sleep(0.42 if data and self._puts % 2 else 0.02)
        return super().put(path, data, durable, parents)
