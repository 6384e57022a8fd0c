"""What the roles need of a network, in plain numpy and bytes: nothing here imports torch.

`Pruner` is what the outer loop drives, `Scorer` what an evaluator drives. The real ones are built by
`coppice.pruning.pruner.TorchPruner` and `coppice.pruning.scoring.fast.FastScorer`; tests put cheap stand-ins
behind the same protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]
Tick = Callable[[], None]
"""Called every so often inside long work (at least once a second or so, once a batch): beats leases and
may raise to end the work."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One prunable layer."""

    name: str
    """The module's name in the network, e.g. 'fc1'."""
    shape: tuple[int, ...]
    """Shape of its weight."""


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one solution."""

    fitness: float
    """Feasible: the fraction of all parameters that remain, in (0, 1]. Infeasible: in (1, 2], the larger
    the earlier it was certain; see `coppice.pruning.scoring.verdict`."""
    feasible: bool
    accuracy: float | None
    """On the samples of data.npy; None where it was not asked for, and the verdict was certain without."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The network as it stands, masked."""

    parameters_total: int
    parameters_remaining: int
    weights_total: int
    weights_remaining: int
    layer_remaining: tuple[int, ...]
    """Weights kept in each layer, in the order of `Pruner.layers`."""
    accuracy: float
    """On the samples held out of the training set."""
    feasible: bool

    @property
    def compression(self) -> float:
        """parameters_total / parameters_remaining."""
        return self.parameters_total / max(1, self.parameters_remaining)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one pass through the network took."""

    form: str
    """'dense', or the file that the network was made from."""
    batch: int
    """Samples in one pass."""
    threads: int
    ms: float


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export saves, in bytes and milliseconds."""

    size_bytes: Mapping[str, int]
    """'dense': all weights as safetensors; and each file that holds the network."""
    outputs_apart: Mapping[str, float]
    """By file: the largest difference from the dense network's outputs, as a part of the largest of these."""
    timings: tuple[Timing, ...]
    notes: tuple[str, ...]
    """What was left out and why, and what is slower than the dense network, a line each."""
    torch: str
    """Its version."""
    processor: str


@dataclass(frozen=True, slots=True)
class Export:
    """The pruned network as files for those who do not have Coppice."""

    files: Mapping[str, bytes]
    report: ExportReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run: the best feasible network found, and the one reading of the test set."""

    measure: Measure
    reference_accuracy: float
    """Dense network, test set."""
    pruned_accuracy: float
    """Pruned network, test set."""
    crates: Float64s
    """float64 (layers,): the crates that cut the network in `measure`."""
    model: bytes
    """safetensors: the weights, masked to zero."""
    export: Export | None = None
    """Its bytes are the same for the same calls but for what hangs on measured times."""


class Pruner(Protocol):
    """The network being pruned, as the outer loop sees it. Everything is a pure function of the run file
    and of the calls made: the same calls give the same bytes, also across checkpoint and restore."""

    layers: tuple[Layer, ...]
    reference_left: int
    """Iterations of reference training still to do."""
    iteration: int
    """Iterations of surgery done."""
    reference_accuracy: float
    """Dense network on the held-out samples; valid once `reference_left` is 0."""
    crates: Float64s
    """float64 (layers,): the crates in force (zeros before the first search)."""

    def train_reference(self, iterations: int, tick: Tick) -> None:
        """Go on training the dense network, `iterations` more (at most `reference_left`)."""
        ...

    def samples(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The held-out samples that solutions are scored on: x float32 (n, ...), y int64 (n,)."""
        ...

    def searches(self) -> bool:
        """Whether the round that begins now begins with a search and a cut."""
        ...

    def weights(self) -> bytes:
        """All current weights (cut ones with the values they have by now), safetensors."""
        ...

    def start_crates(self) -> Float64s:
        """float64 (layers,): where the next search should begin."""
        ...

    def searched_layers(self, search: int) -> npt.NDArray[np.bool_]:
        """bool (layers,): which layers take part in search number `search`."""
        ...

    def apply(self, crates: Float64s, fitness: float) -> None:
        """Cut by the crates that a search found; a search that found nothing feasible (fitness > 1)
        changes nothing."""
        ...

    def train(self, iterations: int, tick: Tick) -> None:
        """Dynamic network surgery, `iterations` more."""
        ...

    def measure(self, tick: Tick) -> Measure:
        """The masked network on the held-out samples; remembers it if it is the best feasible one so far
        (fewest parameters, then highest accuracy). One that is not feasible may be given up: then the
        next cut begins at the best one. Feasible: it loses no more than it may by now, which until a
        refinement may be more than a result may lose (`RunFile.accuracy_drop`)."""
        ...

    def best_compression(self) -> float:
        """How many times fewer parameters the network has that `finish` would take; 1 for the dense one."""
        ...

    def loss(self) -> float:
        """Mean training loss of the last iterations, NaN before the first."""
        ...

    def finish(self, tick: Tick) -> Outcome:
        """Take the best network that `measure` remembered and that keeps the run's constraint (the dense one
        if none does) and read the test set, once."""
        ...

    def checkpoint(self) -> bytes:
        """Everything, to the bit (safetensors with its metadata)."""
        ...

    def restore(self, checkpoint: bytes) -> None:
        """Be what `checkpoint` was taken from. Raises `CoppiceError` for a checkpoint of another network."""
        ...


class Scorer(Protocol):
    """Scores solutions against one set of reference weights."""

    @property
    def layers(self) -> int:
        """How many crates a solution has."""
        ...

    @property
    def batch(self) -> int:
        """How many solutions it is best given at once."""
        ...

    def score_many(self, solutions: Sequence[Float64s], tick: Tick) -> list[Score]:
        """Cut a copy of the reference at the crates of each, float64 (layers,), and judge it."""
        ...
