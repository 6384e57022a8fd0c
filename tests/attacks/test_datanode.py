"""The only DataNode goes away or hangs in the middle of a run: names can be moved, contents cannot."""

from __future__ import annotations

import signal
import time

import pytest

from coppice.store import Store
from tests.attacks.runs import AttackedRun
from tests.hdfs.cluster import HdfsCluster

pytestmark = pytest.mark.hdfs


def test_the_only_datanode_goes_away_and_comes_back(
    frail: HdfsCluster, work: str, undisturbed: Store
) -> None:
    run = AttackedRun(frail.webhdfs_url + work).start()
    frail.datanode.stop()
    run.wait_for_trouble()  # sooner or later somebody needs a content
    frail.datanode.start()
    frail.wait_until_ready()
    run.finish(undisturbed)


def test_a_datanode_that_hangs_writes_late_what_was_given_up_and_nothing_changes(
    frail: HdfsCluster, work: str, undisturbed: Store
) -> None:
    run = AttackedRun(f"{frail.webhdfs_url}{work}?timeout_s=0.5").start()
    for _ in range(2):
        frail.datanode.signal(signal.SIGSTOP)
        try:
            run.wait_for_more_trouble()
            time.sleep(1.5)  # so that several tries of the same content lie in its queue
        finally:
            frail.datanode.signal(signal.SIGCONT)
        run.wait_for_scores(1)
    run.wait_for_trouble("did not answer in time")
    run.finish(undisturbed)
