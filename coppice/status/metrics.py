"""Metric logs as the platform draws them: a line of names, then lines of numbers, the first of them x.

iteration, loss
50, 2.27
100, 1.95
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from coppice.errors import CoppiceError

FOLDER = "save/metrics"
"""Below model_write_path."""
SUFFIX = ".log"
MAX_LINES = 10_000
"""A log that has more is thinned to every second line: it is written whole each time, and drawn whole."""
MAX_LOG_BYTES = 1 << 26
"""Of a log that is read."""

Line = tuple[float, ...]


class BadMetricLog(CoppiceError):
    """A file is no metric log, or a log is given what it cannot hold."""


def log_path(name: str) -> str:
    """Where the log of that name stands, below model_write_path. Raises `BadMetricLog`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise BadMetricLog(f"metric log {name[:120]!r}: letters, digits, '_', '.' and '-' only, at most 100")
    return f"{FOLDER}/{name}{SUFFIX}"


@dataclass(slots=True)
class MetricLog:
    """One log in memory, at most `max_lines` lines."""

    names: tuple[str, ...]
    """Of the columns; the first is the x axis."""
    lines: list[Line] = field(default_factory=list)
    stride: int = 1
    """Only every so many lines that are added are kept..."""
    added: int = 0
    """...of these."""
    max_lines: int = MAX_LINES

    def __post_init__(self) -> None:
        """Raises `BadMetricLog` for names that a header cannot hold."""
        if len(self.names) < 2:
            raise BadMetricLog("a metric log needs an x axis and at least one curve")
        for name in self.names:
            if not name.strip() or "," in name or not name.isprintable():
                raise BadMetricLog(f"metric {name[:120]!r}: a name is text on one line, without commas")

    def add(self, values: Sequence[float]) -> None:
        """One line. Where x is not beyond the last one, as after a restart, the lines from x on go first.

        Raises `BadMetricLog` for a wrong number of values, or an x that is no number.
        """
        if len(values) != len(self.names) or not math.isfinite(values[0]):
            raise BadMetricLog(f"a line of {', '.join(self.names)} cannot be {', '.join(map(str, values))}")
        if self.lines and values[0] <= self.lines[-1][0]:
            self.cut(values[0])
        if self.added % self.stride == 0:
            self.lines.append(tuple(float(value) for value in values))
        self.added += 1
        if len(self.lines) > self.max_lines:
            self.lines = self.lines[::2]
            self.stride *= 2

    def cut(self, x: float) -> None:
        """Forget the lines from `x` on."""
        keep = len(self.lines)
        while keep and self.lines[keep - 1][0] >= x:
            keep -= 1
        del self.lines[keep:]
        self.added = keep * self.stride

    def copy(self) -> MetricLog:
        """One that later lines are not added to."""
        return replace(self, lines=list(self.lines))

    def to_bytes(self) -> bytes:
        """The whole file."""
        rows = [", ".join(self.names), *(", ".join(map(_number, line)) for line in self.lines)]
        return "".join(f"{row}\n" for row in rows).encode()


def _number(value: float) -> str:
    """As short as six digits of it allow; whole numbers whole."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.6g}"


@dataclass(frozen=True, slots=True)
class Curves:
    """A metric log as it was read."""

    names: tuple[str, ...]
    values: npt.NDArray[np.float64]
    """float64 (lines, names): x in the first column; NaN where there is no number."""


def read_curves(data: bytes, origin: str) -> Curves:
    """The content of a metric log, whoever wrote it; a last line that is still being written is passed over.

    Raises `BadMetricLog`, naming `origin` and the line.
    """
    lines = data.decode("utf-8", "replace").splitlines()
    names = tuple(name.strip() for name in lines[0].split(",")) if lines else ()
    if len(names) < 2:
        raise BadMetricLog(f"{origin}: no metric log: the first line must name the x axis and the curves")
    rows = []
    unfinished = len(lines) if not data.endswith((b"\n", b"\r")) else 0  # it is being written
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = line.split(",")
        try:
            row = [float(cell) if cell.strip() else math.nan for cell in cells]
        except ValueError as error:
            if number == unfinished:
                break
            raise BadMetricLog(f"{origin}, line {number}: expected numbers, found {line[:80]!r}") from error
        if len(row) != len(names):
            if number == unfinished:
                break
            raise BadMetricLog(f"{origin}, line {number}: {len(row)} values for {len(names)} names")
        rows.append(row)
    return Curves(names, np.array(rows, dtype=np.float64).reshape(len(rows), len(names)))
