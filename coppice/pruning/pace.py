"""A surgery that cuts to a schedule: how small the network shall be when, and where searches for it begin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from coppice.pruning.layers import PrunableLayer
from coppice.pruning.masks import CUT_BELOW, RESTORE_ABOVE, Masks

MOST_AT_ONCE = 1.1
"""How many times fewer parameters a cut may leave: behind the schedule, it is caught up with in steps."""
AHEAD = 1.05
"""How many times fewer parameters than the schedule asks for a search may leave, and how many times fewer
than are asked for in the end the schedule leads to: until the next cut, some return."""


def scheduled(begin: int, goal: float, progress: float) -> int:
    """How many parameters shall be left when so much of the way, from 0 to 1 (more is 1), from `begin` to
    `goal` is done: falling geometrically."""
    return math.ceil(begin * (goal / begin) ** min(1.0, progress)) if begin > goal else begin


def one_threshold(
    found: Sequence[PrunableLayer], values: Mapping[str, torch.Tensor], masks: Masks, weights: int
) -> float:
    """The threshold, the same for all layers, at which surgery on these masks leaves `weights` weights (or
    one): of those that are kept the largest, and what is cut but has grown past it."""
    sizes = [values[layer.weight].abs() / _reach(masks[layer.weight]) for layer in found]
    # The threshold at which each falls, or returns.
    together = torch.cat([each.flatten() for each in sizes])
    return float(together.kthvalue(len(together) - min(max(weights, 1), len(together)) + 1).values)


def _reach(mask: torch.Tensor) -> torch.Tensor:
    """What times the threshold a weight must be to stay, or to return."""
    return RESTORE_ABOVE + (CUT_BELOW - RESTORE_ABOVE) * mask
