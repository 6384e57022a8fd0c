"""A script as a process of its own: a time limit, what it says kept in part, nothing of it left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coppice.errors import printable

KEPT_BYTES = 1 << 16
"""Of what a script says, so much of the beginning is kept, and of the end."""
GRACE_S = 5.0
"""Between asking a script to end and killing it."""
_LOOK_S = 0.05
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Said:
    """What a script printed, the middle left out where it is much."""

    total: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _tail: deque[bytes] = field(default_factory=deque)
    _tail_bytes: int = 0

    def add(self, block: bytes) -> None:
        """More of it."""
        self.total += len(block)
        room = KEPT_BYTES - len(self._head)
        self._head += block[:room]
        rest = block[room:]
        if rest:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
            while self._tail_bytes - len(self._tail[0]) >= KEPT_BYTES:
                self._tail_bytes -= len(self._tail.popleft())

    def text(self) -> str:
        """For the log."""
        tail = b"".join(self._tail)[-KEPT_BYTES:]
        left_out = self.total - len(self._head) - len(tail)
        middle = f"\n[... {left_out:,} bytes left out ...]\n".encode() if left_out else b""
        return (bytes(self._head) + middle + tail).decode("utf-8", "replace")

    def last_line(self) -> str:
        """The last line with something on it, without what would steer a terminal; "" where there is none."""
        lines = (_plain(line).strip() for line in reversed(self.text().splitlines()))
        return next((line for line in lines if line), "")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a script ended."""

    status: int
    """Its exit status; below 0: killed by that signal."""
    late: bool
    """Whether it was ended because its time was over."""
    said: Said
    seconds: float


def _plain(line: str) -> str:
    from rich.text import Text  # not at the top: this file is also what every script is started through

    return printable(Text.from_ansi(line).plain)  # colours and the like are dropped whole


def run_child(
    command: list[str],
    folder: Path,
    environment: Mapping[str, str],
    limit_s: float,
    tick: Callable[[], None],
    grace_s: float = GRACE_S,
) -> Ended:
    """Run `command` in `folder` to its end. `tick` is called all along, and may raise to end it.

    However this ends, the process and all that it started in its session are gone.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    said = Said()
    reader = threading.Thread(target=_read, args=(process, said), daemon=True)
    reader.start()
    late = False
    try:
        while process.poll() is None:
            tick()
            if time.monotonic() - began > limit_s:
                late = True
                break
            try:
                process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                pass
    finally:
        _end(process, grace_s)
    reader.join(GRACE_S)  # a grandchild in a session of its own may hold the pipe open
    return Ended(process.wait(), late, said, time.monotonic() - began)


def _read(process: subprocess.Popen[bytes], said: Said) -> None:
    assert process.stdout is not None
    with process.stdout as pipe:
        while block := os.read(pipe.fileno(), 1 << 16):
            said.add(block)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask its session to end, wait a little, kill what is left."""
    for number in (signal.SIGTERM, signal.SIGKILL) if process.poll() is None else (signal.SIGKILL,):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):  # nobody is left in it
            break
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def guarded(command: list[str], number: int = signal.SIGKILL) -> list[str]:
    """The same command, which gets signal `number` when this process dies, whatever of (on Linux)."""
    return [sys.executable, "-m", "coppice.registry.child", str(os.getpid()), str(int(number)), *command]


def _become(parent: int, number: int, command: list[str]) -> None:
    """Ask the system for a signal when the parent of this process ends, and become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            sys.exit("the worker is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
