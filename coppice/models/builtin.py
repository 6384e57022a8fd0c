"""The built-in architectures, in plain torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(inputs: int = 64, hidden: Sequence[int] = (300, 100), classes: int = 10) -> nn.Module:
    """Fully connected layers with ReLU between them: fc1, fc2, ...

    Takes (n, ...) with `inputs` values a sample (flattened here), gives logits (n, classes). The defaults
    are for digits: 8x8 pixels.
    """
    sizes = [inputs, *hidden, classes]
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        parts[f"fc{index}"] = nn.Linear(fan_in, fan_out)
        if index < len(sizes) - 1:
            parts[f"relu{index}"] = nn.ReLU()
    return nn.Sequential(parts)


def lenet_300_100() -> nn.Module:
    """LeNet-300-100 for 28x28 images: 266,610 parameters, 266,200 of them weights."""
    return mlp(784, (300, 100), 10)


def lenet_5() -> nn.Module:
    """LeNet-5 as Caffe builds it (20-50-500-10): 431,080 parameters, 430,500 of them weights.

    Takes (n, 1, 28, 28). As in Caffe's lenet.prototxt there is no nonlinearity after the convolutions,
    only max pooling.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),  # (n, 20, 24, 24)
            pool1=nn.MaxPool2d(2),  # (n, 20, 12, 12)
            conv2=nn.Conv2d(20, 50, 5),  # (n, 50, 8, 8)
            pool2=nn.MaxPool2d(2),  # (n, 50, 4, 4)
            flatten=nn.Flatten(),  # (n, 800)
            fc1=nn.Linear(800, 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )
