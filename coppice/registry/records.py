"""A task's tables: lines that are added exactly once, by any number of processes, on any store.

    task/TSK000001_score/SCR000001.csv   one line, created once: whoever comes second finds it there
    task/TSK000001_score.csv             all of them, for people: written anew with every line that it lacks

No store that Coppice runs on can append safely, and who reads a table, extends it and writes it back loses
the line of whoever does the same at that moment. So the line's own file counts; the table is looked at again
after it was written, until it has all. What stands in it without a file (somebody typed it in) is kept, too.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Protocol, Self, TypeVar

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.store import Store, TooLarge
from coppice.work.limits import MAX_RESULT_BYTES, MAX_TEXT_BYTES

Name = Literal["model", "score", "predict"]


class Record(Protocol):
    """A line of a table."""

    TABLE: ClassVar[Name]
    COLUMNS: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> str:
        """What there is one line of."""
        ...

    def cells(self) -> list[str]:
        """The line; trailing columns may be left out."""
        ...

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """Raises `ValueError` if these are no such cells."""
        ...


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model was trained, or pruned."""

    TABLE: ClassVar[Name] = "model"
    COLUMNS: ClassVar[tuple[str, ...]] = (
        "time",
        "arch",
        "train",
        "model",
        "parameters",
        "parent",
        "compression",
        "run",
    )

    time: str
    arch: str
    train: str
    model: str
    parameters: int | None = None
    """How many of them are not cut; None where the line does not say."""
    parent: str | None = None
    """The model that it was cut from,"""
    compression: float | None = None
    """how many times fewer parameters it has,"""
    run: str | None = None
    """and the id of the pruning run."""

    @property
    def key(self) -> str:
        """See `Record.key`."""
        return self.model

    def cells(self) -> list[str]:
        """See `Record.cells`."""
        cells = [self.time, self.arch, self.train, self.model]
        if self.parameters is not None:
            cells.append(str(self.parameters))
        if self.parent is not None and self.compression is not None:
            cells += [self.parent, f"{self.compression:.2f}", self.run or ""]
        return cells

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """See `Record.parse`."""
        when, arch, train, model, parameters, parent, compression, run = _padded(cells, 4, 8)
        _expect(arch, "ARC")
        _expect(train, "TRD")
        _expect(model, "MDL")
        if parent:
            _expect(parent, "MDL")
        if bool(parent) != bool(compression):
            raise ValueError("parent and compression belong together")
        return cls(
            when,
            arch,
            train,
            model,
            _count(parameters) if parameters else None,
            parent or None,
            _finite(compression) if compression else None,
            run or None,
        )


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """A model was tested."""

    TABLE: ClassVar[Name] = "score"
    COLUMNS: ClassVar[tuple[str, ...]] = ("time", "model", "test", "file", "score")

    time: str
    model: str
    test: str
    file: str
    score: float

    @property
    def key(self) -> str:
        """See `Record.key`."""
        return self.file.removeprefix("score/").removesuffix(".txt")

    def cells(self) -> list[str]:
        """See `Record.cells`."""
        return [self.time, self.model, self.test, self.file, repr(self.score)]

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """See `Record.parse`."""
        when, model, test, file, score = _padded(cells, 5, 5)
        _expect(model, "MDL")
        _expect(test, "TST")
        record = cls(when, model, test, file, _finite(score))
        _expect(record.key, "SCR")
        return record


@dataclass(frozen=True, slots=True)
class PredictRecord:
    """A predict set was worked on."""

    TABLE: ClassVar[Name] = "predict"
    COLUMNS: ClassVar[tuple[str, ...]] = ("time", "model", "out", "values")

    time: str
    model: str
    out: str
    values: str
    """How the array begins."""

    @property
    def key(self) -> str:
        """See `Record.key`."""
        return self.out.removeprefix("out/").removesuffix("_yhat.npy")

    def cells(self) -> list[str]:
        """See `Record.cells`."""
        return [self.time, self.model, self.out, self.values]

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """See `Record.parse`."""
        record = cls(*_padded(cells, 4, 4))
        _expect(record.model, "MDL")
        _expect(record.key, "PRD")
        return record


R = TypeVar("R", bound=Record)


class Table(Generic[R]):
    """One of a task's tables."""

    def __init__(self, store: Store, task: str, kind: type[R]) -> None:
        self._store = store
        self._kind = kind
        self._path = layout.table_file(task, kind.TABLE)
        self._folder = self._path.removesuffix(".csv")

    def add(self, record: R) -> bool:
        """Add a line; False: there is one of its key already, and stays.

        Raises `RegistryError` for one that could not be read again.
        """
        line = _line(record.cells())
        found, _ = _parse(self._kind, line, "")
        if found is None or found.key != record.key:
            raise RegistryError(f"{self._path}: {line!r:.200} is no line for it")
        added = self._store.create(f"{self._folder}/{record.key}.csv", line)
        self.complete()
        return added

    def complete(self) -> None:
        """Write the table anew, if it lacks a line that was added: also one whose writer died."""
        while True:
            records, text, _ = self._look()
            missing = [self._own(name) for name in self._single() if name not in records]
            lines = [line for found, line, _ in missing if found is not None]
            if text and not lines:
                return
            text = text or _line(self._kind.COLUMNS)
            end = b"" if text.endswith(b"\n") else b"\n"
            self._store.replace(self._path, text + end + b"".join(lines))

    def read(self) -> tuple[list[R], list[str]]:
        """All lines, those of the table first; and a complaint for each that is no such line."""
        records, _, complaints = self._look()
        for name in self._single():
            if name not in records:
                found, _, complaint = self._own(name)
                if found is not None:
                    records[name] = found
                complaints += complaint
        return list(records.values()), complaints

    def find(self, key: str) -> R | None:
        """The line of that key, if there is one."""
        return next((record for record in self.read()[0] if record.key == key), None)

    def _own(self, name: str) -> tuple[R | None, bytes, list[str]]:
        """The line that has a file of its own, and as it stands there; or a complaint, unless it is gone."""
        path = f"{self._folder}/{name}.csv"
        line = self._read(path)
        if line is None:
            return None, b"", []
        found, complaints = _parse(self._kind, line, path)
        if found is not None and found.key != name:
            return None, b"", [f"{path}: left out, for its line is that of {found.key}"]
        return found, line, complaints

    def _single(self) -> list[str]:
        """The keys that have a file of their own."""
        entries = self._store.list(self._folder)
        return [entry.name.removesuffix(".csv") for entry in entries if entry.name.endswith(".csv")]

    def _look(self) -> tuple[dict[str, R], bytes, list[str]]:
        text = self._read(self._path) or b""
        records: dict[str, R] = {}
        complaints: list[str] = []
        lines = text.removeprefix(codecs.BOM_UTF8).split(b"\n")  # spreadsheets put it there
        for number, line in enumerate(lines, start=1):
            if not line.strip() or (number == 1 and line.startswith(b"time,")):
                continue
            found, complaint = _parse(self._kind, line, f"{self._path}, line {number}")
            if found is not None:
                records.setdefault(found.key, found)
            complaints += complaint
        return records, text, complaints

    def _read(self, path: str) -> bytes | None:
        limit = MAX_RESULT_BYTES if path == self._path else MAX_TEXT_BYTES
        try:
            return self._store.read(path, limit)
        except TooLarge as error:
            raise RegistryError(
                f"{self._store.url}/{path}: larger than {limit} bytes; move it away"
            ) from error


def _parse(kind: type[R], line: bytes, where: str) -> tuple[R | None, list[str]]:
    try:
        text = line.decode("utf-8").strip()
        if "\n" in text or "\r" in text:
            raise ValueError("more than a line")
        (cells,) = csv.reader([text], skipinitialspace=True, strict=True)
        return kind.parse([cell.strip() for cell in cells]), []
    except (ValueError, csv.Error):
        wanted = ", ".join(kind.COLUMNS)
        return None, [f"{where}: left out, for it is no line of {wanted}: {line[:80]!r}"]


def _line(cells: Sequence[str]) -> bytes:
    """Parted by a comma and a space; quoted where a cell holds one."""
    parts = []
    for cell in cells:
        part = io.StringIO()
        csv.writer(part, lineterminator="").writerow([cell])
        parts.append(part.getvalue())
    return (", ".join(parts) + "\n").encode()


def _padded(cells: Sequence[str], least: int, most: int) -> list[str]:
    if not least <= len(cells) <= most or not all(cells[:least]):
        raise ValueError(f"{len(cells)} cells")
    return [*cells, *[""] * (most - len(cells))]


def _expect(text: str, prefix: layout.Prefix) -> None:
    parsed = layout.parse_id(text)
    if parsed is None or parsed[0] != prefix:
        raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ValueError(text)
    return int(text)
