"""A home in this process's memory, for tests and for trying things out."""

from __future__ import annotations

import builtins
import threading
from dataclasses import dataclass, field

from coppice.clock import Clock, SystemClock
from coppice.store.errors import PermanentStoreError, TooLarge
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.paths import check_folder_move, check_path, parent_of


@dataclass(slots=True)
class _Tree:
    """What is stored: a path in `files` or `folders`, never in both; "" in `folders` is the root."""

    files: dict[str, bytes] = field(default_factory=dict)
    folders: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """What is directly in each, by name, so that a listing need not look at all that there is."""
    root: Entry | None = None

    def entry(self, path: str) -> Entry | None:
        """What a listing shows of it."""
        if path == "":
            return self.root
        folder, _, name = path.rpartition("/")
        return self.folders.get(folder, {}).get(name)

    def add_file(self, path: str, data: bytes, mtime_ms: int) -> None:
        """Put a file into a folder that is there, whatever file had the name."""
        folder, _, name = path.rpartition("/")
        self.files[path] = data
        self.folders[folder][name] = Entry(name, False, len(data), mtime_ms)

    def add_folder(self, path: str, mtime_ms: int) -> None:
        """Put an empty folder into one that is there."""
        folder, _, name = path.rpartition("/")
        self.folders[path] = {}
        if path == "":
            self.root = Entry("", True, 0, mtime_ms)
        else:
            self.folders[folder][name] = Entry(name, True, 0, mtime_ms)

    def drop(self, path: str) -> bool:
        """Take a file away, or a folder with all in it; True: it was there."""
        there = path in self.files or path in self.folders
        for name in [*self.folders.get(path, ())]:
            self.drop(f"{path}/{name}" if path else name)
        self.files.pop(path, None)
        self.folders.pop(path, None)
        if path == "":
            self.root = None
        else:
            folder, _, name = path.rpartition("/")
            self.folders.get(folder, {}).pop(name, None)
        return there

    def move(self, source: str, target: str) -> None:
        """Give a file or folder another name; times stay."""
        entry = self.entry(source)
        assert entry is not None
        if not entry.is_folder:
            self.add_file(target, self.files[source], entry.mtime_ms)
        else:
            self.add_folder(target, entry.mtime_ms)
            for name in [*self.folders[source]]:
                self.move(f"{source}/{name}", f"{target}/{name}")
        self.drop(source)


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
        with self._lock:
            inside = self._tree.folders.get(folder, {})
            return [inside[name] for name in sorted(inside)]

    def stat(self, path: str) -> Entry | None:
        """See `Home.stat`."""
        check_path(path, allow_root=True)
        with self._lock:
            return self._tree.entry(path)

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """See `Home.read`."""
        check_path(path)
        with self._lock:
            data = self._file(path)
        if data is not None and len(data) > max_bytes:
            raise TooLarge(f"{self.url}: {path} has {len(data)} bytes, more than the {max_bytes} allowed")
        return data

    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """See `Home.put`; nothing here survives the process, `durable` or not."""
        check_path(path)
        with self._lock:
            if not parents and parent_of(path) not in self._tree.folders:
                return False
            self._file(path)  # raises for a folder
            self._make_folder(parent_of(path))
            self._tree.add_file(path, bytes(data), self._next_mtime_ms())
            return True

    def rename(self, source: str, target: str) -> bool:
        """See `Home.rename`."""
        return self._move(source, target, over=False)

    def rename_folder(self, source: str, target: str) -> bool:
        """See `Home.rename_folder`. A file is no folder: False."""
        check_folder_move(source, target)
        with self._lock:
            tree = self._tree
            if source not in tree.folders or parent_of(target) not in tree.folders:
                return False
            if target in tree.folders or target in tree.files:
                return False
            tree.move(source, target)
            return True

    def rename_over(self, source: str, target: str) -> bool:
        """See `Home.rename_over`."""
        return self._move(source, target, over=True)

    def touch(self, path: str) -> bool:
        """See `Home.touch`."""
        check_path(path)
        with self._lock:
            data = self._file(path)
            if data is None:
                return False
            self._tree.add_file(path, data, self._next_mtime_ms())
            return True

    def delete(self, path: str) -> bool:
        """See `Home.delete`."""
        check_path(path)
        with self._lock:
            if self._tree.folders.get(path):
                raise PermanentStoreError(f"{self.url}: {path} is a folder with something in it, not a file")
            return self._tree.drop(path)

    def delete_tree(self, folder: str) -> bool:
        """See `Home.delete_tree`."""
        check_path(folder, allow_root=True)
        with self._lock:
            return self._tree.drop(folder)

    def make_folder(self, folder: str) -> None:
        """See `Home.make_folder`."""
        check_path(folder, allow_root=True)
        with self._lock:
            self._make_folder(folder)

    def _next_mtime_ms(self) -> int:
        self._last_mtime_ms = max(int(self._clock.time() * 1000), self._last_mtime_ms + 1)
        return self._last_mtime_ms

    def _file(self, path: str) -> bytes | None:
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
                self._tree.add_folder(each, self._next_mtime_ms())

    def _move(self, source: str, target: str, over: bool) -> bool:
        check_path(source)
        check_path(target)
        with self._lock:
            if self._file(source) is None or parent_of(target) not in self._tree.folders:
                return False
            if over:
                self._file(target)  # raises for a folder
            elif target in self._tree.folders or target in self._tree.files:
                return False
            self._tree.move(source, target)
            return True


_shared: dict[str, MemoryHome] = {}
_shared_lock = threading.Lock()


def shared_memory_home(name: str, clock: Clock | None = None) -> MemoryHome:
    """The one home of this name in this process; `clock` counts for whoever asks first."""
    with _shared_lock:
        if name not in _shared:
            _shared[name] = MemoryHome(name, clock)
        return _shared[name]
