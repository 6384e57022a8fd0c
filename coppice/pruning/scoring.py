"""The evaluator's work: cut a copy of the reference at a solution's crates and judge it.

Plain and correct: one pass over the held-out samples for every solution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.pruning.contract import Float64s, Score, Tick
from coppice.pruning.evaluation import allowed_errors, count_errors, pick_device, to_device
from coppice.pruning.layers import PrunableLayer, find_layers
from coppice.pruning.masks import Masks, count_kept, operate_all, spread, thresholds
from coppice.pruning.published import unpack_published
from coppice.runfile import RunFile


class TorchScorer:
    """Implements `coppice.pruning.contract.Scorer`. Not for two threads at once: it cuts one network in
    place."""

    def __init__(
        self,
        model: nn.Module,
        found: tuple[PrunableLayer, ...],
        masks: Masks,
        x: torch.Tensor,
        y: torch.Tensor,
        allowed: int,
    ) -> None:
        """`model` holds the reference weights and is taken over, `masks` those in force; x: (n, ...), y:
        int64 (n,), all on one device; `allowed`: the most errors on them that are feasible."""
        self._model = model
        self._found = found
        self._masks = masks
        self._parameters = dict(model.named_parameters())
        self._reference = {
            name: self._parameters[name].detach().clone()
            for layer in self._found
            for name in (layer.weight, layer.bias)
            if name is not None
        }
        self._magnitudes = {layer.weight: self._reference[layer.weight].abs() for layer in self._found}
        self._spreads = [spread(self._reference[layer.weight]) for layer in self._found]
        self._total = sum(parameter.numel() for parameter in self._parameters.values())
        self._maskable = sum(value.numel() for value in self._reference.values())
        self._x, self._y = x, y
        self.allowed_errors = allowed

    @classmethod
    def build(
        cls,
        run: RunFile,
        weights: bytes,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.int64],
        reference_accuracy: float,
        device: str = "cpu",
    ) -> TorchScorer:
        """From what the outer loop published: its weights (`Pruner.weights`), the samples, the reference's
        accuracy on them. `device`: cpu, cuda, cuda:0 or auto.

        Raises `CoppiceError` if the weights are not those of the run's network.
        """
        place = pick_device(device)
        model = build_model(run.model, run.seed)
        found = find_layers(model, run.model.layers)
        published = unpack_published(weights, model, found)
        drop = run.constraint.accuracy_drop
        if published.repaired and run.constraint.search_drop is not None:
            drop = run.constraint.search_drop
        allowed = allowed_errors(reference_accuracy, drop, len(y))
        masks = {name: mask.to(place) for name, mask in published.masks.items()}
        return cls(model.to(place), found, masks, *to_device(x, y, place), allowed)

    @property
    def layers(self) -> int:
        """How many crates a solution has."""
        return len(self._found)

    def score(self, crates: Float64s, tick: Tick) -> Score:
        """See `Scorer.score`. Raises `CoppiceError` for crates of a wrong length or not finite."""
        crates = np.asarray(crates, dtype=np.float64)
        if crates.shape != (self.layers,) or not np.isfinite(crates).all():
            raise CoppiceError(f"a solution must be {self.layers} finite numbers, found {crates!r:.100}")
        tick()
        with torch.no_grad():
            limits = thresholds(self._spreads, crates)
            masks = operate_all(self._found, self._masks, self._magnitudes, limits)
            for name, mask in masks.items():
                torch.mul(self._reference[name], mask, out=self._parameters[name].data)
            remaining = self._total - self._maskable + sum(count_kept(masks).values())
        errors = count_errors(self._model, self._x, self._y, tick)
        return judge(errors, self.allowed_errors, len(self._y), remaining, self._total)


def judge(errors: int, allowed: int, samples: int, remaining: int, total: int) -> Score:
    """The verdict, by an integer comparison. A network cut to nothing still has a fitness above 0."""
    feasible = errors <= allowed
    fitness = max(remaining, 1) / total if feasible else 1.0 + (errors - allowed) / samples
    return Score(fitness, feasible, (samples - errors) / samples)
