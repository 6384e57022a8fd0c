"""What roles use: whole files, exclusive creation, retries, and lost replies resolved by looking.

Built on the primitives of a `Home`. Everything that must hold on every home is written once, here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from coppice.clock import Clock, SystemClock
from coppice.store.home import MAX_READ_BYTES, Entry, Home

TEMPORARY_FOLDER = ".tmp"
"""Where unfinished files live, directly under the root; nobody lists it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a transient error is borne."""

    patience_s: float = 600.0
    first_wait_s: float = 0.05
    longest_wait_s: float = 10.0


class Store:
    """A work folder's files, for one process; safe to call from several threads.

    A transient error is retried with exponential backoff and jitter until `retry.patience_s` is over, then
    raised (`TransientStoreError`, one line naming the url, the call and how long it was tried).
    `on_trouble(message | None)` is called with one line when a call first has to be retried and with None
    when the home answers again, so that a role can tell its user. Nothing else is ever retried.
    """

    def __init__(
        self,
        home: Home,
        *,
        clock: Clock | None = None,
        retry: Retry | None = None,
        rng: random.Random | None = None,
        on_trouble: Callable[[str | None], None] | None = None,
    ) -> None: ...

    url: str

    def list(self, folder: str = "") -> list[Entry]: ...

    def stat(self, path: str) -> Entry | None: ...

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None: ...

    def create(self, path: str, data: bytes, durable: bool = False) -> bool:
        """Publish a new file, whole or not at all; True: this call made it, False: the name was taken.

        By a unique temporary name and a rename; missing parent folders are made on demand. After a lost
        reply: our temporary file gone and `path` there means it was us.
        """

    def replace(self, path: str, data: bytes, durable: bool = False) -> None:
        """Publish a file whatever was there; readers see the old or the new one, whole (see `rename_over`)."""

    def rename(self, source: str, target: str) -> bool:
        """Move, never overwriting; see `Home.rename`. Makes the parent folder of `target` on demand.

        A lost reply is resolved by looking: `source` gone and `target` there counts as ours. That is exact
        where only this caller uses the name `target` (claims, scores) or `source` (temporary files).
        """

    def touch(self, path: str) -> bool: ...

    def delete(self, path: str) -> bool:
        """True: it was there (a hint only: after a lost reply it says False)."""

    def delete_tree(self, folder: str) -> bool: ...

    def make_folder(self, folder: str = "") -> None: ...

    # Many at once: `home.parallel` calls are under way at a time; results in the order of the arguments;
    # the first error is raised after all calls have ended.

    def read_many(self, paths: Sequence[str], max_bytes: int = MAX_READ_BYTES) -> list[bytes | None]: ...

    def create_many(self, files: Iterable[tuple[str, bytes]], durable: bool = False) -> list[bool]: ...

    def delete_many(self, paths: Sequence[str]) -> list[bool]: ...

    def close(self) -> None: ...


def open_store(
    url: str,
    *,
    clock: Clock | None = None,
    retry: Retry | None = None,
    on_trouble: Callable[[str | None], None] | None = None,
) -> Store:
    """Open `url`: a plain path or file:// URL (folder), webhdfs:// or swebhdfs:// (HDFS), memory:name (tests)."""
