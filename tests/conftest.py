"""Fixtures for all tests: homes, stores, and a real HDFS that is started when the first test asks for it."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from coppice.store import Home, Retry, Store
from tests.hdfs.cluster import HdfsCluster
from tests.hdfs.jars import HadoopMissing
from tests.support import homes
from tests.support.homes import HomeSpec
from tests.support.leftovers import adopt_orphans, end_leftovers
from tests.support.parallel import Shares, begin_with

settings.register_profile("coppice", deadline=None)  # no test asserts a time
settings.load_profile("coppice")

_FIRST_PROCESS = "PYTEST_XDIST_WORKER" not in os.environ


def pytest_configure() -> None:
    """The process that starts the others is asked to end by SIGTERM as by Ctrl-C, and cleans up after all."""
    if _FIRST_PROCESS:
        adopt_orphans()
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell has its background jobs ignore SIGINT
            signal.signal(number, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """Nothing is left running."""
    if _FIRST_PROCESS:
        for command in end_leftovers():
            if "from multiprocessing." in command:  # Python's own, which end when this process does
                continue
            print(f"left running by a test, killed: {command[:200]}", file=sys.stderr)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take long begin first."""
    items.sort(key=lambda item: begin_with(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shares:
    """Who does which tests."""
    return Shares(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much the campaigns tried."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "tried" and report.when == "call":
                    terminalreporter.write_line(f"{value} tried in {report.duration:.0f} s")


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
