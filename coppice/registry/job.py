"""An order in work: its files at hand, its scripts run, what they say kept."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from coppice.registry import layout
from coppice.registry.child import Ended, guarded, run_child
from coppice.registry.errors import OrderFailed
from coppice.registry.models import ModelInfo, read_info
from coppice.registry.orders import Order
from coppice.registry.registry import Registry
from coppice.registry.reporting import Relay
from coppice.registry.scripting import REPORT_VARIABLE
from coppice.registry.tasks import TaskSettings
from coppice.status.reporter import SETTINGS_VARIABLE, Reporter

_REPORT = "report.jsonl"
_GRACE_S = 30.0
"""For a command of Coppice's own, to end its roles."""


@dataclass(slots=True)
class Job:
    """An order in work: what its commands need, and what they say."""

    registry: Registry
    order: Order
    settings: TaskSettings
    folder: Path
    """Empty, and removed afterwards."""
    tick: Callable[[], None]
    report: Reporter
    openpai: tuple[str, ...] = ()
    """Options of `coppice openpai render`: pruning runs are submitted; none: they run here."""
    log: list[str] = field(default_factory=list)

    def fetch(self, path: str) -> Path:
        """A local copy of a file of the registry; raises `OrderFailed` where there is none."""
        local = self.folder / path
        if not local.exists():
            content = self.registry.store.read(path)
            if content is None:
                raise OrderFailed(f"{path} is not there; what should make it: coppice registry ls")
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
        return local

    def fetch_model(self, path: str) -> tuple[Path, ModelInfo]:
        """A model, with the script that builds its network, if it is one of the registry's."""
        local = self.fetch(path)
        info = read_info(local.read_bytes(), path)
        if info.script is not None:
            self.fetch(info.script)
        return local, info

    def is_there(self, path: str) -> bool:
        """Whether a file is published already: it stays as it is, whoever published it."""
        there = self.registry.store.stat(path) is not None
        if there:
            self.log.append(f"{path} is there already")
        return there

    def publish(self, path: str, content: bytes) -> None:
        """Put a file into the registry; from now on it is at hand here, too."""
        if self.registry.store.create(path, content, durable=True):
            local = self.folder / path
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)

    def output(self, name: str) -> Path:
        """Where a script is to write."""
        local = self.folder / "made" / name
        local.parent.mkdir(exist_ok=True)
        return local

    def run_script(self, script: str, *arguments: Path) -> None:
        """Run a script of the registry; raises `OrderFailed` unless it ends well."""
        command = [sys.executable, str(self.fetch(script)), *map(str, arguments)]
        relay = Relay(self.report, self.folder / _REPORT, self.log.append)

        def tick() -> None:
            self.tick()
            relay()

        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as empty:
            ended = run_child(guarded(command), Path(empty), self.environment(), self.settings.limit_s, tick)
        relay()
        self._settle(script, ended)

    def run_coppice(self, folder: Path, *arguments: str, environment: Mapping[str, str]) -> None:
        """Run a command of Coppice's own in `folder`; raises `OrderFailed` unless it ends well."""
        command = guarded([sys.executable, "-m", "coppice", *arguments], signal.SIGTERM)
        given = {**self.environment(), **environment}
        ended = run_child(command, folder, given, self.settings.limit_s, self.tick, grace_s=_GRACE_S)
        self._settle(f"coppice {arguments[0]}", ended)

    def _settle(self, title: str, ended: Ended) -> None:
        """Log what a process said; raises `OrderFailed` unless it ended well."""
        self.log.append(ended.said.text().rstrip("\n"))
        self.log.append(f"({ended.seconds:.1f} s, exit status {ended.status})")
        limit_s = self.settings.limit_s
        if ended.late:
            raise OrderFailed(
                f"{title}: not done after {limit_s:g} s, ended (limit_s in the task's settings)"
            )
        if ended.status < 0:
            raise OrderFailed(f"{title}: killed by signal {-ended.status}")
        if ended.status:
            last = ended.said.last_line()[:300] or "it said nothing"
            raise OrderFailed(f"{title}: exit status {ended.status}: {last}")

    def environment(self) -> dict[str, str]:
        """What scripts are told beside their arguments."""
        parsed = layout.parse_id(self.order.makes)
        return {
            "COPPICE_TASK": self.order.task,
            "COPPICE_ID": self.order.makes,
            "COPPICE_SEED": str(parsed[1] if parsed else 1),
            "COPPICE_SCRIPTS": str(self.folder / "arch"),
            REPORT_VARIABLE: str(self.folder / _REPORT),
            SETTINGS_VARIABLE: "",  # its worker tells
        }

    def now(self) -> str:
        """For a record: UTC."""
        when = datetime.fromtimestamp(self.registry.clock.time(), UTC)
        return when.strftime("%Y-%m-%d %H:%M:%S.%f")
