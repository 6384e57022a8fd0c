"""A home in HDFS, over WebHDFS (a NameNode, or several) or HttpFS.

Learnt from a real server (Hadoop 3.4.2, tests/store): RENAME with renameoptions=NONE is strict on a NameNode
(it refuses an existing target, also an empty folder, and says why), and is an ordinary rename, which moves
INTO a folder, on an HttpFS. CREATE with createparent=false refuses a missing folder on a NameNode; an HttpFS
does not know it and creates the folder.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import requests

from coppice.clock import Clock, SystemClock
from coppice.store.errors import PermanentStoreError, StoreError, TooLarge, TransientStoreError
from coppice.store.hdfs_address import HdfsAddress, parse_hdfs_url
from coppice.store.hdfs_client import Calls, open_client
from coppice.store.hdfs_errors import NoSuchFile, NotServing, Occupied, request_error
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.paths import check_folder_move, check_path, parent_of

_CHUNK_BYTES = 1 << 20
_OVER_TRIES = 5

T = TypeVar("T")


class HdfsHome(Home):
    """Files below one folder of an HDFS; see `parse_hdfs_url` for the URL.

    Calls on a NameNode, in the good path: one for each method, but `put` and `read`, which also go to a
    DataNode. On an HttpFS `rename` looks first whether `target` is a folder, `rename_folder` once more
    after it, and `rename_over` deletes `target` before it renames: readers may see none for a moment, and a
    crash in between leaves none.
    `durable` adds nothing: HDFS answers when all replicas have the data, in memory or on disk.
    """

    parallel = 16  # a generation and a checkpoint at once: on an untouched cluster each takes 400 ms

    def __init__(self, url: str | HdfsAddress, clock: Clock | None = None) -> None:
        self._address = parse_hdfs_url(url) if isinstance(url, str) else url
        self.url = self._address.url
        self._clock: Clock = clock or SystemClock()
        self._calls = Calls()
        self._httpfs = self._address.httpfs
        connections = 2 * self.parallel
        self._clients = [
            open_client(self._address, each, self._calls, connections) for each in self._address.servers
        ]
        self._active = 0
        self._lock = threading.Lock()
        self._last_touch_ms = 0

    @property
    def calls(self) -> Counter[str]:
        """Requests so far by operation, as WebHDFS names them; those to DataNodes count as "datanode"."""
        return self._calls.counter

    def list(self, folder: str) -> builtins.list[Entry]:
        """See `Home.list`. A listing that broke midway is a transient error."""
        try:
            reply = self._ask(lambda client: client._list_status(self._full(folder, allow_root=True)))
        except NoSuchFile:
            return []
        states = _json(reply, "FileStatuses", "FileStatus")
        try:
            return sorted(_entry(each, each["pathSuffix"]) for each in states if each["pathSuffix"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _nonsense(reply) from error

    def stat(self, path: str) -> Entry | None:
        """See `Home.stat`."""
        try:
            reply = self._ask(lambda client: client._get_file_status(self._full(path, allow_root=True)))
        except NoSuchFile:
            return None
        state = _json(reply, "FileStatus")
        try:
            return _entry(state, path.rpartition("/")[2])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _nonsense(reply) from error

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """See `Home.read`."""
        full, most = self._full(path), max_bytes + 1
        try:
            client, reply = self._ask(lambda client: (client, client._open(full, offset=0, length=most)))
            with client.follow(reply, "GET", f"OPEN {full}", stream=True) as reply:
                content = _content(reply, full, most)
        except NoSuchFile:
            return None
        if len(content) > max_bytes:
            raise TooLarge(f"{self.url}: {path} has more than the {max_bytes} bytes allowed")
        return content

    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """See `Home.put`. Only the last answer, 201, proves anything: the first one just names a DataNode."""
        full = self._full(path)
        if not parents and self._is_httpfs() and self.stat(parent_of(path)) is None:
            return False
        try:
            self._create(full, bytes(data), {} if parents else {"createparent": "false"})
        except NoSuchFile:
            if parents:
                raise
            return False
        return True

    def rename(self, source: str, target: str) -> bool:
        """See `Home.rename`."""
        if self._is_httpfs() and self.stat(target) is not None:
            return False
        try:
            return self._rename(source, target, "NONE")
        except (NoSuchFile, Occupied):
            return False

    def rename_folder(self, source: str, target: str) -> bool:
        """See `Home.rename_folder`. Whether `source` is a file is not looked at: a file is moved, too.

        An HttpFS moves into a folder that appears between our look and the rename: whoever loses a race so
        finds his folder inside the winner's, and takes it back. Until then, and for good if the reply is lost
        or this process dies, it is seen there.
        """
        check_folder_move(source, target)
        if not self.rename(source, target):
            return False
        inside = f"{target}/{source.rpartition('/')[2]}"
        if self._is_httpfs() and self.stat(inside) is not None:
            self.rename(inside, source)
            return False
        return True

    def rename_over(self, source: str, target: str) -> bool:
        """See `Home.rename_over`."""
        if self._is_httpfs():
            return self._rename_over_httpfs(source, target)
        try:
            return self._rename(source, target, "OVERWRITE")
        except NoSuchFile:
            return False

    def touch(self, path: str) -> bool:
        """See `Home.touch`. The time is ours, always later than the last one this process has set."""
        with self._lock:
            now_ms = max(int(self._clock.time() * 1000), self._last_touch_ms + 1)
            self._last_touch_ms = now_ms
        try:
            self._ask(lambda client: client._set_times(self._full(path), modificationtime=now_ms))
        except NoSuchFile:
            return False
        return True

    def delete(self, path: str) -> bool:
        """See `Home.delete`."""
        return self._delete(self._full(path), recursive="false")

    def delete_tree(self, folder: str) -> bool:
        """See `Home.delete_tree`. One call on the NameNode, for any number of files."""
        try:
            return self._delete(self._full(folder, allow_root=True), recursive="true")
        except PermanentStoreError:  # nobody removes a folder without a right to the one above it
            if folder or self.list(""):
                raise
            return True

    def remove_root(self) -> None:
        """See `Home.remove_root`."""
        with contextlib.suppress(PermanentStoreError):
            self._delete(self._full("", allow_root=True), recursive="false")

    def above(self) -> HdfsHome | None:
        """See `Home.above`. On the connections of this one."""
        if not self._address.path:
            return None
        home = copy.copy(self)
        home._address = replace(self._address, path=parent_of(self._address.path))
        home.url = home._address.servers[0] + home._address.path
        return home

    def make_folder(self, folder: str) -> None:
        """See `Home.make_folder`."""
        full = self._full(folder, allow_root=True)
        if not _json(self._ask(lambda client: client._mkdirs(full)), "boolean"):
            raise PermanentStoreError(
                f"cannot MKDIRS {full}: the server says no; look for a file of that name"
            )

    def close(self) -> None:
        """See `Home.close`."""
        for client in self._clients:
            client._session.close()

    # Inside

    def _full(self, path: str, allow_root: bool = False) -> str:
        check_path(path, allow_root)
        return f"{self._address.path}/{path}".rstrip("/") or "/"

    def _ask(self, call: Callable[[Any], T]) -> T:
        """Ask the server that answered last; where it does not serve, every other one, once each.

        Only a server that surely did nothing is passed over within the call. Where a reply was lost the
        error goes up, for the caller to look what happened; the next call begins with the next server.
        """
        first, excuses = self._active, []
        for step in range(len(self._clients)):
            index = (first + step) % len(self._clients)
            try:
                answer = call(self._clients[index])
            except NotServing as error:
                excuses.append(str(error))
            except TransientStoreError:
                if len(self._clients) > 1 and self._active == index:
                    self._active = (index + 1) % len(self._clients)
                raise
            else:
                if self._active != index:
                    self._active = index
                return answer
        raise NotServing("; ".join(excuses))

    def _create(self, full: str, body: bytes, options: dict[str, str]) -> None:
        at_once = {"data": body} if self._httpfs else {}
        client, reply = self._ask(
            lambda client: (client, client._create(full, overwrite="true", **options, **at_once))
        )
        if reply.is_redirect and "data=true" in reply.headers["location"]:
            self._found_httpfs(True)
        reply = client.follow(reply, "PUT", f"CREATE {full}", data=body)
        if reply.status_code not in (200, 201):
            raise TransientStoreError(
                f"cannot CREATE {full}: the DataNode answered status {reply.status_code}"
            )

    def _rename(self, source: str, target: str, option: str) -> bool:
        old, new = self._full(source), self._full(target)
        reply = self._ask(lambda client: client._rename(old, destination=new, renameoptions=option))
        if not reply.content:  # a NameNode that was given options says nothing when all is well
            return True
        self._found_httpfs(True)
        return bool(_json(reply, "boolean"))

    def _rename_over_httpfs(self, source: str, target: str) -> bool:
        for _ in range(_OVER_TRIES):
            there = self.stat(target)
            if there is None:
                if self._rename(source, target, "NONE"):
                    return True
                if self.stat(target) is None:  # so nobody else was quicker: no source, or no folder
                    return False
            elif there.is_folder:
                raise PermanentStoreError(
                    f"{self.url}: {target} is a folder, so no file can be moved over it"
                )
            elif self.stat(source) is None:
                return False
            else:
                self.delete(target)
        raise TransientStoreError(f"{self.url}: {target} is being replaced by many at once")

    def _delete(self, full: str, recursive: str) -> bool:
        try:
            return bool(_json(self._ask(lambda client: client._delete(full, recursive=recursive)), "boolean"))
        except NoSuchFile:
            return False

    def _is_httpfs(self) -> bool:
        """Whether the server is an HttpFS; asked once, by an operation that only HttpFS has."""
        if self._httpfs is None:
            try:
                self._ask(lambda client: client.instrumentation())
                self._found_httpfs(True)
            except TransientStoreError as error:
                # It has asked its machine whether we are one of its administrators.
                if "No groups found" not in str(error):
                    raise
                self._found_httpfs(True)
            except StoreError as error:
                self._found_httpfs("IllegalArgumentException" not in str(error))
        return bool(self._httpfs)

    def _found_httpfs(self, httpfs: bool) -> None:
        self._httpfs = httpfs
        for client in self._clients:
            client.data_at_once = httpfs


def _entry(state: Any, name: Any) -> Entry:
    """Raises `KeyError`, `TypeError`, `ValueError` or `OverflowError` where the state makes no sense."""
    is_folder = state["type"] == "DIRECTORY"
    if not isinstance(name, str) or "/" in name:
        raise ValueError("a name that no file can have")
    name.encode()
    return Entry(name, is_folder, 0 if is_folder else int(state["length"]), int(state["modificationTime"]))


def _json(reply: requests.Response, *keys: str) -> Any:
    """What the answer holds under `keys`; a broken answer is transient, for the NameNode means no harm."""
    try:
        said = reply.json()
        for key in keys:
            said = said[key]
    except (requests.RequestException, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _nonsense(reply) from error
    return said


def _nonsense(reply: requests.Response) -> TransientStoreError:
    server = "/".join(reply.url.split("/", 3)[:3])
    return TransientStoreError(f"{server} sent an answer that broke off or makes no sense")


def _content(reply: requests.Response, full: str, most: int) -> bytes:
    """Up to `most` bytes of an OPEN."""
    pieces, size = [], 0
    try:
        for piece in reply.iter_content(_CHUNK_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size >= most:
                break
    except requests.RequestException as error:
        raise request_error(error, f"OPEN {full}", "the DataNode") from None
    return b"".join(pieces)
