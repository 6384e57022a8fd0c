"""What roles use: whole files, exclusive creation, retries, and lost replies resolved by looking.

Built on the primitives of a `Home`. Everything that must hold on every home is written once, here.
"""

from __future__ import annotations

import builtins
import os
import random
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

from coppice.clock import Clock, SystemClock
from coppice.store.effort import Effort, Retry, Trouble
from coppice.store.errors import PermanentStoreError, StoreError, TransientStoreError
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.paths import check_path, parent_of

TEMPORARY_FOLDER = ".tmp"
"""Where unfinished files live, directly under the root; nobody lists it."""

FOLDER_MEMORY_S = 10.0
"""How long a folder that was seen counts as there, so that a lost race costs one call, not two."""

_HOPELESS = 8
"""Turns without an answer that makes sense, after which an operation waits before it goes on."""

T = TypeVar("T")
R = TypeVar("R")


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
        self._pool: ThreadPoolExecutor | None = None
        self._seen_folders: dict[str, float] = {}
        self._strays: builtins.list[str] = []
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
        self._signature = f"{host}-{os.getpid()}"

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
        reply: our temporary file gone means it was us, even if another process has moved `path` on since.
        """
        check_path(path)
        with self._operation(f"create {path}") as effort:
            while True:
                made = self._publish_new(effort, self._put_temporary(effort, data, durable), path)
                if made is not None:
                    return made
                effort.bear(TransientStoreError(f"temporary files in {TEMPORARY_FOLDER}/ are being removed"))

    def replace(self, path: str, data: bytes, durable: bool = False) -> None:
        """Publish a file whatever was there; readers see the old or the new one, whole: `rename_over`."""
        check_path(path)
        with self._operation(f"replace {path}") as effort:
            while not self._publish_over(effort, self._put_temporary(effort, data, durable), path):
                effort.bear(TransientStoreError(f"temporary files in {TEMPORARY_FOLDER}/ are being removed"))

    def rename(self, source: str, target: str) -> bool:
        """Move, never overwriting; see `Home.rename`. Makes the parent folder of `target` on demand.

        A lost reply is resolved by looking: `source` gone and `target` there counts as ours. That is exact
        where only this caller uses the name `target` (claims, scores) or `source` (temporary files).
        A lost race costs one call, and two where this process has not used the folder lately.
        """
        check_path(source)
        check_path(target)
        home, in_doubt, folder = self.home, False, parent_of(target)
        with self._operation(f"rename {source} to {target}") as effort:
            made = 0
            while made < _HOPELESS:
                # Asked before the rename: a folder that somebody else makes just after it failed must not be
                # taken for the proof that the name was.
                known = self._remembers_folder(folder)
                try:
                    if home.rename(source, target):
                        self._saw_folder(folder)
                        return True
                except TransientStoreError as error:
                    in_doubt = True
                    effort.bear(error)
                    continue
                if in_doubt and effort.until_answered(lambda: self._has_moved(source, target)):
                    return True
                if known and not made:
                    return False
                if effort.until_answered(lambda: home.stat(source)) is None:
                    return False
                if effort.until_answered(lambda: home.stat(target)) is not None:
                    return False
                effort.until_answered(lambda: home.make_folder(folder))
                made += 1
            return False

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

    # Many at once: `home.parallel` calls are under way at a time; results in the order of the arguments;
    # the first error is raised after all calls have ended.

    def read_many(self, paths: Sequence[str], max_bytes: int = MAX_READ_BYTES) -> builtins.list[bytes | None]:
        """`read` for each path, several at a time."""
        return self._many(lambda path: self.read(path, max_bytes), paths)

    def create_many(self, files: Iterable[tuple[str, bytes]], durable: bool = False) -> builtins.list[bool]:
        """`create` for each (path, data), several at a time."""
        return self._many(lambda file: self.create(file[0], file[1], durable), tuple(files))

    def delete_many(self, paths: Sequence[str]) -> builtins.list[bool]:
        """`delete` for each path, several at a time."""
        return self._many(self.delete, paths)

    def close(self) -> None:
        """End the threads and let go of the home's connections."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)
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

    def _put_temporary(self, effort: Effort, data: bytes, durable: bool) -> str:
        """Write `data` under a name that nobody else ever uses; that name.

        Every try takes a fresh name: a put that seemed lost may still arrive late, and would truncate the
        file that a later try had finished.
        """
        while True:
            name = f"{TEMPORARY_FOLDER}/{self._signature}-{secrets.token_hex(6)}"
            try:
                self.home.put(name, data, durable)
            except TransientStoreError as error:
                self._note_stray(name)
                effort.bear(error)
            else:
                self._discard_strays()
                return name

    def _publish_new(self, effort: Effort, temporary: str, path: str) -> bool | None:
        """Rename `temporary` to `path`; None: somebody removed `temporary` before it was published."""
        look, in_doubt, turn = self.home.stat, False, 0
        try:
            while True:
                turn += 1
                try:
                    if self.home.rename(temporary, path):
                        return True
                except TransientStoreError as error:
                    in_doubt = True
                    effort.bear(error)
                    continue  # renaming again is the cheapest look: if it had happened, it now says False
                if (in_doubt or turn > 1) and effort.until_answered(lambda: look(temporary)) is None:
                    return True if in_doubt else None
                if effort.until_answered(lambda: look(path)) is not None:
                    self._discard(temporary)
                    return False
                if turn >= _HOPELESS:
                    effort.bear(
                        TransientStoreError(f"cannot be renamed to, and is not there ({temporary} is)")
                    )
                effort.until_answered(lambda: self.home.make_folder(parent_of(path)))
        except PermanentStoreError:
            self._discard(temporary)
            raise

    def _publish_over(self, effort: Effort, temporary: str, path: str) -> bool:
        """Rename `temporary` over `path`; False: somebody removed `temporary` before it was published."""
        in_doubt, turn = False, 0
        try:
            while True:
                turn += 1
                try:
                    if self.home.rename_over(temporary, path):
                        return True
                except TransientStoreError as error:
                    in_doubt = True
                    effort.bear(error)
                    continue
                if effort.until_answered(lambda: self.home.stat(temporary)) is None:
                    return in_doubt
                if turn >= _HOPELESS:
                    effort.bear(TransientStoreError(f"cannot be renamed to ({temporary} is there)"))
                effort.until_answered(lambda: self.home.make_folder(parent_of(path)))
        except PermanentStoreError:
            self._discard(temporary)
            raise

    def _discard(self, temporary: str) -> None:
        """Remove a temporary file now, or when the home answers again; a stray one harms nobody meanwhile."""
        try:
            self.home.delete(temporary)
        except TransientStoreError:
            self._note_stray(temporary)
        except StoreError:
            pass

    def _note_stray(self, temporary: str) -> None:
        with self._lock:
            self._strays.append(temporary)

    def _discard_strays(self) -> None:
        if self._strays:  # nearly never
            with self._lock:
                strays, self._strays = self._strays, []
            for each in strays:
                self._discard(each)

    def _has_moved(self, source: str, target: str) -> bool:
        return self.home.stat(source) is None and self.home.stat(target) is not None

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

    def _many(self, call: Callable[[T], R], items: Sequence[T]) -> builtins.list[R]:
        if self.home.parallel > 1 and len(items) > 1:
            futures = self._submit_all(call, items)
        else:
            futures = [_settled(call, item) for item in items]
        return [future.result() for future in futures]

    def _submit_all(self, call: Callable[[T], R], items: Sequence[T]) -> builtins.list[Future[R]]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.home.parallel, thread_name_prefix="store")
            pool = self._pool
        futures = [pool.submit(call, item) for item in items]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C or a role told to end: what has not begun need not
            for future in futures:
                future.cancel()
            raise
        return futures


def _settled(call: Callable[[T], R], item: T) -> Future[R]:
    """Call now; the outcome as a future, so that one failure does not keep the others from being tried."""
    future: Future[R] = Future()
    try:
        future.set_result(call(item))
    except Exception as error:
        future.set_exception(error)
    return future
