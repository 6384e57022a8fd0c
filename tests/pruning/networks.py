"""Small runs and networks that several tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from coppice.runfile import RunFile, parse_run_file

SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "model": {"name": "mlp", "arguments": {"hidden": [16, 12]}},
    "reference": {"iterations": 120, "batch": 32, "learning_rate": 0.1},
    "rounds": {"iterations": 30, "tmax": 120},
    "surgery": {"batch": 32, "learning_rate": 0.05, "weight_decay": 0.001, "prune_until": 80, "gamma": 0.01},
    "search": {"evaluations": 20, "population": 5, "sigma": 0.3, "lower": -1.0, "upper": 5.0},
    "constraint": {"accuracy_drop": 0.05, "samples": 200},
}


def small(**sections: Any) -> RunFile:
    """The small run, some of its keys changed: small(seed=4, surgery={'gamma': 0.0})."""
    content = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}
    for key, value in sections.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_run_file(content, "test")


def no_tick() -> None:
    """Nothing to beat."""


class Normed(nn.Module):
    """Convolutions, batch norm (with buffers that training changes) and dropout, for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(4 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) -> (n, 10)."""
        hidden: torch.Tensor = self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1)
        return self.out(hidden)  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One layer used twice, and two layers that share one weight."""

    def __init__(self, inputs: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, inputs)
        self.twin = nn.Linear(inputs, inputs)
        self.twin.weight = self.first.weight
        self.again = self.first
        self.out = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ...) of `inputs` values -> (n, classes)."""
        x = torch.relu(self.again(torch.relu(self.first(x.flatten(1)))))
        return self.out(torch.relu(self.twin(x)))  # type: ignore[no-any-return]


class Branching(nn.Module):
    """Its way hangs on what it computes: neither torch.fx nor torch.func.vmap can follow."""

    def __init__(self, inputs: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, 12)
        self.out = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ...) of `inputs` values -> (n, classes)."""
        logits: torch.Tensor = self.out(torch.relu(self.first(x.flatten(1))))
        return logits if logits.sum() > -1e9 else -logits


class Recurrent(nn.Module):
    """Nothing in it can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(8, 10, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) -> (n, 10)."""
        _, last = self.cell(x.squeeze(1))
        return last.squeeze(0)  # type: ignore[no-any-return]


def lazy() -> nn.Module:
    """A network that does not know its sizes yet."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def compared() -> nn.Module:
    """Batch norm over single values: cannot be trained on one sample at a time."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, 10))


def spatial() -> nn.Module:
    """Takes samples, but gives no logits of shape (n, classes)."""
    return nn.Conv2d(1, 10, 3)


def few_classes() -> nn.Module:
    """Too few logits for digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def wrong_size() -> nn.Module:
    """Does not take 8x8 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))
