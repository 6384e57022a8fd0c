"""What a network gives, for the networks that are made of it to be compared with."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import nn

from coppice.pruning.contract import Tick
from coppice.pruning.export.timing import BATCHES

ROUNDING = 1e-4
"""How far a form's outputs may be from the network's, as a part of the largest output."""
ROUNDINGS = 4
"""The same, in the last digit of the network's own type, where that is more: float16 and bfloat16."""
PIECE_S = 1.0
"""No more samples at a time than the network takes in so long."""
MOST_BYTES = 2**28
"""Of all samples."""


def how_many(shape: Sequence[int]) -> int:
    """How many samples of this shape an export is made with."""
    return max(2, min(max(BATCHES), MOST_BYTES // (4 * math.prod(shape))))


def copied(model: nn.Module) -> nn.Module:
    """A copy of its own, on the CPU, in evaluation mode, without gradients."""
    # deepcopy alone stops at tensors that were computed, such as the `weight` of torch.nn.utils.weight_norm.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed).cpu().eval().requires_grad_(False)


class Outputs:
    """A network's outputs for the first 1, 2, 4, ... of some samples, each number of them in one pass."""

    def __init__(self, model: nn.Module, samples: torch.Tensor, tick: Tick) -> None:
        """`samples`: (n, ...), n >= 2, two of which the network takes. `tick` is called before each pass, in
        `apart` too."""
        self._tick = tick
        self._expected: dict[int, torch.Tensor] = {}
        size, seconds = 2, 0.0
        with torch.inference_mode():
            while size == 2 or (size <= len(samples) and 2 * seconds <= PIECE_S):
                tick()
                begin = time.perf_counter()
                self._expected[size] = model(samples[:size].clone())  # some work in place
                seconds = time.perf_counter() - begin
                size *= 2
            tick()
            with suppress(Exception):  # some need two, or give no row for one
                alone = model(samples[:1].clone())
                if alone.dim() == self._expected[2].dim():
                    self._expected[1] = alone
        self.samples = samples[: size // 2]
        """As many as were tried at once."""
        self.rounding = ROUNDING
        if samples.is_floating_point():
            self.rounding = max(ROUNDING, ROUNDINGS * torch.finfo(samples.dtype).eps)

    def apart(self, network: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """The largest difference of what `network` gives, as a part of the largest finite output; inf for
        another shape, and where only one of the two is finite."""
        largest, most = 1e-12, 0.0
        for size, expected in self._expected.items():
            self._tick()
            with torch.inference_mode():
                found = network(self.samples[:size].clone())
            if found.shape != expected.shape:
                return math.inf
            same = (found == expected) | (found.isnan() & expected.isnan())  # infinities too
            difference = (found.double() - expected.double()).abs().masked_fill(same, 0.0)
            most = max(most, float(difference.nan_to_num(nan=math.inf, posinf=math.inf).max()))
            finite = expected[expected.isfinite()].double().abs()
            largest = max(largest, float(finite.max())) if len(finite) else largest
        return most / largest
