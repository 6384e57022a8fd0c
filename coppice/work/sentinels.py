"""The sentinels through which the roles speak, and run.json, as small typed classes.

Text files say on their first line what the original jobs said there; further lines are `key: value`. Every
reader refuses what it does not understand with `BadContent`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from coppice.work.contents import json_from_bytes, json_to_bytes
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_TEXT_BYTES

MOST_TIMES = 1e15
"""No network is as many times smaller: every whole number in a sentinel is less."""


def _text_to_bytes(first: str, pairs: dict[str, object]) -> bytes:
    return "".join([f"{first}\n", *(f"{key}: {value}\n" for key, value in pairs.items())]).encode()


def _text_from_bytes(data: bytes, name: str) -> tuple[str, dict[str, str]]:
    if len(data) > MAX_TEXT_BYTES:
        raise BadContent(f"{name}: larger than {MAX_TEXT_BYTES} bytes")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadContent(f"{name}: not text") from error
    if not lines:
        raise BadContent(f"{name}: empty")
    pairs = {}
    for line in lines[1:]:
        key, colon, value = line.partition(":")
        if not colon:
            raise BadContent(f"{name}: expected 'key: value', found {line[:80]!r}")
        pairs[key.strip()] = value.strip()
    return lines[0].strip(), pairs


class _Pairs:
    """The further lines of a sentinel, read with the file's name in every complaint."""

    def __init__(self, pairs: dict[str, str], name: str) -> None:
        self._pairs, self._name = pairs, name

    def text(self, key: str) -> str:
        try:
            return self._pairs[key]
        except KeyError:
            raise BadContent(f"{self._name}: line '{key}: ...' is missing") from None

    def integer(self, key: str) -> int:
        return _integer(self.text(key), self._name, key)

    def boolean(self, key: str) -> bool:
        text = self.text(key)
        if text not in ("True", "False"):
            raise BadContent(f"{self._name}: {key}: expected True or False, found {text[:40]!r}")
        return text == "True"

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float:
        value = _number(self.text(key), self._name, key)
        if not least <= value <= most:
            raise BadContent(
                f"{self._name}: {key}: expected a number from {least:g} to {most:g}, found {value:g}"
            )
        return value


def _integer(text: str, name: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadContent(f"{name}: {what}: expected a whole number, found {text[:40]!r}")
    return int(text)


def _number(text: str, name: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise BadContent(f"{name}: {what}: expected a number, found {text[:40]!r}") from error
    if not text.isascii():  # float() knows the digits of every script
        raise BadContent(f"{name}: {what}: expected a number, found {text[:40]!r}")
    if not math.isfinite(value):
        raise BadContent(f"{name}: {what}: expected a finite number, found {text[:40]!r}")
    return value


@dataclass(frozen=True, slots=True)
class NewItr:
    """new_itr.txt, master to outer: do so many iterations in this round; None: the run is over."""

    run: str
    round: int
    iterations: int | None

    def to_bytes(self) -> bytes:
        """First line: the iterations, or `over`."""
        first = "over" if self.iterations is None else str(self.iterations)
        return _text_to_bytes(first, {"round": self.round, "run": self.run})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> NewItr:
        """Raises `BadContent`."""
        first, rest = _text_from_bytes(data, name)
        pairs = _Pairs(rest, name)
        iterations = None if first == "over" else _integer(first, name, "the first line")
        return cls(pairs.text("run"), pairs.integer("round"), iterations)


@dataclass(frozen=True, slots=True)
class Report:
    """report.txt, outer to master: the round is done, so many iterations; how the network stands."""

    run: str
    round: int
    iterations: int
    iteration: int
    """Iterations of surgery in all rounds so far."""
    searches: int
    parameters_remaining: int
    compression: float
    accuracy: float
    """On the held-out samples."""
    feasible: bool
    best_compression: float
    """Of the best feasible network so far."""
    loss: float | None

    def to_bytes(self) -> bytes:
        """First line: the iterations done in this round."""
        pairs = {key: getattr(self, key) for key in self.__slots__ if key not in ("iterations", "run")}
        return _text_to_bytes(str(self.iterations), {**pairs, "run": self.run})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Report:
        """Raises `BadContent`."""
        first, rest = _text_from_bytes(data, name)
        pairs = _Pairs(rest, name)
        return cls(
            run=pairs.text("run"),
            round=pairs.integer("round"),
            iterations=_integer(first, name, "the first line"),
            iteration=pairs.integer("iteration"),
            searches=pairs.integer("searches"),
            parameters_remaining=pairs.integer("parameters_remaining"),
            compression=pairs.number("compression", 1, MOST_TIMES),
            accuracy=pairs.number("accuracy", 0, 1),
            feasible=pairs.boolean("feasible"),
            best_compression=pairs.number("best_compression", 1, MOST_TIMES),
            loss=None if pairs.text("loss") == "None" else pairs.number("loss"),
        )


@dataclass(frozen=True, slots=True)
class NcsStart:
    """ncs_start.txt, outer to ncs: search from these crates; `crates` None: there is nothing more to do."""

    run: str
    search: int
    crates: tuple[float, ...] | None
    searched: tuple[bool, ...] = ()
    """Which layers take part; the others keep their start crate."""

    def to_bytes(self) -> bytes:
        """First line: the start crates, or `exit`."""
        pairs: dict[str, object] = {"search": self.search, "run": self.run}
        if self.crates is None:
            return _text_to_bytes("exit", pairs)
        layers = " ".join("1" if s else "0" for s in self.searched)
        return _text_to_bytes(" ".join(repr(float(c)) for c in self.crates), {"layers": layers, **pairs})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> NcsStart:
        """Raises `BadContent`."""
        first, rest = _text_from_bytes(data, name)
        pairs = _Pairs(rest, name)
        run, search = pairs.text("run"), pairs.integer("search")
        if first == "exit":
            return cls(run, search, None)
        crates = tuple(_number(word, name, "the first line") for word in first.split())
        words = pairs.text("layers").split()
        if not crates or len(words) != len(crates) or not set(words) <= {"0", "1"} or "1" not in words:
            raise BadContent(f"{name}: layers: expected {len(crates)} of 0 and 1 and at least one 1")
        return cls(run, search, crates, tuple(word == "1" for word in words))


@dataclass(frozen=True, slots=True)
class NcsOver:
    """ncs_over.txt, ncs to outer: the search is done and crates_list.npy holds its best crates."""

    run: str
    search: int
    evaluations: int
    generations: int
    fitness: float
    crates_sha256: str
    """Of crates_list.npy: the two files are written one after the other, this ties them together."""

    def to_bytes(self) -> bytes:
        """First line: `over`."""
        pairs = {key: getattr(self, key) for key in self.__slots__ if key != "run"}
        return _text_to_bytes("over", {**pairs, "run": self.run})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> NcsOver:
        """Raises `BadContent`."""
        first, rest = _text_from_bytes(data, name)
        if first != "over":
            raise BadContent(f"{name}: the first line: expected 'over', found {first[:40]!r}")
        pairs = _Pairs(rest, name)
        return cls(
            run=pairs.text("run"),
            search=pairs.integer("search"),
            evaluations=pairs.integer("evaluations"),
            generations=pairs.integer("generations"),
            fitness=pairs.number("fitness"),
            crates_sha256=pairs.text("crates_sha256"),
        )


@dataclass(frozen=True, slots=True)
class RunRecord:
    """run.json, master to all: which run lives here, with what settings, and how it stands."""

    run_id: str
    state: str
    """running, over, or failed."""
    run_file: dict[str, Any]
    """The validated run file, every default filled in."""
    version: str
    """Of the Coppice that opened the run."""
    reason: str | None = None
    """Why it failed."""
    started: str = field(default="")
    """For people; the master's clock."""

    def to_bytes(self) -> bytes:
        """JSON, readable."""
        return json_to_bytes({key: getattr(self, key) for key in self.__slots__})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> RunRecord:
        """Raises `BadContent`."""
        value = json_from_bytes(data, name)
        run_id, state, run_file = value.get("run_id"), value.get("state"), value.get("run_file")
        if not (isinstance(run_id, str) and len(run_id) == 8 and set(run_id) <= set("0123456789abcdef")):
            raise BadContent(f"{name}: run_id: expected eight hexadecimal digits")
        if state not in ("running", "over", "failed"):
            raise BadContent(f"{name}: state: expected running, over or failed")
        if not isinstance(run_file, dict):
            raise BadContent(f"{name}: run_file: expected an object")
        reason = value.get("reason")
        return cls(
            run_id=run_id,
            state=state,
            run_file=run_file,
            version=str(value.get("version", "")),
            reason=None if reason is None else str(reason),
            started=str(value.get("started", "")),
        )
