"""What solutions are cut from and judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.pruning.constraint import allowed_errors
from coppice.pruning.contract import Float64s
from coppice.pruning.evaluation import pick_device, to_device
from coppice.pruning.layers import PrunableLayer, find_layers
from coppice.pruning.masks import Masks, Spread, operate_all, spread, thresholds
from coppice.pruning.published import Allowed, unpack_published
from coppice.pruning.scoring.verdict import hardest_first
from coppice.runfile import RunFile

BEYOND = 1.1
"""How many times beyond the compression that is asked for a cut may go: a search that had to meet it exactly
would find nothing."""


@dataclass
class Reference:
    """The weights of one search, the masks in force, and the samples, all on one device."""

    model: nn.Module
    """Holds the weights; scorers cut it in place."""
    found: tuple[PrunableLayer, ...]
    masks: Masks
    """Those in force, of weights and biases."""
    x: torch.Tensor
    """(n, ...), the samples in the order in which they are looked at."""
    y: torch.Tensor
    """int64 (n,)."""
    allowed: int
    """The most errors on them that are feasible."""
    least: int = 0
    """The fewest parameters that are feasible."""

    def __post_init__(self) -> None:
        self.parameters = dict(self.model.named_parameters())
        self.weights = {
            name: self.parameters[name].detach().clone() for layer in self.found for name in layer.parameters
        }
        for layer in self.found:
            if layer.bias is not None:  # which no solution restores
                self.weights[layer.bias] *= self.masks[layer.bias]
        self.spreads: list[Spread] = [spread(self.weights[layer.weight]) for layer in self.found]
        self.total = sum(parameter.numel() for parameter in self.parameters.values())
        self.fixed = self.total - sum(value.numel() for value in self.weights.values())
        """Parameters that no solution cuts."""
        self._magnitudes = {layer.weight: self.weights[layer.weight].abs() for layer in self.found}

    @classmethod
    def build(
        cls,
        run: RunFile,
        weights: bytes,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.int64],
        reference_accuracy: float,
        device: str = "cpu",
    ) -> Reference:
        """From what the outer loop published: its weights (`Pruner.weights`), the samples, the reference's
        accuracy on them. `device`: cpu, cuda, cuda:0 or auto.

        Weights that come without an order of the samples are given one here. Raises `CoppiceError` if the
        weights are not those of the run's network.
        """
        place = pick_device(device)
        model = build_model(run.model, run.seed)
        found = find_layers(model, run.model.layers)
        published = unpack_published(weights, model, found)
        allowed = published.allowed or Allowed(run.search_drop(0, 1.0))
        errors = allowed_errors(reference_accuracy, allowed.drop, len(y))
        enough, least = run.constraint.compression, allowed.least
        if enough is not None:
            total = sum(parameter.numel() for parameter in model.parameters())
            least = max(least, math.ceil(total / (enough * BEYOND)))
        masks = {name: mask.to(place) for name, mask in published.masks.items()}
        reference = cls(model.to(place).eval(), found, masks, *to_device(x, y, place), errors, least)
        order = published.order
        if order is None:
            reference.show(reference.masks)
            order = hardest_first(reference.model, reference.x, reference.y, lambda: None)
        elif len(order) != len(y):
            raise CoppiceError(f"model weights: they order {len(order)} samples, there are {len(y)}")
        chosen = order.to(place, torch.int64)
        reference.x, reference.y = reference.x[chosen], reference.y[chosen]
        return reference

    def limits(self, crates: Float64s) -> tuple[float, ...]:
        """Each layer's threshold. Raises `CoppiceError` for crates of a wrong length or not finite."""
        crates = np.asarray(crates, dtype=np.float64)
        if crates.shape != (len(self.found),) or not np.isfinite(crates).all():
            raise CoppiceError(f"a solution must be {len(self.found)} finite numbers, found {crates!r:.100}")
        return thresholds(self.spreads, crates)

    def cut_masks(self, limits: Sequence[float | torch.Tensor]) -> Masks:
        """The masks of a solution with these thresholds, a layer each."""
        return operate_all(self.found, self.masks, self._magnitudes, limits)

    def show(self, masks: Masks) -> None:
        """Put weights * mask into the model."""
        with torch.no_grad():
            for name, mask in masks.items():
                torch.mul(self.weights[name], mask, out=self.parameters[name].data)
