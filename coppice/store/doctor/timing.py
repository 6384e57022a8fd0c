"""How long a store's operations take, and what slow ones mean."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from coppice.clock import Clock
from coppice.store.doctor.finding import Finding, Verdict, Ward
from coppice.store.errors import StoreError

SLOW_CALL_MS = 500.0
"""A median above this is called slow."""
SLOW_WRITE_MS = 300.0
"""A small file that takes this long, where an empty one does not, has met the DataNode's delay (400 ms)."""
LOCATE_DELAY = "dfs.client.block.write.locateFollowingBlock.initial.delay.ms"
_SMALL = "create a file of 200 bytes"


def measure(ward: Ward) -> list[Finding]:
    """How long each operation takes; in an order that leaves each something to work on."""
    store, at, rounds = ward.store, ward.at, range(ward.rounds)
    acts: dict[str, Callable[[int], object]] = {
        "create an empty file": lambda each: store.create(at(f"empty-{each}"), b""),
        _SMALL: lambda each: store.create(at(f"small-{each}"), b"x" * 200),
        "list a folder": lambda each: store.list(ward.folder),
        "look at a file": lambda each: store.stat(at(f"small-{each}")),
        "read 200 bytes": lambda each: store.read(at(f"small-{each}")),
        "touch a file": lambda each: store.touch(at(f"small-{each}")),
        "rename a file": lambda each: store.rename(at(f"small-{each}"), at(f"moved-{each}")),
        "delete a file": lambda each: store.delete(at(f"moved-{each}")),
    }
    findings: list[Finding] = []
    empty_ms: list[float] = []
    for what, act in acts.items():
        try:
            times_ms = [_timed_ms(ward.clock, act, each) for each in rounds]
        except StoreError as error:
            findings.append(Finding(what, Verdict.ERROR, advice=str(error)))
            continue
        empty_ms = empty_ms or times_ms
        findings.append(_judged(what, times_ms, empty_ms, store.url))
    return findings


def _timed_ms(clock: Clock, act: Callable[[int], object], each: int) -> float:
    began = clock.monotonic()
    act(each)
    return 1000 * (clock.monotonic() - began)


def _judged(what: str, times_ms: list[float], empty_ms: list[float], url: str) -> Finding:
    median_ms = statistics.median(times_ms)
    figures = {"median_ms": median_ms, "max_ms": max(times_ms)}
    delayed = sum(each_ms >= SLOW_WRITE_MS for each_ms in times_ms)
    if what == _SMALL and 4 * delayed >= len(times_ms) and statistics.median(empty_ms) < SLOW_WRITE_MS / 2:
        advice = (
            f"{delayed} of {len(times_ms)} small files took {SLOW_WRITE_MS:g} ms and more, empty ones less"
        )
        if url.startswith(("webhdfs:", "swebhdfs:")):
            advice += (
                f"; set {LOCATE_DELAY}=10 in the hdfs-site.xml of the DataNodes (and of HttpFS, if used)"
            )
        return Finding(what, Verdict.SLOW, figures, advice)
    if median_ms > SLOW_CALL_MS:
        advice = "the storage is far away or overloaded; rounds will be slow"
        return Finding(what, Verdict.SLOW, figures, advice)
    return Finding(what, Verdict.OK, figures)
