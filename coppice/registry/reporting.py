"""What scripts report on their way, handed on by their worker: status messages and metric logs.

A script adds lines to the file that COPPICE_REPORT names, each a JSON object:

    {"step": 12, "percentage": 40, "metrics": {"loss": {"step": 12, "training": 0.31}}}

So it needs to know of no broker, and its worker tells the end, also of a script that was killed. Pruning
runs report by themselves: they are given the settings.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coppice.registry.errors import OrderLost
from coppice.registry.orders import Order
from coppice.registry.scripting import REPORT_VARIABLE
from coppice.roles.context import Stopped
from coppice.status import Reporter, load_status_settings, open_reporter
from coppice.status.metrics import BadMetricLog
from coppice.status.reporter import SETTINGS_VARIABLE, sentence
from coppice.status.settings import PASSWORD_VARIABLE, Kind
from coppice.work.contents import json_from_bytes
from coppice.work.errors import BadContent

_ABOUT: dict[str, Kind] = {"train": "training", "test": "validation", "prune": "training"}
"""What an order's messages are about: a model is trained, a score is a validation."""
_MOST_BYTES = 1 << 20
"""Read at a time, and the longest line."""


def check_settings() -> None:
    """Raises `StatusSettingsError` now for what would fail every order."""
    if os.environ.get(SETTINGS_VARIABLE):
        load_status_settings(os.environ[SETTINGS_VARIABLE], about=("training", "any"))


@contextmanager
def reporting(order: Order, say: Callable[[str], None]) -> Iterator[Reporter]:
    """For an order in work: its end is told as done or error, unless another will go on with it."""
    kind = _ABOUT.get(order.kind)
    if kind is None or order.kind == "prune" or not os.environ.get(SETTINGS_VARIABLE):
        yield Reporter(None, say)
        return
    report = open_reporter(say=say, about=(kind, order.makes))
    try:
        report.progress(0, 0)
        yield report
    except (Stopped, OrderLost):
        report.leave()
        raise
    except BaseException as error:
        report.error(sentence(error))
        raise
    report.done()


def settings_for(order: Order, folder: Path) -> dict[str, str]:
    """Environment by which a pruning run reports about the model that it makes."""
    path = os.environ.get(SETTINGS_VARIABLE)
    if not path:
        return {}
    settings = load_status_settings(path, about=("training", order.makes))
    own = folder / "status.json"
    own.write_text(json.dumps(settings.model_dump(mode="json", exclude={"message_pw"}, exclude_none=True)))
    return {SETTINGS_VARIABLE: str(own), PASSWORD_VARIABLE: settings.password}


class Relay:
    """Hands on what a script has reported since the last call."""

    def __init__(self, report: Reporter, path: Path, say: Callable[[str], None]) -> None:
        self._report = report
        self._path = path
        self._say = say
        self._at = 0
        self._complained = False

    def __call__(self) -> None:
        """Whole lines only; what is no report is said once."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                block = file.read(_MOST_BYTES)
        except OSError:  # nothing was reported yet
            return
        lines, newline, _ = block.rpartition(b"\n")
        if not newline and len(block) == _MOST_BYTES:  # no line is that long
            lines = block
        self._at += len(lines) + len(newline)
        for line in lines.splitlines():
            try:
                self._hand_on(json_from_bytes(line, "report"))
            except (BadContent, BadMetricLog, ValueError, TypeError, AttributeError) as error:
                if not self._complained:
                    self._complained = True
                    self._say(f"a line in {REPORT_VARIABLE} is no report ({error}): {line[:80]!r}")

    def _hand_on(self, said: dict[str, Any]) -> None:
        if "percentage" in said:
            percentage = float(said["percentage"])
            if not math.isfinite(percentage):
                raise ValueError("percentage")
            self._report.progress(int(said.get("step", 0)), min(100.0, max(0.0, percentage)))
        for name, values in said.get("metrics", {}).items():
            self._report.metrics.add(name, {key: float(value) for key, value in values.items()})
