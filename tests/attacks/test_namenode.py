"""The NameNode goes away, is in safe mode or hangs in the middle of a run."""

from __future__ import annotations

import signal
import time

import pytest

from coppice.store import Store
from tests.attacks.runs import PATIENCE_S, AttackedRun
from tests.hdfs.cluster import HdfsCluster
from tests.hdfs.service import until

pytestmark = pytest.mark.hdfs


def test_a_namenode_that_is_restarted_and_then_in_safe_mode_changes_nothing(
    frail: HdfsCluster, work: str, undisturbed: Store
) -> None:
    run = AttackedRun(frail.webhdfs_url + work).start()
    frail.namenode.stop()
    run.wait_for_trouble()
    frail.namenode.start()
    until(lambda: frail.in_safe_mode, PATIENCE_S, "the NameNode was not in safe mode after its start")
    frail.wait_until_ready()
    run.wait_for_scores()
    frail.namenode.kill()  # and once more, without a word
    frail.namenode.start()
    frail.wait_until_ready()
    run.finish(undisturbed)


def test_safe_mode_by_an_operators_hand_is_waited_out(
    frail: HdfsCluster, work: str, undisturbed: Store
) -> None:
    run = AttackedRun(frail.webhdfs_url + work).start()
    frail.admin("-safemode", "enter")
    run.wait_for_trouble("SafeModeException", roles=3)  # evaluators and ncs; reading still works
    frail.admin("-safemode", "leave")
    run.finish(undisturbed)


def test_a_namenode_that_hangs_does_what_nobody_waits_for_any_more_and_nothing_changes(
    frail: HdfsCluster, work: str, undisturbed: Store
) -> None:
    """Requests that were given up lie in its queue: it does them when it wakes up, after or before what was
    asked again."""
    run = AttackedRun(f"{frail.webhdfs_url}{work}?timeout_s=0.5").start()
    for _ in range(3):
        frail.namenode.signal(signal.SIGSTOP)
        try:
            run.wait_for_more_trouble()
            time.sleep(1.5)  # so that requests pile up
        finally:
            frail.namenode.signal(signal.SIGCONT)
        run.wait_for_scores(1)
    run.wait_for_trouble("did not answer in time")
    run.finish(undisturbed)
