"""References and solutions to score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from coppice.models.builtin import mlp
from coppice.pruning.contract import Float64s, Score
from coppice.pruning.evaluation import BATCH
from coppice.pruning.layers import find_layers
from coppice.pruning.scoring.chain import Chain
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.stages import read_chain
from coppice.pruning.scoring.verdict import hardest_first
from tests.pruning.networks import Branching, Normed, Shared, no_tick

SAMPLES = 2 * BATCH + 70


def small_mlp() -> nn.Module:
    return mlp(64, (30, 20), 10)


def lenet() -> nn.Module:
    """Two convolutions, one pooled, as LeNet-5 has them, for 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)
    )


def odd() -> nn.Module:
    """A kernel that is no square, a pooling that overlaps, no bias, nested, dropout."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 5, (3, 2), bias=False), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(30, 12, bias=False),
        nn.ReLU(),
        nn.Linear(12, 11),
    )


def three_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def strided() -> nn.Module:
    """No chain of the kind that is taken."""
    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str] | None, bool]] = {
    "mlp": (small_mlp, None, True),
    "mlp, first layer alone": (small_mlp, ["fc2", "fc3"], True),
    "mlp, last layer alone": (small_mlp, ["fc1", "fc2"], True),
    "lenet": (lenet, None, True),
    "lenet, convolution alone": (lenet, ["2", "5"], True),
    "odd": (odd, None, True),
    "three convolutions": (three_convolutions, None, True),
    "strided": (strided, None, False),
    "normed": (Normed, None, False),
    "shared": (Shared, None, False),
    "branching": (Branching, None, False),
}
"""Builder, layers to prune, and whether it is a chain."""


def reference_of(network: str, seed: int, allowed: int = SAMPLES // 3) -> Reference:
    """Random weights, some of them cut already; labels that the network mostly agrees with."""
    torch.manual_seed(seed)
    build, names, _ = NETWORKS[network]
    model = build().eval()
    found = find_layers(model, names)
    x = torch.randn(SAMPLES, 1, 8, 8)
    parameters = dict(model.named_parameters())
    maskable = [name for layer in found for name in layer.parameters]
    masks = {name: (torch.rand(parameters[name].shape) < 0.8).float() for name in maskable}
    if seed % 3 == 0:
        masks = {name: torch.ones_like(mask) for name, mask in masks.items()}
    if seed % 4 == 1:  # many weights of one magnitude
        with torch.no_grad():
            for layer in found:
                parameters[layer.weight].mul_(30).round_().div_(30)
    reference = Reference(model, found, masks, x, torch.zeros(0), allowed)
    reference.show(reference.masks)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[torch.rand(SAMPLES) < 0.03] = 3
    order = hardest_first(model, x, y, no_tick).long()
    reference.x, reference.y = x[order], y[order]
    return reference


def solutions(layers: int, number: int, seed: int) -> list[Float64s]:
    """As a search makes them: near one another; some far off, some that cut nothing or everything."""
    random = np.random.default_rng(seed)
    centre = random.uniform(-1, 0.5, layers)
    found = [centre + random.normal(0, 0.1, layers) for _ in range(number)]
    found += [random.uniform(-1.5, 4, layers) for _ in range(number // 2)]
    found += [np.full(layers, value) for value in (-9.0, 1e9, -1.2)]
    found += [np.where(np.arange(layers) == i, 50.0, -1.0) for i in range(layers)]
    return [*found, found[0]]


def verdict(score: Score) -> tuple[float, bool]:
    return score.fitness, score.feasible


def smallest_cache(reference: Reference) -> int:
    """Bytes: with fewer, a chain is not taken."""
    stages = read_chain(reference)
    return Chain.least_bytes(stages, len(reference.y)) if stages else 0
