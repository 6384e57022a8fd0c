"""The four roles as real processes, with somebody who kills them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from coppice.roles.processes import RoleProcess
from coppice.store import Store, open_store
from coppice.work import names

REPO = Path(__file__).resolve().parents[2]
DIGITS = REPO / "jobs" / "digits.yaml"
ROLES = ("master", "outer", "ncs", "evaluator", "evaluator")
KILLS_A_ROUND = 2


def coppice(*arguments: str) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "coppice", *arguments]


def environment() -> dict[str, str]:
    """This process's, with one thread a role as `simulate` has it."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def simulate(
    run_file: Path, work: str, *flags: str, timeout_s: float = 500
) -> subprocess.CompletedProcess[str]:
    """`coppice simulate ... --json` to its end."""
    return subprocess.run(
        coppice("simulate", str(run_file), "--work", work, "--json", *flags),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=REPO,
        env=environment(),
    )


@dataclass
class Harried:
    """All roles as processes that are started again whenever they die, as a cluster does."""

    run_file: Path
    work: str
    logs: Path
    kills: dict[str, int] = field(default_factory=dict)
    _processes: dict[int, RoleProcess] = field(default_factory=dict)
    _first_round: float | None = None

    def run(self, kills: int, seed: int, timeout_s: float) -> bool:
        """Run to the end, killing `kills` times on the way; True: all roles ended with exit status 0.

        The run's own rounds set the pace, so that neither a quick nor a slow machine changes what is hit.
        """
        rng = random.Random(seed)
        deadline = time.monotonic() + timeout_s
        next_kill = 0.0
        store = open_store(self.work)
        try:
            for number in range(len(ROLES)):
                self._start(number)
            while time.monotonic() < deadline:
                for number, process in list(self._processes.items()):
                    if process.poll() not in (None, 0):
                        self._start(number)
                if all(process.poll() == 0 for process in self._processes.values()):
                    return True
                rounds, round_s = self._pace(store)
                done = sum(self.kills.values())
                if done < min(kills, KILLS_A_ROUND * rounds) and time.monotonic() >= next_kill:
                    self._kill(rng)
                    next_kill = time.monotonic() + rng.random() * round_s / KILLS_A_ROUND
                time.sleep(0.05)
            return False
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            store.close()

    def _pace(self, store: Store) -> tuple[int, float]:
        """How many rounds have been begun, and how long one took so far, seconds."""
        if store.stat(names.NEW_ITR) is None:
            return 0, 0.0
        rounds = len(store.list(names.ROUNDS)) + 1
        if self._first_round is None:
            self._first_round = time.monotonic()
        return rounds, (time.monotonic() - self._first_round) / rounds

    def _start(self, number: int) -> None:
        role = ROLES[number]
        command = [role, str(self.run_file)] if role == "master" else [role]
        log = self.logs / f"{number}-{role}.log"
        self._processes[number] = RoleProcess([*command, "--work", self.work], log)

    def _kill(self, rng: random.Random) -> None:
        """The role that was killed least so far, of those that are running."""
        running = [n for n, process in self._processes.items() if process.poll() is None]
        fewest = min(self.kills.get(ROLES[n], 0) for n in running)
        victim = rng.choice([n for n in running if self.kills.get(ROLES[n], 0) == fewest])
        self._processes[victim].send_signal(signal.SIGKILL)
        self._processes[victim].wait()
        self.kills[ROLES[victim]] = self.kills.get(ROLES[victim], 0) + 1
