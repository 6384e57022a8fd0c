"""The homes that the contract suites run over, in a form that other processes can open too."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from coppice.clock import Clock
from coppice.store import Home
from coppice.store.folder import FolderHome
from coppice.store.urls import open_home

IN_ONE_PROCESS = ("memory",)
SHARED = ("folder", "folder-by-link", "webhdfs", "httpfs")
KINDS = (*SHARED, *IN_ONE_PROCESS)
ON_HDFS = ("webhdfs", "httpfs")


@dataclass(frozen=True, slots=True)
class HomeSpec:
    """One home with an empty root of its own; may be sent to another process (memory may not)."""

    kind: str
    url: str

    def open(self, clock: Clock | None = None) -> Home:
        """A home on it; each call opens one of its own, on the same files."""
        if self.kind == "folder-by-link":
            return FolderHome(self.url, clock, link_only=True)
        return open_home(self.url, clock)


def over_homes(*kinds: str) -> pytest.MarkDecorator:
    """`@over_homes()`: run a test over every home; `@over_homes("folder", "webhdfs")`: over these."""
    params = [
        pytest.param(kind, marks=pytest.mark.hdfs if kind in ON_HDFS else (), id=kind)
        for kind in kinds or KINDS
    ]
    return pytest.mark.parametrize("home_kind", params, indirect=True)
