"""Fixtures of the tests of the roles."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coppice.store import Store, open_store
from tests.roles.threads import run_all, small_run


@pytest.fixture(scope="session")
def undisturbed() -> Store:
    """The run that all others are compared with."""
    run_all(lambda: open_store("memory:undisturbed"), small_run(), evaluators=1)
    return open_store("memory:undisturbed")


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """A work folder in memory of this test's own."""
    return lambda: open_store(f"memory:{request.node.name}")
