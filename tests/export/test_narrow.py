"""Dead units go, and the outputs stay."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from coppice.models.builtin import lenet_5, lenet_300_100, mlp
from coppice.pruning.contract import Tick
from coppice.pruning.export import forms
from coppice.pruning.export.chain import ELEMENTWISE, NotAChain, describe, find_chain
from coppice.pruning.export.forms import choose_forms, sequential
from coppice.pruning.export.loaders.load_narrow import SparseLinear, TurnedLinear, build
from coppice.pruning.export.narrow import remove_dead_units, select_inputs
from tests.export.networks import Functional, Residual, cut, normed
from tests.pruning.networks import Branching, Shared, no_tick


def narrowed(model: nn.Module, samples: torch.Tensor) -> nn.Sequential:
    """Without dead units; checked: the outputs are those of `model`, and no dead unit is left."""
    before = copy.deepcopy(model.state_dict())
    steps = remove_dead_units(find_chain(model))
    made = sequential(steps)
    with torch.inference_mode():
        found, expected = made(samples), model.eval()(samples)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return made


def sizes(model: nn.Module) -> list[int]:
    return [len(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 30), max_size=3),
    st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_fully_connected_networks(hidden: list[int], keep: float, with_biases: bool, seed: int) -> None:
    model = cut(mlp(12, hidden, 4), keep, seed, with_biases)
    made = narrowed(model, torch.randn(7, 12, generator=torch.Generator().manual_seed(seed)))
    layers = [m for m in made if isinstance(m, nn.Linear)]
    for first, second in pairwise(layers):
        used, fed = second.weight.any(0), first.weight.any(1)
        assert len(used) == 1 or bool((used & fed).all())


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([0.01, 0.05, 0.2]),
    st.sampled_from([0, 1]),
    st.sampled_from(["zeros", "reflect", "circular"]),
    st.sampled_from(
        [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(3, padding=1), nn.AvgPool2d(2, ceil_mode=True)]
    ),
    st.integers(0, 2**32),
)
def test_convolutions(keep: float, padding: int, mode: Any, pool: nn.Module, seed: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 9, 3, padding=padding, padding_mode=mode),
        nn.ELU(),
        pool,
        nn.Conv2d(9, 7, 3, padding=padding, padding_mode=mode, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(5),
        nn.Softmax(1),
    )
    samples = torch.randn(3, 2, 11, 11, generator=torch.Generator().manual_seed(seed))
    model(samples)
    narrowed(cut(model, keep, seed), samples)


def test_a_constant_map_beside_a_border_of_zeros_stays() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1), nn.Flatten()
    )
    with torch.no_grad():
        model[0].weight[1] = 0  # type: ignore[operator]
        model[0].bias[1] = 2.0  # type: ignore[operator]
    samples = torch.rand(2, 1, 6, 6)
    assert sizes(narrowed(model, samples)) == [2, 1]
    with torch.no_grad():
        model[0].bias[1] = -2.0  # type: ignore[operator]
    assert sizes(narrowed(model, samples)) == [1, 1]  # ReLU makes it 0, as the border is


@pytest.mark.parametrize("kind", sorted(ELEMENTWISE, key=str), ids=lambda kind: str(kind.__name__))
def test_a_unit_without_inputs_is_folded_through_every_activation(kind: type[nn.Module]) -> None:
    activation = kind(0.1, 20.0) if kind is nn.Threshold else kind()
    model = nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight[2] = 0  # type: ignore[operator]
        model[0].bias[2] = 0.7  # type: ignore[operator]
    assert sizes(narrowed(model, torch.randn(4, 6))) == [4, 3]


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.5])
def test_built_in_networks(keep: float) -> None:
    for model, shape in ((lenet_300_100(), (784,)), (lenet_5(), (1, 28, 28)), (Functional(), (1, 28, 28))):
        made = narrowed(cut(model, keep, with_biases=True), torch.rand(3, *shape))
        assert keep > 0.1 or sizes(made) < sizes(model)


@pytest.mark.parametrize("keep", [0.03, 0.2, 1.0])
def test_batch_normalisation_is_folded_or_sliced(keep: float) -> None:
    made = narrowed(cut(normed(), keep), torch.rand(4, 1, 12, 12))
    assert sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in made) == 1


def test_layers_that_share_a_weight() -> None:
    narrowed(cut(Shared(16, 4), 0.1), torch.rand(4, 16))


def test_a_whole_layer_that_is_dead_keeps_one_unit() -> None:
    model = cut(mlp(8, (6, 5), 3), 0.0)
    made = narrowed(model, torch.rand(4, 8))
    assert sizes(made) == [1, 1, 3]


def test_steps_that_mix_units_keep_them_all() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    made = narrowed(cut(model, 0.1), torch.rand(4, 8))
    assert sizes(made)[0] == 6
    assert sizes(made)[1] < 6


def test_groups_and_maps_without_flatten_are_left_alone() -> None:
    grouped = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=4), nn.Flatten()
    )
    assert sizes(narrowed(cut(grouped, 0.1), torch.rand(2, 4, 8, 8))) == [8, 4]
    along = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Linear(4, 4))  # over the maps' last side
    assert sizes(narrowed(cut(along, 0.3), torch.rand(2, 1, 4, 4))) == [4, 4]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Residual(), "do not follow one another in one line"),
        (Branching(), "torch.fx cannot follow its forward"),
        (nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)), "of another kind"),
        (nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "of another kind"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
            "in one line|of another kind",
        ),
        (nn.Sequential(nn.GRU(4, 4)), "of another kind"),
        (nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4))), "its layer 0 has hooks"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_other_networks_are_left_alone_and_it_is_said_why(model: nn.Module, reason: str) -> None:
    with pytest.raises(NotAChain, match=reason):
        find_chain(model)


class Between(nn.Module):
    """Two layers, and a function before, between and behind them."""

    def __init__(self, before: Any, between: Any, behind: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 20), nn.Linear(20, 10)
        self.before, self.between, self.behind = before, between, behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) -> (n, 10)."""
        return self.behind(self.second(self.between(self.first(self.before(x)))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x.view(x.size(0), 64),
        lambda x: x.view(-1, 64),
        lambda x: x.reshape((x.shape[0], -1)),
        lambda x: torch.reshape(x, (len(x) if isinstance(x, torch.Tensor) else x.size(0), 64)),
        lambda x: functional.adaptive_avg_pool2d(x, (8, 8)).flatten(1),
    ],
)
def test_ways_to_write_a_flattening(before: Any) -> None:
    model = cut(Between(before, torch.relu, lambda x: x), 0.05)
    assert sizes(narrowed(model, torch.rand(3, 1, 8, 8))) < [20, 10]


@pytest.mark.parametrize(
    "between",
    [
        lambda x: functional.relu(x, True),
        lambda x: functional.leaky_relu(x, 0.2, inplace=True),
        lambda x: functional.elu(x, alpha=0.5),
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda x: functional.hardtanh(x, -0.1, 0.1),
        functional.relu6,
        functional.silu,
        functional.softplus,
    ],
)
def test_functions_are_layers_too(between: Any) -> None:
    model = cut(Between(torch.nn.Flatten(), between, lambda x: functional.log_softmax(x, dim=1)), 0.05)
    assert sizes(narrowed(model, torch.rand(3, 1, 8, 8))) < [20, 10]


def test_a_function_that_changes_the_type_is_left_alone() -> None:
    model = Between(nn.Flatten(), torch.relu, lambda x: functional.softmax(x, dim=1, dtype=torch.float64))
    with pytest.raises(NotAChain, match="of another kind"):
        find_chain(model)


class Named(nn.Module):
    """Its layers have the names of what an nn.Sequential can do."""

    def __init__(self) -> None:
        super().__init__()
        self.pop, self.append = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 16) -> (n, 4)."""
        return self.append(torch.relu(self.pop(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Named(), (16,)),
        (nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12, affine=False), nn.Linear(12, 4)), (16,)),
        (nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(12, 4)), (5, 8)),
        (nn.Sequential(nn.Linear(16, 12), nn.LayerNorm(12, bias=False), nn.Linear(12, 4)), (16,)),
    ],
    ids=["names", "no affine", "over places", "no bias"],
)
def test_networks_that_are_seldom_seen(model: nn.Module, shape: tuple[int, ...]) -> None:
    made = narrowed(cut(model, 0.3), torch.rand(6, *shape))
    rebuilt = build(json.loads(json.dumps(describe(list(made.named_children())))))
    rebuilt.load_state_dict(made.state_dict(), assign=True)


# Faster layers


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    st.booleans(),
    st.sampled_from([1, 4]),
    st.integers(0, 2**32),
)
def test_other_forms_compute_the_same(
    inputs: int, units: int, keep: float, bias: bool, least: int, seed: int
) -> None:
    linear = nn.Linear(inputs, units, bias=bias)
    cut(linear, keep, seed)
    for form in (SparseLinear(linear, least), TurnedLinear(linear)):
        for samples in (0, 1, 3, 4, 9, 20):
            x = torch.randn(samples, inputs, generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(form(x), linear(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(form(x.t().contiguous().t()), linear(x), rtol=1e-4, atol=1e-5)


def test_forms_are_chosen_for_no_more_samples_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def sparse_wins(runs: Mapping[str, Callable[[], torch.Tensor]], tick: Tick) -> dict[str, float]:
        measured.append(len(runs["dense"]()))
        return {form: float(form != "sparse") for form in runs}

    monkeypatch.setattr(forms, "times_ms", sparse_wins)
    steps = [("fc", cut(nn.Linear(30, 20), 0.05))]
    for samples in (2, 20, 256):
        assert choose_forms(steps, torch.rand(samples, 30), no_tick).sparse_from == {"fc": 1}
    assert measured == [1, 16, 1, 256, 64, 16, 1]


def test_inputs_that_meet_no_weight_are_not_multiplied() -> None:
    linear = nn.Linear(9, 4)
    with torch.no_grad():
        linear.weight[:, 3:] = 0
    steps = select_inputs([("fc", linear)], 0)
    assert steps is not None
    x = torch.rand(5, 9)
    torch.testing.assert_close(nn.Sequential(OrderedDict(steps))(x), linear(x))
    assert steps[1][1].weight.shape == (4, 3)
    assert select_inputs([("fc", nn.Linear(3, 3))], 0) is None
