"""The primitives that a place must offer to hold a work folder: the contract of the three homes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

MAX_READ_BYTES = 1 << 30
"""Default limit on what is read from a work folder, bytes: weights may be large, nothing is endless."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One line of a listing."""

    name: str
    """Last part of the path."""
    is_folder: bool
    size: int
    """Bytes; 0 for a folder."""
    mtime_ms: int
    """The home's own modification time, milliseconds. Compare for change only, never with a clock."""


class Home(ABC):
    """One place for files, by primitives. `Store` builds everything else on these.

    Paths are relative to the root that the home was opened with, parts separated by "/", no leading
    slash; "" is the root itself. Several threads may call one home at once.

    Every method may raise `TransientStoreError` (the call may or may not have happened) or
    `PermanentStoreError`; what is not there is never an error.
    """

    url: str
    """The root, as the user would write it."""
    parallel: int = 1
    """How many calls at once pay off (latency-bound homes: many; a local folder: one)."""

    @abstractmethod
    def list(self, folder: str) -> list[Entry]:
        """The entries directly in `folder`, sorted by name; [] where there is no such folder.

        Not a snapshot: an entry that is renamed during the call may be missed or seen under either name.
        """

    @abstractmethod
    def stat(self, path: str) -> Entry | None:
        """One entry, or None where there is none."""

    @abstractmethod
    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """The whole content, or None where there is no such file.

        Raises `TooLarge` beyond `max_bytes` without reading it all, `PermanentStoreError` for a folder.
        """

    @abstractmethod
    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """Write `data` to `path`, replacing what was there, creating missing parent folders.

        Without `parents` no folder is created: False, with nothing changed, if the parent folder is missing.
        (An HttpFS looks before, so a folder removed at that very moment comes back.) True in all other cases.

        NOT atomic: a reader may see a part, a crash may leave one. Only for names that nobody else reads
        (`Store` writes temporary names this way, then renames). When it returns, the content is whole and
        visible to every reader; with `durable` it also survives a power loss.
        """

    @abstractmethod
    def rename(self, source: str, target: str) -> bool:
        """Move a file, atomically, never overwriting. True: this call moved it.

        False, with nothing changed: there is no `source`, `target` exists already (file or folder), or the
        parent folder of `target` is missing. Of any number of callers racing to move one source, one gets
        True; of any number racing to one target, one gets True.
        """

    @abstractmethod
    def rename_folder(self, source: str, target: str) -> bool:
        """Move a folder with all in it, atomically, never overwriting one that holds anything.

        True: this call moved it. False, with nothing changed: there is no folder `source`, `target` exists
        already (file or folder; an EMPTY folder there may be replaced where the system can do no better), or
        the parent folder of `target` is missing. Of any number of callers racing from one source, or with
        folders that hold something to one target, one gets True. Times stay; durability does not.

        `source` must not be a file (no home overwrites with one, but HDFS would move it) and must not hold
        an entry of its own name (by that an HttpFS tells a lost race; see `HdfsHome.rename_folder`). Raises
        `PermanentStoreError` for a `target` inside `source`.
        """

    @abstractmethod
    def rename_over(self, source: str, target: str) -> bool:
        """Move a file onto `target`, whatever file is there; readers of `target` see old or new, whole.

        False, with nothing changed, where there is no `source` or the parent folder of `target` is missing.
        On a home that cannot replace in one step (HttpFS) readers may for a moment see no `target`.
        """

    @abstractmethod
    def touch(self, path: str) -> bool:
        """Give the file a new mtime, different from its last one. False where there is no such file."""

    @abstractmethod
    def delete(self, path: str) -> bool:
        """Remove one file; True: it was there.

        Raises `PermanentStoreError` for a folder that is not empty.
        """

    @abstractmethod
    def delete_tree(self, folder: str) -> bool:
        """Remove a folder and all in it, or a file; True: it was there. Not atomic.

        "" removes the root; where only the empty root itself may not go (a mount point, a folder of another
        user's), it stays and that is no error.
        """

    @abstractmethod
    def make_folder(self, folder: str) -> None:
        """Create a folder with its parents, the root included; no error where it exists already."""

    def above(self) -> Home | None:
        """A home in the folder that the root lies in, closed with this one; None where there is none."""
        return None

    def remove_root(self) -> None:
        """Remove the root if nothing is in it; it stays where it may not go."""
        if not self.list(""):
            self.delete_tree("")

    def close(self) -> None:  # noqa: B027 - most homes hold nothing
        """Let go of connections. The home is not used afterwards."""
