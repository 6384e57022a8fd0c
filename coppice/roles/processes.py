"""Roles as processes of this machine that share what takes longest to load.

To import torch takes a process three seconds of computing. So one process does it, and is forked for each
role that starts, or starts again (Python's own forkserver; it holds no threads and no GPU when it is forked).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

from coppice.errors import CoppiceError
from coppice.roles.signals import ASK_TO_END

_PRELOAD = ["coppice.cli", "coppice.pruning.pruner", "coppice.pruning.scoring.fast"]
_PR_SET_NAME = 15
_context = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Start the process that roles are forked from, if it is not running.

    Ctrl-C and the end of a terminal reach it too, but it ends only when this process does: it could not start
    a role again before that, or say how one has ended.

    Raises `CoppiceError` where TMPDIR leaves no room for the name of its socket.
    """
    _context.set_forkserver_preload(_PRELOAD)
    resource_tracker.ensure_running()  # before, since it lets through again what is held back
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASK_TO_END)
    try:
        forkserver.ensure_running()
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        raise CoppiceError(
            f"TMPDIR: {tempfile.gettempdir()} is too long a path for the socket through which roles are "
            "started; set TMPDIR to one of 70 characters or fewer"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class RoleProcess:
    """`coppice ARGUMENTS...` in a process of its own, with this one's environment and what is added to
    it; what it says is added to a log. It is asked to end when this process is gone, however that ended."""

    def __init__(self, arguments: list[str], log: Path, environment: Mapping[str, str] = {}) -> None:
        """Starts it; see `start_server` for what may go wrong."""
        start_server()
        told = (arguments, str(log), {**os.environ, **environment})
        self._process = _context.Process(target=_run, args=told, name=arguments[0])
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    def poll(self) -> int | None:
        """Exit status; below 0: killed by that signal; None: it is running."""
        return self._process.exitcode

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is running."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end; exit status, None if it runs still."""
        self._process.join(timeout_s)
        return self._process.exitcode


def _run(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    """In a session of its own, so that Ctrl-C reaches only the parent, which then ends it properly."""
    os.setsid()
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        return  # it was stopped while the server was being loaded
    os.environ.clear()
    os.environ.update(environment)  # the server's is that of its first use
    said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(said, 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASK_TO_END)  # the server holds them back
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if sys.platform == "linux":  # for ps and top: all of them have the command line of the one they came from
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"coppice {arguments[0]}".encode()[:15])
    sys.argv = ["coppice", *arguments]
    runpy.run_module("coppice", run_name="__main__")  # as `python -m coppice`


def _end_with(parent: BaseProcess) -> None:
    """Asks this process to end when the one that started it is gone: one that was killed cannot ask."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
