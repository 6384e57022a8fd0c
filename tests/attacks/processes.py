"""Real processes of the four roles, each to be stopped, woken and ended on its own."""

from __future__ import annotations

import re
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml
from torch import nn

from coppice.models.builtin import mlp
from coppice.roles.processes import RoleProcess
from coppice.roles.simulate import GRACE_S
from coppice.store import Store
from coppice.work import names
from tests.hdfs.service import until
from tests.roles.processes import DIGITS
from tests.roles.threads import history_of, result_of

PATIENCE_S = 240.0
LEASE_S = 3.0
_CLAIMED = re.compile(r"i\d+_t(\d+)_claimed_by_.*-(\d+)-[0-9a-f]{4}")


class Nap(nn.Module):
    """Takes its time when a network is judged, not when it is trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x`, a little later."""
        if not self.training:
            time.sleep(0.1)
        return x


def drowsy(**arguments: Any) -> nn.Module:
    """The built-in network with a nap in front, so that claims last long enough to be met."""
    return nn.Sequential(OrderedDict([("nap", Nap()), *mlp(**arguments).named_children()]))


def slow_digits(folder: Path) -> Path:
    """The file of a digits run of two searches whose evaluators need a tenth of a second a solution."""
    run: dict[str, Any] = yaml.safe_load(DIGITS.read_text())
    run.update(name="slow", reference={"iterations": 200}, evaluators={"lease_s": LEASE_S, "tries": 100})
    run["model"]["name"] = f"{drowsy.__module__}:{drowsy.__name__}"
    run["rounds"] = {"iterations": 200, "tmax": 800}
    run["surgery"]["prune_until"] = 400
    run["search"].update(evaluations=30)
    path = folder / "slow.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


class Actor:
    """One role as one process."""

    def __init__(self, role: str, number: int, run_file: Path, work: str, logs: Path) -> None:
        self.role = role
        self.log = logs / f"{role}-{number}.log"
        command = [role, str(run_file)] if role == "master" else [role]
        self.process = RoleProcess([*command, "--work", work], self.log)

    def said(self) -> str:
        """All that it wrote."""
        return self.log.read_text() if self.log.exists() else ""

    def says(self, part: str) -> None:
        """Wait until it has written `part`."""
        self._says(lambda said: part in said, repr(part))

    def misses_the_store(self) -> None:
        """Wait until it has said that the store does not answer, and not that it does again."""
        self._says(
            lambda said: said.rfind("; trying again for up to") > said.rfind("the store answers again"),
            "that the store does not answer",
        )

    def _says(self, heard: Callable[[str], bool], what: str) -> None:
        until(
            lambda: heard(self.said()) or not self.alive,
            PATIENCE_S,
            lambda: f"{self.role} never said {what}, but:\n{self.said()}",
        )
        assert heard(self.said()), self.said()

    @property
    def alive(self) -> bool:
        """Whether the process is there, asleep or not."""
        return self.process.poll() is None

    def send(self, number: int) -> None:
        """A signal."""
        self.process.send_signal(number)

    def ends(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for its end; its exit status."""
        status = self.process.wait(patience_s)
        assert status is not None, (
            f"{self.log.name} did not end within {patience_s:g} s: {self.said()[-2000:]}"
        )
        return status


class Cast:
    """Actors on one work folder; all are killed at the end of the `with`."""

    def __init__(self, run_file: Path, work: str, store: Store, logs: Path) -> None:
        self.store = store
        self.actors: list[Actor] = []
        self._run_file = run_file
        self._work = work
        self._logs = logs

    def start(self, *roles: str) -> list[Actor]:
        """Start them all at once."""
        before = len(self.actors)
        for role in roles:
            self.actors.append(Actor(role, len(self.actors), self._run_file, self._work, self._logs))
        return self.actors[before:]

    def claims(self) -> dict[int, str]:
        """Process id of each evaluator that holds a claim, and the claim's path."""
        found = {}
        for generation in self.store.list(names.GENERATIONS):
            for token in self.store.list(f"{names.GENERATIONS}/{generation.name}"):
                match = _CLAIMED.fullmatch(token.name)
                if match is not None:
                    found[int(match[2])] = f"{names.GENERATIONS}/{generation.name}/{token.name}"
        return found

    def wait_for_claims(self, actors: Sequence[Actor]) -> None:
        """Wait until each of these evaluators was seen with a claim: the middle of a search."""
        seen: set[int] = set()

        def all_seen() -> bool:
            seen.update(self.claims())
            return seen >= {actor.process.pid for actor in actors} or any(not a.alive for a in self.actors)

        until(all_seen, PATIENCE_S, f"not all evaluators claimed: {[a.said()[-300:] for a in self.actors]}")
        self.check_alive()

    def check_alive(self) -> None:
        """Nobody has ended yet."""
        for actor in self.actors:
            assert actor.alive, actor.said()

    def finish(self, actors: Iterable[Actor], undisturbed: Store) -> None:
        """These end by themselves, with status 0, and the result is that of the undisturbed run."""
        for actor in actors:
            assert actor.ends() == 0, actor.said()
        assert history_of(self.store) == history_of(undisturbed)
        assert result_of(self.store) == result_of(undisturbed)
        assert self.store.read(names.RESULT_MODEL) == undisturbed.read(names.RESULT_MODEL)

    def terminate(self, actors: Sequence[Actor]) -> None:
        """SIGTERM to all; each ends within the grace that `coppice simulate` gives, and says how to go on."""
        for actor in actors:
            actor.send(signal.SIGTERM)
        for actor in actors:
            assert actor.ends(GRACE_S) == 143, actor.said()
            assert "stopped; start again with the same command to go on" in actor.said()
            assert "Traceback" not in actor.said()
        self.actors = [actor for actor in self.actors if actor not in actors]

    def __enter__(self) -> Cast:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self.actors:
            actor.process.kill()  # SIGKILL ends the stopped, too
            actor.process.wait()
        self.store.close()
