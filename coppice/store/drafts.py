"""What is being written where nobody looks, until a rename publishes it: files and whole folders."""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
from collections.abc import Mapping

from coppice.store.effort import Effort
from coppice.store.errors import PermanentStoreError, StoreError, TooLarge, TransientStoreError
from coppice.store.home import Home
from coppice.store.paths import parent_of

TEMPORARY_FOLDER = ".tmp"
"""Where unfinished files and folders live, directly under the root; nobody lists it."""

HOPELESS = 8
"""Turns without an answer that makes sense, after which an operation waits before it goes on."""


class Drafts:
    """One store's unfinished files and folders; safe to call from several threads.

    Every draft has a name that nobody else ever uses. One that may have to be left behind, because the home
    does not answer, is noted and removed when the home answers again; it harms nobody meanwhile.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._strays: list[str] = []
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
        self._signature = f"{host}-{os.getpid()}"

    def new_name(self) -> str:
        """A path for a draft, never given before."""
        return f"{TEMPORARY_FOLDER}/{self._signature}-{secrets.token_hex(6)}"

    def put(self, effort: Effort, data: bytes, durable: bool) -> str:
        """Write a file; its path.

        Every try takes a fresh name: a put that seemed lost may still arrive late, and would truncate the
        file that a later try had finished.
        """
        while True:
            name = self.new_name()
            try:
                self._home.put(name, data, durable)
            except TransientStoreError as error:
                self.note_stray(name)
                effort.bear(error)
            else:
                self.discard_strays()
                return name

    def publish(
        self, effort: Effort, draft: str, path: str, telling: Mapping[str, bytes], is_folder: bool = False
    ) -> bool | None:
        """Rename `draft` to `path`, never overwriting; makes the parent folder on demand.

        False: `path` is taken, and `draft` discarded. None: somebody removed `draft` before it was published;
        bear that, and write it again. After a lost reply: our draft gone and `path` there means it was us, if
        the files of `telling` (path to content; empty ones tell nothing) are there, too, for somebody may
        have removed the draft and somebody else have taken the name. With neither there, somebody has
        removed the draft, or moved `path` on already: to write again what was moved on makes it exist twice,
        not to write what was removed would lose it.

        The same after a refusal, for what stands between us and the home (a portal, a load balancer) may have
        sent our request twice and shown us the second answer only. Then there must be some that tell.
        """
        look, in_doubt, turn = self._home.stat, False, 0
        try:
            while True:
                turn += 1
                try:
                    if (self._home.rename_folder if is_folder else self._home.rename)(draft, path):
                        return True
                except TransientStoreError as error:
                    in_doubt = True
                    effort.bear(error)
                    continue  # renaming again is the cheapest look: if it had happened, it now says False
                there = effort.until_answered(lambda: look(path)) is not None
                if (in_doubt or there or turn > 1) and effort.until_answered(lambda: look(draft)) is None:
                    if there and is_folder and self._lost_inside(effort, draft, path):
                        return False
                    return True if there and self._is_ours(effort, telling, in_doubt) else None
                if there:
                    self.discard(draft)
                    return False
                if turn >= HOPELESS:
                    effort.bear(TransientStoreError(f"cannot be renamed to, and is not there ({draft} is)"))
                effort.until_answered(lambda: self._home.make_folder(parent_of(path)))
        except PermanentStoreError:
            self.discard(draft)
            raise

    def publish_over(self, effort: Effort, draft: str, path: str) -> bool:
        """Rename the file `draft` over `path`.

        False: `draft` is gone. What `path` holds will tell whether this call has put it there (a lost reply,
        or a request that was sent twice) or somebody removed it.
        """
        turn = 0
        try:
            while True:
                turn += 1
                try:
                    if self._home.rename_over(draft, path):
                        return True
                except TransientStoreError as error:
                    effort.bear(error)
                    continue
                if effort.until_answered(lambda: self._home.stat(draft)) is None:
                    return False
                if turn >= HOPELESS:
                    effort.bear(TransientStoreError(f"cannot be renamed to ({draft} is there)"))
                effort.until_answered(lambda: self._home.make_folder(parent_of(path)))
        except PermanentStoreError:
            self.discard(draft)
            raise

    def bear_removal(self, effort: Effort) -> None:
        """Somebody removed a draft before it was published: wait before it is written again."""
        effort.bear(TransientStoreError(f"temporary files in {TEMPORARY_FOLDER}/ are being removed"))

    def discard(self, draft: str) -> None:
        """Remove a draft now, or when the home answers again; never raises `StoreError`."""
        try:
            self._home.delete_tree(draft)
        except TransientStoreError:
            self.note_stray(draft)
        except StoreError:
            pass

    def note_stray(self, draft: str) -> None:
        """Remember a draft that came to nothing, for `discard_strays`."""
        with self._lock:
            self._strays.append(draft)

    def discard_strays(self) -> None:
        """The home answers: remove what was noted."""
        if self._strays:  # nearly never
            with self._lock:
                strays, self._strays = self._strays, []
            for each in strays:
                self.discard(each)

    def discard_ours(self) -> None:
        """Remove all drafts of this process, also what a call that was interrupted has left."""
        for entry in self._home.list(TEMPORARY_FOLDER):
            if entry.name.rpartition("-")[0] == self._signature:
                self.discard(f"{TEMPORARY_FOLDER}/{entry.name}")

    def _is_ours(self, effort: Effort, telling: Mapping[str, bytes], by_default: bool) -> bool:
        expected = {path: data for path, data in telling.items() if data}
        if not expected:
            return by_default
        return all(
            effort.until_answered(lambda path=path, data=data: self._holds(path, data))  # type: ignore[misc]
            for path, data in expected.items()
        )

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self._home.read(path, len(data)) == data
        except TooLarge:
            return False

    def _lost_inside(self, effort: Effort, draft: str, path: str) -> bool:
        """Whether an HttpFS has moved the folder `draft` into `path`, which lost it the race."""
        inside = f"{path}/{draft.rpartition('/')[2]}"
        if effort.until_answered(lambda: self._home.stat(inside)) is None:
            return False
        self.discard(inside)
        return True
