"""Networks that only the tests of the export need, and how they are cut."""

from __future__ import annotations

import torch
from torch import nn

from coppice.pruning.layers import find_layers


def cut(model: nn.Module, keep: float, seed: int = 0, with_biases: bool = False) -> nn.Module:
    """Cut all but the fraction `keep` of each layer's weights, drawn at random, in place.

    `with_biases`: as a run of Coppice does, the bias of a unit without weights goes too.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for layer in find_layers(model):
            weight = parameters[layer.weight]
            weight.mul_(torch.rand(weight.shape, generator=random) < keep)
            if with_biases and layer.bias is not None:
                parameters[layer.bias].mul_(weight.flatten(1).any(1))
    return model.eval()


def normed() -> nn.Module:
    """Batch normalisation behind a layer, and behind an activation, with statistics of its own."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 12),
        nn.BatchNorm1d(12),
        nn.Sigmoid(),
        nn.Linear(12, 5),
    )
    random = torch.Generator().manual_seed(5)
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert isinstance(tensor, torch.Tensor)
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.1)
    return model.eval()


class Functional(nn.Module):
    """LeNet as people write it, with functions between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(256, 40)
        self.fc2 = nn.Linear(40, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 28, 28) -> (n, 10)."""
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        x = nn.functional.dropout(self.fc1(x).relu(), training=self.training)
        return self.fc2(x)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Not one line of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 16) -> (n, 4)."""
        x = torch.relu(self.first(x))
        return self.out(x + torch.relu(self.second(x)))  # type: ignore[no-any-return]
