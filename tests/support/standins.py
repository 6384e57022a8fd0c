"""Cheap deterministic stand-ins for training and scoring, behind the roles' own protocols.

The "network" has three layers; each tolerates a crate up to its tolerance, beyond which accuracy falls.
Training moves the tolerances by an iterated map, so that skipping, repeating or reordering a single iteration
anywhere shows in every later number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coppice.errors import CoppiceError
from coppice.pruning.contract import (
    Export,
    ExportReport,
    Float64s,
    Layer,
    Measure,
    Outcome,
    Score,
    Tick,
    Timing,
)
from coppice.runfile import RunFile
from coppice.work.contents import array_from_bytes, array_to_bytes

SIZES = np.array([1000.0, 500.0, 100.0])
REFERENCE_ACCURACY = 0.95


def _kept(crates: Float64s) -> npt.NDArray[np.int64]:
    kept: npt.NDArray[np.int64] = np.floor(SIZES * np.exp(-np.maximum(crates, 0.0))).astype(np.int64)
    return kept


def _accuracy(crates: Float64s, tolerance: Float64s) -> float:
    return float(REFERENCE_ACCURACY - 0.05 * np.maximum(crates - tolerance, 0.0).sum())


class CheapPruner:
    """Implements `coppice.pruning.contract.Pruner`."""

    def __init__(self, run: RunFile) -> None:
        self.run = run
        self.layers = tuple(Layer(f"fc{i + 1}", (int(n),)) for i, n in enumerate(SIZES))
        self.reference_left = run.reference.iterations
        self.iteration = 0
        self.reference_accuracy = REFERENCE_ACCURACY
        self.crates: Float64s = np.zeros(3)
        self.tolerance: Float64s = np.array([1.0, 1.1, 1.2]) + (run.seed % 97) * 0.001
        self.best: tuple[int, float, list[float]] | None = None
        self.finished = 0

    def _step(self, tick: Tick) -> None:
        tick()
        mixed = np.array([self.tolerance[2], self.tolerance[0], self.tolerance[1]])
        self.tolerance = 0.9 * self.tolerance + 0.1 * mixed + 0.01 * np.sin(3 * mixed + self.crates) ** 2

    def train_reference(self, iterations: int, tick: Tick) -> None:
        for _ in range(min(iterations, self.reference_left)):
            self._step(tick)
            self.reference_left -= 1

    def samples(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        return np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(4)

    def searches(self) -> bool:
        return self.run.cuts(self.iteration)

    def weights(self) -> bytes:
        return array_to_bytes(self.tolerance)

    def start_crates(self) -> Float64s:
        return self.crates.copy()

    def searched_layers(self, search: int) -> npt.NDArray[np.bool_]:
        searched = np.ones(3, dtype=np.bool_)
        searched[search % 3] = search % 2 == 1  # now and then a layer does not take part
        return searched

    def apply(self, crates: Float64s, fitness: float) -> None:
        if fitness <= 1:
            self.crates = crates.copy()

    def train(self, iterations: int, tick: Tick) -> None:
        for _ in range(iterations):
            self._step(tick)
            self.iteration += 1

    def measure(self, tick: Tick) -> Measure:
        tick()
        kept = _kept(self.crates)
        accuracy = _accuracy(self.crates, self.tolerance)
        measure = Measure(
            parameters_total=1600,
            parameters_remaining=int(kept.sum()),
            weights_total=1600,
            weights_remaining=int(kept.sum()),
            layer_remaining=tuple(int(k) for k in kept),
            accuracy=accuracy,
            feasible=accuracy >= REFERENCE_ACCURACY - self.run.accuracy_drop(max(self.iteration - 1, 0)),
        )
        enough = REFERENCE_ACCURACY - self.run.constraint.accuracy_drop
        if accuracy >= enough and (self.best is None or int(kept.sum()) < self.best[0]):
            self.best = (int(kept.sum()), accuracy, [float(c) for c in self.crates])
        return measure

    def best_compression(self) -> float:
        return 1600 / self.best[0] if self.best else 1.0

    def loss(self) -> float:
        return float(self.tolerance.sum())

    def finish(self, tick: Tick) -> Outcome:
        crates = np.array(self.best[2]) if self.best else np.zeros(3)
        before, self.crates = self.crates, crates
        measure = self.measure(tick)
        self.crates = before
        model = array_to_bytes(self.tolerance)
        self.finished += 1
        timing = Timing("dense", 1, 1, float(self.finished))  # measured again, never the same
        report = ExportReport({"dense": len(model)}, {}, (timing,), (), "2", "none")
        export = Export({"model.safetensors": model}, report)
        return Outcome(measure, REFERENCE_ACCURACY, measure.accuracy, crates, model, export)

    def checkpoint(self) -> bytes:
        state = {
            "reference_left": self.reference_left,
            "iteration": self.iteration,
            "crates": [c.hex() for c in self.crates.tolist()],
            "tolerance": [t.hex() for t in self.tolerance.tolist()],
            "best": self.best,
        }
        return json.dumps(state).encode()

    def restore(self, checkpoint: bytes) -> None:
        state = json.loads(checkpoint)
        self.reference_left = state["reference_left"]
        self.iteration = state["iteration"]
        self.crates = np.array([float.fromhex(c) for c in state["crates"]])
        self.tolerance = np.array([float.fromhex(t) for t in state["tolerance"]])
        self.best = tuple(state["best"]) if state["best"] else None


class CheapScorer:
    """Implements `coppice.pruning.contract.Scorer`."""

    layers = 3
    batch = 1

    def __init__(
        self,
        run: RunFile,
        weights: bytes,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.int64],
        reference_accuracy: float,
    ) -> None:
        if x.shape != (4, 2) or y.shape != (4,) or reference_accuracy != REFERENCE_ACCURACY:
            raise CoppiceError("the samples are not those that CheapPruner published")
        self._tolerance = array_from_bytes(weights, "weights")
        self._least = reference_accuracy - run.accuracy_drop(0)

    def score_many(self, solutions: Sequence[Float64s], tick: Tick) -> list[Score]:
        return [self.score(crates, tick) for crates in solutions]

    def score(self, crates: Float64s, tick: Tick) -> Score:
        """One of them."""
        tick()
        accuracy = _accuracy(crates, self._tolerance)
        feasible = accuracy >= self._least
        fitness = float(_kept(crates).sum() / 1600) if feasible else 1 + self._least - accuracy
        return Score(fitness, feasible, accuracy)
