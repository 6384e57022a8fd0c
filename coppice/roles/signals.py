"""What asks a process to end, for work that must tidy up first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

ASK_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, the end of a terminal."""


@contextmanager
def asked_to_end(
    do: Callable[[int, FrameType | None], None], numbers: Iterable[int] = ASK_TO_END
) -> Iterator[None]:
    """What these signals do for a while; one that is ignored, as nohup has it, stays so."""
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, do) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM, and SIGHUP when a terminal closes, end the work inside as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with asked_to_end(stop, (signal.SIGTERM, signal.SIGHUP)):
        yield


@contextmanager
def interrupted_once() -> Iterator[None]:
    """All of them end the work inside as Ctrl-C does, and a second one does not disturb its tidying up.

    `timeout`, for one, sends SIGTERM twice.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in ASK_TO_END:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    with asked_to_end(stop):
        yield
