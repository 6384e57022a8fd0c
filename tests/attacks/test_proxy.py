"""Between the roles and a real HDFS somebody cuts, delays and repeats requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from coppice.store import TEMPORARY_FOLDER, Store, open_store
from tests.attacks.runs import AttackedRun, check_same
from tests.hdfs.cluster import HdfsCluster
from tests.support.proxy import Proxy, Rule, Seen, Toxin, by_chance, proxied

pytestmark = pytest.mark.hdfs

CHANCES = {
    Toxin.REFUSED: 0.03,
    Toxin.UNANSWERED: 0.03,
    Toxin.HALF_ANSWERED: 0.03,
    Toxin.DELAYED: 0.06,
    Toxin.TWICE: 0.05,
}


def _in_between(cluster: HdfsCluster, rule: Rule) -> AbstractContextManager[Proxy]:
    return proxied(cluster.webhdfs_url.removeprefix("webhdfs://"), cluster.datanode_host, rule)


def _always(toxin: Toxin, *, contents_too: bool = True) -> Rule:
    def rule(seen: Seen) -> Toxin | None:
        return toxin if contents_too or not (seen.to_datanode and seen.operation == "CREATE") else None

    return rule


def test_requests_that_are_cut_delayed_and_repeated_change_nothing(
    frail: HdfsCluster, work: str, undisturbed: Store
) -> None:
    with _in_between(frail, by_chance(CHANCES, seed=1)) as proxy:
        run = AttackedRun(f"webhdfs://{proxy.host}{work}?httpfs=0")
        run.over.set()  # the attack lasts as long as the run does
        run.begin()
        run.crew.join(300)
        suffered = {toxin for _, toxin in proxy.suffered}
    assert suffered == set(CHANCES)
    check_same(open_store(frail.webhdfs_url + work), undisturbed)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(_always(Toxin.TWICE), id="the-second-answer-is-given"),
        # A content that arrives once more after its file was renamed makes a stray under .tmp; one that
        # arrives between its answer and the rename cannot be told from the first, whatever a client does.
        pytest.param(_always(Toxin.AGAIN_LATER, contents_too=False), id="the-first-answer-is-given"),
    ],
)
def test_requests_that_all_reach_the_server_twice_change_nothing(
    frail: HdfsCluster, work: str, undisturbed: Store, rule: Rule
) -> None:
    with _in_between(frail, rule) as proxy:
        run = AttackedRun(f"webhdfs://{proxy.host}{work}?httpfs=0")
        run.over.set()
        run.begin()
        run.crew.join(300)
    assert {operation for operation, _ in proxy.suffered} >= {"CREATE", "RENAME", "DELETE", "SETTIMES"}
    check_same(open_store(frail.webhdfs_url + work), undisturbed)


@pytest.fixture
def doubled(frail: HdfsCluster, work: str) -> Iterator[tuple[Store, Store]]:
    """A store whose every request reaches the server twice, only the second answer being heard; and one on
    the same folder that is left in peace."""
    with _in_between(frail, _always(Toxin.TWICE)) as proxy:
        stores = open_store(f"webhdfs://{proxy.host}{work}?httpfs=0"), open_store(frail.webhdfs_url + work)
        with stores[0], stores[1]:
            yield stores


def test_a_store_believes_no_second_answer(doubled: tuple[Store, Store]) -> None:
    store, rival = doubled
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert not store.create("a", b"1")
    rival.create("b", b"theirs")
    assert not store.create("b", b"ours")
    assert store.rename("a", "claims/ours")
    assert not store.rename("a", "claims/late")
    assert rival.rename("b", "claims/theirs")
    assert not store.rename("b", "claims/too-late")
    store.replace("c", b"1")
    store.replace("c", b"2")
    assert store.read("c") == b"2"
    assert store.stage({"token": b""}).publish("folder", {"solutions": b"1"})
    assert not store.stage({"token": b""}).publish("folder", {"solutions": b"2"})
    assert store.read("folder/solutions") == b"1"
    assert store.touch("c")
    store.delete("c")
    assert rival.stat("c") is None
    assert [entry.name for entry in rival.list("claims")] == ["ours", "theirs"]
    assert rival.list(TEMPORARY_FOLDER) == []
