"""What the attacks share: the undisturbed runs, and an HDFS to be maltreated."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from coppice.store import Store, open_store
from tests.attacks.processes import slow_digits
from tests.attacks.runs import undisturbed_run
from tests.hdfs.cluster import HdfsCluster
from tests.roles.processes import simulate


@pytest.fixture(scope="session")
def undisturbed() -> Store:
    """The run of stand-ins that all others are compared with."""
    return undisturbed_run("attacks-undisturbed")


@pytest.fixture(scope="session")
def frail() -> Iterator[HdfsCluster]:
    """An HDFS for the attacks alone, which stays in safe mode for a while when its NameNode comes back.
    Every test leaves it running."""
    with HdfsCluster(httpfs=False, safemode_extension_ms=4000) as cluster:
        yield cluster


@pytest.fixture
def work() -> str:
    """The path of a work folder of this test's own."""
    return f"/shared/attacked-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run file of the runs by real processes."""
    return slow_digits(tmp_path_factory.mktemp("run-file"))


@pytest.fixture(scope="session")
def digits(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The work folder of that run, undisturbed."""
    work = tmp_path_factory.mktemp("undisturbed") / "work"
    done = simulate(digits_file, str(work))
    assert done.returncode == 0, done.stderr
    return open_store(str(work))
