"""What every home promises, primitive by primitive (coppice/store/home.py)."""

from __future__ import annotations

import pytest

from coppice.store import Entry, Home, PermanentStoreError, TooLarge
from tests.support.homes import ON_HDFS, HomeSpec, over_homes

pytestmark = over_homes()

STRANGE_NAMES = (
    "a b",
    "#LATEST",
    "50%",
    "%41",
    "1+1=2",
    "q?x&y",
    "ü€",
    "semi;colon",
    "a'b\"c",
    "tilde~",
    "-dash",
)


def names(home: Home, folder: str) -> list[str]:
    return [entry.name for entry in home.list(folder)]


def test_nothing_is_there_at_first(home: Home) -> None:
    assert home.list("") == []
    assert home.list("no/such") == []
    assert home.stat("") is None
    assert home.stat("a") is None
    assert home.read("a") is None
    assert not home.touch("a")
    assert not home.delete("a")
    assert not home.delete_tree("a")
    assert not home.delete_tree("")
    assert not home.rename("a", "b")
    assert not home.rename_over("a", "b")
    assert not home.rename_folder("a", "b")
    assert not home.put("a", b"", parents=False)
    assert home.stat("") is None  # looking has created nothing


@pytest.mark.parametrize("size", [0, 1, 200, 3_000_000])
def test_content_comes_back_whole(home: Home, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    home.put("deep/er/file.bin", data)
    assert home.read("deep/er/file.bin") == data
    entry = home.stat("deep/er/file.bin")
    assert entry is not None
    assert (entry.name, entry.is_folder, entry.size) == ("file.bin", False, size)
    assert home.list("deep/er") == [entry]
    home.put("deep/er/file.bin", b"other", durable=True)
    assert home.read("deep/er/file.bin") == b"other"


def test_a_put_may_depend_on_its_folder(home: Home) -> None:
    home.make_folder("there")
    assert not home.put("missing/file", b"1", parents=False)
    assert not home.put("there/in/file", b"1", parents=False)
    assert [names(home, ""), names(home, "there")] == [["there"], []]
    assert home.put("there/file", b"1", parents=False)
    assert home.put("there/file", b"2", parents=False)
    assert home.put("file", b"3", parents=False)
    assert home.put("missing/file", b"4")
    assert [home.read(path) for path in ("there/file", "file", "missing/file")] == [b"2", b"3", b"4"]


def test_lists_are_sorted_and_tell_folders(home: Home) -> None:
    for name in ("b", "a10", "a9", "Z"):
        home.put(f"folder/{name}", name.encode())
    home.make_folder("folder/m")
    home.put("folder/m/inner", b"")
    assert names(home, "folder") == sorted(["b", "a10", "a9", "Z", "m"])
    folders = [entry for entry in home.list("folder") if entry.is_folder]
    assert [(entry.name, entry.size) for entry in folders] == [("m", 0)]
    assert names(home, "") == ["folder"]
    root = home.stat("")
    assert root is not None
    assert root.is_folder


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_strange_names_are_taken_literally(home: Home, name: str) -> None:
    home.put(f"in {name}/{name}", name.encode())
    assert names(home, f"in {name}") == [name]
    assert home.read(f"in {name}/{name}") == name.encode()
    assert home.touch(f"in {name}/{name}")
    assert home.rename(f"in {name}/{name}", f"in {name}/new {name}")
    assert home.rename_over(f"in {name}/new {name}", f"in {name}/{name}")
    assert home.rename_folder(f"in {name}", f"{name} in")
    assert home.rename_folder(f"{name} in", f"in {name}")
    assert names(home, f"in {name}") == [name]
    assert home.delete(f"in {name}/{name}")
    assert names(home, f"in {name}") == []


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/etc/passwd", "a//b", "a/", ".", "a:b", "a\nb"])
def test_paths_that_leave_the_root_are_refused(home: Home, path: str) -> None:
    for call in (
        home.list,
        home.stat,
        home.read,
        home.touch,
        home.delete,
        home.delete_tree,
        home.make_folder,
    ):
        with pytest.raises(PermanentStoreError):
            call(path)
    with pytest.raises(PermanentStoreError):
        home.put(path, b"")
    for move in (home.rename, home.rename_over, home.rename_folder):
        with pytest.raises(PermanentStoreError):
            move("a", path)
        with pytest.raises(PermanentStoreError):
            move(path, "a")


def test_the_limit_on_reading(home: Home) -> None:
    home.put("file", b"12345")
    assert home.read("file", max_bytes=5) == b"12345"
    with pytest.raises(TooLarge, match="file"):
        home.read("file", max_bytes=4)


def test_rename_moves_and_never_overwrites(home: Home) -> None:
    home.put("a", b"a")
    home.put("b", b"b")
    home.make_folder("folder")
    assert not home.rename("a", "b")
    assert not home.rename("a", "a")
    assert not home.rename("missing", "c")
    assert not home.rename("a", "no/folder/c")
    assert not home.rename("a", "folder")  # HDFS would move it into the folder
    assert not home.rename("a", "b/c")  # below a file
    assert [home.read("a"), home.read("b"), home.list("folder")] == [b"a", b"b", []]
    assert home.rename("a", "folder/c")
    assert [home.read("a"), home.read("folder/c")] == [None, b"a"]


def test_rename_folder_moves_all_in_it(home: Home) -> None:
    home.put("a/one", b"1")
    home.put("a/in/two", b"2")
    home.make_folder("a/in/empty")
    home.put("a2/three", b"a name that begins like the folder's")
    home.make_folder("b")
    before = [home.list("a"), home.list("a/in")]
    assert home.rename_folder("a", "b/c d")
    assert [home.list("b/c d"), home.list("b/c d/in")] == before  # sizes and times, too
    assert [home.read("b/c d/one"), home.read("b/c d/in/two")] == [b"1", b"2"]
    assert home.stat("a") is None
    assert home.list("a") == []
    assert home.read("a/one") is None
    assert names(home, "") == ["a2", "b"]
    assert home.rename_folder("b/c d/in", "b/e")  # out of a folder
    home.make_folder("a")
    assert home.rename_folder("b/e/empty", "a/empty")
    assert [names(home, "b/e"), names(home, "a")] == [["two"], ["empty"]]


def test_rename_folder_never_overwrites(home: Home) -> None:
    home.put("a/x", b"a")
    home.put("b/y", b"b")
    home.put("file", b"file")
    for target in ("b", "b/y", "file", "a", "no/folder", "file/below"):
        assert not home.rename_folder("a", target)
        assert not home.rename_folder("missing", target)
    assert not home.rename_folder("missing", "new")
    assert not home.rename_folder("a/missing/x", "new")
    with pytest.raises(PermanentStoreError, match="into itself"):
        home.rename_folder("a", "a/in")
    assert [names(home, folder) for folder in ("", "a", "b")] == [["a", "b", "file"], ["x"], ["y"]]
    assert [home.read(path) for path in ("a/x", "b/y", "file")] == [b"a", b"b", b"file"]
    assert home.rename_folder("a", "new")  # after all these refusals


def test_an_empty_folder_in_the_way_is_kept_or_replaced(home: Home, home_spec: HomeSpec) -> None:
    home.put("a/x", b"a")
    home.make_folder("empty")
    replaced = home.rename_folder("a", "empty")
    assert replaced == (home_spec.kind == "folder-by-link")
    assert names(home, "a") == ([] if replaced else ["x"])
    assert names(home, "empty") == (["x"] if replaced else [])


def test_a_file_that_is_moved_as_a_folder_overwrites_nothing(home: Home, home_spec: HomeSpec) -> None:
    home.put("a", b"a")
    home.put("file", b"file")
    home.put("folder/x", b"x")
    assert not home.rename_folder("a", "file")
    assert not home.rename_folder("a", "folder")
    assert [home.read("a"), home.read("file"), names(home, "folder")] == [b"a", b"file", ["x"]]
    assert home.rename_folder("a", "b") == (home_spec.kind in ON_HDFS)


def test_rename_over_replaces(home: Home) -> None:
    home.put("a", b"a")
    home.put("b", b"b")
    assert not home.rename_over("missing", "b")
    assert not home.rename_over("a", "no/folder/c")
    assert [home.read("a"), home.read("b")] == [b"a", b"b"]
    assert home.rename_over("a", "b")
    assert [home.read("a"), home.read("b")] == [None, b"a"]
    assert home.rename_over("b", "new")
    assert names(home, "") == ["new"]
    home.make_folder("folder")
    with pytest.raises(PermanentStoreError):
        home.rename_over("new", "folder")
    assert home.read("new") == b"a"


def test_touch_always_changes_the_time_and_nothing_else(home: Home) -> None:
    home.put("file", b"content")
    seen = {entry.mtime_ms for entry in home.list("")}
    for count in range(2, 7):
        assert home.touch("file")
        seen |= {entry.mtime_ms for entry in home.list("")}
        assert len(seen) == count
    assert home.read("file") == b"content"
    moved_at = home.list("")[0].mtime_ms
    assert home.rename("file", "moved")
    assert home.list("") == [Entry("moved", False, 7, moved_at)]


def test_deleting(home: Home) -> None:
    home.put("folder/a", b"a")
    home.put("folder/in/b", b"b")
    home.put("folder2", b"a name that begins like the folder's")
    with pytest.raises(PermanentStoreError):
        home.delete("folder")
    assert home.delete("folder/a")
    assert not home.delete("folder/a")
    assert not home.delete("folder/in/b/c")  # below a file
    home.make_folder("empty")
    assert home.delete("empty")
    home.put("file", b"")
    assert home.delete_tree("file")
    assert home.delete_tree("folder")
    assert not home.delete_tree("folder")
    assert names(home, "") == ["folder2"]
    assert home.delete_tree("")
    assert home.stat("") is None


def test_making_folders(home: Home) -> None:
    home.make_folder("")
    home.make_folder("a/b/c")
    home.make_folder("a/b/c")
    assert names(home, "a/b") == ["c"]
    home.put("file", b"")
    for path in ("file", "file/below"):
        with pytest.raises(PermanentStoreError):
            home.make_folder(path)


def test_a_folder_is_no_file(home: Home) -> None:
    home.make_folder("folder")
    with pytest.raises(PermanentStoreError, match="folder"):
        home.read("folder")
    with pytest.raises(PermanentStoreError, match="folder"):
        home.put("folder", b"")
    home.put("file", b"")
    assert home.list("file") == []
    assert home.list("file/below") == []
    assert home.stat("file/below") is None
    assert home.read("file/below") is None
    with pytest.raises(PermanentStoreError):
        home.put("file/below", b"")


def test_two_homes_see_each_other_at_once(home: Home, home_spec: HomeSpec) -> None:
    other = home_spec.open()
    try:
        home.put("file", b"1")
        assert other.read("file") == b"1"
        assert other.rename("file", "moved")
        assert names(home, "") == ["moved"]
    finally:
        other.close()
