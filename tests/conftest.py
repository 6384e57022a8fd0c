"""Fixtures for all tests: homes, stores, and a real HDFS that is started when the first test asks for it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from coppice.store import Home, Retry, Store
from tests.hdfs.cluster import HdfsCluster
from tests.hdfs.jars import HadoopMissing
from tests.support import homes
from tests.support.homes import HomeSpec

settings.register_profile("coppice", deadline=None)  # no test asserts a time
settings.load_profile("coppice")


@pytest.fixture(scope="session")
def hdfs_cluster() -> Iterator[HdfsCluster]:
    """A real HDFS with the DataNode setting that makes small files quick. Leave it running and writable."""
    try:
        cluster = HdfsCluster()
    except HadoopMissing as error:
        pytest.fail(f"{error} (or leave these tests out: -m 'not hdfs')", pytrace=False)
    with cluster:
        yield cluster


@pytest.fixture
def home_kind(request: pytest.FixtureRequest) -> str:
    """Which home `home_spec` is; to choose, see `tests.support.homes.over_homes`."""
    return str(getattr(request, "param", "folder"))


@pytest.fixture
def home_spec(home_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HomeSpec]:
    """A home whose root does not exist yet; removed afterwards."""
    spec = HomeSpec(home_kind, _new_url(home_kind, tmp_path, request))
    yield spec
    if home_kind not in ("folder", "folder-by-link"):  # pytest removes those
        home = spec.open()
        home.delete_tree("")
        home.close()


@pytest.fixture
def store_url(home_spec: HomeSpec) -> str:
    """The URL of `home_spec`, for `open_store`, a role or the command line."""
    return home_spec.url


@pytest.fixture
def home(home_spec: HomeSpec) -> Iterator[Home]:
    """The primitives of `home_spec`."""
    opened = home_spec.open()
    yield opened
    opened.close()


@pytest.fixture
def store(home_spec: HomeSpec) -> Iterator[Store]:
    """A store on `home_spec`, with little patience."""
    with Store(home_spec.open(), retry=Retry(patience_s=20.0)) as opened:
        yield opened


def _new_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    name = f"run-{uuid.uuid4().hex[:8]}"
    if kind == "memory":
        return f"memory:{name}"
    if kind in homes.ON_HDFS:
        cluster: HdfsCluster = request.getfixturevalue("hdfs_cluster")
        server = cluster.webhdfs_url if kind == "webhdfs" else cluster.httpfs_url
        return f"{server}/shared/{name}"
    return str(tmp_path / name)
