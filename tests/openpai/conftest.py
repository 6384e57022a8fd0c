"""A cluster of the tests' own, and somebody who asks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coppice.openpai.api import Api
from coppice.openpai.client import Client
from coppice.openpai.settings import find_cluster
from tests.openpai.server import Pai, running, token_of
from tests.support.clocks import FakeClock
from tests.support.http_server import FakeServer

VARIABLES = ("URL", "USER", "TOKEN", "CONFIG")


@pytest.fixture(autouse=True)
def _no_cluster_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """No test may find the cluster of whoever runs it."""
    for each in VARIABLES:
        monkeypatch.delenv(f"COPPICE_OPENPAI_{each}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}/config")


@pytest.fixture
def pai() -> Pai:
    """What the server knows."""
    return Pai()


@pytest.fixture
def server(pai: Pai) -> Iterator[FakeServer]:
    """The server itself."""
    with running(pai) as listening:
        yield listening


@pytest.fixture
def clock() -> FakeClock:
    """Nobody waits."""
    return FakeClock()


@pytest.fixture
def said() -> list[str]:
    """What the client told the user."""
    return []


@pytest.fixture
def client(server: FakeServer, clock: FakeClock, said: list[str]) -> Iterator[Client]:
    """anna."""
    opened = Client(find_cluster(f"http://{server.host}", token=token_of("anna")), clock, said.append)
    yield opened
    opened.close()


@pytest.fixture
def api(client: Client) -> Api:
    """v2."""
    return Api(client, "v2")
