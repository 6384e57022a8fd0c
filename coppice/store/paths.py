"""Names in a store: what every home accepts, checked before anything is asked of a home."""

from __future__ import annotations

import re

from coppice.store.errors import PermanentStoreError

_NOT_ON_HDFS = re.compile(r"[:\x00-\x1f\x7f]")


def check_path(path: str, allow_root: bool = False) -> None:
    """Refuse a path that not every home can hold, so that a run moves from a folder to HDFS unchanged.

    Raises `PermanentStoreError` for an empty part, "." or "..", a leading slash, ":" (HDFS has none), a
    control character, and for "" unless `allow_root`.
    """
    if path == "":
        if allow_root:
            return
        raise PermanentStoreError("the path '' names the store's root, not a file in it; give a file name")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise PermanentStoreError(
                f"the path {path!r} is not a plain relative one; leave out '.', '..' and doubled or outer '/'"
            )
    if _NOT_ON_HDFS.search(path):
        raise PermanentStoreError(f"the path {path!r} holds ':' or a control character; HDFS cannot store it")


def check_folder_move(source: str, target: str) -> None:
    """Refuse what no home can do: to move a folder into itself. Raises `PermanentStoreError`."""
    check_path(source)
    check_path(target)
    if target.startswith(f"{source}/"):
        raise PermanentStoreError(f"the folder {source} cannot be moved into itself, to {target}")


def parent_of(path: str) -> str:
    """The folder that `path` lies in; "" is the root."""
    return path.rpartition("/")[0]
