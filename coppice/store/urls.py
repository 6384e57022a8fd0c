"""From what a user writes to a store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from urllib.parse import unquote

from coppice.clock import Clock
from coppice.store.effort import Retry
from coppice.store.errors import StoreError
from coppice.store.folder import FolderHome, absolute_path
from coppice.store.home import Home
from coppice.store.memory import shared_memory_home
from coppice.store.store import Store

ACCEPTED = (
    "a folder (/mnt/share/run or file:///mnt/share/run), HDFS (webhdfs://namenode:9870/path or "
    "swebhdfs://...), or memory:name for tests"
)


def open_store(
    url: str,
    *,
    clock: Clock | None = None,
    retry: Retry | None = None,
    on_trouble: Callable[[str | None], None] | None = None,
) -> Store:
    """Open `url`: a plain path or file:// (folder), webhdfs:// or swebhdfs:// (HDFS), memory:name (tests).

    Nothing is created, and HDFS is not spoken to, before the store is used. Raises `StoreError`, in one line
    that names what is accepted, for anything else.
    """
    return Store(open_home(url, clock), clock=clock, retry=retry, on_trouble=on_trouble)


def tell_trouble(line: str | None) -> None:
    """For a command that asks once: on stderr that the store does not answer, and that it does again."""
    print(f"coppice: {line or 'the store answers again'}", file=sys.stderr, flush=True)


def below(url: str, path: str) -> str:
    """The URL of the folder `path` in the store `url`."""
    if url.startswith(("webhdfs:", "swebhdfs:")):
        place, mark, options = url.partition("?")
        return f"{place.rstrip('/')}/{path}{mark}{options}"
    return f"{url.rstrip('/')}/{path}"


def open_home(url: str, clock: Clock | None = None) -> Home:
    """The home that `url` names; see `open_store`."""
    scheme, colon, rest = url.partition(":")
    if not url.strip() or "\0" in url:
        raise StoreError(f"no store was named; give {ACCEPTED}")
    if colon and scheme in ("webhdfs", "swebhdfs"):
        from coppice.store.hdfs import HdfsHome  # a second's worth of imports that folders do not need

        return HdfsHome(url, clock=clock)
    if colon and scheme == "memory":
        if not rest or rest.startswith("/"):
            raise StoreError(f"{url!r} names no memory store; write memory:name")
        return shared_memory_home(rest, clock)
    if colon and scheme == "file":
        host, slash, path = rest.removeprefix("//").partition("/")
        if not rest.startswith("/") or host not in ("", "localhost") or not slash:
            raise StoreError(f"{url!r} names no folder of this machine; write file:///path or the plain path")
        folder = unquote(f"/{path}", errors="surrogateescape")  # a name need not be UTF-8
        if "\0" in folder:
            raise StoreError(f"{url!r} names no folder: no name can hold %00; leave it out")
        return FolderHome(folder, clock)
    if "://" in url or (colon and scheme in ("hdfs", "http", "https")):
        raise StoreError(f"cannot open {url!r}: {scheme}: is no kind of store; give {ACCEPTED}")
    return FolderHome(url, clock)


def absolute(url: str) -> str:
    """The same place, whatever directory it is named from. Raises `StoreError` if this one is gone."""
    if is_relative(url) and not url.startswith("memory:"):
        return absolute_path(url)
    return url


def is_relative(url: str) -> bool:
    """Whether `url` is a path that means another folder on every machine, or in every directory."""
    scheme, colon, _ = url.partition(":")
    return not url.startswith("/") and not (colon and scheme in ("webhdfs", "swebhdfs", "file"))
