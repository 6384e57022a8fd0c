"""Several calls at once, as many as the home likes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """Threads for one store's calls, `parallel` at the most; none where that is 1, or nothing to share.

    Safe to call from several threads, but not from within a call that it runs.
    """

    def __init__(self, parallel: int) -> None:
        self._parallel = parallel
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`call` for each item; results in their order. The first error is raised after all have ended."""
        if self._parallel > 1 and len(items) > 1:
            futures = self._submit_all(call, items)
        else:
            futures = [_settled(call, item) for item in items]
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads, after what they are doing."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def _submit_all(self, call: Callable[[T], R], items: Sequence[T]) -> list[Future[R]]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="store")
            pool = self._pool
        futures = [pool.submit(call, item) for item in items]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C or a role told to end: what has not begun need not
            for future in futures:
                future.cancel()
            raise
        return futures


def _settled(call: Callable[[T], R], item: T) -> Future[R]:
    """Call now; the outcome as a future, so that one failure does not keep the others from being tried."""
    future: Future[R] = Future()
    try:
        future.set_result(call(item))
    except Exception as error:
        future.set_exception(error)
    return future
