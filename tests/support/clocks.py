"""Clocks for tests: nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable


class FakeClock:
    """Time that passes only when somebody sleeps; `slept` keeps how long each time, seconds.

    `on_sleep(number)` is called in each sleep, numbered from 1: the place to let something happen meanwhile.
    """

    def __init__(self, start_s: float = 1000.0, on_sleep: Callable[[int], None] | None = None) -> None:
        self.now_s = start_s
        self.slept: list[float] = []
        self._on_sleep = on_sleep
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """See `coppice.clock.Clock`."""
        return self.now_s

    def time(self) -> float:
        """See `coppice.clock.Clock`."""
        return 1.7e9 + self.now_s

    def sleep(self, seconds: float) -> None:
        """See `coppice.clock.Clock`."""
        with self._lock:
            self.now_s += seconds
            self.slept.append(seconds)
            number = len(self.slept)
        if self._on_sleep is not None:
            self._on_sleep(number)
