"""A real HDFS that fails under a run: each failure has a clear outcome and none changes the result."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.roles.evaluator import MakeScorer
from coppice.roles.master import master
from coppice.store import PermanentStoreError, Retry, Store, open_store
from coppice.work import names
from tests.hdfs.cluster import HdfsCluster
from tests.roles.threads import Crew, HastyClock, context, history_of, result_of, run_all, small_run
from tests.support.standins import CheapScorer

pytestmark = pytest.mark.hdfs

PATIENT = Retry(patience_s=100_000.0)
"""The roles' clock is hasty."""
OUTAGE_S = 20.0


class SlowScorer(CheapScorer):
    """Makes the run last long enough to be disturbed."""

    def score(self, crates: Float64s, tick: Tick) -> Score:
        time.sleep(0.05)
        return super().score(crates, tick)


def _held_until(event: threading.Event) -> MakeScorer:
    class HeldScorer(CheapScorer):
        def score(self, crates: Float64s, tick: Tick) -> Score:
            while not event.wait(0.05):
                tick()
            return super().score(crates, tick)

    return HeldScorer


@pytest.fixture(scope="module")
def frail_cluster() -> Iterator[HdfsCluster]:
    """A cluster of this module's own, to be stopped and starved; every test leaves it running."""
    with HdfsCluster(httpfs=False) as cluster:
        yield cluster


@pytest.fixture
def work(frail_cluster: HdfsCluster) -> str:
    """The path of a work folder of this test's own."""
    return f"/shared/frail-{uuid.uuid4().hex[:8]}"


def _opener(cluster: HdfsCluster, path: str, troubles: list[str] | None = None) -> Callable[[], Store]:
    def trouble(line: str | None) -> None:
        if troubles is not None and line is not None:
            troubles.append(line)

    return lambda: open_store(
        cluster.webhdfs_url + path, clock=HastyClock(), retry=PATIENT, on_trouble=trouble
    )


def _same(store: Store, undisturbed: Store) -> None:
    assert history_of(store) == history_of(undisturbed)
    assert result_of(store) == result_of(undisturbed)


def test_a_namenode_that_is_down_at_the_start_is_waited_for(
    frail_cluster: HdfsCluster, work: str, undisturbed: Store
) -> None:
    frail_cluster.namenode.stop()
    troubles: list[str] = []
    crew = Crew(_opener(frail_cluster, work, troubles))
    crew.start_all(small_run())
    while len(troubles) < 5:  # all roles have met it
        time.sleep(0.05)
    frail_cluster.namenode.start()
    frail_cluster.wait_until_ready()
    crew.join(180)
    _same(_opener(frail_cluster, work)(), undisturbed)


def test_a_namenode_that_goes_away_for_twenty_seconds_changes_nothing(
    frail_cluster: HdfsCluster, work: str, undisturbed: Store
) -> None:
    troubles: list[str] = []
    crew = Crew(_opener(frail_cluster, work, troubles))
    crew.start_all(small_run(), make_scorer=SlowScorer)
    store = _opener(frail_cluster, work)()
    while not store.list(names.GENERATIONS):
        time.sleep(0.01)
    frail_cluster.namenode.stop()
    time.sleep(OUTAGE_S)
    frail_cluster.namenode.start()
    frail_cluster.wait_until_ready()
    crew.join(180)
    assert troubles
    _same(store, undisturbed)


def test_a_full_quota_ends_the_roles_with_a_line_and_raising_it_lets_the_run_go_on(
    frail_cluster: HdfsCluster, work: str, undisturbed: Store
) -> None:
    opener = _opener(frail_cluster, work)
    crew = Crew(opener)
    quota_is_full = threading.Event()
    crew.start_all(small_run(), make_scorer=_held_until(quota_is_full))
    store = opener()
    while not store.list(names.GENERATIONS):
        time.sleep(0.01)
    frail_cluster.admin("-setSpaceQuota", "1", work)  # takes seconds, in which the run must not end
    quota_is_full.set()
    while not {"ncs", "outer"} & set(crew.errors):
        time.sleep(0.1)
    crew.stopping.set()  # the others would wait for them to be started again
    for thread in crew.threads:
        thread.join(60)
    for error in crew.errors.values():
        assert isinstance(error, PermanentStoreError)
        assert "quota" in str(error)
        assert "\n" not in str(error)
    frail_cluster.admin("-clrSpaceQuota", work)
    run_all(opener, small_run())
    _same(store, undisturbed)


def test_a_work_folder_without_permission_ends_the_master_with_a_line(
    frail_cluster: HdfsCluster, work: str
) -> None:
    frail_cluster.fs("-mkdir", "-p", work)
    frail_cluster.fs("-chmod", "700", work)
    server = frail_cluster.webhdfs_url.removeprefix("webhdfs://")
    stranger: Any = context(lambda: open_store(f"webhdfs://stranger@{server}{work}"))
    with pytest.raises(PermanentStoreError, match=r"(?i)permission") as refused:
        master(stranger, small_run())
    assert "stranger" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert open_store(frail_cluster.webhdfs_url + work).stat(names.RUN) is None
