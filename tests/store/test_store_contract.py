"""What `Store` promises on every home when nothing fails."""

from __future__ import annotations

import pytest

from coppice.store import TEMPORARY_FOLDER, PermanentStoreError, Store
from tests.support.failing_home import FailingHome, nothing
from tests.support.homes import HomeSpec, over_homes

pytestmark = over_homes()


def names(store: Store, folder: str = "") -> list[str]:
    return [entry.name for entry in store.list(folder) if entry.name != TEMPORARY_FOLDER]


def test_create_takes_a_name_once(store: Store) -> None:
    assert store.create("sub/file", b"first")
    assert not store.create("sub/file", b"second")
    assert store.read("sub/file") == b"first"
    assert names(store, "sub") == ["file"]
    assert store.list(TEMPORARY_FOLDER) == []


def test_replace_takes_any_name(store: Store) -> None:
    store.replace("sub/file", b"first")
    store.replace("sub/file", b"second", durable=True)
    assert store.read("sub/file") == b"second"
    assert names(store, "sub") == ["file"]
    assert store.list(TEMPORARY_FOLDER) == []


def test_rename_makes_the_folder(store: Store) -> None:
    store.create("file", b"1")
    assert store.rename("file", "claims/deep/file")
    assert not store.rename("file", "claims/deep/file2")
    assert not store.rename("file", "other/file")  # no source: no folder is made for it either
    assert names(store) == ["claims"]


def test_moving_into_a_folder_never_makes_it(store: Store) -> None:
    store.create("file", b"1")
    store.create("folder/inside", b"2")
    assert not store.move_into("away", "file")
    assert not store.move_into("away", "folder", is_folder=True)
    store.make_folder("away")
    assert store.move_into("away", "file")
    assert store.move_into("away", "folder", is_folder=True)
    assert not store.move_into("away", "file")
    store.create("file", b"new")
    assert not store.move_into("away", "file")
    assert [store.read("away/file"), store.read("away/folder/inside"), store.read("file")] == [
        b"1",
        b"2",
        b"new",
    ]


def test_a_folder_that_others_removed_is_made_again(store: Store, home_spec: HomeSpec) -> None:
    store.create("claims/a", b"a")
    with Store(home_spec.open()) as other:
        other.delete_tree("claims")
    assert store.create("claims/b", b"b")
    assert names(store, "claims") == ["b"]


def test_a_folder_in_the_way_is_told_and_leaves_nothing_behind(store: Store) -> None:
    store.make_folder("taken")
    assert not store.create("taken", b"")
    with pytest.raises(PermanentStoreError, match="taken"):
        store.replace("taken", b"")
    store.create("file", b"")
    with pytest.raises(PermanentStoreError, match="file"):
        store.create("file/below", b"")
    assert store.list(TEMPORARY_FOLDER) == []


def test_many_at_once_keep_the_order(store: Store) -> None:
    files = [(f"many/{index:02}", str(index).encode()) for index in range(20)]
    paths = [path for path, _ in files]
    assert store.create_many(files) == [True] * 20
    assert store.create_many([*files[:2], ("many/new", b"")]) == [False, False, True]
    assert store.read_many([*paths, "many/missing"]) == [*(data for _, data in files), None]
    assert store.delete_many([*paths, "many/missing"]) == [*[True] * 20, False]
    assert names(store, "many") == ["new"]
    assert store.read_many([]) == []


def test_many_raise_the_first_error_after_all_have_ended(store: Store) -> None:
    store.make_folder("folder")
    files = [("a", b""), ("a/../b", b""), ("folder/x/../y", b""), ("c", b"")]
    with pytest.raises(PermanentStoreError, match=r"a/\.\./b"):
        store.create_many(files)
    assert names(store) == ["a", "c", "folder"]


def test_a_staged_folder_is_seen_whole_or_not_at_all(store: Store) -> None:
    files = {f"token {index:02}": b"" for index in range(20)}
    staging = store.stage(files)
    assert names(store) == []
    assert staging.publish("generations/deep/one", {"solutions": b"s" * 1000})  # makes the parent folder
    assert names(store, "generations/deep/one") == ["solutions", *files]
    assert store.read("generations/deep/one/solutions") == b"s" * 1000
    assert store.list(TEMPORARY_FOLDER) == []
    staging.discard()  # no harm
    with pytest.raises(RuntimeError):
        staging.publish("again")
    assert names(store, "generations/deep/one") == ["solutions", *files]


def test_a_staged_folder_takes_a_name_once(store: Store) -> None:
    assert store.stage({"a": b"first"}).publish("sub/one")
    assert not store.stage({"a": b"second", "b": b"2"}).publish("sub/one", {"c": b"3"})
    store.create("file", b"kept")
    assert not store.stage().publish("file", {"a": b""})
    assert [names(store), names(store, "sub"), names(store, "sub/one")] == [["file", "sub"], ["one"], ["a"]]
    assert [store.read("sub/one/a"), store.read("file")] == [b"first", b"kept"]
    assert store.list(TEMPORARY_FOLDER) == []


def test_a_staged_folder_may_be_given_up(store: Store) -> None:
    staging = store.stage({"a": b"1"})
    staging.discard()
    staging.discard()
    with pytest.raises(RuntimeError):
        staging.publish("one")
    store.stage().discard()  # nothing was written
    assert names(store) == []
    assert store.list(TEMPORARY_FOLDER) == []


@pytest.mark.parametrize("moment", ["before it is published", "before it is published with more"])
def test_a_staged_folder_that_others_removed_is_written_again(
    store: Store, home_spec: HomeSpec, moment: str
) -> None:
    staging = store.stage({"a": b"1", "b": b"2"})
    with Store(home_spec.open()) as other:
        other.delete_tree(TEMPORARY_FOLDER)
    more = {"c": b"3"} if moment.endswith("more") else {}
    assert staging.publish("sub/one", more)
    assert names(store, "sub/one") == ["a", "b", *more]
    assert store.read_many(["sub/one/a", "sub/one/b"]) == [b"1", b"2"]
    assert store.list(TEMPORARY_FOLDER) == []


def test_what_cannot_be_staged_leaves_nothing_behind(store: Store) -> None:
    store.create("file", b"")
    for bad in ("a/b", "", ".."):
        with pytest.raises(PermanentStoreError):
            store.stage({"a": b"", bad: b""})
        staging = store.stage({"a": b""})
        with pytest.raises(PermanentStoreError):
            staging.publish("one", {bad: b""})
        staging.discard()
    with pytest.raises(PermanentStoreError, match="no files"):
        store.stage().publish("one")
    with pytest.raises(PermanentStoreError, match="file"):
        store.stage({"a": b""}).publish("file/below")
    assert names(store) == ["file"]
    assert store.list(TEMPORARY_FOLDER) == []


def test_the_good_path_asks_as_little_as_can_be(home_spec: HomeSpec) -> None:
    home = FailingHome(home_spec.open(), nothing)
    with Store(home) as store:
        store.make_folder("claims")
        store.create("warm", b"")
        home.log.clear()
        store.create("a", b"a")
        assert home.operations == ["put", "rename"]
        home.log.clear()
        store.replace("a", b"b")
        assert home.operations == ["put", "rename_over"]
        home.log.clear()
        store.rename("a", "claims/a")
        store.rename("a", "claims/b")  # a lost race, in a folder that was seen
        assert home.operations == ["rename", "rename", "stat"]
        home.log.clear()
        staging = store.stage({"a": b"a", "b": b""})
        assert home.operations == ["put", "put"]
        staging.publish("claims/folder", {"c": b"c"})
        assert home.operations == ["put", "put", "put", "rename_folder"]
        assert store.stage().publish("claims/folder2", {"c": b"c"})
        assert home.operations[4:] == ["put", "rename_folder"]


def test_deleting_the_root_removes_everything(store: Store) -> None:
    store.create("a/b", b"")
    assert store.delete_tree("")
    assert store.stat("") is None
    assert store.create("a/b", b"again")
