"""Fault schedules: whole runs under troubles drawn from a seed, each with the undisturbed run's result.

    python -m tests.simulation.schedules 10000 --from 0     so many seeds, on all cores
    python -m tests.simulation.schedules 1 --from 4711      one that failed, again, with all that was said

After each schedule every promise of the design is checked, and history and result are compared with the
undisturbed run's.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.simulation.pool import all_cores
from tests.simulation.trial import Trial, run_of, scorer_of, undisturbed
from tests.simulation.trouble import Trouble, leave_behind
from tests.simulation.world import World

PATIENT_TRIES = 40
"""More than any schedule can cost a harmless solution, so that none is ever set aside."""
LETHAL_TRIES = 6
CALLS = 900
"""About what a disturbed run makes; troubles come while it lasts."""
RARE_WITH_A_LETHAL_SOLUTION = ("killed", "stalled for longer than a lease", "storage away")
"""They cost harmless solutions tries as well."""


@dataclass(slots=True)
class Outcome:
    """One schedule."""

    seed: int
    injected: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    processes: int = 0
    simulated_s: float = 0.0
    problem: str | None = None
    said: list[tuple[float, str]] = field(default_factory=list)


def try_schedule(seed: int) -> Outcome:
    """One whole run under the troubles of `seed`."""
    rng = random.Random(f"schedule {seed}")
    lethal = rng.random() < 0.1
    trouble = Trouble(seed, CALLS)
    if lethal:
        trouble.moments = [m for m in trouble.moments if m[1] not in RARE_WITH_A_LETHAL_SOLUTION]
    tries = LETHAL_TRIES if lethal else PATIENT_TRIES
    expected, _, _ = undisturbed(lethal)
    world = World(seed)
    outcome = Outcome(seed)
    fresh = False
    try:
        match rng.random():
            case draw if draw < 0.15:
                leave_behind(world, rng)
                trouble.counts["leftovers of an earlier run in the folder"] += 1
            case draw if draw < 0.3:
                Trial(world, run_of(False, 3).model_copy(update={"seed": 8})).serve()
                trouble.counts["an earlier run in the folder, thrown away with --fresh"] += 1
                fresh = True
        trial = Trial(
            world,
            run_of(lethal, tries),
            evaluators=rng.randint(1, 4),
            make_scorer=scorer_of(lethal),
            batch=random.Random(f"batch {seed}").randint(1, 3),
            fresh=fresh,
            restart_s=lambda: rng.choice((0.1, 1.0, 5.0, 40.0)),
            ghosts=trouble.leaves_ghosts,
        )
        if lethal:
            trouble.counts["a solution that always crashes its evaluator"] += 1
        trouble.attach(trial)
        ending = trial.serve()
        assert ending.history == expected.history, "another history than the undisturbed run's"
        assert ending.result == expected.result, "another result than the undisturbed run's"
    except Exception:
        outcome.problem = traceback.format_exc(limit=-3)
    outcome.injected = trouble.counts
    outcome.calls = world.calls
    outcome.processes = len(world.processes)
    outcome.simulated_s = world.now
    outcome.said = world.said if outcome.problem else []
    return outcome


def main() -> int:
    """The command line; exit status 1 if a schedule fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("number", type=int, nargs="?", default=300, help="how many schedules (default: 300)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (default: 0)")
    given = parser.parse_args()
    console = Console()
    total = Outcome(0)
    failed: list[Outcome] = []
    with all_cores() as pool:
        seeds = range(given.first, given.first + given.number)
        for outcome in track(pool.map(try_schedule, seeds, chunksize=8), "schedules", len(seeds)):
            total.injected.update(outcome.injected)
            total.calls += outcome.calls
            total.processes += outcome.processes
            total.simulated_s += outcome.simulated_s
            if outcome.problem:
                failed.append(outcome)
    for outcome in failed[:3]:
        lines = outcome.said if given.number == 1 else outcome.said[-20:]
        print(f"seed {outcome.seed}: {outcome.problem}")
        print("\n".join(f"{when:9.3f} {line}" for when, line in lines))
    console.print(table(total))
    print(
        f"{given.number} schedules, {len(failed)} failed; {total.processes} processes, {total.calls} calls "
        f"on the store, {total.simulated_s / 3600:.0f} hours of simulated time"
    )
    for outcome in failed:
        print(f"repeat: python -m tests.simulation.schedules 1 --from {outcome.seed}")
    return 1 if failed else 0


def table(total: Outcome) -> Table:
    """What was injected."""
    shown = Table(title="What was injected", box=None)
    shown.add_column("trouble")
    shown.add_column("times", justify="right")
    for kind, times in sorted(total.injected.items()):
        shown.add_row(kind, str(times))
    return shown


if __name__ == "__main__":
    sys.exit(main())
