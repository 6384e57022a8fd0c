"""Two NameNodes, of which one is active: handed over in the middle of a run, and killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coppice.store import Store
from tests.attacks.runs import AttackedRun
from tests.hdfs.ha import HaCluster

pytestmark = pytest.mark.hdfs


@pytest.fixture(scope="module")
def pair() -> Iterator[HaCluster]:
    """Every test leaves both running and nn1 active."""
    with HaCluster() as cluster:
        yield cluster


def test_a_failover_and_back_in_the_middle_of_a_run_changes_nothing(
    pair: HaCluster, work: str, undisturbed: Store
) -> None:
    run = AttackedRun(pair.webhdfs_url + work).start()
    for old, new in (("nn1", "nn2"), ("nn2", "nn1")):
        pair.failover(old, new)
        assert (pair.state(old), pair.state(new)) == ("standby", "active")
        run.wait_for_scores()
    run.finish(undisturbed)


def test_the_active_namenode_is_killed_and_comes_back_as_standby(
    pair: HaCluster, work: str, undisturbed: Store
) -> None:
    run = AttackedRun(pair.webhdfs_url + work).start()
    pair.namenode.kill()
    run.wait_for_trouble("trying again")
    pair.activate("nn2")
    run.wait_for_scores()
    pair.namenode.start()
    pair.wait_until_ready()
    assert (pair.state("nn1"), pair.state("nn2")) == ("standby", "active")
    run.wait_for_scores()
    pair.standby.kill()  # the other one, too
    pair.activate("nn1")
    run.wait_for_scores()
    pair.standby.start()
    pair.wait_until_ready()
    run.finish(undisturbed)
