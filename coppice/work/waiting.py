"""Waiting for files: quick at first, patient later, quick again as soon as something happened."""

from __future__ import annotations

import random
from collections import deque
from statistics import median

from coppice.clock import Clock


class Backoff:
    """Pauses that grow from `first_s` to `longest_s` by doubling, each with up to 50 % of jitter."""

    def __init__(
        self, clock: Clock, rng: random.Random, first_s: float = 0.01, longest_s: float = 1.0
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._shortest_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s
        self._head_start_s = 0.0
        self.waited_s = 0.0
        """Since the last `reset`."""

    def reset(self, head_start_s: float = 0.0, first_s: float = 0.0) -> None:
        """Something happened: start afresh; nothing is expected to happen again before `head_start_s`, and
        then not to the second: pauses grow from `first_s`, if that is more than they begin with otherwise."""
        self._head_start_s = head_start_s
        self._next_s = max(self._shortest_s, first_s)
        self.waited_s = 0.0

    def pause(self) -> None:
        """Wait for the next interval."""
        interval = self._next_s * (0.5 + 0.5 * self._rng.random())
        if self._head_start_s > interval:
            interval = self._head_start_s
        else:
            self._next_s = min(self._longest_s, self._next_s * 2)
        self._head_start_s = 0.0
        self._clock.sleep(interval)
        self.waited_s += interval


class Rhythm:
    """How soon, by experience, the next thing can happen: saves polls that cannot find anything."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=5)

    def add(self, waited_s: float) -> None:
        """It took so long this time."""
        self._last.append(waited_s)

    @property
    def _known(self) -> bool:
        return len(self._last) == self._last.maxlen

    @property
    def head_start_s(self) -> float:
        """A little less than the shortest of the last waits; 0 until there are five, at most a second."""
        return min(1.0, 0.8 * min(self._last)) if self._known else 0.0

    @property
    def first_s(self) -> float:
        """A first pause that is short beside the waits: an eighth of their median; 0 until there are five."""
        return min(0.25, median(self._last) / 8) if self._known else 0.0


class Every:
    """Says `due` at most once in `interval_s`: for things worth doing now and then inside a busy loop."""

    def __init__(self, clock: Clock, interval_s: float, at_once: bool = False) -> None:
        self._clock = clock
        self.interval_s = interval_s
        self._last = clock.monotonic() - (interval_s if at_once else 0.0)

    def due(self) -> bool:
        """True if the interval has passed since it was last True."""
        now = self._clock.monotonic()
        if now - self._last < self.interval_s:
            return False
        self._last = now
        return True
