"""Every crash point: each role dies at each of its store operations, in each way; the run comes out the same.

    python -m tests.simulation.crash_points                 all of them, some minutes on two cores
    python -m tests.simulation.crash_points --only ncs:57:after

Not sampled: the undisturbed run's operations are counted, and one whole run is made for each of them and each
way to die there.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from coppice.store import TransientStoreError
from tests.simulation.pool import all_cores
from tests.simulation.trial import WORLD_SEED, Trial, run_of, undisturbed
from tests.simulation.world import Call, Fate, World

WAYS = {
    "before": "killed just before it",
    "after": "killed just after it",
    "lost": "done, but the reply is lost; lives on",
    "lost, killed": "done, but the reply is lost; killed at the next operation",
}
WAITS_S = {"soon": 1.0, "late": 45.0}
"""When it is started again: at once, its death known or not; and after every lease is over."""


@dataclass(frozen=True, slots=True)
class Point:
    """One crash."""

    place: str
    number: int
    way: str
    wait: str

    def __str__(self) -> str:
        return f"{self.place}:{self.number}:{self.way}:{self.wait}"


def all_points() -> Iterator[Point]:
    """Every operation of every role, every way to die there; both waits take turns."""
    _, calls, _ = undisturbed()
    for place, count in calls.items():
        for number in range(1, count + 1):
            for index, way in enumerate(WAYS):
                yield Point(place, number, way, tuple(WAITS_S)[(number + index) % 2])


def try_point(point: Point) -> str | None:
    """One whole run with one crash; what went wrong, or None."""
    reached: list[str] = []

    def fate(call: Call) -> Fate:
        if call.process.place != point.place:
            return Fate()
        if call.number == point.number:
            reached.append(call.operation)
            if point.way in ("before", "after"):
                return Fate(kill=point.way)
            return Fate(lose=TransientStoreError("the reply was lost, says the test"))
        if call.number == point.number + 1 and point.way == "lost, killed":
            return Fate(kill="before")
        return Fate()

    expected, _, _ = undisturbed()
    world = World(WORLD_SEED, fate=fate)
    trial = Trial(world, run_of(False, 3), restart_s=lambda: WAITS_S[point.wait])
    try:
        ending = trial.serve()
        assert reached, "the point was never reached"
        assert ending == expected, "another result than the undisturbed run's"
        if not point.place.startswith("evaluator"):
            assert trial.scored == len(expected.history) - 1, "something that was scored was scored again"
    except Exception:
        said = "\n".join(f"{when:9.3f} {line}" for when, line in world.said[-15:])
        return f"{traceback.format_exc(limit=-3)}\n{said}"
    return None


def main() -> int:
    """The command line; exit status 1 if a point fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="place:number:way:wait, to repeat one that failed")
    given = parser.parse_args()
    points = list(all_points())
    if given.only:
        points = [point for point in points if str(point) == given.only]
        if not points:
            parser.error(f"no such point: {given.only}")
    console = Console()
    tried: Counter[tuple[str, str]] = Counter()
    failures: dict[Point, str] = {}
    with all_cores() as pool:
        outcomes = pool.map(try_point, points, chunksize=8)
        for point, outcome in track(zip(points, outcomes, strict=True), "crash points", len(points)):
            tried[point.place, point.way] += 1
            if outcome is not None:
                failures[point] = outcome
    for point, outcome in list(failures.items())[:5]:
        console.print(f"[bold]{point}[/bold]\n{outcome}", markup=True, highlight=False)
    console.print(table(tried))
    console.print(f"{len(points)} crash points tried, {len(failures)} failed")
    for point in failures:
        print(f"repeat: python -m tests.simulation.crash_points --only '{point}'")
    return 1 if failures else 0


def table(tried: Counter[tuple[str, str]]) -> Table:
    """How many points of each kind."""
    shown = Table(title="Crash points", box=None)
    shown.add_column("role")
    for way in WAYS.values():
        shown.add_column(way, justify="right")
    for place in dict.fromkeys(place for place, _ in tried):
        shown.add_row(place, *(str(tried[place, way]) for way in WAYS))
    return shown


if __name__ == "__main__":
    sys.exit(main())
