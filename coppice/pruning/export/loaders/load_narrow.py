"""Builds the network in narrow.safetensors, without its dead units. Needs torch and load_model.py beside it.

    from load_narrow import network
    net = network("narrow.safetensors")     # a torch.nn.Sequential in evaluation mode
    logits = net(samples)

`network(path, sparse=False)` gives one of torch's own layers only, to train further or to convert. By
default the layers that were found quicker so compute with their nonzero weights alone, for use on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

FEW = 16


class Select(nn.Module):
    """Some of the inputs: (samples, all) to (samples, chosen)."""

    columns: torch.Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("columns", torch.zeros(inputs, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, all) -> (samples, chosen)."""
        return x.index_select(1, self.columns)


class SparseLinear(nn.Module):
    """What `linear` computes for (samples, inputs), for `least` samples or more by its nonzero weights alone.

    A unit is the weighted sum of a few rows of the transposed samples: what embedding_bag is made for. For
    fewer samples a dense product of the inputs that any unit uses is quicker.
    """

    used: torch.Tensor | None
    inputs: torch.Tensor
    units: torch.Tensor
    values: torch.Tensor
    bias: torch.Tensor | None
    weight: torch.Tensor

    def __init__(self, linear: nn.Linear, least: int = 1) -> None:
        super().__init__()
        weight = linear.weight.detach()
        used = weight.any(0)
        if 4 * used.sum() > 3 * len(used):  # so many that picking them out would cost more than it saves
            used = torch.ones_like(used)
        weight = weight[:, used]
        unit, column = weight.nonzero(as_tuple=True)
        ends = torch.bincount(unit, minlength=len(weight)).cumsum(0)
        self.least = least
        self.register_buffer("used", None if used.all() else used.nonzero().flatten())
        self.register_buffer("inputs", column.int())
        self.register_buffer("units", nn.functional.pad(ends, (1, 0)).int())
        self.register_buffer("values", weight[unit, column])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.register_buffer("weight", weight if least > 1 else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, inputs) -> (samples, units)."""
        if len(x) == 0:
            return x.new_zeros(0, len(self.units) - 1)
        if len(x) < self.least:
            x = x if self.used is None else x.index_select(1, self.used)
            return nn.functional.linear(x, self.weight, self.bias)
        rows = x.t() if self.used is None else x.t()[self.used]
        out = nn.functional.embedding_bag(
            self.inputs,
            rows.contiguous(),
            self.units,
            mode="sum",
            per_sample_weights=self.values,
            include_last_offset=True,
        )
        return (out if self.bias is None else out.add_(self.bias[:, None])).t()


class TurnedLinear(nn.Module):
    """What `linear` computes, for samples that lie in memory input by input, as SparseLinear leaves them."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, inputs) -> (samples, units)."""
        if len(x) < FEW:  # then the calls cost more than what they do, and this is one call
            return nn.functional.linear(x, self.weight, self.bias)
        out = torch.mm(self.weight, x.t())
        return (out if self.bias is None else out.add_(self.bias[:, None])).t()


def build(steps: list[Any]) -> nn.Sequential:
    """The network without its weights, from its description: (name, class, arguments) for each step."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.device("meta"):
        for name, kind, arguments in steps:
            made = Select if kind == "Select" else getattr(nn, kind)
            if not (isinstance(made, type) and issubclass(made, nn.Module)):
                raise ValueError(f"{name}: torch.nn.{kind} is no layer")
            parts[name] = made(**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    return nn.Sequential(parts)


def quicker(net: nn.Sequential, sparse_from: dict[str, int], turned: list[str]) -> nn.Sequential:
    """Put in the layers that are quicker otherwise: sparse from so many samples on, or turned."""
    for name, least in sparse_from.items():
        setattr(net, name, SparseLinear(getattr(net, name), least))
    for name in turned:
        setattr(net, name, TurnedLinear(getattr(net, name)))
    return net


def network(path: str, sparse: bool = True) -> nn.Sequential:
    """The narrow network; `sparse`: with the layers that were quicker so as SparseLinear."""
    from load_model import load, read

    about = read(path)[1]
    net = build(about["steps"])
    net.load_state_dict(load(path), assign=True)
    return (quicker(net, about["sparse_from"], about["turned"]) if sparse else net).eval()
