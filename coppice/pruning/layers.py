"""Which parts of a network can be pruned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter

from coppice.errors import CoppiceError


@dataclass(frozen=True, slots=True)
class PrunableLayer:
    """One Linear or Conv layer of a network, by the names of its parameters."""

    name: str
    """The module's name, e.g. 'features.0'; 'model' if the network itself is the layer."""
    weight: str
    """Its weight in `named_parameters()`."""
    bias: str | None
    """Its bias there, if the bias goes with the units (rows) of this weight and of no other."""
    shape: tuple[int, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Its weight and, where it has one, its bias."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def find_layers(model: nn.Module, names: Sequence[str] | None = None) -> tuple[PrunableLayer, ...]:
    """Every Linear and Conv layer of `model`, in the order of its modules, or those in `names`.

    A weight that several modules share is one layer, under the first module's name. Layers whose weight is
    no plain parameter (torch.nn.utils.parametrize, weight_norm) are left alone. Raises `CoppiceError` if a
    named module is not there or cannot be pruned, if nothing can be pruned, if a layer has no weights, or if
    a lazy module has not got its shape yet.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise CoppiceError(f"model: {name} has no shape yet (a lazy module); build it with its sizes")
    modules = dict(model.named_modules())
    if names is not None:
        for name in names:
            if name not in modules:
                raise CoppiceError(f"model.layers: the network has no module {name!r}")
            if not _prunable(modules[name]):
                raise CoppiceError(
                    f"model.layers: {name!r} is {type(modules[name]).__name__}; "
                    "only Linear and Conv layers with plain weights can be pruned"
                )
        modules = {name: module for name, module in modules.items() if name in set(names)}
    # named_parameters() names a shared parameter once, by the first module that has it.
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    layers: list[PrunableLayer] = []
    taken: set[str] = set()
    for name, module in modules.items():
        if not _prunable(module):
            continue
        if not module.weight.numel():
            shape = tuple(module.weight.shape)
            raise CoppiceError(
                f"model: {name} has no weights (shape {shape}); build it with its sizes above 0"
            )
        weight = name_of[id(module.weight)]
        if weight in taken:
            continue
        taken.add(weight)
        bias = None
        # The units of a transposed convolution are not its rows.
        if isinstance(module.bias, nn.Parameter) and not isinstance(module, _ConvTransposeNd):
            bias = name_of[id(module.bias)]
        if bias in taken:
            bias = None
        elif bias is not None:
            taken.add(bias)
        layers.append(PrunableLayer(name or "model", weight, bias, tuple(module.weight.shape)))
    if not layers:
        raise CoppiceError(
            "model: nothing to prune; the network has no Linear or Conv layer with plain weights"
        )
    return tuple(layers)


def in_order(module: nn.Module) -> Iterator[nn.Module]:
    """What an nn.Sequential (of nn.Sequentials) calls, in order; another module, or one with hooks, whole."""
    if type(module) is nn.Sequential and not has_hooks(module):
        for child in module:
            yield from in_order(child)
    else:
        yield module


def has_hooks(module: nn.Module) -> bool:
    """Whether calling it does more than its forward says."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _prunable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd) and isinstance(
        module._parameters.get("weight"), nn.Parameter
    )
