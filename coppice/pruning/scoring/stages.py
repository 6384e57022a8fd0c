"""Reading a network as a chain of ordinary layers, which is what the sparse kernels can take over from torch.

A network is taken whole or not at all: one that might compute anything else than its layers in a row, or that
has what the kernels do not know (hooks, strides, a weight used twice, a class derived from torch's), is no
chain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coppice.pruning.contract import Float32s
from coppice.pruning.layers import has_hooks, in_order
from coppice.pruning.scoring.reference import Reference

_OVERFLOW = 1e30
"""No activation can reach this in a chain that is taken."""
_NO_POOL = ((1, 1), (1, 1))


@dataclass(slots=True)
class Stage:
    """A Linear or Conv2d layer with what follows it: at most one pooling, and ReLUs."""

    layer: int | None
    """Its place in `Reference.found`; None: left alone."""
    weight: Float32s
    """(units, inputs)."""
    bias: Float32s
    """(units,)."""
    bias_goes: bool
    """Whether a unit that keeps no weight loses its bias."""
    kernel: tuple[int, int] | None
    """Of a convolution."""
    inputs: tuple[int, ...]
    """Shape of a sample before it: (features,) or (channels, h, w)."""
    outputs: tuple[int, ...]
    """Shape after the layer itself."""
    pool: tuple[tuple[int, int], tuple[int, int]] = _NO_POOL
    """Kernel and stride."""
    relu: bool = False
    result: tuple[int, ...] = ()
    """Shape after all that."""

    @property
    def units(self) -> int:
        """Rows of the weight."""
        return len(self.weight)

    @property
    def each(self) -> int:
        """Numbers that a unit gives."""
        return math.prod(self.result[1:])

    @property
    def field(self) -> int:
        """Inputs that belong to one unit (channel) of a convolution's input, side by side in the weight."""
        return self.kernel[0] * self.kernel[1] if self.kernel else 1

    @property
    def positions(self) -> int:
        """How often each weight is used on a sample."""
        return math.prod(self.outputs[1:])


def read_chain(reference: Reference) -> list[Stage] | None:
    """The network as a chain; None if it is none, or not one that the kernels understand."""
    if any(parameter.dtype != torch.float32 for parameter in reference.parameters.values()):
        return None
    name_of = {id(parameter): name for name, parameter in reference.parameters.items()}
    layer_of = {layer.weight: number for number, layer in enumerate(reference.found)}
    stages: list[Stage] = []
    taken: set[str] = set()
    shape = tuple(reference.x.shape[1:])
    for module in in_order(reference.model):
        if has_hooks(module):
            return None
        last = stages[-1] if stages else None
        if type(module) in (nn.Linear, nn.Conv2d):
            assert isinstance(module, nn.Linear | nn.Conv2d)
            names = [name_of.get(id(p)) for p in (module.weight, module.bias) if p is not None]
            outputs = _layer_shape(module, shape)
            if outputs is None or None in names or taken & set(names):
                return None
            taken |= {str(name) for name in names}
            # From the reference: the model itself may be showing a network that is cut.
            values = [float32s(reference.weights.get(str(n), reference.parameters[str(n)])) for n in names]
            number = layer_of.get(str(names[0]))
            goes = number is not None and reference.found[number].bias is not None
            if goes != (len(names) == 2 and names[1] in reference.weights):
                return None  # its bias goes with another layer's units
            weight = values[0].reshape(len(values[0]), -1)
            bias = values[1] if len(values) == 2 else np.zeros(len(weight), np.float32)
            kernel = module.kernel_size if isinstance(module, nn.Conv2d) else None
            stages.append(Stage(number, weight, bias, goes, kernel, shape, outputs, result=outputs))  # type: ignore[arg-type]
            shape = outputs
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            shape = (math.prod(shape),)
        elif type(module) is nn.ReLU and last is not None:
            last.relu = True
        elif type(module) is nn.MaxPool2d and last is not None and last.pool == _NO_POOL:
            pool = _pool(module)
            if pool is None or last.result != shape or len(shape) != 3:
                return None
            (rows, columns), (down, right) = pool
            shape = (shape[0], (shape[1] - rows) // down + 1, (shape[2] - columns) // right + 1)
            if min(shape) < 1:
                return None
            last.pool, last.result = pool, shape
        elif type(module) not in (nn.Dropout, nn.Identity):
            return None
    whole = {stage.layer for stage in stages} - {None} == set(range(len(reference.found)))
    if not whole or len(stages) < 2 or stages[-1].kernel or _overflows(stages, reference.x):
        return None
    return stages


def float32s(tensor: torch.Tensor) -> Float32s:
    """A copy of a tensor's values; the same shape."""
    return tensor.detach().cpu().numpy().astype(np.float32)


def _layer_shape(module: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if isinstance(module, nn.Linear):
        return (module.out_features,) if shape == (module.in_features,) else None
    plain = (
        module.stride == (1, 1)
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )
    if not plain or len(shape) != 3 or shape[0] != module.in_channels:
        return None
    height, width = shape[1] - module.kernel_size[0] + 1, shape[2] - module.kernel_size[1] + 1
    return (module.out_channels, height, width) if min(height, width) > 0 else None


def _pool(module: nn.MaxPool2d) -> tuple[tuple[int, int], tuple[int, int]] | None:
    def pair(value: object) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type,return-value]

    plain = pair(module.padding) == (0, 0) and pair(module.dilation) == (1, 1)
    if not plain or module.ceil_mode or module.return_indices:
        return None
    return pair(module.kernel_size), pair(module.stride)


def _overflows(stages: Sequence[Stage], x: torch.Tensor) -> bool:
    """Whether some activation of some cut could leave what float32 holds."""
    largest = float(x.abs().max())
    for stage in stages:
        largest *= float(np.abs(stage.weight.astype(np.float64)).sum(axis=1).max())
        largest += float(np.abs(stage.bias).max())
        if not largest < _OVERFLOW:
            return True
    return False
