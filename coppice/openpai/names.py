"""Names of jobs: the same plan always gets the same, and every generation its own alphabet."""

from __future__ import annotations

import re

V1_NAME = re.compile(r"[A-Za-z0-9\-._]+", re.ASCII)
V2_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
V2_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
VOLUME_CLAIM = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_LONGEST_KUBERNETES = 63
"""Of a name that becomes a label; a pod of an indexed job adds its index to the job's."""
_ROOM_FOR_INDEX = 5


def v1_name(run: str, script: str, digest: str) -> str:
    """One of a run's four jobs."""
    return f"coppice-{run}-{script}-{digest}"


def v2_name(run: str, digest: str) -> str:
    """The one job of a run."""
    return f"coppice-{as_v2(run)}-{digest}"


def as_v2(name: str) -> str:
    """A v1 name in v2's alphabet, which has neither '.' nor '~'."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:255] or "job"


def as_v2_role(name: str) -> str:
    """The name of a task role as a variable of C."""
    tidy = re.sub(r"\W", "_", name, flags=re.ASCII)
    return tidy if V2_ROLE.fullmatch(tidy) else f"_{tidy}"


def kubernetes_name(run: str, role: str, digest: str) -> str:
    """Lower case, at most 58 letters; the digest tells apart what was shortened."""
    tail = f"-{digest}-{role}" if role else f"-{digest}"
    room = _LONGEST_KUBERNETES - _ROOM_FOR_INDEX - len(tail)
    head = f"coppice-{re.sub(r'[^a-z0-9]+', '-', run.lower())}"[:room].rstrip("-")
    return head + tail


def nth_name(name: str, number: int) -> str:
    """The job's name when it is submitted for the `number`-th time, from 1."""
    return name if number == 1 else f"{name}-{number}"
