"""No process that a test started outlives the tests, however they end.

Ctrl-C and a test process that is killed leave behind what runs in a session of its own, as the roles of
`coppice simulate` do. So the process that was started first adopts all orphans and ends them last. (On Linux;
elsewhere nothing is adopted.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 5.0
"""The guards of tests/hdfs/service.py need a moment to remove their servers' data."""
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on whoever of our children's children loses its parent becomes our child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> dict[int, str]:
    """Process id and command line of all that run below `pid`."""
    commands: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(entry.name))
            if state != "Z":
                commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    found, look = {}, [pid]
    while look:
        below = children.get(look.pop(), [])
        look += below
        found.update({each: commands[each] for each in below if each in commands})
    return found


def end_leftovers(patience_s: float = PATIENCE_S) -> list[str]:
    """Wait a little for our descendants to end by themselves, then kill them; their command lines."""
    deadline = time.monotonic() + patience_s
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = list(left.values())
    while left:  # whatever they start while they are killed, too
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        left = descendants(os.getpid())
    return killed
