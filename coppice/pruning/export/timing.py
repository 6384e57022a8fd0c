"""How long a network takes, in milliseconds."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from coppice.pruning.contract import Tick

Run = Callable[[], Any]

BATCHES = (1, 256)
BLOCKS = 5
"""Each network is timed in so many blocks of calls, in turn with the others. The quietest block counts: what
else the machine does only ever makes a call slower."""
BLOCK_S = 0.004
BUDGET_S = 0.5
"""No further block is begun after so long."""


def times_ms(runs: Mapping[str, Run], tick: Tick) -> dict[str, float]:
    """Milliseconds a call of each of `runs`, timed in turn, by the name."""
    begin = time.perf_counter()
    calls = {name: _calls_in_a_block(run, tick) for name, run in runs.items()}
    best = dict.fromkeys(runs, float("inf"))
    for block in range(BLOCKS):
        if block > 0 and time.perf_counter() - begin > BUDGET_S:
            break
        for name, run in runs.items():
            tick()
            best[name] = min(best[name], statistics.median(_timed(run) for _ in range(calls[name])))
    return {name: 1e3 * seconds for name, seconds in best.items()}


def thread_counts() -> tuple[int, ...]:
    """1, and 2 where this process has two processors."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        processors = os.cpu_count() or 1
    return (1, 2) if processors > 1 else (1,)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """torch computes with so many threads; afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _calls_in_a_block(run: Run, tick: Tick) -> int:
    seconds = []
    for _ in range(3):  # the first call allocates
        tick()
        seconds.append(_timed(run))
    return max(1, int(BLOCK_S / max(1e-7, min(seconds))))


def _timed(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
