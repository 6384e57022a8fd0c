"""Which layers of a narrow network are quicker in another form: with their nonzero weights alone, with their
used inputs alone, or turned."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import nn

from coppice.pruning.contract import Tick
from coppice.pruning.export.chain import Step
from coppice.pruning.export.loaders.load_narrow import SparseLinear, TurnedLinear, quicker
from coppice.pruning.export.narrow import select_inputs
from coppice.pruning.export.timing import times_ms, torch_threads

SIZES = (1, 16, 64, 256)
"""Numbers of samples that the forms are compared at."""
WORTH = 0.9
"""Of the dense layer's time, at most, for another form to be taken."""
DENSE_ABOVE = 0.3
"""Kept weights from which on no sparse form is tried: it never wins there."""


@dataclass(frozen=True, slots=True)
class Forms:
    """A narrow network, and how its layers compute."""

    steps: list[Step]
    """torch's own layers, and a Select before each that is quicker with its used inputs alone."""
    sparse_from: dict[str, int] = field(default_factory=dict)
    """By a layer's name: the number of samples from which on SparseLinear is quicker."""
    turned: list[str] = field(default_factory=list)
    """The layers that are quicker as TurnedLinear."""

    def network(self) -> nn.Sequential:
        """In the quicker forms."""
        return quicker(sequential(self.steps), self.sparse_from, self.turned)


def sequential(steps: list[Step]) -> nn.Sequential:
    """The network of these steps, in evaluation mode."""
    return nn.Sequential(OrderedDict(steps)).eval()


def choose_forms(steps: list[Step], samples: torch.Tensor, tick: Tick) -> Forms:
    """The quickest form of each Linear, in turn, each fed with what the ones before it give.

    `samples`: (n, ...) to measure with, up to 256, on one thread. Nothing but speed hangs on the choice.
    """
    forms = Forms([])
    with torch.no_grad(), torch_threads(1):  # no inference mode: what is made here is loaded elsewhere
        for at, (name, module) in enumerate(steps):
            tick()
            new, run = [(name, module)], module
            if isinstance(module, nn.Linear) and samples.dim() == 2:
                least = _sparse_from(module, samples, tick)
                if least is not None:
                    forms.sparse_from[name] = least
                    run = SparseLinear(module, least)
                else:
                    new, run = _dense_form(steps, at, samples, tick)
                    if isinstance(run, TurnedLinear):
                        forms.turned.append(name)
            forms.steps.extend(new)
            samples = run(samples)
    return forms


def _sparse_from(linear: nn.Linear, samples: torch.Tensor, tick: Tick) -> int | None:
    """The least number of samples from which on SparseLinear is worth it, None for never."""
    if linear.weight.count_nonzero() > DENSE_ABOVE * linear.weight.numel():
        return None
    sparse, turned = SparseLinear(linear), TurnedLinear(linear)
    worth = None
    for size in (size for size in reversed(SIZES) if size <= len(samples)):
        x = samples[:size]
        runs = {"dense": linear, "turned": turned, "sparse": sparse}
        times = times_ms({form: lambda run=run, x=x: run(x) for form, run in runs.items()}, tick)  # type: ignore[misc]
        if times["sparse"] > WORTH * min(times["dense"], times["turned"]):
            break
        worth = size
    return worth


def _dense_form(
    steps: list[Step], at: int, samples: torch.Tensor, tick: Tick
) -> tuple[list[Step], nn.Module]:
    """The steps that stand for the Linear at `at`, and what runs them, quickest with all samples."""
    linear = steps[at][1]
    assert isinstance(linear, nn.Linear)
    forms: dict[str, tuple[list[Step], nn.Module]] = {
        "dense": ([steps[at]], linear),
        "turned": ([steps[at]], TurnedLinear(linear)),
    }
    selected = select_inputs(steps, at)
    if selected is not None:
        forms["selected"] = (selected, sequential(selected))
    times = times_ms({form: lambda run=run: run(samples) for form, (_, run) in forms.items()}, tick)  # type: ignore[misc]
    best = min(times, key=lambda form: times[form])
    return forms[best if times[best] <= WORTH * times["dense"] else "dense"]
