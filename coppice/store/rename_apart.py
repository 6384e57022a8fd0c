"""A rename that never overwrites, by what the file system has."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from coppice.store.errors import PermanentStoreError

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class RenameApart:
    """Moves files, and folders (`folder`), so that two names never become one.

    By renameat2(RENAME_NOREPLACE) where the C library, the kernel and the file system have it (local disks,
    CIFS). Elsewhere (NFS) by a hard link to the new name and the removal of the old one: of racers from one
    source to different targets all may link, but one removes. `link_only` leaves renameat2 out, for tests.
    """

    def __init__(self, link_only: bool = False) -> None:
        self._renameat2 = None if link_only else _find_renameat2()

    def __call__(self, source: str, target: str) -> bool:
        """Move; False: another caller moved `source` first.

        Raises OSError (FileExistsError where there is a `target`) and, where the file system can do it
        neither way, `PermanentStoreError`.
        """
        return self._at_once(source, target) or _by_link(source, target)

    def folder(self, source: str, target: str) -> None:
        """Move a folder with all in it; `target` must be another name, and not inside it.

        Folders have no hard links, and need none: the ordinary rename, too, refuses a `target` that is a file
        or a folder with something in it. Only an empty folder it replaces.

        Raises OSError: where there is a `target` EEXIST, ENOTEMPTY or (a file) ENOTDIR, where `source` is no
        folder ENOTDIR.
        """
        source += "/"  # which only a folder can end with
        if not self._at_once(source, target):
            os.rename(source, target)

    def _at_once(self, source: str, target: str) -> bool:
        """Move by renameat2; False: there is none here."""
        if self._renameat2 is None:
            return False
        code = self._renameat2(os.fsencode(source), os.fsencode(target))
        if code == 0:
            return True
        if code not in _NO_SUCH_CALL:
            raise OSError(code, os.strerror(code))
        self._renameat2 = None  # this file system never will
        return False


def _find_renameat2() -> Callable[[bytes, bytes], int] | None:
    """The C library's renameat2 as a function that returns an errno, 0 if moved; None if it has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int

    def rename(source: bytes, target: bytes) -> int:
        if function(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE) == 0:
            return 0
        return ctypes.get_errno()

    return rename


def _by_link(source: str, target: str) -> bool:
    inode = os.stat(source, follow_symlinks=False).st_ino
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise PermanentStoreError(
                f"cannot rename {source} without overwriting: this file system has no RENAME_NOREPLACE and "
                f"gave no hard link ({error.strerror}); run all roles as one user, or use another share"
            ) from error
        raise
    try:
        os.unlink(source)
    except FileNotFoundError:  # another caller moved it first
        _take_back(target, inode)
        return False
    except OSError:  # not ours to remove
        _take_back(target, inode)
        raise
    return True


def _take_back(target: str, inode: int) -> None:
    """Remove our link, unless the name means another file by now."""
    try:
        if os.stat(target, follow_symlinks=False).st_ino == inode:
            os.unlink(target)
    except FileNotFoundError:
        pass
