"""Scoring where arithmetic, memory or the network itself is against it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from coppice.pruning.contract import Float64s
from coppice.pruning.evaluation import BATCH
from coppice.pruning.layers import find_layers
from coppice.pruning.masks import Masks
from coppice.pruning.scoring.batched import Batched
from coppice.pruning.scoring.fast import FastScorer, make_scorer
from coppice.pruning.scoring.plain import PlainScorer
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.stages import read_chain
from coppice.pruning.scoring.verdict import hardest_first
from tests.pruning.networks import no_tick
from tests.pruning.scored import NETWORKS, reference_of, small_mlp, solutions, verdict


def reference_with(model: nn.Module, x: torch.Tensor, y: torch.Tensor, allowed: int) -> Reference:
    """Nothing is cut; of a copy, since scorers cut it in place."""
    model = copy.deepcopy(model).eval()
    found = find_layers(model)
    parameters = dict(model.named_parameters())
    masks = {name: torch.ones_like(parameters[name]) for layer in found for name in layer.parameters}
    return Reference(model, found, masks, x.clone(), y.clone(), allowed)


def say_the_same(plain: PlainScorer, fast: FastScorer, crates: Sequence[Float64s]) -> None:
    assert [verdict(s) for s in fast.score_many(crates, no_tick)] == [
        verdict(s) for s in plain.score_many(crates, no_tick)
    ]


def test_logits_that_are_noise_are_too_close_to_call() -> None:
    """Terms cancel in the first layer, but for what rounding leaves of them."""
    first, last = nn.Linear(4, 1, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.1, 0.1, -0.1, -0.1]]))
        last.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    pairs = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    x, y = torch.cat([pairs, pairs], 1), torch.zeros(1000, dtype=torch.int64)
    model = nn.Sequential(first, nn.ReLU(), last)
    crates = np.full(2, -9.0)
    wrong = PlainScorer(reference_with(model, x, y, 0)).score(crates, no_tick).accuracy
    assert wrong is not None
    assert 0.1 < wrong < 0.9
    for allowed in (round(1000 * (1 - wrong)), round(1000 * (1 - wrong)) - 1):
        fast = FastScorer(reference_with(model, x, y, allowed))
        fast._plain_s = 1e9
        assert fast._chain is not None
        say_the_same(PlainScorer(reference_with(model, x, y, allowed)), fast, [crates])


def test_a_score_does_not_hang_on_what_was_scored_before() -> None:
    """Features a million times larger than others come and go."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.ones(64)
    sizes[::8] = 1e6
    x = torch.randn(600, 64, generator=generator) * sizes
    torch.manual_seed(0)
    first = nn.Linear(64, 30)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(30, 10)).eval()
    with torch.no_grad():
        first.weight[:, ::8] *= 0.02
        y = model(x).argmax(1)
    scorer = FastScorer(reference_with(model, x, y, 60), accuracy=True)
    scorer._plain_s = 1e9
    random = np.random.default_rng(1)
    crates = [np.array([random.uniform(-1.7, 0.5), random.normal(-0.9, 0.1)]) for _ in range(600)]
    scores = scorer.score_many(crates, no_tick)
    plain = PlainScorer(reference_with(model, x, y, 60))
    assert scores[9::10] == plain.score_many(crates[9::10], no_tick)


@pytest.mark.parametrize("base", [nn.Identity, nn.ReLU, nn.Flatten, nn.Dropout])
def test_a_class_of_the_users_is_no_ordinary_layer(base: type[nn.Module]) -> None:
    class Own(base):  # type: ignore[misc,valid-type]
        pass

    x, y = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
    for layer, chain in ((base(), True), (Own(), False)):
        model = nn.Sequential(nn.Linear(4, 5), layer, nn.Linear(5, 2))
        assert (read_chain(reference_with(model, x, y, 0)) is not None) == chain


def test_weights_of_another_kind_are_scored_the_plain_way() -> None:
    x, y = torch.randn(20, 64), torch.zeros(20, dtype=torch.int64)
    assert isinstance(make_scorer(reference_with(small_mlp(), x, y, 3), False, 10**6), FastScorer)
    half = small_mlp().to(torch.bfloat16)
    scorer = make_scorer(reference_with(half, x.to(torch.bfloat16), y, 20), False, 10**6)
    assert scorer.score_many([np.zeros(3)], no_tick)[0].feasible


class Greedy(nn.Module):
    """Writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x -= 0.5
        inner: torch.Tensor = self.inner(x)
        return inner


class Sociable(nn.Module):
    """What it says of a sample hangs on the others in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)
        self.inner = small_mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.inner(self.norm(x))
        return inner


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("build", [Greedy, Sociable])
def test_samples_stay_as_they_are_and_meet_as_they_do(
    build: type[nn.Module], batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "own", (build, None, False))
    reference, plain = reference_of("own", 2), PlainScorer(reference_of("own", 2))
    before = reference.x.clone()
    fast = FastScorer(reference)
    if batched:
        fast._batched = Batched(reference, fast._plain)
    say_the_same(plain, fast, solutions(plain.layers, 12, 2))
    assert (fast._batched is not None) == batched
    hardest_first(reference.model, reference.x, reference.y, no_tick)
    assert torch.equal(reference.x, before)


class Crowded(nn.Module):
    """On a device with room for a hundred samples, once it is crowded."""

    crowded = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.crowded and len(x) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        inner: torch.Tensor = self.inner(x)
        return inner


def test_samples_are_put_in_order_with_little_room() -> None:
    model, x = Crowded().eval(), torch.randn(BATCH + 30, 64)
    y = torch.zeros(len(x), dtype=torch.int64)
    order = hardest_first(model, x, y, no_tick)
    model.crowded = True
    assert torch.equal(hardest_first(model, x, y, no_tick), order)


@pytest.mark.parametrize("call", range(1, 5))
def test_no_room_to_settle_a_doubt_leaves_none_unsettled(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, reference = PlainScorer(reference_of("mlp", 1, 200)), reference_of("mlp", 1, 200)
    fast = FastScorer(reference, accuracy=True)
    fast._batched = Batched(reference, fast._plain)
    cut, calls = fast._plain.cut, []

    def failing(limits: tuple[float, ...]) -> Masks:
        calls.append(limits)
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cut(limits)

    monkeypatch.setattr(fast._plain, "cut", failing)
    crates = solutions(plain.layers, 8, 1)
    assert fast.score_many(crates, no_tick) == plain.score_many(crates, no_tick)
    assert fast._batched is not None
    assert len(calls) > call


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_network_that_cannot_be_copied_is_not_batched() -> None:
    reference = reference_with(small_mlp(), torch.randn(9, 64), torch.zeros(9, dtype=torch.int64), 3)
    layer = reference.model.fc1
    assert isinstance(layer, nn.Module)
    torch.nn.utils.weight_norm(layer)
    with pytest.raises(RuntimeError):
        Batched(reference, PlainScorer(reference))
