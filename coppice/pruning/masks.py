"""From crates to masks: which weights stay.

A mask has its parameter's shape and dtype: 1 where the parameter stays, 0 where it is cut. (Not bool:
torch compares into and multiplies with bools some five times slower than with floats, on the CPU.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from coppice.pruning.layers import PrunableLayer

CUT_BELOW = 0.9
RESTORE_ABOVE = 1.1
"""Guo, Yao, Chen, NIPS 2016, eq. 3: between the two, a weight's mask stays as it is."""

Masks = dict[str, torch.Tensor]
"""By the parameter's name."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation (of the population, ddof 0) of a layer's |w|."""

    mean: float
    std: float


def spread(weight: torch.Tensor) -> Spread:
    """Over all of `weight`, in float64 on the CPU: the same bits wherever the network itself is, and in
    whatever order its numbers lie there (numpy adds them in that order)."""
    magnitude = weight.detach().abs().cpu().contiguous().to(torch.float64).numpy()
    return Spread(float(magnitude.mean()), float(magnitude.std()))


def threshold(of: Spread, crate: float) -> float:
    """max(mean + crate * std, 0), rounded to float32, which is what weights are compared in.

    At most 1e30, which still cuts everything and lets 1.1 times it be a float32.
    """
    return float(np.float32(min(max(of.mean + crate * of.std, 0.0), 1e30)))


def crate_for(of: Spread, limit: float) -> float:
    """The crate whose threshold is `limit`: the other way round than `threshold`."""
    return (limit - of.mean) / of.std if of.std > 0 else 0.0


def operate(mask: torch.Tensor, magnitude: torch.Tensor, limit: float | torch.Tensor) -> torch.Tensor:
    """One surgery on `mask`: cut where |w| < 0.9 t, restore where |w| > 1.1 t, else as it was.

    Computed as |w| + 0.2 t mask >= 1.1 t, which is the same in two passes. A threshold of 0 restores all.
    As a tensor (float64, no dimensions) the limit can be mapped over by torch.func.vmap, to the same bits.
    """
    step = RESTORE_ABOVE - CUT_BELOW
    if isinstance(limit, torch.Tensor):
        moved = torch.addcmul(magnitude, mask, (step * limit).to(magnitude))
        # Not in place: vmap does that one after the other.
        return (moved >= (RESTORE_ABOVE * limit).to(magnitude)).to(moved.dtype)
    return torch.add(magnitude, mask, alpha=step * limit).ge_(RESTORE_ABOVE * limit)


def unit_mask(weight_mask: torch.Tensor) -> torch.Tensor:
    """(units,): which rows of a weight still have an input. The bias of a unit that has none goes with
    them: such a unit would only pass a constant on."""
    return weight_mask.flatten(1).amax(1)


def open_masks(layers: Sequence[PrunableLayer], values: Mapping[str, torch.Tensor]) -> Masks:
    """Masks that keep everything."""
    names = [name for layer in layers for name in layer.parameters]
    return {name: torch.ones_like(values[name]) for name in names}


def operate_all(
    layers: Sequence[PrunableLayer],
    masks: Mapping[str, torch.Tensor],
    magnitudes: Mapping[str, torch.Tensor],
    limits: Sequence[float | torch.Tensor],
) -> Masks:
    """One surgery on every layer's weight, at its threshold; `magnitudes`: |w| by the weight's name. New
    masks.

    This is also what a solution is: the masks in force are moved by its thresholds, not made afresh. A
    fresh cut would switch on weights that are cut now and just as large as some that are not: they learnt
    while nothing hung on them, and many at once do harm.
    """
    moved: Masks = {}
    for layer, limit in zip(layers, limits, strict=True):
        bias = None if layer.bias is None else masks[layer.bias]
        put_masks(moved, layer, operate(masks[layer.weight], magnitudes[layer.weight], limit), bias)
    return moved


def put_masks(masks: Masks, layer: PrunableLayer, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Set a layer's masks; of its bias, given as (units,), only units that have an input keep theirs."""
    masks[layer.weight] = weight
    if layer.bias is not None:
        assert bias is not None
        masks[layer.bias] = bias * unit_mask(weight)


def count_kept(masks: Masks) -> dict[str, int]:
    """How many stay, by the parameter's name; one trip from the device for all of them."""
    counts = torch.stack([mask.sum(dtype=torch.float64) for mask in masks.values()]).tolist()
    return {name: int(count) for name, count in zip(masks, counts, strict=True)}


def thresholds(spreads: Sequence[Spread], crates: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """The threshold of every layer; crates: float64 (layers,)."""
    return tuple(threshold(of, float(crate)) for of, crate in zip(spreads, crates, strict=True))
