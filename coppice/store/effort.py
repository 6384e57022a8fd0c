"""How long trouble is borne: backoff, jitter and what the user is told meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from coppice.clock import Clock
from coppice.store.errors import StoreError, TransientStoreError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a transient error is borne."""

    patience_s: float = 600.0
    first_wait_s: float = 0.05
    longest_wait_s: float = 10.0


class Trouble:
    """Tells the user once that the home does not answer, and once that it does again.

    Shared by all operations of one store; safe to call from several threads.
    """

    def __init__(self, tell: Callable[[str | None], None] | None) -> None:
        self._tell = tell
        self._lock = threading.RLock()
        self._suffering = 0
        self._told = False

    def began(self, message: str) -> None:
        """An operation has to be retried for the first time."""
        with self._lock:
            self._suffering += 1
            if not self._told:
                self._told = True
                if self._tell is not None:
                    self._tell(message)

    def ended(self, suffered: bool, answered: bool) -> None:
        """An operation is over; `answered` is False if patience ended it, or the user did."""
        if not (suffered or self._told):  # the good path takes no lock
            return
        with self._lock:
            self._suffering -= suffered
            if answered and self._told and self._suffering == 0:
                self._told = False
                if self._tell is not None:
                    self._tell(None)


class Effort:
    """One operation's patience, shared by all the calls that it is made of."""

    def __init__(
        self, url: str, what: str, clock: Clock, retry: Retry, rng: random.Random, trouble: Trouble
    ) -> None:
        self._url = url
        self._what = what
        self._clock = clock
        self._retry = retry
        self._rng = rng
        self._trouble = trouble
        self._began: float | None = None
        self._next_wait_s = retry.first_wait_s

    @property
    def suffered(self) -> bool:
        """Whether anything had to be tried again."""
        return self._began is not None

    def bear(self, error: TransientStoreError) -> None:
        """Wait before the next try, or raise `TransientStoreError` when patience is over."""
        now = self._clock.monotonic()
        if self._began is None:
            self._began = now
            self._trouble.began(
                f"{self._url}: {self._what}: {error}; trying again for up to {self._retry.patience_s:g} s"
            )
        tried_s = now - self._began
        left_s = self._retry.patience_s - tried_s
        if left_s <= 0:
            raise TransientStoreError(
                f"{self._url}: {self._what}: {error} (tried for {tried_s:.0f} s; is the storage up?)"
            ) from error
        # Jitter: the clients that one outage stopped must not all come back at the same moment.
        wait_s = self._next_wait_s * self._rng.uniform(0.5, 1.0)
        self._next_wait_s = min(self._retry.longest_wait_s, 2 * self._next_wait_s)
        self._clock.sleep(min(wait_s, left_s))

    def until_answered(self, call: Callable[[], T]) -> T:
        """Repeat `call` while it raises `TransientStoreError`; what it returns then."""
        while True:
            try:
                return call()
            except TransientStoreError as error:
                self.bear(error)

    @contextmanager
    def watched(self) -> Iterator[Effort]:
        """Around the whole operation: when it ends, the user's picture of the home is brought up to date."""
        answered = False
        try:
            yield self
            answered = True
        except TransientStoreError:
            raise
        except StoreError:
            answered = True  # refused, but by a home that answers
            raise
        finally:
            self._trouble.ended(self.suffered, answered)
