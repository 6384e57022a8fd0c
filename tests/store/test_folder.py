"""What is particular about a home in a folder."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from coppice.store import PermanentStoreError, Retry, Store, TransientStoreError, open_store
from coppice.store.folder import FolderHome, explain_os_error


def refusing(rmdir: Callable[..., None], refused: str, code: int) -> Callable[..., None]:
    """`os.rmdir`, but it fails for the folder `refused`."""

    def act(path: str, **more: int) -> None:
        if path == refused:
            raise OSError(code, os.strerror(code))
        rmdir(path, **more)

    return act


def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(secret)
    (root / "file").symlink_to(secret / "key")
    home = FolderHome(root)
    assert home.list("") == []
    for path in ("file", "folder/key", "folder"):
        with pytest.raises(PermanentStoreError, match="symbolic link"):
            home.read(path)
    for call in (home.stat, home.touch, home.list):
        with pytest.raises(PermanentStoreError, match="symbolic link"):
            call("folder/key")
    with pytest.raises(PermanentStoreError, match="symbolic link"):
        home.put("file", b"overwritten")
    assert (secret / "key").read_text() == "secret"
    home.delete_tree("")
    assert (secret / "key").read_text() == "secret"


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = Store(FolderHome(tmp_path / "link"))
    store.create("file", b"1")
    assert (tmp_path / "real" / "file").read_bytes() == b"1"
    assert store.delete_tree("")
    assert list((tmp_path / "link").iterdir()) == []  # neither the link nor what it leads to is ours
    assert not store.list()


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS])
def test_an_empty_root_that_may_not_go_stays(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point, or a folder that somebody else made for us."""
    monkeypatch.setattr(os, "rmdir", refusing(os.rmdir, str(tmp_path), code))
    store = open_store(str(tmp_path), retry=Retry(patience_s=0.0))
    store.create("folder/file", b"1")
    assert store.delete_tree("")
    assert list(tmp_path.iterdir()) == []
    if code == errno.EBUSY:  # what is in it has to go
        store.create("folder/file", b"1")
        monkeypatch.setattr(os, "rmdir", refusing(os.rmdir, str(tmp_path / "folder"), code))
        with pytest.raises(TransientStoreError):
            store.delete_tree("")


def test_what_is_written_into_a_root_as_it_goes_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmdir = os.rmdir

    def too_late(path: str, **more: int) -> None:
        (tmp_path / "next run").write_bytes(b"1")
        rmdir(path, **more)

    monkeypatch.setattr(os, "rmdir", too_late)
    assert open_store(str(tmp_path), retry=Retry(patience_s=0.0)).delete_tree("")
    assert (tmp_path / "next run").read_bytes() == b"1"


def test_a_closing_slash_is_not_shown_twice(tmp_path: Path) -> None:
    assert open_store("w32/").url == "w32"
    assert open_store(f"file://{tmp_path}/").url == str(tmp_path)
    assert open_store("/").url == "/"


def test_links_to_a_name_that_is_moved_meanwhile_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = FolderHome(tmp_path, link_only=True)
    home.put("source", b"1")
    unlink = os.unlink

    def slow_unlink(path: str) -> None:  # a rival's rename comes between our link and our unlink
        monkeypatch.setattr(os, "unlink", unlink)
        os.rename(tmp_path / "source", tmp_path / "rival")
        unlink(path)

    monkeypatch.setattr(os, "unlink", slow_unlink)
    assert not home.rename("source", "ours")
    assert os.listdir(tmp_path) == ["rival"]


def test_a_share_without_the_call_falls_back_to_links(tmp_path: Path) -> None:
    home = FolderHome(tmp_path)
    asked = []

    def unsupported(source: bytes, target: bytes) -> int:
        asked.append(target)
        return errno.EINVAL  # what NFS says

    home._rename_apart._renameat2 = unsupported
    home.put("a", b"a")
    home.put("b", b"b")
    assert not home.rename("a", "b")
    assert home.rename("a", "c")
    assert len(asked) == 1  # once is enough to know
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_a_share_without_the_call_moves_folders_by_rename(tmp_path: Path) -> None:
    home = FolderHome(tmp_path)
    home._rename_apart._renameat2 = lambda source, target: errno.EINVAL
    home.put("a/x", b"a")
    home.put("b/y", b"b")
    home.put("file", b"")
    assert not home.rename_folder("a", "b")
    assert not home.rename_folder("a", "file")
    assert not home.rename_folder("a", "a")
    assert not home.rename_folder("file", "c")
    assert home.rename_folder("a", "c")
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "file"]


def test_no_link_is_moved_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for home in (FolderHome(tmp_path), FolderHome(tmp_path, link_only=True)):
        assert not home.rename_folder("link", "moved")
        with pytest.raises(PermanentStoreError, match="symbolic link"):
            home.rename_folder("real", "link/moved")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_a_share_that_can_do_neither_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = FolderHome(tmp_path, link_only=True)
    home.put("a", b"a")

    def no_links(*args: object, **options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(PermanentStoreError, match="without overwriting"):
        home.rename("a", "b")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EACCES, "permission"),
        (errno.EROFS, "permission"),
        (errno.ENOSPC, "full or quota"),
        (errno.EDQUOT, "full or quota"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.EISDIR, "folder"),
    ],
)
def test_permanent_errors_say_what_to_do(code: int, advice: str) -> None:
    error = explain_os_error(OSError(code, os.strerror(code)), "cannot write /mnt/work/x")
    assert isinstance(error, PermanentStoreError)
    assert advice in str(error)
    assert str(error).startswith("cannot write /mnt/work/x")
    assert "\n" not in str(error)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR])
def test_what_a_share_says_in_passing_is_transient(code: int) -> None:
    assert isinstance(explain_os_error(OSError(code, "x"), "cannot read"), TransientStoreError)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(PermanentStoreError, match="shorter name"):
        open_store(str(tmp_path)).create("x" * 300, b"")
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_disk_that_fills_up_leaves_no_part(tmp_path: Path) -> None:
    home = FolderHome(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails and we live on
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(PermanentStoreError, match="cannot write"):
            home.put("file", b"x" * 2000)  # the first 1000 bytes are written
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_ordinary_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    home = FolderHome(tmp_path)
    with pytest.raises(PermanentStoreError, match="no ordinary file"):
        home.read("pipe")
    with pytest.raises(PermanentStoreError, match="pipe"):
        home.put("pipe", b"x")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_files_can_be_shared_with_other_users(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        open_store(str(tmp_path)).create("file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "file").st_mode) == 0o664


def test_another_users_file_is_touched_if_we_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = FolderHome(tmp_path)
    home.put("file", b"")
    utime = os.utime

    def not_the_owner(path: str, times: None = None, ns: tuple[int, int] | None = None) -> None:
        if ns is not None:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        utime(path)

    os.utime(tmp_path / "file", (1, 1))
    monkeypatch.setattr(os, "utime", not_the_owner)
    assert home.touch("file")
    assert os.stat(tmp_path / "file").st_mtime > 1


def test_durable_files_are_flushed_with_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    store = open_store(str(tmp_path))
    store.make_folder("sub")
    store.create("sub/cheap", b"1")
    assert flushed == []
    store.create("sub/dear", b"1", durable=True)
    assert [Path(each).parent.name for each in flushed] == [".tmp", tmp_path.name]
    assert Path(flushed[1]).name == "sub"
    store.replace("sub/dear", b"2", durable=True)
    assert len(flushed) == 4
