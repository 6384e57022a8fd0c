"""In what order the numbers of images and kernels lie in memory.

On a CPU, torch computes convolutions up to twice as fast when the channels of a place lie side by side
("channels last"). What comes of it is the same to rounding.
"""

from __future__ import annotations

import torch
from torch import nn


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, (n, channels, height, width), channels side by side in memory; any other tensor as it
    is."""
    if tensor.dim() != 4 or tensor.stride(1) == 1:
        return tensor
    _, channels, height, width = tensor.shape
    # Strides by hand: torch takes a tensor of one channel for arranged already, and then computes as if not.
    strides = (channels * height * width, 1, width * channels, channels)
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def arranged_like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """The same numbers, in `model`'s order, if that is channels last."""
    return channels_last(tensor) if model.dim() == 4 and model.stride(1) == 1 else tensor


def arrange(model: nn.Module) -> bool:
    """Put the kernels of a network on the CPU in channels-last order; False: it is not for this network.

    Only for networks of torch's own modules: what a user's module does may hang on the order (`view` does).
    """
    own = all(type(module).__module__.startswith("torch.nn.") for module in model.modules())
    kernels = [each.weight for each in model.modules() if isinstance(each, nn.Conv2d)]
    if not own or not kernels or any(kernel.device.type != "cpu" for kernel in kernels):
        return False
    for kernel in kernels:
        kernel.data = channels_last(kernel.data)
    return True
