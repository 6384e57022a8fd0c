"""Checkpoints: numbered bundles in a folder, each written whole under a new name, the last two kept.

A new name each time needs no home that can replace a file in one step, and a checkpoint that turns out to
be damaged (a power loss) leaves the one before it to go on from.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from coppice.errors import CoppiceError
from coppice.store import Store
from coppice.work.contents import bundle_from_bytes, bundle_to_bytes
from coppice.work.errors import BadContent, Superseded
from coppice.work.limits import MAX_CHECKPOINT_BYTES, read_limited

_NAME = re.compile(r"checkpoint_(\d{6,60})\.zip", re.ASCII)


class Checkpoints:
    """The checkpoints of one role."""

    def __init__(self, store: Store, folder: str, say: Callable[[str], None]) -> None:
        self._store = store
        self._folder = folder
        self._say = say
        self._numbers: list[int] = []

    def load(self) -> dict[str, bytes] | None:
        """The parts of the newest whole checkpoint; None where there is none."""
        entries = self._store.list(self._folder)
        found = {int(m[1]) for e in entries if (m := _NAME.fullmatch(e.name))}
        written = {f"{self._folder}/{entry.name}" for entry in entries}
        self._numbers = sorted(number for number in found if self._path(number) in written)
        for number in reversed(self._numbers):
            path = self._path(number)
            try:
                data = read_limited(self._store, path, MAX_CHECKPOINT_BYTES)
                if data is not None:
                    return bundle_from_bytes(data, path)
            except BadContent as error:
                self._say(f"{error}; going on from the checkpoint before it")
        return None

    def save(self, parts: dict[str, bytes]) -> None:
        """Write the next checkpoint so that it survives a power loss, and remove the one before the last.

        Raises `Superseded` if somebody else has written that number, `CoppiceError` if nobody could read it.
        """
        number = (self._numbers[-1] if self._numbers else 0) + 1
        data = bundle_to_bytes(parts)
        if len(data) > MAX_CHECKPOINT_BYTES:
            raise CoppiceError(
                f"{self._folder}: a checkpoint of {len(data)} bytes is more than the {MAX_CHECKPOINT_BYTES} "
                "that are read again; the network is too large"
            )
        if not self._store.create(self._path(number), data, durable=True):
            raise Superseded(
                f"{self._folder}: another process wrote the next checkpoint; two were started, this one ends"
            )
        self._numbers.append(number)
        old, self._numbers = self._numbers[:-2], self._numbers[-2:]
        self._store.delete_many([self._path(each) for each in old])

    def _path(self, number: int) -> str:
        return f"{self._folder}/checkpoint_{number:06d}.zip"
