"""How much may be read from a work folder, file by file, and the one way to read it.

Whatever lies in the folder, a role takes no more of it into memory; docs/protocol.md prints the limits. A
file beyond its limit is damaged like any other: `BadContent`, and whoever can have it written again does.
"""

from __future__ import annotations

from collections.abc import Sequence

from coppice.store import Store, TooLarge
from coppice.work.errors import BadContent

MAX_TEXT_BYTES = 1 << 20
"""Sentinels, run.json, role files, round records, notes."""
MAX_SOLUTION_BYTES = 1 << 20
"""One solution, a fit file or crates_list.npy: 100,000 layers would still fit."""
MAX_GENERATION_BYTES = 1 << 26
"""A generation's solutions.npy: a thousand solutions of eight thousand layers."""
MAX_RESULT_BYTES = 1 << 26
"""result.json, which repeats all rounds."""
MAX_HISTORY_BYTES = 1 << 28
"""A search's history: a million solutions of thirty layers."""
MAX_SAMPLES_BYTES = 1 << 30
"""data.npy and labels.npy."""
MAX_WEIGHTS_BYTES = 1 << 30
"""A weights file: 200 million parameters, with their masks."""
MAX_CHECKPOINT_BYTES = 1 << 32
"""A checkpoint of outer or ncs: 150 million parameters with momentum, mask and the best network so far."""


def read_limited(store: Store, path: str, limit: int) -> bytes | None:
    """The whole file, None where there is none; raises `BadContent` if it has more than `limit` bytes."""
    try:
        return store.read(path, limit)
    except TooLarge as error:
        raise BadContent(f"{path}: larger than the {limit} bytes that such a file may have") from error


def read_many_limited(store: Store, paths: Sequence[str], limit: int) -> list[bytes | None]:
    """`read_limited` for each path, several at a time; raises `BadContent` if one of them is too large."""
    try:
        return store.read_many(paths, limit)
    except TooLarge as error:  # which names the file
        raise BadContent(str(error)) from error
