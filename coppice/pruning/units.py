"""Units of a network that are dead: they cost nothing to cut, and training can do without them.

A unit (a row of a Linear, a channel of a convolution) without inputs gives zero, and nothing that it feeds
matters; one that feeds nothing does not matter itself. Such a unit is buried: its weights on both sides
become zero. No gradient reaches it any more, so it stays so, and the network can be trained without it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from coppice.pruning.arrangement import arranged_like
from coppice.pruning.export.chain import ELEMENTWISE
from coppice.pruning.export.narrow import LAYERS, POOLS, unit_edges
from coppice.pruning.layers import PrunableLayer, has_hooks, in_order
from coppice.pruning.masks import Masks
from coppice.pruning.sgd import MaskedSGD
from coppice.pruning.tensors import Tensors

_LANES = 8
"""Convolutions compute so many channels at once: a number of channels in between costs as much as the next
multiple, or more."""
_PASSES_ON = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True, slots=True)
class Edge:
    """Two prunable layers of which the second takes what the first gives, and nothing else does."""

    source: PrunableLayer
    target: PrunableLayer
    group: int
    """How many of the target's inputs come of each unit of the source, side by side: 1, or the places of a
    flattened map."""


def find_edges(model: nn.Module, found: Sequence[PrunableLayer]) -> tuple[Edge, ...]:
    """The edges of a network that is an nn.Sequential (of nn.Sequentials), as far as zero stays zero on
    them; none of any other network."""
    modules = [each for each in in_order(model) if not isinstance(each, _PASSES_ON)]
    weights = [module.weight for module in modules if isinstance(module, LAYERS)]
    shared = len({id(each) for each in modules}) < len(modules) or len(set(weights)) < len(weights)
    if shared or any(has_hooks(each) for each in model.modules()):
        return ()
    layer_of = {layer.weight: layer for layer in found}
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    edges = []
    for edge in unit_edges(modules):
        ends = [_layer(modules[place], name_of, layer_of) for place in (edge.source, edge.target)]
        between = modules[edge.source + 1 : edge.target]
        if ends[0] and ends[1] and all(_keeps_zero(module) for module in between):
            edges.append(Edge(ends[0], ends[1], edge.group))
    return tuple(edges)


def bury(edges: Sequence[Edge], masks: Masks, held: Sequence[Tensors]) -> None:
    """Bury all units that these masks leave without inputs or without outputs, until none is: masks become
    0, and so do the same places of all tensors in `held` (values, momentum), in place.

    Nothing is done where a whole layer would go: surgery may still mend such a network.
    """
    trial = {name: mask.clone() for name, mask in masks.items()}
    changed = True
    while changed:
        changed = False
        for edge in edges:
            rows, columns = trial[edge.source.weight], trial[edge.target.weight]
            has_inputs, has_outputs = rows.flatten(1).any(1), _by_unit(columns, edge).any(1)
            alive = has_inputs & has_outputs
            if not bool(alive.any()):
                return
            if not torch.equal(has_inputs, has_outputs):
                changed = True
                _clear_unit(trial, edge, ~alive)
    for tensors in (masks, *held):
        for edge in edges:
            dead = ~trial[edge.source.weight].flatten(1).any(1)
            _clear_unit(tensors, edge, dead)


def _clear_unit(tensors: Tensors, edge: Edge, dead: torch.Tensor) -> None:
    tensors[edge.source.weight][dead] = 0
    if edge.source.bias is not None:
        tensors[edge.source.bias][dead] = 0
    tensors[edge.target.weight][:, dead.repeat_interleave(edge.group)] = 0


def _by_unit(weight: torch.Tensor, edge: Edge) -> torch.Tensor:
    """(units, all that each feeds), of a target's weight (out, units * group, ...)."""
    units = weight.shape[1] // edge.group
    return weight.reshape(len(weight), units, -1).transpose(0, 1).flatten(1)


class Narrowed:
    """The network without its buried units: what to train instead, for less.

    A step of it changes the values of the other units as a step of the whole network would, to rounding
    (and to what dropout draws).
    """

    def __init__(self, model: nn.Module, edges: Sequence[Edge], values: Mapping[str, torch.Tensor]) -> None:
        """Whoever's values are all zero is buried. `model` is not changed."""
        self._rows: dict[str, torch.Tensor] = {}
        self._columns: dict[str, torch.Tensor] = {}
        for edge in edges:
            lives = values[edge.source.weight].flatten(1).any(1)
            lives = lives | _by_unit(values[edge.target.weight], edge).any(1)
            if values[edge.source.weight].dim() > 2:
                lives = _filled_up(lives)
            if bool(lives.all()):
                continue
            kept = lives.nonzero()[:, 0]
            self._rows[edge.source.weight] = kept
            if edge.source.bias is not None:
                self._rows[edge.source.bias] = kept
            self._columns[edge.target.weight] = lives.repeat_interleave(edge.group).nonzero()[:, 0]
        self.names = frozenset(self._rows) | frozenset(self._columns)
        """Parameters that are smaller than in the whole network. Where there are none, `model` is that
        network itself."""
        self.model = model
        if not self.names:
            return
        # deepcopy takes what stands in its memo for a copy that is made already.
        memo = {
            id(parameter): nn.Parameter(self.take(name, parameter.detach()), parameter.requires_grad)
            for name, parameter in model.named_parameters()
        }
        self.model = copy.deepcopy(model, memo)

    def enter(self, sgd: MaskedSGD, masks: Masks) -> tuple[MaskedSGD, Masks]:
        """What trains the narrow network, and its masks, from those of the whole one."""
        own = MaskedSGD(self.model)
        for name in own.values:
            own.values[name] = self.take(name, sgd.values[name])
            own.momentum[name] = self.take(name, sgd.momentum[name])
        own.mean = {name: self.take(name, mean) for name, mean in sgd.mean.items()}
        own.meant = sgd.meant
        return own, {name: self.take(name, mask) for name, mask in masks.items()}

    def leave(self, own: MaskedSGD, own_masks: Masks, model: nn.Module, sgd: MaskedSGD, masks: Masks) -> None:
        """Put what was learnt into the whole network's `sgd`, `masks` and buffers, in place."""
        for name in own.values:
            self._give(name, own.values[name], sgd.values[name])
            self._give(name, own.momentum[name], sgd.momentum[name])
        sgd.mean = {name: sgd.mean.get(name, sgd.values[name]).clone() for name in own.mean}
        sgd.meant = own.meant
        for name, mean in own.mean.items():
            self._give(name, mean, sgd.mean[name])
        for name, mask in own_masks.items():
            self._give(name, mask, masks[name])
        buffers = dict(model.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffers[name].copy_(buffer)

    def take(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of what the narrow network has of a tensor that belongs to parameter `name`."""
        if name not in self.names:
            return tensor.clone()
        narrow = tensor
        if name in self._rows:
            narrow = narrow[self._rows[name]]
        if name in self._columns:
            narrow = narrow[:, self._columns[name]]
        return arranged_like(narrow, tensor)

    def _give(self, name: str, narrow: torch.Tensor, whole: torch.Tensor) -> None:
        """The other way round, in place."""
        if name in self._columns:
            rows = self._rows.get(name, torch.arange(len(whole), device=whole.device))
            whole[rows[:, None], self._columns[name]] = narrow
        elif name in self._rows:
            whole[self._rows[name]] = narrow
        else:
            whole.copy_(narrow)


def _filled_up(lives: torch.Tensor) -> torch.Tensor:
    """bool (units,): those that live, and so many of the others that they fill whole lanes."""
    room = -int(lives.sum()) % _LANES
    return lives | (~lives & ((~lives).cumsum(0) <= room))


def _layer(
    module: nn.Module, name_of: Mapping[int, str], layer_of: Mapping[str, PrunableLayer]
) -> PrunableLayer | None:
    """Which prunable layer a module is, weight and bias."""
    assert isinstance(module, LAYERS)
    layer = layer_of.get(name_of.get(id(module.weight), ""))
    bias = None if module.bias is None else name_of.get(id(module.bias))
    return layer if layer is not None and layer.bias == bias else None


def _keeps_zero(module: nn.Module) -> bool:
    if isinstance(module, tuple(ELEMENTWISE)):
        return bool((module(torch.zeros(1, 1)) == 0).all())
    return isinstance(module, (*POOLS, nn.Flatten))
