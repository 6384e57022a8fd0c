"""All cores, for campaigns, which give way to everything else."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


def all_cores() -> ProcessPoolExecutor:
    """A pool with a process for each core, of the lowest priority: the simulated time of a campaign waits for
    nobody, while the leases of real processes, attacked at the same moment, do not wait for it."""
    # Not forked: the test process has threads, and a child would keep its pipes open.
    fresh = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(os.cpu_count(), fresh, initializer=os.nice, initargs=(19,))
