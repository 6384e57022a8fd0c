"""What a threshold keeps of a layer, found by binary search in its sorted magnitudes.

`coppice.pruning.masks.operate` keeps a weight whose |w| + 0.2 t m reaches 1.1 t, in float32. That sum never
falls as |w| grows, so of the weights that are in force (m = 1) those stay that are as large as some value,
and of the others those return that are as large as some other: two numbers say what a cut keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from coppice.pruning.contract import Float32s, Int64s
from coppice.pruning.masks import CUT_BELOW, RESTORE_ABOVE


@dataclass(frozen=True, slots=True)
class LayerCut:
    """What one threshold keeps of one layer."""

    ranks: tuple[int, int]
    """How many of the weights in force go, how many of the others stay away: they name the cut."""
    stay_from: float
    """Weights in force stay if |w| reaches this; infinite if none does."""
    return_from: float
    """The others return if |w| reaches this; likewise."""
    weights: int
    """How many remain."""
    biases: int
    """How many remain: of rows that keep a weight at all, if they are in force."""


class LayerCuts:
    """All the cuts of one layer."""

    def __init__(self, weight: torch.Tensor, mask: torch.Tensor, bias_mask: torch.Tensor | None) -> None:
        """`weight`: (units, ...), `mask`: the same shape, 1 where it is in force; `bias_mask`: (units,)."""
        magnitude = weight.detach().abs().flatten(1).cpu().numpy()
        in_force = mask.flatten(1).cpu().numpy() != 0
        self._in_force, self._in_force_at = _ascending(magnitude, in_force)
        self._others, self._others_at = _ascending(magnitude, ~in_force)
        self._is_other = ~in_force.ravel()
        self._has_bias = np.zeros(len(weight), bool) if bias_mask is None else bias_mask.cpu().numpy() != 0
        self._largest_in_force = _largest(magnitude, in_force)
        self._largest_other = _largest(magnitude, ~in_force)

    def at(self, limit: float) -> LayerCut:
        """The cut at a threshold, as `coppice.pruning.masks.threshold` gives it."""
        bound = np.float32(RESTORE_ABOVE * limit)
        step = np.float32((RESTORE_ABOVE - CUT_BELOW) * limit)
        gone, away = _first(self._in_force, step, bound), _first(self._others, np.float32(0), bound)
        stay_from, return_from = _value(self._in_force, gone), _value(self._others, away)
        kept = (self._largest_in_force >= stay_from) | (self._largest_other >= return_from)
        weights = len(self._in_force) - gone + len(self._others) - away
        return LayerCut((gone, away), stay_from, return_from, weights, int((kept & self._has_bias).sum()))

    def kept(self, cut: LayerCut) -> Int64s:
        """Where the weights that remain are in the flattened weight, ascending."""
        gone, away = cut.ranks
        return np.sort(np.concatenate([self._in_force_at[gone:], self._others_at[away:]]))

    def is_other(self, places: Int64s) -> npt.NDArray[np.bool_]:
        """Which of these weights are not in force."""
        return np.asarray(self._is_other[places])

    def descending(self) -> tuple[Int64s, Int64s]:
        """Where the weights in force are, and the others, each from the largest down."""
        return self._in_force_at[::-1], self._others_at[::-1]


def _ascending(magnitude: Float32s, chosen: npt.NDArray[np.bool_]) -> tuple[Float32s, Int64s]:
    """The chosen magnitudes, and where in the flattened weight they are."""
    places = np.flatnonzero(chosen)
    values = magnitude.ravel()[places]
    order = np.argsort(values, kind="stable")
    return values[order], places[order]


def _largest(magnitude: Float32s, chosen: npt.NDArray[np.bool_]) -> Float32s:
    """(units,): of the chosen weights of each row; -1 where there is none."""
    return np.asarray(np.where(chosen, magnitude, np.float32(-1)).max(axis=1, initial=-1))


def _first(values: Float32s, step: np.float32, bound: np.float32) -> int:
    """The first of ascending `values` with value + step >= bound, all in float32; their number if none."""
    near = int(np.searchsorted(values, bound - step))
    while near > 0 and values[near - 1] + step >= bound:
        near -= 1
    while near < len(values) and not values[near] + step >= bound:
        near += 1
    return near


def _value(values: Float32s, index: int) -> float:
    return float(values[index]) if index < len(values) else float("inf")
