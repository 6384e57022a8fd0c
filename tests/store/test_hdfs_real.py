"""A real HDFS that refuses, stops, is killed and comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from coppice.store import (
    Entry,
    PermanentStoreError,
    Retry,
    Staging,
    Store,
    TransientStoreError,
    open_store,
)
from coppice.store.hdfs import HdfsHome
from tests.hdfs.cluster import HdfsCluster
from tests.support.clocks import FakeClock
from tests.support.homes import HomeSpec, over_homes

pytestmark = pytest.mark.hdfs

both = over_homes("webhdfs", "httpfs")
webhdfs = over_homes("webhdfs")


@pytest.fixture
def cluster(hdfs_cluster: HdfsCluster) -> Iterator[HdfsCluster]:
    """The HDFS, put right again after the test."""
    yield hdfs_cluster
    hdfs_cluster.namenode.signal(signal.SIGCONT)
    hdfs_cluster.namenode.start()
    hdfs_cluster.datanode.start()
    hdfs_cluster.wait_until_ready()


def path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def as_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


class Rescue:
    """Opens a store whose first wait lets `act` happen, so that the second try meets a better world."""

    def __init__(self, url: str, act: Callable[[], object]) -> None:
        self.told: list[str | None] = []

        def rescue(number: int) -> None:
            if number == 1:
                act()

        clock = FakeClock(on_sleep=rescue)
        self.store = open_store(url, clock=clock, retry=Retry(patience_s=100.0), on_trouble=self.told.append)
        self.clock = clock


@both
def test_the_shell_sees_what_we_wrote(store: Store, home_spec: HomeSpec, cluster: HdfsCluster) -> None:
    store.create("new_itr.txt", b"1001\n")
    store.replace("odd name 50%.txt", b"x")
    assert cluster.fs("-cat", f"{path_of(home_spec.url)}/new_itr.txt") == "1001\n"
    shown = cluster.fs("-ls", "-C", path_of(home_spec.url))
    assert shown.split("\n") == [f"{path_of(home_spec.url)}/{name}" for name in (".tmp", "new_itr.txt")] + [
        f"{path_of(home_spec.url)}/odd name 50%.txt",
        "",
    ]


@webhdfs
def test_what_each_method_asks_of_the_namenode(store: Store, home_spec: HomeSpec) -> None:
    home = home_spec.open()
    assert isinstance(home, HdfsHome)
    with Store(home) as counted:
        counted.create("claims/warm", b"")
        counted.rename("claims/warm", "claims/a")
        staged, tokens = list[Staging](), {"a": b"", "b": b"", "c": b"1"}
        expected: dict[str, tuple[Callable[[], object], dict[str, int]]] = {
            "create": (lambda: counted.create("new", b"1"), {"CREATE": 1, "datanode": 1, "RENAME": 1}),
            "replace": (lambda: counted.replace("new", b"2"), {"CREATE": 1, "datanode": 1, "RENAME": 1}),
            "read": (lambda: counted.read("new"), {"OPEN": 1, "datanode": 1}),
            "claim": (lambda: counted.rename("new", "claims/new"), {"RENAME": 1}),
            "lost claim": (lambda: counted.rename("new", "claims/new2"), {"RENAME": 1, "GETFILESTATUS": 1}),
            "stage": (lambda: staged.append(counted.stage(tokens)), {"CREATE": 3, "datanode": 3}),
            "publish": (
                lambda: staged.pop().publish("claims/folder", {"more": b"1"}),
                {"CREATE": 1, "datanode": 1, "RENAME": 1},
            ),
            "list": (lambda: counted.list("claims"), {"LISTSTATUS": 1}),
            "stat": (lambda: counted.stat("claims/new"), {"GETFILESTATUS": 1}),
            "touch": (lambda: counted.touch("claims/new"), {"SETTIMES": 1}),
            "delete": (lambda: counted.delete("claims/new"), {"DELETE": 1}),
            "delete_tree": (lambda: counted.delete_tree("claims"), {"DELETE": 1}),
        }
        for name, (act, calls) in expected.items():
            before = home.calls.copy()
            act()
            assert (name, dict(home.calls - before)) == (name, calls)


@both
def test_no_permission(store: Store, home_spec: HomeSpec, cluster: HdfsCluster) -> None:
    store.create("file", b"1")
    cluster.fs("-chmod", "755", path_of(home_spec.url))
    clock = FakeClock()
    with open_store(as_user(home_spec.url, "bob"), clock=clock) as bobs:
        assert bobs.read("file") == b"1"
        changes: list[Callable[[], object]] = [
            lambda: bobs.create("new", b""),
            lambda: bobs.delete("file"),
            lambda: bobs.rename("file", "x"),
        ]
        for act in changes:
            with pytest.raises(PermanentStoreError, match="no permission for bob"):
                act()
        cluster.fs("-chmod", "700", path_of(home_spec.url))
        looks: list[Callable[[], object]] = [
            bobs.list,
            lambda: bobs.read("file"),
            lambda: bobs.stat("file"),
        ]
        for look in looks:
            with pytest.raises(PermanentStoreError, match="no permission for bob"):
                look()
    assert clock.slept == []


@both
def test_quotas(store: Store, home_spec: HomeSpec, cluster: HdfsCluster) -> None:
    store.make_folder()
    cluster.admin("-setSpaceQuota", "1m", path_of(home_spec.url))
    with pytest.raises(PermanentStoreError, match="quota"):
        store.create("file", b"1")
    cluster.admin("-clrSpaceQuota", path_of(home_spec.url))
    assert store.create("file", b"1")
    cluster.admin("-setQuota", "3", path_of(home_spec.url))  # root, .tmp, file
    with pytest.raises(PermanentStoreError, match="quota"):
        store.create("file2", b"1")
    with pytest.raises(PermanentStoreError, match="quota"):
        store.make_folder("folder")
    assert store.read("file") == b"1"


@both
def test_safe_mode_is_waited_for(home_spec: HomeSpec, cluster: HdfsCluster) -> None:
    rescue = Rescue(home_spec.url, lambda: cluster.admin("-safemode", "leave"))
    cluster.admin("-safemode", "enter")
    try:
        assert rescue.store.create("file", b"1")
    finally:
        cluster.admin("-safemode", "leave")
    assert rescue.told[0] is not None
    assert "safe mode" in rescue.told[0]
    assert rescue.told[1:] == [None]
    assert rescue.store.read("file") == b"1"


@webhdfs
def test_a_namenode_that_is_down_at_the_start_is_waited_for(
    home_spec: HomeSpec, cluster: HdfsCluster
) -> None:
    def start() -> None:
        cluster.namenode.start()
        cluster.wait_until_ready()

    cluster.namenode.stop()
    rescue = Rescue(home_spec.url, start)
    assert rescue.store.list() == []
    assert rescue.told[0] is not None
    assert "refuses the connection" in rescue.told[0]
    assert rescue.store.create("file", b"1")


@webhdfs
def test_a_namenode_killed_midway_loses_nothing_that_was_done(
    store: Store, home_spec: HomeSpec, cluster: HdfsCluster
) -> None:
    assert store.create_many((f"before/{index}", b"b") for index in range(5)) == [True] * 5
    assert store.rename("before/0", "claims/0")

    def start() -> None:
        cluster.namenode.start()
        cluster.wait_until_ready()

    rescue = Rescue(home_spec.url, start)
    assert len(rescue.store.list("before")) == 4  # its connections are open
    cluster.namenode.kill()
    assert rescue.store.rename("before/1", "claims/1")
    assert rescue.store.create("after", b"a")
    assert [entry.name for entry in store.list("claims")] == ["0", "1"]
    assert store.read_many([f"before/{index}" for index in range(5)]) == [None, None, b"b", b"b", b"b"]


@webhdfs
@pytest.mark.parametrize("act", ["rename", "create", "replace", "publish"])
def test_a_reply_that_is_really_lost_is_resolved_by_looking(
    act: str, store: Store, home_spec: HomeSpec, cluster: HdfsCluster
) -> None:
    """The NameNode is stopped until we give up waiting, then does what it had been asked for."""
    store.create("solution", b"1")
    store.make_folder("claims")
    rescue = Rescue(f"{home_spec.url}?timeout_s=1", lambda: cluster.namenode.signal(signal.SIGCONT))
    home = rescue.store.home
    primitive = {"replace": "rename_over", "publish": "rename_folder"}.get(act, "rename")
    original = getattr(home, primitive)

    def paused(source: str, target: str) -> bool:
        setattr(home, primitive, original)
        cluster.namenode.signal(signal.SIGSTOP)
        return bool(original(source, target))

    assert rescue.store.stat("solution") is not None  # a connection is open, so the request gets through
    setattr(home, primitive, paused)
    if act == "rename":
        assert rescue.store.rename("solution", "claims/solution")
        assert store.read("claims/solution") == b"1"
    elif act == "create":
        assert rescue.store.create("new", b"2")
        assert store.read("new") == b"2"
    elif act == "publish":
        assert rescue.store.stage({"a": b"2"}).publish("folder", {"b": b"3"})
        assert store.read_many(["folder/a", "folder/b"]) == [b"2", b"3"]
    else:
        rescue.store.replace("solution", b"2")
        assert store.read("solution") == b"2"
    assert rescue.told[0] is not None
    assert "did not answer in time" in rescue.told[0]
    assert store.list(".tmp") == []


@over_homes("httpfs")
@pytest.mark.parametrize("lost", [False, True])
def test_a_folder_that_lost_a_race_on_an_httpfs_is_not_left_in_the_winners(
    store: Store, home_spec: HomeSpec, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves into a folder that appears just after we have looked."""
    home, look, looked = store.home, store.home.stat, list[str]()
    home.put("theirs/y", b"")

    def rivalled(path: str) -> Entry | None:
        looked.append(path)
        found = look(path)
        if looked == ["target"]:
            with Store(home_spec.open()) as rival:
                assert rival.home.rename_folder("theirs", "target")
        elif lost and len(looked) == 2:
            raise TransientStoreError("reply lost, says the test")
        return found

    monkeypatch.setattr(home, "stat", rivalled)
    if lost:
        assert not store.stage({"x": b""}).publish("target")
    else:
        home.put("ours/x", b"")
        assert not home.rename_folder("ours", "target")
        assert [entry.name for entry in store.list("ours")] == ["x"]
    assert looked[1].startswith("target/")
    assert [entry.name for entry in store.list("target")] == ["y"]
    assert store.list(".tmp") == []


@webhdfs
def test_a_datanode_that_is_away_is_waited_for(
    store: Store, home_spec: HomeSpec, cluster: HdfsCluster
) -> None:
    store.create("file", b"1")

    def start() -> None:
        cluster.datanode.start()
        cluster.wait_until_ready()

    cluster.datanode.kill()
    assert Rescue(home_spec.url, start).store.read("file") == b"1"
    cluster.datanode.kill()
    assert Rescue(home_spec.url, start).store.create("file2", b"2")
    assert store.read("file2") == b"2"
