"""What every file's outputs are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from coppice.pruning.export import outputs
from coppice.pruning.export.outputs import Outputs, copied, how_many
from tests.pruning.networks import no_tick

Network = Callable[[torch.Tensor], torch.Tensor]


class Wraps(nn.Module):
    """A function as a network."""

    def __init__(self, function: Network) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the function gives."""
        return self.function(x)


def apart(network: Network, other: Network, samples: int = 8) -> float:
    x = torch.rand(samples, 3, generator=torch.Generator().manual_seed(0)) + 1
    return Outputs(Wraps(network), x, no_tick).apart(other)


def test_differences_are_parts_of_the_largest_output() -> None:
    assert apart(lambda x: x, lambda x: x) == 0
    assert apart(lambda x: x * 0 - 4, lambda x: x * 0 - 3) == 0.25
    assert apart(lambda x: x, lambda x: x[:, :2]) == math.inf


def test_infinities_and_nan_are_outputs_like_others() -> None:
    def odd(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0], x[:, 0] * math.inf, x[:, 0] * math.nan], 1)

    assert apart(odd, odd) == 0
    assert apart(odd, lambda x: odd(x) * 1.5) == pytest.approx(0.5)
    assert apart(odd, lambda x: odd(x).abs().neg()) == math.inf
    assert apart(lambda x: x, odd) == math.inf


def test_one_sample_and_many_are_compared() -> None:
    for size in (1, 2, 8):
        assert apart(lambda x: x, lambda x, size=size: x + (len(x) == size)) > 0.1  # type: ignore[misc]


def test_a_network_that_needs_two_samples() -> None:
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    assert apart(norm, norm) == 0
    assert apart(lambda x: x.squeeze(), lambda x: x) == 0  # as many write it: no row for one


def test_no_more_samples_at_once_than_a_second_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "PIECE_S", 0.0)
    done: list[int | None] = []  # numbers of samples, None for a tick
    model = Wraps(lambda x: done.append(len(x)) or x)  # type: ignore[func-returns-value]
    made = Outputs(model, torch.rand(256, 3), lambda: done.append(None))
    assert len(made.samples) == 2
    made.apart(model)
    assert done == [None, 2, None, 1, None, 2, None, 1]


def test_samples_fit_into_memory() -> None:
    assert how_many((784,)) == 256
    assert how_many((3, 1000, 1000)) == 22
    assert how_many((3, 3000, 3000)) == 2


def test_work_in_place_harms_no_samples() -> None:
    assert apart(lambda x: x.mul_(2), lambda x: x * 2) == 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_network_with_computed_tensors_is_copied() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))
    made, x = copied(model), torch.rand(4, 3)
    assert torch.equal(made(x), model(x))
    assert not made(x).requires_grad
    assert model(x).requires_grad
