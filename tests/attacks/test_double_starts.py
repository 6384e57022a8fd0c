"""Of every role that there is one of, two are started for one work folder at the same moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from coppice.store import Store, open_store
from tests.attacks.processes import Cast
from tests.hdfs.cluster import HdfsCluster

OFFICES = ("master", "outer", "ncs")


@pytest.mark.hdfs
def test_two_of_each_for_one_work_folder_make_one_run(
    frail: HdfsCluster, work: str, digits_file: Path, digits: Store, tmp_path: Path
) -> None:
    url = frail.webhdfs_url + work
    with Cast(digits_file, url, open_store(url), tmp_path) as cast:
        everybody = cast.start(*OFFICES, *OFFICES, "evaluator", "evaluator")
        cast.finish(everybody, digits)
        said = {role: [a.said() for a in everybody if a.role == role] for role in OFFICES}
    for role, did in (("master", "round 1: "), ("outer", "training the reference"), ("ncs", "search 1: ")):
        assert sum(did in each for each in said[role]) == 1, said[role]
        assert sum("waiting to take over should it fall silent" in each for each in said[role]) == 1, said[
            role
        ]
