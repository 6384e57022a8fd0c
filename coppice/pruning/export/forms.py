"""Which layers of a narrow network compute with their nonzero weights alone: those that are quicker so."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from coppice.pruning.contract import Tick
from coppice.pruning.export.chain import Step
from coppice.pruning.export.loaders.load_narrow import SparseLinear
from coppice.pruning.export.narrow import select_inputs
from coppice.pruning.export.timing import times_ms, torch_threads

SIZES = (1, 16, 64, 256)
"""Numbers of samples that the forms are compared at."""
WORTH = 0.9
"""Of the dense layer's time, at most, for another form to be taken."""
DENSE_ABOVE = 0.3
"""Kept weights from which on no sparse form is tried: it never wins there."""


def choose_forms(steps: list[Step], samples: torch.Tensor, tick: Tick) -> tuple[list[Step], dict[str, int]]:
    """The steps, with a Select before each dense Linear that is quicker with one, and for each Linear that is
    quicker sparse the least number of samples from which on it is.

    `samples`: (256, ...) to measure with, on one thread. Nothing but speed hangs on the choice.
    """
    chosen: list[Step] = []
    quicker: dict[str, int] = {}
    with torch.inference_mode(), torch_threads(1):
        for at, (name, module) in enumerate(steps):
            new, run = [(name, module)], module
            if isinstance(module, nn.Linear) and samples.dim() == 2:
                sparse = _sparse_from(module, samples, tick)
                if sparse is not None:
                    quicker[name] = sparse
                    run = SparseLinear(module, sparse)
                else:
                    new = _selected(steps, at, samples, tick)
                    run = sequential(new)
            chosen += new
            samples = run(samples)
    return chosen, quicker


def sequential(steps: list[Step], quicker: dict[str, int] | None = None) -> nn.Sequential:
    """The network of these steps, in evaluation mode; `quicker`: see `choose_forms`."""
    parts = OrderedDict(steps)
    for name, least in (quicker or {}).items():
        linear = parts[name]
        assert isinstance(linear, nn.Linear)
        parts[name] = SparseLinear(linear, least)
    return nn.Sequential(parts).eval()


def _sparse_from(linear: nn.Linear, samples: torch.Tensor, tick: Tick) -> int | None:
    """The least number of samples from which on SparseLinear is worth it, None for never."""
    if linear.weight.count_nonzero() > DENSE_ABOVE * linear.weight.numel():
        return None
    sparse = SparseLinear(linear)
    worth = None
    for size in reversed(SIZES):
        x = samples[:size]
        times = times_ms({"dense": lambda x=x: linear(x), "sparse": lambda x=x: sparse(x)}, tick)  # type: ignore[misc]
        if times["sparse"] > WORTH * times["dense"]:
            break
        worth = size
    return worth


def _selected(steps: list[Step], at: int, samples: torch.Tensor, tick: Tick) -> list[Step]:
    """The step as it is, or the two of `select_inputs` where they are quicker with all samples."""
    selected = select_inputs(steps, at)
    if selected is None:
        return [steps[at]]
    dense, both = steps[at][1], sequential(selected)
    times = times_ms({"dense": lambda: dense(samples), "selected": lambda: both(samples)}, tick)
    return selected if times["selected"] <= WORTH * times["dense"] else [steps[at]]
