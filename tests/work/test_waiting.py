"""How long a role waits before it looks again."""

from __future__ import annotations

import random

from coppice.work.waiting import Backoff, Rhythm
from tests.support.clocks import FakeClock


def pauses(backoff: Backoff, clock: FakeClock, count: int) -> list[float]:
    found = []
    for _ in range(count):
        began = clock.monotonic()
        backoff.pause()
        found.append(clock.monotonic() - began)
    return found


def test_pauses_double_up_to_the_longest_and_begin_anew() -> None:
    clock = FakeClock()
    backoff = Backoff(clock, random.Random(1), first_s=0.01, longest_s=0.1)
    for _ in range(2):
        for pause, whole in zip(pauses(backoff, clock, 6), (0.01, 0.02, 0.04, 0.08, 0.1, 0.1), strict=True):
            assert 0.5 * whole <= pause <= whole + 1e-9
        backoff.reset()


def test_after_a_head_start_pauses_begin_as_long_as_was_asked_for() -> None:
    clock = FakeClock()
    backoff = Backoff(clock, random.Random(1), first_s=0.01, longest_s=1.0)
    backoff.reset(head_start_s=0.7, first_s=0.05)
    first, second, third = pauses(backoff, clock, 3)
    assert abs(first - 0.7) < 1e-9
    assert 0.025 <= second <= 0.05 + 1e-9
    assert 0.05 <= third <= 0.1 + 1e-9
    backoff.reset(first_s=0.001)
    assert pauses(backoff, clock, 1)[0] >= 0.005


def test_a_rhythm_is_known_after_five_waits() -> None:
    rhythm = Rhythm()
    for waited in (0.5, 0.4, 0.8, 0.6):
        rhythm.add(waited)
        assert rhythm.head_start_s == rhythm.first_s == 0.0
    rhythm.add(0.4)
    assert abs(rhythm.head_start_s - 0.32) < 1e-9
    assert abs(rhythm.first_s - 0.5 / 8) < 1e-9
    for _ in range(5):
        rhythm.add(100.0)
    assert (rhythm.head_start_s, rhythm.first_s) == (1.0, 0.25)
