"""A whole folder that is published by one rename."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from coppice.store.crew import Crew
from coppice.store.drafts import Drafts
from coppice.store.effort import Effort
from coppice.store.errors import PermanentStoreError, TransientStoreError
from coppice.store.home import Home
from coppice.store.paths import check_path


class Staging:
    """The files of a folder to come, seen by nobody until `publish` shows them all; see `Store.stage`.

    It ends with `publish` or `discard`; RuntimeError for what comes after. For one thread at a time.

    Only the first file may create the folder, all others must find it: so a folder that somebody removes
    meanwhile cannot come back with a part of its files, and is written again. (A home that removes folders
    file by file, a local one, can still lose some to whoever clears `.tmp` at the very moment of `publish`.)
    """

    def __init__(
        self,
        home: Home,
        drafts: Drafts,
        crew: Crew,
        operation: Callable[[str], AbstractContextManager[Effort]],
        files: Mapping[str, bytes],
    ) -> None:
        self._home = home
        self._drafts = drafts
        self._crew = crew
        self._operation = operation
        self._files: dict[str, bytes] = {}
        self._folder = drafts.new_name()
        self._begun = False
        self._ended = False
        _check_names(files)
        with operation(f"stage {len(files)} files") as effort:
            self._add(effort, files)

    def publish(self, path: str, files: Mapping[str, bytes] = {}) -> bool:
        """Add `files` and give the folder its name; True: this call published it, False: `path` is taken.

        A missing parent folder is made on demand. Lost replies are resolved as in `Store.create`. Raises
        `PermanentStoreError` if there are no files at all: not every home tells an empty folder from none.
        Calls in the good path: one put a file, and the rename.
        """
        check_path(path)
        _check_names(files)
        if not (self._files or files):
            raise PermanentStoreError(f"there are no files to publish as {path}; give at least one")
        self._end()
        telling = {f"{path}/{name}": data for name, data in files.items()}
        with self._operation(f"publish {path}") as effort:
            self._add(effort, files)
            while True:
                published = self._drafts.publish(effort, self._folder, path, telling, is_folder=True)
                if published is not None:
                    return published
                self._begin_again()
                self._drafts.bear_removal(effort)
                self._add(effort, self._files)

    def discard(self) -> None:
        """Remove what was written, as far as the home lets us; may be called at any time."""
        if not self._ended:
            self._end()
            if self._begun:
                self._drafts.discard(self._folder)

    def _end(self) -> None:
        if self._ended:
            raise RuntimeError("this staging has been published or discarded")
        self._ended = True

    def _add(self, effort: Effort, files: Mapping[str, bytes]) -> None:
        """Write `files`; if anything is in doubt, all that we have, into a fresh folder.

        A put that seemed lost may still arrive late and truncate what a later try had finished, even after
        the folder was published.
        """
        self._files.update(files)
        while files:
            try:
                there = self._put(files)
            except TransientStoreError as error:
                self._begin_again()
                effort.bear(error)
            except PermanentStoreError:
                self._ended = True
                self._drafts.discard(self._folder)
                raise
            else:
                if there:
                    self._drafts.discard_strays()
                    return
                self._begin_again()
                self._drafts.bear_removal(effort)
            files = self._files

    def _put(self, files: Mapping[str, bytes]) -> bool:
        """Write `files` into the folder; False: somebody has removed it."""
        names = sorted(files, key=lambda name: len(files[name]))  # a small one goes ahead, all others wait
        if not self._begun:
            self._begun = True
            self._home.put(f"{self._folder}/{names[0]}", files[names[0]])
            del names[0]
        return all(self._crew.run(lambda name: self._put_into(name, files[name]), names))

    def _put_into(self, name: str, data: bytes) -> bool:
        return self._home.put(f"{self._folder}/{name}", data, parents=False)

    def _begin_again(self) -> None:
        self._drafts.note_stray(self._folder)
        self._folder, self._begun = self._drafts.new_name(), False


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        check_path(name)
        if "/" in name:
            raise PermanentStoreError(f"{name!r} is no plain file name; leave out the '/'")
