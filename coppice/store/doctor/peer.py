"""The second process of the doctor: on the same store, doing what it is told."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from coppice.store.errors import StoreError, TransientStoreError
from coppice.store.store import Store

_START_PATIENCE_S = 60.0
_ANSWER_PATIENCE_S = 300.0
_HEAD_START_S = 0.003


class Peer:
    """Another caller on the same store: a process, or a thread where no process can open that store.

    What is not in `Store` is asked of its home. Use it in a `with`. Raises `StoreError` for whatever goes
    wrong over there.
    """

    def __init__(self, open_it: Callable[[], Store], in_thread: bool) -> None:
        self._connection, self._theirs = multiprocessing.Pipe()
        self._process: Any = None
        try:
            if not in_thread:
                self._start_process(open_it)
            self.is_process = self._process is not None
            if self._process is None:
                self._process = threading.Thread(target=_serve, args=(self._theirs, open_it), daemon=True)
                self._process.start()
            else:
                self._theirs.close()  # so that we hear if the process dies
            self._answer(_START_PATIENCE_S)
        except BaseException:
            self._end()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Do it over there; the result."""
        self.begin(method, *arguments)
        return self.end()

    def begin(self, method: str, *arguments: Any) -> None:
        """Let it be done over there; `end` fetches the result."""
        self._connection.send((False, method, arguments))

    def is_done(self) -> bool:
        """Whether `end` would not have to wait."""
        return self._connection.poll()

    def end(self) -> Any:
        """The result of what was begun."""
        return self._answer(_ANSWER_PATIENCE_S)

    def race(self, ours: Callable[[], Any], method: str, *arguments: Any) -> tuple[Any, Any]:
        """Do both at the same moment; our result and theirs."""
        self._connection.send((True, method, arguments))
        self._answer(_ANSWER_PATIENCE_S)  # it is awake, with the command in hand
        at_s = time.monotonic() + _HEAD_START_S
        self._connection.send(at_s)
        _wait_until(at_s)
        try:
            mine = ours()
        except StoreError:
            self.end()
            raise
        return mine, self.end()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start_process(self, open_it: Callable[[], Store]) -> None:
        # Spawned, not forked: a fork would share connections and locks with us.
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(self._theirs, open_it), daemon=True
        )
        # It inherits what is blocked, and so never hears a Ctrl-C or SIGTERM that goes to all processes here:
        # killed at its work it would leave files. The tracker comes first, since its start ends the blocking.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            process.start()
            self._process = process
        except (pickle.PicklingError, AttributeError, TypeError):  # cannot be sent: a lambda
            pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _end(self) -> None:
        self._connection.close()  # which ends it
        if self._process is None:
            return
        if isinstance(self._process, threading.Thread):
            self._process.join(5)
            return
        self._theirs.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self, patience_s: float) -> Any:
        try:
            if not self._connection.poll(patience_s):
                raise TransientStoreError(f"the doctor's second process did not answer for {patience_s:g} s")
            worked, answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise StoreError("the doctor's second process ended; see its message above") from error
        if not worked:
            raise StoreError(f"in a second process: {answer}")
        return answer


def replace_again_and_again(store: Store, path: str, versions: int) -> None:
    """Replace `path` by page after page."""
    for version in range(versions):
        store.replace(path, page(version))


def page(version: int) -> bytes:
    """A content that shows whether it is whole: its length goes with its bytes."""
    return bytes([version % 251]) * (20_000 + 1_000 * (version % 251))


def is_whole(data: bytes) -> bool:
    """Whether `data` is some `page`."""
    return bool(data) and data == page(data[0])


def _wait_until(at_s: float) -> None:
    # Without sleeping: the point is to be at the same moment as somebody else, to some microseconds.
    while time.monotonic() < at_s:
        pass


def _serve(connection: Connection, open_it: Callable[[], Store]) -> None:
    """The other side: answers (worked, result) for each (race, method, arguments), until the pipe ends."""
    try:
        with open_it() as store:
            connection.send((True, None))
            while True:
                race, method, arguments = connection.recv()
                if race:
                    connection.send((True, None))
                    _wait_until(connection.recv())
                connection.send(_done(store, method, arguments))
    except (EOFError, OSError):
        return
    except StoreError as error:
        connection.send((False, str(error)))


def _done(store: Store, method: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if method == "replace_again_and_again":
        act = functools.partial(replace_again_and_again, store)
    else:
        act = getattr(store, method, None) or getattr(store.home, method)
    try:
        return True, act(*arguments)
    except StoreError as error:
        return False, str(error)
