"""The record of a search: every solution, its verdict and who gave it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, count, pairwise

import numpy as np

from coppice.pruning.contract import Float64s
from coppice.store import Store
from coppice.work import names
from coppice.work.contents import array_from_bytes, array_to_bytes, bundle_from_bytes, bundle_to_bytes
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_HISTORY_BYTES, read_limited


@dataclass(slots=True)
class SearchHistory:
    """One search as it was told, generation after generation."""

    search: int
    layers: int
    generation: list[int] = field(default_factory=list)
    solutions: list[Float64s] = field(default_factory=list)
    """Each float64 (layers,)."""
    fitness: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    """NaN where the solution was set aside or scored by hand."""
    workers: list[str] = field(default_factory=list)
    """Who scored it; the one column that another run of the same seed need not repeat."""

    def add(self, generation: int, solution: Float64s, fitness: float, accuracy: float, worker: str) -> None:
        """One evaluation."""
        self.generation.append(generation)
        self.solutions.append(solution)
        self.fitness.append(fitness)
        self.accuracy.append(accuracy)
        self.workers.append(worker)

    def best(self) -> tuple[Float64s, float] | None:
        """The solution with the smallest fitness, the first of several, as the search itself has it."""
        if not self.fitness:
            return None
        at = int(np.argmin(self.fitness))
        return self.solutions[at], self.fitness[at]

    def to_bytes(self) -> bytes:
        """A bundle of arrays."""
        solutions = np.array(self.solutions, dtype=np.float64).reshape(len(self.solutions), self.layers)
        arrays = {
            "generation.npy": np.array(self.generation, dtype=np.int64),
            "solutions.npy": solutions,
            "fitness.npy": np.array(self.fitness, dtype=np.float64),
            "accuracy.npy": np.array(self.accuracy, dtype=np.float64),
        }
        parts = {name: array_to_bytes(array) for name, array in arrays.items()}
        return bundle_to_bytes({**parts, "workers.txt": "\n".join(self.workers).encode()})

    @classmethod
    def from_bytes(cls, data: bytes, name: str, search: int) -> SearchHistory:
        """Raises `BadContent`."""
        parts = bundle_from_bytes(data, name)
        try:
            generation = array_from_bytes(parts["generation.npy"], name)
            solutions = array_from_bytes(parts["solutions.npy"], name)
            fitness = array_from_bytes(parts["fitness.npy"], name)
            accuracy = array_from_bytes(parts["accuracy.npy"], name)
            workers = parts["workers.txt"].decode("utf-8", "replace").split("\n") if fitness.size else []
        except KeyError as error:
            raise BadContent(f"{name}: {error} is missing in it") from error
        columns = ((generation, np.int64, 1), (solutions, np.float64, 2), (fitness, np.float64, 1))
        for column, dtype, axes in (*columns, (accuracy, np.float64, 1)):
            if column.dtype != dtype or column.ndim != axes:
                raise BadContent(f"{name}: holds {column.dtype} of shape {column.shape}, not a search's")
        if len({len(generation), len(solutions), len(fitness), len(accuracy), len(workers)}) != 1:
            raise BadContent(f"{name}: its columns differ in length")
        if not (np.isfinite(solutions).all() and np.isfinite(fitness).all()):
            raise BadContent(f"{name}: holds NaN or infinity")
        return cls(
            search=search,
            layers=solutions.shape[1],
            generation=[int(g) for g in generation],
            solutions=list(solutions),
            fitness=[float(f) for f in fitness],
            accuracy=[float(a) for a in accuracy],
            workers=workers,
        )


def _refuse(error: BadContent) -> None:
    raise error


def read_histories(
    store: Store, layers: int | None = None, damaged: Callable[[BadContent], None] = _refuse
) -> list[SearchHistory]:
    """All finished searches whose record is there, in order; `left_out` says which are not.

    All must be of `layers` layers, None: of as many as the first. What is damaged goes to `damaged`, which
    raises it unless told otherwise. A listing that is out of date hides none: what may follow the last one
    listed is asked for by name.
    """
    listed = sorted({names.parse_history(entry.name) or 0 for entry in store.list(names.HISTORY)} - {0})
    last = listed[-1] if listed else 0
    histories: list[SearchHistory] = []
    for search in chain(listed, count(last + 1)):
        try:
            found = _read_history(store, search, layers)
        except BadContent as error:
            damaged(error)
            continue
        if found is not None:
            histories.append(found)
            layers = found.layers
        elif search > last:
            break
    return histories


def _read_history(store: Store, search: int, layers: int | None) -> SearchHistory | None:
    path = names.history(search)
    data = read_limited(store, path, MAX_HISTORY_BYTES)
    if data is None:
        return None
    found = SearchHistory.from_bytes(data, path, search)
    check_layers(found, layers, path)
    return found


def check_layers(history: SearchHistory, layers: int | None, name: str) -> None:
    """Raises `BadContent` where a search is not of `layers` layers; None: of any number."""
    if layers is not None and history.layers != layers:
        raise BadContent(f"{name}: expected solutions of {layers} layers, found {history.layers}")


def left_out(histories: list[SearchHistory], searches: int) -> list[str]:
    """Which searches have no record among `histories`, of `searches` or as many as the last one says: a file
    each, or a range."""
    there = [0, *(history.search for history in histories)]
    there.append(max(searches, there[-1]) + 1)
    gaps = [(before + 1, after - 1) for before, after in pairwise(there) if after - before > 1]
    return [
        names.history(first) + (f" to {names.history(last)}" if last > first else "") for first, last in gaps
    ]


def history_csv(histories: list[SearchHistory], layers: list[str]) -> bytes:
    """history.csv: one row an evaluation; numbers written so that reading gives the same float64."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    crates = [f"crate_{layer}" for layer in layers]
    table.writerow(["search", "generation", "index", "fitness", "feasible", "accuracy", *crates, "evaluator"])
    for history in histories:
        index = 0
        for i, generation in enumerate(history.generation):
            index = index + 1 if i and history.generation[i - 1] == generation else 0
            fitness = history.fitness[i]
            table.writerow(
                [
                    history.search,
                    generation,
                    index,
                    repr(fitness),
                    int(fitness <= 1),
                    repr(history.accuracy[i]),
                    *(repr(float(c)) for c in history.solutions[i]),
                    history.workers[i],
                ]
            )
    return text.getvalue().encode()
