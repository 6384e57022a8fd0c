"""Removing dead units: a narrower chain of layers with the same outputs, to rounding.

A unit (a row of a Linear, a channel of a convolution) whose output no later weight uses goes. One that has no
inputs left gives a constant, which is folded into the biases behind it. Both are repeated until nothing more
dies. Where an edge between two layers is not understood, all its units stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from coppice.pruning.export.chain import (
    ADAPTIVE_POOLS,
    AVERAGE_POOLS,
    CONVS,
    ELEMENTWISE,
    MAX_POOLS,
    NORMS,
    Step,
    norm_bias,
)
from coppice.pruning.export.loaders.load_narrow import Select

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, *CONVS)
POOLS = (*MAX_POOLS, *AVERAGE_POOLS, *ADAPTIVE_POOLS)
_ONE_TO_ONE = (*ELEMENTWISE, *NORMS, *POOLS)
"""Steps that keep every unit to itself."""


@dataclass(frozen=True, slots=True)
class UnitEdge:
    """Two layers, and the steps between them, by their places in the chain."""

    source: int
    target: int
    group: int
    """How many of the target's inputs each unit of the source feeds: 1, or the places of a flattened map."""


def remove_dead_units(steps: list[Step]) -> list[Step]:
    """The chain without its dead units; the given modules are changed.

    The first and last sizes stay: the network takes and gives what it took and gave. Values that are not
    finite are not looked after: a dense network multiplies them by zero weights, which makes NaN.
    """
    edges = unit_edges([module for _, module in steps])
    changed = True
    while changed:
        changed = any(_narrow(steps, edge) for edge in edges)
    return steps


def select_inputs(steps: list[Step], at: int) -> list[Step] | None:
    """The two steps that stand in for the Linear at `at` if some of its inputs meet no weight: Select, and
    a Linear that takes the others alone. None where there are no such inputs."""
    name, linear = steps[at]
    assert isinstance(linear, nn.Linear)
    used = linear.weight.any(0)
    if bool(used.all()) or not bool(used.any()):
        return None
    select = Select(int(used.sum()))
    select.columns.copy_(used.nonzero().flatten())
    taken = {each for each, _ in steps}
    title = f"{name}_inputs"
    while title in taken:
        title += "_"
    return [(title, select), (name, _layer_like(linear, linear.weight[:, used], linear.bias))]


def unit_edges(modules: list[nn.Module]) -> list[UnitEdge]:
    """Every two layers in a row between which it is known which unit is which."""
    found = []
    places = [i for i, module in enumerate(modules) if isinstance(module, LAYERS)]
    for source, target in pairwise(places):
        first, second = modules[source], modules[target]
        assert isinstance(first, LAYERS)
        assert isinstance(second, LAYERS)
        between = modules[source + 1 : target]
        flat = [m for m in between if isinstance(m, nn.Flatten)]
        if any(not isinstance(m, (*_ONE_TO_ONE, nn.Flatten)) for m in between) or len(flat) > 1:
            continue
        if any((m.start_dim, m.end_dim) != (1, -1) for m in flat):
            continue
        norms = [m for m in between if isinstance(m, NORMS)]
        if any(m.running_mean is None or m.num_features != len(first.weight) for m in norms):
            continue
        # Behind a flattened map, places are units no more: only steps that treat all alike are understood.
        behind = between[between.index(flat[0]) + 1 :] if flat else []
        if any(not isinstance(m, tuple(ELEMENTWISE)) for m in behind) and isinstance(first, CONVS):
            continue
        if any(isinstance(m, CONVS) and m.groups != 1 for m in (first, second)):
            continue
        if isinstance(first, nn.Linear) and any(isinstance(m, POOLS) for m in between):
            continue  # of samples with several sizes: units are what it pools
        if isinstance(first, nn.Linear) != isinstance(second, nn.Linear) and not (
            isinstance(second, nn.Linear) and flat
        ):
            continue
        group, rest = divmod(second.weight.shape[1], first.weight.shape[0])
        if rest == 0 and group >= 1 and (group == 1 or (flat and isinstance(first, CONVS))):
            found.append(UnitEdge(source, target, group))
    return found


def _narrow(steps: list[Step], edge: UnitEdge) -> bool:
    """Remove the dead units on one edge; True if there were any."""
    between = [module for _, module in steps[edge.source + 1 : edge.target]]
    source, target = steps[edge.source][1], steps[edge.target][1]
    assert isinstance(source, LAYERS)
    assert isinstance(target, LAYERS)
    units = source.weight.shape[0]
    by_unit = target.weight.reshape(
        len(target.weight), units, edge.group, *target.weight.shape[2:]
    )  # (out, units, group, kernel...)
    dead = ~by_unit.transpose(0, 1).flatten(1).any(1)
    idle = ~source.weight.flatten(1).any(1) & ~dead
    added: torch.Tensor | None = None
    if bool(idle.any()):
        constants, known = _constants(source, between)
        if isinstance(target, CONVS) and target.padding_mode == "zeros" and _pads(target):
            known = known & (constants == 0)  # a border of zeros beside it: no constant any more
        idle &= known
        sums = by_unit.flatten(2).sum(2)  # (out, units)
        added = (sums * torch.where(idle, constants, 0)).sum(1)
        dead = dead | idle
    dead = dead.clone()
    if bool(dead.all()):
        dead[0] = False  # a layer needs a unit; if it is idle, its constant stays with it
        if added is not None and bool(idle[0]):
            added = added - sums[:, 0] * constants[0]
    if not bool(dead.any()):
        return False
    kept = ~dead
    bias = target.bias
    if added is not None and bool(added.any()):
        bias = added if bias is None else bias + added
    inputs = kept.repeat_interleave(edge.group)
    steps[edge.source] = (
        steps[edge.source][0],
        _layer_like(source, source.weight[kept], None if source.bias is None else source.bias[kept]),
    )
    steps[edge.target] = (steps[edge.target][0], _layer_like(target, target.weight[:, inputs], bias))
    for i in range(edge.source + 1, edge.target):
        if isinstance(steps[i][1], NORMS):
            steps[i] = (steps[i][0], _norm_like(steps[i][1], kept))
    return True


def _constants(layer: Layer, between: list[nn.Module]) -> tuple[torch.Tensor, torch.Tensor]:
    """What each unit gives behind `between` if it has no inputs, (units,), and whether that is so at every
    place of its map, bool (units,)."""
    units = len(layer.weight)
    bias = layer.bias
    value = torch.zeros(units, dtype=layer.weight.dtype) if bias is None else bias.detach().clone()
    known = torch.ones(units, dtype=torch.bool)
    for module in between:
        if isinstance(module, AVERAGE_POOLS) and (module.ceil_mode or _pads(module)):
            known = known & (value == 0)  # zeros may be averaged in
        elif isinstance(module, NORMS):
            extra = {nn.BatchNorm1d: 0, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}[type(module)]
            value = module(value.view(1, units, *[1] * extra)).flatten()
        elif not isinstance(module, (*POOLS, nn.Flatten)):
            value = module(value)
    return value, known & value.isfinite()


def _pads(module: nn.Module) -> bool:
    padding = module.padding
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple | list) else bool(padding)


def _layer_like(layer: Layer, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """A Linear or convolution with the settings of `layer`, and these weights."""
    made: nn.Module
    if isinstance(layer, nn.Linear):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    else:
        assert isinstance(layer, CONVS)
        made = type(layer)(
            weight.shape[1] * layer.groups,
            weight.shape[0],
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            bias is not None,
            layer.padding_mode,
            device="meta",  # its own first weights are not needed
        )
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made.eval()


def _norm_like(norm: nn.Module, kept: torch.Tensor) -> nn.Module:
    assert isinstance(norm, NORMS)
    made = type(norm)(int(kept.sum()), norm.eps, norm.momentum, norm.affine, **norm_bias(norm))
    state = {key: value[kept] if value.dim() else value for key, value in norm.state_dict().items()}
    made.load_state_dict(state, assign=True)
    return made.eval().requires_grad_(False)
