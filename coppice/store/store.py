"""What roles use: whole files, exclusive creation, retries, and lost replies resolved by looking.

Built on the primitives of a `Home`. Everything that must hold on every home is written once, here.
"""

from __future__ import annotations

import builtins
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

from coppice.clock import Clock, SystemClock
from coppice.store.crew import Crew
from coppice.store.drafts import HOPELESS, Drafts
from coppice.store.effort import Effort, Retry, Trouble
from coppice.store.errors import TooLarge, TransientStoreError
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.paths import check_path, parent_of
from coppice.store.staging import Staging

FOLDER_MEMORY_S = 10.0
"""How long a folder that was seen counts as there, so that a lost race costs one call, not two."""

T = TypeVar("T")


class Store:
    """A work folder's files, for one process; safe to call from several threads.

    A transient error is retried with exponential backoff and jitter until `retry.patience_s` is over, then
    raised (`TransientStoreError`, one line naming the url, the call and how long it was tried).
    `on_trouble(message | None)` is called with one line when a call first has to be retried and with None
    when the home answers again, so that a role can tell its user. Nothing else is ever retried.

    Paths are relative to the root, parts separated by "/"; one that not every home can hold (".." or ":"
    in it) raises `PermanentStoreError`.
    """

    def __init__(
        self,
        home: Home,
        *,
        clock: Clock | None = None,
        retry: Retry | None = None,
        rng: random.Random | None = None,
        on_trouble: Callable[[str | None], None] | None = None,
    ) -> None:
        self.home = home
        self.url = home.url
        self._clock: Clock = clock or SystemClock()
        self._retry = retry or Retry()
        self._rng = rng or random.Random()
        self._trouble = Trouble(on_trouble)
        self._lock = threading.Lock()
        self._seen_folders: dict[str, float] = {}
        self._drafts = Drafts(home)
        self._crew = Crew(home.parallel)

    # Looking

    def list(self, folder: str = "") -> list[Entry]:
        """The entries directly in `folder`, sorted by name; [] where there is none. See `Home.list`."""
        check_path(folder, allow_root=True)
        return self._simple(f"list {folder or '/'}", lambda: self.home.list(folder))

    def stat(self, path: str) -> Entry | None:
        """One entry, or None where there is none."""
        check_path(path, allow_root=True)
        return self._simple(f"look at {path or '/'}", lambda: self.home.stat(path))

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """The whole content, or None where there is no such file. Raises `TooLarge` beyond `max_bytes`."""
        check_path(path)
        return self._simple(f"read {path}", lambda: self.home.read(path, max_bytes))

    # Publishing and moving

    def create(self, path: str, data: bytes, durable: bool = False) -> bool:
        """Publish a new file, whole or not at all; True: this call made it, False: the name was taken.

        By a unique temporary name and a rename; missing parent folders are made on demand. After a lost
        reply: our temporary file gone and `path` there means it was us; with neither there it is written
        again, so a file that another process moved on at that very moment exists twice.
        """
        check_path(path)
        with self._operation(f"create {path}") as effort:
            while True:
                draft = self._drafts.put(effort, data, durable)
                made = self._drafts.publish(effort, draft, path, {path: data})
                if made is not None:
                    return made
                self._drafts.bear_removal(effort)

    def replace(self, path: str, data: bytes, durable: bool = False) -> None:
        """Publish a file whatever was there; readers see the old or the new one, whole: `rename_over`."""
        check_path(path)
        with self._operation(f"replace {path}") as effort:
            while True:
                draft = self._drafts.put(effort, data, durable)
                if self._drafts.publish_over(effort, draft, path):
                    return
                if effort.until_answered(lambda: self._holds(path, data)):
                    return
                self._drafts.bear_removal(effort)

    def stage(self, files: Mapping[str, bytes] = {}) -> Staging:
        """Begin a folder that others shall see whole or not at all: `Staging.publish` gives it its name.

        `files`, by plain names, are written before this returns, several at a time.
        """
        return Staging(self.home, self._drafts, self._crew, self._operation, files)

    def rename(self, source: str, target: str) -> bool:
        """Move, never overwriting; see `Home.rename`. Makes the parent folder of `target` on demand.

        A lost reply is resolved by looking, and so is a refusal: what stands between us and the home (a
        portal, a load balancer) may repeat a request, and show us the second answer only. `source` gone and
        `target` there counts as ours. That is exact where only this caller uses the name `target` (claims,
        scores) or `source` (temporary files).
        A lost race costs two calls, and three where this process has not used the folder lately.
        """
        check_path(source)
        check_path(target)
        home, folder = self.home, parent_of(target)
        with self._operation(f"rename {source} to {target}") as effort:
            made = 0
            while made < HOPELESS:
                # Asked before the rename: a folder that somebody else makes just after it failed must not be
                # taken for the proof that the name was.
                known = self._remembers_folder(folder)
                try:
                    if home.rename(source, target):
                        self._saw_folder(folder)
                        return True
                except TransientStoreError as error:
                    effort.bear(error)
                    continue
                if effort.until_answered(lambda: home.stat(target)) is not None:
                    return effort.until_answered(lambda: home.stat(source)) is None
                if known and not made:
                    return False
                if effort.until_answered(lambda: home.stat(source)) is None:
                    return False
                effort.until_answered(lambda: home.make_folder(folder))
                made += 1
            return False

    def move_into(self, folder: str, name: str, is_folder: bool = False) -> bool:
        """Move a file or folder from the root into `folder`, under its own name; True: this call moved it.

        False: it is gone, `folder` is missing (it is NOT made), or has such a name already. A hint only, as
        after a lost reply. For what shall be deleted: a request to move that arrives late, when `folder` is
        deleted, does nothing, where a late request to delete would meet whatever has the name then.
        """
        check_path(name)
        rename = self.home.rename_folder if is_folder else self.home.rename
        return self._simple(f"move {name} into {folder}", lambda: rename(name, f"{folder}/{name}"))

    def touch(self, path: str) -> bool:
        """Give the file a new mtime, different from its last one. False where there is no such file."""
        check_path(path)
        return self._simple(f"touch {path}", lambda: self.home.touch(path))

    def delete(self, path: str) -> bool:
        """Remove one file. True: it was there (a hint only: after a lost reply it says False)."""
        check_path(path)
        with self._lock:
            self._seen_folders.pop(path, None)  # it may be an empty folder
        return self._simple(f"delete {path}", lambda: self.home.delete(path))

    def delete_tree(self, folder: str) -> bool:
        """Remove a folder and all in it, "" the root itself; True: it was there (a hint, see `delete`)."""
        check_path(folder, allow_root=True)
        with self._lock:
            self._seen_folders.clear()
        return self._simple(f"delete folder {folder or '/'}", lambda: self.home.delete_tree(folder))

    def make_folder(self, folder: str = "") -> None:
        """Create a folder with its parents, the root included; no error where it exists already."""
        check_path(folder, allow_root=True)
        self._simple(f"make folder {folder or '/'}", lambda: self.home.make_folder(folder))
        self._saw_folder(folder)

    def remove_root(self) -> None:
        """Remove the root if nothing is in it, links too; it stays where it may not go."""
        with self._lock:
            self._seen_folders.clear()
        self._simple("delete folder /", self.home.remove_root)

    def discard_drafts(self) -> None:
        """Remove what interrupted calls of this process have left; only when no other call is under way."""
        self._simple("tidy up", self._drafts.discard_ours)

    # Many at once: `home.parallel` calls are under way at a time; results in the order of the arguments;
    # the first error is raised after all calls have ended.

    def read_many(self, paths: Sequence[str], max_bytes: int = MAX_READ_BYTES) -> builtins.list[bytes | None]:
        """`read` for each path, several at a time."""
        return self._crew.run(lambda path: self.read(path, max_bytes), paths)

    def create_many(self, files: Iterable[tuple[str, bytes]], durable: bool = False) -> builtins.list[bool]:
        """`create` for each (path, data), several at a time."""
        return self._crew.run(lambda file: self.create(file[0], file[1], durable), tuple(files))

    def delete_many(self, paths: Sequence[str]) -> builtins.list[bool]:
        """`delete` for each path, several at a time."""
        return self._crew.run(self.delete, paths)

    def close(self) -> None:
        """End the threads and let go of the home's connections."""
        self._crew.close()
        self.home.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _operation(self, what: str) -> AbstractContextManager[Effort]:
        return Effort(self.url, what, self._clock, self._retry, self._rng, self._trouble).watched()

    def _simple(self, what: str, call: Callable[[], T]) -> T:
        """A call that may be repeated as it is: nobody minds if it happens twice."""
        with self._operation(what) as effort:
            return effort.until_answered(call)

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self.home.read(path, len(data)) == data
        except TooLarge:
            return False

    def _saw_folder(self, folder: str) -> None:
        with self._lock:
            self._seen_folders[folder] = self._clock.monotonic()

    def _remembers_folder(self, folder: str) -> bool:
        """Whether a rename into `folder` can fail only for another reason than that it is missing."""
        if folder == "":  # then the source's folder is there, or the source is not
            return True
        with self._lock:
            seen = self._seen_folders.get(folder)
        return seen is not None and self._clock.monotonic() - seen < FOLDER_MEMORY_S
