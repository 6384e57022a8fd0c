"""A home in this process's memory, for tests and for trying things out."""

from __future__ import annotations

import builtins
import threading
from dataclasses import dataclass, field
from typing import TypeVar

from coppice.clock import Clock, SystemClock
from coppice.store.errors import PermanentStoreError, TooLarge
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.paths import check_folder_move, check_path, parent_of

T = TypeVar("T")


@dataclass(slots=True)
class _File:
    data: bytes
    mtime_ms: int


@dataclass(slots=True)
class _Tree:
    """What is stored: a name in `folders` or `files`, never in both; "" in `folders` is the root."""

    files: dict[str, _File] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)


class MemoryHome(Home):
    """Files in a dictionary under one lock: every call is atomic, no two modification times are equal."""

    def __init__(self, name: str = "", clock: Clock | None = None) -> None:
        self.url = f"memory:{name}"
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tree = _Tree()
        self._last_mtime_ms = 0

    def list(self, folder: str) -> builtins.list[Entry]:
        """See `Home.list`."""
        check_path(folder, allow_root=True)
        prefix = f"{folder}/" if folder else ""
        with self._lock:
            entries = [
                self._entry(path)
                for names in (self._tree.files, self._tree.folders)
                for path in names
                if path and path.startswith(prefix) and path.find("/", len(prefix)) < 0
            ]
        return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        """See `Home.stat`."""
        check_path(path, allow_root=True)
        with self._lock:
            return self._entry(path)

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """See `Home.read`."""
        check_path(path)
        with self._lock:
            file = self._file(path)
        if file is None:
            return None
        if len(file.data) > max_bytes:
            raise TooLarge(
                f"{self.url}: {path} has {len(file.data)} bytes, more than the {max_bytes} allowed"
            )
        return file.data

    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """See `Home.put`; nothing here survives the process, `durable` or not."""
        check_path(path)
        with self._lock:
            if not parents and parent_of(path) not in self._tree.folders:
                return False
            self._file(path)  # raises for a folder
            self._make_folder(parent_of(path))
            self._tree.files[path] = _File(bytes(data), self._next_mtime_ms())
            return True

    def rename(self, source: str, target: str) -> bool:
        """See `Home.rename`."""
        return self._move(source, target, over=False)

    def rename_folder(self, source: str, target: str) -> bool:
        """See `Home.rename_folder`. A file is no folder: False."""
        check_folder_move(source, target)
        with self._lock:
            files, folders = self._tree.files, self._tree.folders
            if source not in folders or parent_of(target) not in folders:
                return False
            if target in folders or target in files:
                return False
            _move_all(files, source, target)
            _move_all(folders, source, target)
            return True

    def rename_over(self, source: str, target: str) -> bool:
        """See `Home.rename_over`."""
        return self._move(source, target, over=True)

    def touch(self, path: str) -> bool:
        """See `Home.touch`."""
        check_path(path)
        with self._lock:
            file = self._file(path)
            if file is None:
                return False
            self._tree.files[path] = _File(file.data, self._next_mtime_ms())
            return True

    def delete(self, path: str) -> bool:
        """See `Home.delete`."""
        check_path(path)
        with self._lock:
            if path in self._tree.folders:
                if any(parent_of(each) == path for each in (*self._tree.files, *self._tree.folders)):
                    raise PermanentStoreError(
                        f"{self.url}: {path} is a folder with something in it, not a file"
                    )
                return self._tree.folders.pop(path, None) is not None
            return self._tree.files.pop(path, None) is not None

    def delete_tree(self, folder: str) -> bool:
        """See `Home.delete_tree`."""
        check_path(folder, allow_root=True)
        with self._lock:
            there = folder in self._tree.folders or folder in self._tree.files
            for names in (self._tree.files, self._tree.folders):
                for path in [each for each in names if folder in ("", each) or each.startswith(f"{folder}/")]:
                    del names[path]
            return there

    def make_folder(self, folder: str) -> None:
        """See `Home.make_folder`."""
        check_path(folder, allow_root=True)
        with self._lock:
            self._make_folder(folder)

    def _next_mtime_ms(self) -> int:
        self._last_mtime_ms = max(int(self._clock.time() * 1000), self._last_mtime_ms + 1)
        return self._last_mtime_ms

    def _entry(self, path: str) -> Entry | None:
        name = path.rpartition("/")[2]
        file = self._tree.files.get(path)
        if file is not None:
            return Entry(name, False, len(file.data), file.mtime_ms)
        mtime_ms = self._tree.folders.get(path)
        return None if mtime_ms is None else Entry(name, True, 0, mtime_ms)

    def _file(self, path: str) -> _File | None:
        if path in self._tree.folders:
            raise PermanentStoreError(f"{self.url}: {path} is a folder, not a file")
        return self._tree.files.get(path)

    def _make_folder(self, folder: str) -> None:
        parts = folder.split("/") if folder else []
        for each in ("", *("/".join(parts[:count]) for count in range(1, len(parts) + 1))):
            if each in self._tree.files:
                raise PermanentStoreError(
                    f"{self.url}: {each} is a file, so there can be no folder of that name"
                )
            if each not in self._tree.folders:
                self._tree.folders[each] = self._next_mtime_ms()

    def _move(self, source: str, target: str, over: bool) -> bool:
        check_path(source)
        check_path(target)
        with self._lock:
            file = self._file(source)
            if file is None or parent_of(target) not in self._tree.folders:
                return False
            if over:
                self._file(target)  # raises for a folder
            elif target in self._tree.folders or target in self._tree.files:
                return False
            del self._tree.files[source]
            self._tree.files[target] = file
            return True


def _move_all(names: dict[str, T], source: str, target: str) -> None:
    for path in [each for each in names if each == source or each.startswith(f"{source}/")]:
        names[target + path.removeprefix(source)] = names.pop(path)


_shared: dict[str, MemoryHome] = {}
_shared_lock = threading.Lock()


def shared_memory_home(name: str, clock: Clock | None = None) -> MemoryHome:
    """The one home of this name in this process; `clock` counts for whoever asks first."""
    with _shared_lock:
        if name not in _shared:
            _shared[name] = MemoryHome(name, clock)
        return _shared[name]
