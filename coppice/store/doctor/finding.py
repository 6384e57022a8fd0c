"""What a check is given and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from coppice.clock import Clock
from coppice.store.doctor.peer import Peer
from coppice.store.store import Store


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    SLOW = "slow"
    """Safe to use, but slower than need be."""
    UNSAFE = "unsafe"
    """Do not run on this store."""
    ERROR = "error"
    """Could not be found out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    what: str
    """What was looked at."""
    verdict: Verdict
    figures: dict[str, float] = field(default_factory=dict)
    """Names with units, such as median_ms."""
    advice: str = ""
    """What was seen and what to do; may be empty if all is well."""


@dataclass(frozen=True, slots=True)
class Ward:
    """What the checks work on."""

    store: Store
    peer: Peer
    folder: str
    clock: Clock
    rounds: int

    def at(self, name: str) -> str:
        """A path in the scratch folder."""
        return f"{self.folder}/{name}"
