"""Permission is withdrawn in the middle of a run: a line from each role, and given back, it goes on."""

from __future__ import annotations

import pytest

from coppice.store import PermanentStoreError, Store
from tests.attacks.runs import PATIENCE_S, AttackedRun
from tests.hdfs.cluster import HdfsCluster
from tests.hdfs.service import until

pytestmark = pytest.mark.hdfs

ROLES = {"master", "outer", "ncs", "evaluator0", "evaluator1"}


@pytest.mark.parametrize(
    ("mode", "folders", "victims"),
    [
        pytest.param("000", ("",), ROLES, id="of-the-work-folder"),
        pytest.param("555", ("/generations", "/.tmp"), {"ncs"}, id="to-publish"),
    ],
)
def test_permission_withdrawn_ends_the_roles_with_a_line_and_given_back_they_go_on(
    frail: HdfsCluster, work: str, undisturbed: Store, mode: str, folders: tuple[str, ...], victims: set[str]
) -> None:
    paths = [work + folder for folder in folders]
    frail.fs("-mkdir", "-p", work)
    frail.fs("-chown", "worker", work)  # whoever started the NameNode may do everything anyway
    url = frail.webhdfs_url.replace("webhdfs://", "webhdfs://worker@") + work
    run = AttackedRun(url).start()
    frail.fs("-chmod", mode, *paths)
    until(lambda: victims <= set(run.crew.errors), PATIENCE_S, f"not all have ended: {run.crew.errors}")
    run.crew.stopping.set()  # those that only look, and still may, would go on waiting
    for thread in run.crew.threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    for error in run.crew.errors.values():
        assert isinstance(error, PermanentStoreError)
        assert "no permission for worker" in str(error)
        assert "\n" not in str(error)
    frail.fs("-chmod", "755", *paths)
    AttackedRun(url).start().finish(undisturbed)
