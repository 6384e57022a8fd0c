"""A home in a folder: a local disk or a mounted share."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import shutil
import stat as stat_bits
import threading
from pathlib import Path

from coppice.clock import Clock, SystemClock
from coppice.store.errors import PermanentStoreError, StoreError, TooLarge, TransientStoreError
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.paths import check_folder_move, check_path, parent_of
from coppice.store.rename_apart import RenameApart

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_TRANSIENT = (
    errno.ESTALE,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.EHOSTDOWN,
)
_STAYS = (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTEMPTY)
"""An empty root that may not go (a mount point, a folder that was made for us), or that is in use again."""


class FolderHome(Home):
    """Files in a folder of this machine or of a share mounted on it.

    A rename never overwrites, see `RenameApart`; where that is done by links (NFS), the `target` of a caller
    that loses a race can be seen for a moment. A share that cannot do it is refused with
    `PermanentStoreError`. Symbolic links below the root are refused; the root itself may be one.

    Raises `StoreError` for a relative root where the current directory is gone.

    `link_only` leaves renameat2 out, for tests.
    """

    def __init__(self, root: str | Path, clock: Clock | None = None, link_only: bool = False) -> None:
        self.url = str(root).rstrip("/") or str(root)
        self._root = absolute_path(str(root))
        self._clock: Clock = clock or SystemClock()
        self._rename_apart = RenameApart(link_only)
        self._durable: set[str] = set()
        self._lock = threading.Lock()

    def list(self, folder: str) -> builtins.list[Entry]:
        """See `Home.list`. Symbolic links are left out."""
        path = self._path(folder, allow_root=True)
        entries = []
        try:
            with os.scandir(path) as found:
                for each in found:
                    try:
                        state = each.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # renamed or deleted since
                    if not stat_bits.S_ISLNK(state.st_mode):
                        entries.append(_entry(each.name, state))
        except OSError as error:
            if error.errno in _NOT_THERE:
                return []
            raise self._explain(error, "list", folder) from error
        return sorted(entries)

    def stat(self, path: str) -> Entry | None:
        """See `Home.stat`."""
        try:
            state = os.stat(self._path(path, allow_root=True), follow_symlinks=path == "")
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise self._explain(error, "look at", path) from error
        self._refuse_link(path, state)
        return _entry(path.rpartition("/")[2], state)

    def read(self, path: str, max_bytes: int = MAX_READ_BYTES) -> bytes | None:
        """See `Home.read`."""
        try:
            descriptor = os.open(self._path(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise self._explain(error, "read", path) from error
        try:
            state = os.fstat(descriptor)
            self._refuse_device(path, state)
            content = b"" if state.st_size > max_bytes else self._read_all(descriptor, max_bytes)
        except OSError as error:
            raise self._explain(error, "read", path) from error
        finally:
            os.close(descriptor)
        if state.st_size > max_bytes or len(content) > max_bytes:
            raise TooLarge(f"{self._where(path)} has more than the {max_bytes} bytes allowed")
        return content

    def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
        """See `Home.put`."""
        full = self._path(path)
        try:
            try:
                self._write(path, data, durable)
            except FileNotFoundError:
                if not parents:
                    return False
                os.makedirs(os.path.dirname(full), exist_ok=True)
                self._write(path, data, durable)
        except OSError as error:
            raise self._explain(error, "write", path) from error
        if durable:
            with self._lock:
                self._durable.add(path)
        return True

    def rename(self, source: str, target: str) -> bool:
        """See `Home.rename`."""
        old, new = self._path(source), self._path(target)
        try:
            moved = self._rename_apart(old, new)
            if moved:
                self._keep_name(source, target)
        except OSError as error:
            if error.errno in (*_NOT_THERE, errno.EEXIST):
                return False
            raise self._explain(error, f"rename {source} to", target) from error
        return moved

    def rename_folder(self, source: str, target: str) -> bool:
        """See `Home.rename_folder`. A file or a symbolic link is no folder: False.

        Files in it that were put with `durable` need not survive a power loss under their new name.
        """
        check_folder_move(source, target)
        old, new = self._path(source), self._path(target)
        if source == target:  # there already, or not there at all; POSIX would call it moved
            return False
        try:
            self._rename_apart.folder(old, new)
        except OSError as error:
            if error.errno in (*_NOT_THERE, errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise self._explain(error, f"rename folder {source} to", target) from error
        return True

    def rename_over(self, source: str, target: str) -> bool:
        """See `Home.rename_over`."""
        old, new = self._path(source), self._path(target)
        try:
            os.replace(old, new)
            self._keep_name(source, target)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise self._explain(error, f"rename {source} over", target) from error
        return True

    def touch(self, path: str) -> bool:
        """See `Home.touch`. Needs the file's owner, or on coarse file systems write permission."""
        full = self._path(path)
        try:
            before = os.stat(full, follow_symlinks=False)
            self._refuse_link(path, before)
            # At least 2 ms on: listings tell milliseconds, and some file systems round.
            new_ns = max(int(self._clock.time() * 1e9), before.st_mtime_ns + 2_000_000)
            try:
                os.utime(full, ns=(before.st_atime_ns, new_ns))
            except PermissionError:
                os.utime(
                    full
                )  # another user's file that we may write to: "now" is allowed, a given time is not
                return True
            if _mtime_ms(os.stat(full)) == _mtime_ms(
                before
            ):  # a file system that keeps whole (or two) seconds
                os.utime(full, ns=(before.st_atime_ns, before.st_mtime_ns + 2_000_000_000))
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise self._explain(error, "touch", path) from error
        return True

    def delete(self, path: str) -> bool:
        """See `Home.delete`."""
        full = self._path(path)
        with self._lock:
            self._durable.discard(path)
        try:
            try:
                os.unlink(full)
            except (IsADirectoryError, PermissionError):
                if not os.path.isdir(full) or os.path.islink(full):
                    raise
                os.rmdir(full)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise self._explain(error, "delete", path) from error
        return True

    def delete_tree(self, folder: str) -> bool:
        """See `Home.delete_tree`. A root that is a symbolic link stays, and so does the folder behind it."""
        full = self._path(folder, allow_root=True)
        try:
            if not os.path.isdir(full):
                return self.delete(folder) if folder else False
            if folder:
                shutil.rmtree(full, onerror=_unless_gone)
            else:
                self._empty_root()
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # somebody is still writing into it
                raise TransientStoreError(f"{self._where(folder)} is still being written to") from error
            raise self._explain(error, "delete", folder) from error
        if not folder:
            self.remove_root()
        return True

    def remove_root(self) -> None:
        """See `Home.remove_root`."""
        try:
            if not os.path.islink(self._root):
                os.rmdir(self._root)
        except OSError as error:
            if error.errno not in (*_NOT_THERE, *_STAYS):
                raise self._explain(error, "delete", "") from error

    def above(self) -> FolderHome | None:
        """See `Home.above`."""
        folder = os.path.dirname(self._root)
        return None if folder == self._root else FolderHome(folder, self._clock)

    def make_folder(self, folder: str) -> None:
        """See `Home.make_folder`."""
        try:
            os.makedirs(self._path(folder, allow_root=True), exist_ok=True)
        except OSError as error:
            raise self._explain(error, "make folder", folder) from error

    # Inside

    def _empty_root(self) -> None:
        try:
            with os.scandir(self._root) as found:
                entries = list(found)
        except FileNotFoundError:  # another process removed it meanwhile
            return
        for each in entries:
            if each.is_dir(follow_symlinks=False):
                shutil.rmtree(each.path, onerror=_unless_gone)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each.path)

    def _path(self, path: str, allow_root: bool = False) -> str:
        """The full path; refuses what is no plain name, and symbolic links on the way."""
        check_path(path, allow_root)
        parent = parent_of(path)
        while parent:
            if os.path.islink(os.path.join(self._root, parent)):
                raise PermanentStoreError(f"{self._where(parent)} is a symbolic link; make it a real folder")
            parent = parent_of(parent)
        return os.path.join(self._root, path) if path else self._root

    def _refuse_link(self, path: str, state: os.stat_result) -> None:
        if stat_bits.S_ISLNK(state.st_mode):
            raise PermanentStoreError(f"{self._where(path)} is a symbolic link; put a real file there")

    def _refuse_device(self, path: str, state: os.stat_result) -> None:
        if not stat_bits.S_ISREG(state.st_mode):
            kind = "a folder" if stat_bits.S_ISDIR(state.st_mode) else "no ordinary file"
            raise PermanentStoreError(f"{self._where(path)} is {kind}; move it away")

    def _where(self, path: str) -> str:
        return os.path.join(self.url, path) if path else self.url

    @staticmethod
    def _read_all(descriptor: int, max_bytes: int) -> bytes:
        pieces, left = [], max_bytes + 1  # one more than allowed, to see a file that grew meanwhile
        while left > 0 and (piece := os.read(descriptor, min(left, 1 << 24))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _write(self, path: str, data: bytes, durable: bool) -> None:
        full = self._path(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(full, flags, 0o666)  # less the umask: other users' roles share the folder
        try:
            try:
                self._refuse_device(path, os.fstat(descriptor))
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)  # where a share reports that the data did not arrive
        except OSError:
            try:
                os.unlink(full)
            except OSError:
                pass
            raise

    def _keep_name(self, source: str, target: str) -> None:
        """After a durable file was moved: make its new name survive a power loss too."""
        with self._lock:
            if source not in self._durable:
                return
            self._durable.discard(source)
        descriptor = os.open(os.path.dirname(self._path(target)), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some shares cannot, and need not, flush a folder
                raise
        finally:
            os.close(descriptor)

    def _explain(self, error: OSError, what: str, path: str) -> StoreError:
        return explain_os_error(error, f"cannot {what} {self._where(path)}")


def absolute_path(path: str) -> str:
    """`path` as it is from any directory. Raises `StoreError` where it is relative to one that is gone."""
    try:
        return os.path.abspath(os.path.expanduser(path))
    except FileNotFoundError as error:
        raise StoreError(
            f"cannot tell where {path} is: the current directory was removed; cd to one that is there"
        ) from error


def explain_os_error(error: OSError, what: str) -> StoreError:
    """The store's error for the operating system's: transient or permanent, and what to do."""
    code, reason = error.errno, error.strerror or str(error)
    if code in _TRANSIENT:
        return TransientStoreError(f"{what}: {reason}")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "no permission; give this user the right to write there, or run all roles as one user"
    elif code in (errno.ENOSPC, errno.EDQUOT):
        advice = "disk full or quota used up; make room or raise the quota, then start this role again"
    elif code in (errno.ENAMETOOLONG, errno.ELOOP):
        advice = (
            "choose a shorter name"
            if code == errno.ENAMETOOLONG
            else "it is a symbolic link; use a real file"
        )
    elif code in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
        advice = "a folder is where a file should be, or the reverse; move it away"
    else:
        advice = "check the disk or the mount"
    return PermanentStoreError(f"{what}: {reason}; {advice}")


def _mtime_ms(state: os.stat_result) -> int:
    return state.st_mtime_ns // 1_000_000


def _entry(name: str, state: os.stat_result) -> Entry:
    is_folder = stat_bits.S_ISDIR(state.st_mode)
    return Entry(name, is_folder, 0 if is_folder else state.st_size, _mtime_ms(state))


def _unless_gone(
    function: object, path: str, details: tuple[type[BaseException], BaseException, object]
) -> None:
    """For rmtree: what another process removed meanwhile is no error."""
    if not isinstance(details[1], FileNotFoundError):
        raise details[1]
