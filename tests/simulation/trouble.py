"""What can go wrong, drawn from a seed: every schedule has troubles of its own kinds and measure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from coppice.store import PermanentStoreError, TransientStoreError
from coppice.work import names
from coppice.work.generation import fit_bytes
from coppice.work.names import GenerationId
from tests.simulation.trial import Trial
from tests.simulation.world import Call, Fate, Process, World

LEASE_S = 20.0
_ONES = np.ones(3)
WRITES = frozenset(
    ("put", "rename", "rename_over", "rename_folder", "touch", "delete", "delete_tree", "make_folder")
)

TRANSIENT = (
    "connection refused",
    "StandbyException: Operation category WRITE is not supported in state standby",
    "RetriableException: NameNode still not started",
    "SafeModeException: Name node is in safe mode",
    "timed out",
    "status 503",
    "an answer that broke off or makes no sense",
)
"""As FACTS.md has them; tests/store shows that the real ones become the store's transient error."""


class Trouble:
    """The troubles of one schedule; `counts` says what was really done."""

    RATES: ClassVar[dict[str, float]] = {
        "request refused": 0.03,
        "reply lost": 0.03,
        "request late, after the caller gave up": 0.01,
        "request or reply slow": 0.05,
        "listing stale": 0.10,
        "listing broken off": 0.03,
    }
    """Kinds that befall a single call, with the highest probability that a schedule may draw for them."""

    EVENTS: ClassVar[dict[str, int]] = {
        "killed": 6,
        "stalled for longer than a lease": 3,
        "told to end (SIGTERM)": 3,
        "started twice": 3,
        "wall clock jumped": 4,
        "storage away": 2,
        "safe mode": 1,
        "no permission or no space": 1,
        "evaluator joined": 2,
        "evaluator left for good": 2,
        "fit file of an older generation or run planted": 2,
        "temporary files cleared": 1,
        "data or weights removed or damaged": 1,
    }
    """Kinds that come at some moment, with how often in one schedule at most."""

    def __init__(self, seed: int, calls: int) -> None:
        """`calls`: about how many a run makes, so that what comes at some moment comes while it lasts."""
        self.rng = random.Random(f"trouble {seed}")
        rng = self.rng
        self.counts: Counter[str] = Counter()
        self.rates = {kind: rng.random() * most for kind, most in self.RATES.items() if rng.random() < 0.5}
        moments: list[tuple[int, str]] = []
        for kind, most in self.EVENTS.items():
            if rng.random() < 0.5:
                moments += [(int(rng.random() * calls), kind) for _ in range(rng.randint(1, most))]
        self.moments = sorted(moments, reverse=True)
        self.away_until = 0.0
        self.safe_until = 0.0
        self.refused_next: set[Process] = set()
        self.trial: Trial | None = None
        self.world: World | None = None
        self.leaving: set[str] = set()
        self._acts: dict[str, Callable[[], bool]] = {
            "killed": self._kill,
            "stalled for longer than a lease": self._stall,
            "told to end (SIGTERM)": self._terminate,
            "started twice": self._start_twice,
            "wall clock jumped": self._jump,
            "storage away": self._away,
            "safe mode": self._safe_mode,
            "no permission or no space": self._refuse_for_good,
            "evaluator joined": self._join,
            "evaluator left for good": self._leave,
            "fit file of an older generation or run planted": self._plant,
            "temporary files cleared": self._clear,
            "data or weights removed or damaged": self._spoil,
        }

    def attach(self, trial: Trial) -> None:
        """Be the fate of a trial's calls."""
        self.trial, self.world = trial, trial.world
        trial.world.fate = self.fate

    def leaves_ghosts(self) -> bool:
        """Whether something may still be written when the run is over."""
        late = ("request late, after the caller gave up", "stalled for longer than a lease")
        return any(self.counts[kind] for kind in late)

    # Single calls

    def fate(self, call: Call) -> Fate:
        """What becomes of it."""
        world, rng = self._world, self.rng
        while self.moments and call.total >= self.moments[-1][0]:
            _, kind = self.moments.pop()
            world.after(0.0, lambda kind=kind: self._happen(kind))  # type: ignore[misc]
        fate = Fate(travel_s=0.001 + rng.expovariate(300))
        if call.process in self.refused_next and call.operation in WRITES:
            self.refused_next.discard(call.process)
            call.process.speechless = True
            self._count("no permission or no space")
            fate.refuse = PermanentStoreError("no permission; give this user the right to write there")
            return fate
        if world.now < self.away_until or (world.now < self.safe_until and call.operation in WRITES):
            fate.refuse = TransientStoreError(rng.choice(TRANSIENT[:4]))
            return fate
        if call.operation == "list" and "listing stale" in self.rates:
            world.keep_listing(call.paths[0])
        match drawn := self._draw():
            case "request refused":
                fate.refuse = TransientStoreError(rng.choice(TRANSIENT))
            case "reply lost":
                fate.lose = TransientStoreError("timed out")
            case "request late, after the caller gave up":
                fate.lose, fate.late_s = TransientStoreError("timed out"), rng.choice((0.05, 1.0, 30.0))
            case "request or reply slow":
                fate.travel_s = rng.expovariate(1.0)
                fate.return_s = rng.expovariate(1.0)
            case "listing stale" if call.operation == "list":
                fate.stale_s = rng.choice((0.1, 1.0, 3.0))
            case "listing broken off" if call.operation == "list":
                fate.refuse = TransientStoreError(TRANSIENT[-1])
            case _:
                return fate
        self._count(drawn)
        return fate

    def _draw(self) -> str | None:
        draw = self.rng.random()
        for kind, rate in self.rates.items():
            if draw < rate:
                return kind
            draw -= rate
        return None

    def _count(self, kind: str) -> None:
        self.counts[kind] += 1

    # Moments

    def _happen(self, kind: str) -> None:
        if self._acts[kind]():
            self._count(kind)

    @property
    def _world(self) -> World:
        assert self.world is not None
        return self.world

    @property
    def _trial(self) -> Trial:
        assert self.trial is not None
        return self.trial

    def _someone(self) -> Process | None:
        alive = [process for process in self._world.processes if process.alive]
        return self.rng.choice(alive) if alive else None

    def _kill(self) -> bool:
        victim = self._someone()
        if victim is None:
            return False
        victim.kill()
        return True

    def _stall(self) -> bool:
        sleeper = self._someone()
        if sleeper is None:
            return False
        sleeper.stalled_until = self._world.now + self.rng.uniform(1.0, 5.0) * LEASE_S
        return True

    def _terminate(self) -> bool:
        told = self._someone()
        if told is None:
            return False
        told.terminate()
        return True

    def _start_twice(self) -> bool:
        trial = self._trial
        places = [place for place in trial.places if place not in trial.over | self.leaving]
        if not places:
            return False
        trial.start(self.rng.choice(places))
        return True

    def _jump(self) -> bool:
        jumper = self._someone()
        if jumper is None:
            return False
        jumper.clock.wrong_by_s += self.rng.choice((-1, 1)) * self.rng.choice((0.5, 60.0, 86400.0 * 400))
        return True

    def _away(self) -> bool:
        self.away_until = self._world.now + self.rng.choice((1.0, 20.0, 60.0))
        return True

    def _safe_mode(self) -> bool:
        self.safe_until = self._world.now + self.rng.choice((5.0, 30.0))
        return True

    def _refuse_for_good(self) -> bool:
        refused = self._someone()
        if refused is not None:
            self.refused_next.add(refused)
        return False  # counted when it meets it

    def _join(self) -> bool:
        trial = self._trial
        if trial.evaluators >= 5:
            return False
        trial.evaluators += 1
        trial.start(f"evaluator{trial.evaluators}")
        return True

    def _leave(self) -> bool:
        """Not the last one; whether it says goodbye or not."""
        trial = self._trial
        staying = [p for p in trial.places if p.startswith("evaluator") and p not in trial.gone]
        if len(staying) < 2:
            return False
        place = self.rng.choice(staying)
        trial.gone.add(place)
        for process in self._world.processes:
            if process.place == place:
                process.kill() if self.rng.random() < 0.5 else process.terminate()
        return True

    def _plant(self) -> bool:
        """Somebody's fit file for a solution that was, or never was, one of this search's."""
        found = [names.parse_generation(entry.name) for entry in self._world.disk.list(names.GENERATIONS)]
        newest = max((each for each in found if each is not None), default=None)
        if newest is None:
            return False
        foreign = GenerationId("deadbeef", newest.search, newest.number)
        older = GenerationId(newest.run, newest.search, max(1, newest.number - 1))
        chosen = foreign if older == newest or self.rng.random() < 0.5 else older
        self._world.disk.put(chosen.solution(self.rng.randrange(4)).fit_file, fit_bytes(_ONES, 1e-9))
        return True

    def _clear(self) -> bool:
        """A careful administrator's script."""
        return self._world.disk.delete_tree(".tmp")

    def _spoil(self) -> bool:
        disk = self._world.disk
        wanted = ("data.npy", "labels.npy", "accuracy.npy", "weights_")
        there = [e.name for e in disk.list("") if e.name.startswith(wanted)]
        if not there:
            return False
        name = self.rng.choice(there)
        return disk.delete(name) if self.rng.random() < 0.5 else disk.put(name, b"damaged")


def leave_behind(world: World, rng: random.Random) -> None:
    """What an earlier run of the same folder left there."""
    disk = world.disk
    old = GenerationId("0badcafe", 1, 2)
    disk.put(f"{old.folder}/solutions.npy", b"old")
    disk.put(old.path("i00_t1_f0.001_a0.99_by_old"), b"")
    disk.put(old.path("i01_t1_waiting"), b"")
    disk.put(old.solution(0).fit_file, fit_bytes(_ONES, 1e-9))
    disk.put(".tmp/old-1-abcdef", b"half a fi")
    disk.put("data.npy", b"other data")
    disk.put("accuracy.npy", fit_bytes(_ONES, 0.1))
    disk.put("weights_s0001.safetensors", b"other weights")
    if rng.random() < 0.5:
        disk.put("new_itr.txt", b"over\nround: 9\nrun: 0badcafe\n")
        disk.put("ncs_over.txt", b"over\nsearch: 1\nrun: 0badcafe\n")
        disk.put("crates_list.npy", fit_bytes(_ONES, 9.0))
        disk.put("ncs_start.txt", b"exit\nsearch: 1\nrun: 0badcafe\n")
