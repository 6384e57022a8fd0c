"""What the outer loop publishes for the evaluators: weights, and what a solution is judged against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.pruning.layers import PrunableLayer
from coppice.pruning.masks import Masks
from coppice.pruning.tensors import Tensors, fill_model, pack, unpack

_MASK = "coppice.mask."
_ORDER = "coppice.order"
_ORIGIN = "model weights"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a solution may cost."""

    drop: float
    """The accuracy that it may lose against the reference."""
    least: int = 0
    """The fewest parameters that it may leave."""


@dataclass(frozen=True, slots=True)
class Published:
    """Read back, the weights being in the network."""

    masks: Masks
    """The masks in force, of weights and biases, by the parameter's name; ones where the file has none."""
    allowed: Allowed | None
    """None where the file does not say."""
    order: torch.Tensor | None
    """int32 (samples,): in which order the samples are looked at; None where the file does not say."""


def pack_published(
    tensors: Mapping[str, torch.Tensor],
    layers: Sequence[PrunableLayer],
    masks: Masks,
    allowed: Allowed,
    order: torch.Tensor,
) -> bytes:
    """safetensors: the tensors under their own names, so that anybody can load them, masks as bytes, and
    the order in which to look at the samples, int32 (samples,)."""
    extra = {_MASK + name: masks[name].to(torch.uint8) for layer in layers for name in layer.parameters}
    return pack({**tensors, **extra, _ORDER: order}, {"drop": allowed.drop, "least": allowed.least})


def unpack_published(content: bytes, model: nn.Module, layers: Sequence[PrunableLayer]) -> Published:
    """Fill `model` from published bytes, or from plain weights.

    Raises `CoppiceError` if they are not those of this network.
    """
    tensors, info = unpack(content, _ORIGIN)
    masks: Tensors = {}
    for name in [name for name in tensors if name.startswith(_MASK)]:
        masks[name.removeprefix(_MASK)] = tensors.pop(name)
    order = tensors.pop(_ORDER, None)
    if order is not None and not _is_permutation(order):
        raise CoppiceError(f"{_ORIGIN}: {_ORDER} is no order of samples")
    fill_model(model, tensors, _ORIGIN)
    parameters = dict(model.named_parameters())
    wanted = {name: parameters[name].detach() for layer in layers for name in layer.parameters}
    if masks and masks.keys() != wanted.keys():
        raise CoppiceError(f"{_ORIGIN}: masks of {sorted(masks)}, the run prunes {sorted(wanted)}")
    for name, weight in wanted.items():
        mask = masks.setdefault(name, torch.ones_like(weight, dtype=torch.uint8))
        if mask.dtype != torch.uint8 or mask.shape != weight.shape or bool((mask > 1).any()):
            raise CoppiceError(f"{_ORIGIN}: the mask of {name!r} does not fit its weight")
        masks[name] = mask.to(weight.dtype)
    return Published(masks, _allowed(info), order)


def _allowed(info: Mapping[str, object]) -> Allowed | None:
    drop, least = info.get("drop"), info.get("least", 0)
    if drop is None:
        return None
    if not isinstance(drop, float | int) or isinstance(drop, bool) or not 0 <= drop <= 1:
        raise CoppiceError(f"{_ORIGIN}: no solution may lose {drop!r:.40} of its accuracy")
    if not (type(least) is int and least >= 0):
        raise CoppiceError(f"{_ORIGIN}: no solution can leave {least!r:.40} parameters")
    return Allowed(float(drop), least)


def _is_permutation(order: torch.Tensor) -> bool:
    if order.dtype != torch.int32 or order.ndim != 1:
        return False
    return torch.equal(order.sort().values, torch.arange(len(order), dtype=torch.int32))
