from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.pruning.constraint import allowed_errors
from coppice.pruning.evaluation import BATCH, count_errors, pick_device
from coppice.pruning.masks import Masks, count_kept
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.scoring.plain import PlainScorer
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.verdict import hardest_first, margins, score_of
from coppice.pruning.tensors import pack, unpack
from coppice.pruning.units import bury
from coppice.runfile import RunFile
from tests.pruning.networks import no_tick, small


def trained(run: RunFile) -> TorchPruner:
    pruner = TorchPruner(run)
    pruner.train_reference(run.reference.iterations, no_tick)
    return pruner


@pytest.fixture(scope="module")
def pruner() -> TorchPruner:
    return trained(small())


def plainly(pruner: TorchPruner, weights: bytes | None = None, run: RunFile | None = None) -> PlainScorer:
    x, y = pruner.samples()
    accuracy = pruner.reference_accuracy
    return PlainScorer(Reference.build(run or pruner.run, weights or pruner.weights(), x, y, accuracy))


@pytest.mark.parametrize("crates", [[-1.0, -1, -1], [0, 0, 0], [0.3, 1.2, -0.5], [2, 2, 2], [50, 50, 50]])
def test_a_score_is_what_plain_torch_says(pruner: TorchPruner, crates: list[float]) -> None:
    run = pruner.run
    x, y = pruner.samples()
    score = plainly(pruner).score(np.array(crates), no_tick)
    model = build_model(run.model, 99)
    tensors, _ = unpack(pruner.weights(), "test")
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    kept = total = 0
    with torch.no_grad():
        for layer, crate in zip(
            [m for m in model.modules() if isinstance(m, nn.Linear)], crates, strict=True
        ):
            w = np.abs(layer.weight.numpy().astype(np.float64))
            keep = torch.tensor(w >= 0.9 * max(0.0, w.mean() + crate * w.std()))
            layer.weight.mul_(keep)
            layer.bias.mul_(keep.any(1))
            kept += int(keep.sum()) + int(keep.any(1).sum())
            total += layer.weight.numel() + layer.bias.numel()
        predicted = model(torch.tensor(x)).argmax(1).numpy()
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        logits = model(torch.tensor(x))
        own = logits[range(len(y)), y]
        logits[range(len(y)), y] = -torch.inf
        order = (own - logits.amax(1)).argsort(stable=True).numpy()
    wrong = (predicted != y)[order]
    errors = int(wrong.sum())
    allowed = round((1 - pruner.reference_accuracy) * len(y)) + 10  # accuracy_drop 0.05 of 200
    assert score.accuracy == (len(y) - errors) / len(y)
    assert score.feasible == (errors <= allowed)
    if errors <= allowed:
        assert score.fitness == max(kept, 1) / total
    else:
        spared = len(y) - 1 - np.flatnonzero(wrong)[allowed]
        assert score.fitness == 1 + (spared + 1) / len(y)


def test_scoring_is_repeatable_and_beats(pruner: TorchPruner) -> None:
    scorer = plainly(pruner)
    assert scorer.layers == 3
    beats: list[int] = []
    first = scorer.score(np.array([0.5, 0.5, 0.0]), lambda: beats.append(1))
    scorer.score(np.array([9.0, 9.0, 9.0]), no_tick)
    assert scorer.score(np.array([0.5, 0.5, 0.0]), no_tick) == first
    assert len(beats) >= 1 + len(pruner.samples()[1]) // BATCH


def kept_by(masks: Masks) -> int:
    return sum(count_kept(masks).values())


@pytest.mark.parametrize("model", ["mlp", "tests.pruning.networks:Normed", "tests.pruning.networks:Shared"])
def test_what_is_applied_is_what_was_scored(model: str) -> None:
    run = small(
        model={"name": model, "arguments": {}}, reference={"iterations": 60}, surgery={"prune_until": 1000}
    )
    pruner = trained(run)
    random = np.random.default_rng(1)
    for _ in range(4):
        crates = random.uniform(-0.5, 1.5, len(pruner.layers))
        scorer = plainly(pruner)
        score = scorer.score(crates, no_tick)
        fixed = scorer._reference.fixed
        scored = scorer._reference.cut_masks(scorer._reference.limits(crates))
        pruner.apply(crates, 0.5)
        measure = pruner.measure(no_tick)
        assert (measure.accuracy, measure.feasible) == (score.accuracy, score.feasible)
        if score.feasible:
            assert (fixed + kept_by(scored)) / measure.parameters_total == score.fitness
            bury(pruner._edges, scored, ())  # the weights of dead units are cut for nothing
            assert measure.parameters_remaining == fixed + kept_by(scored)
        pruner.train(10, no_tick)  # cut weights move on: the next cut is of other weights


@given(
    samples=st.integers(1, 20_000),
    errors=st.integers(0, 20_000),
    allowed_drop=st.integers(0, 1000),
    scale=st.integers(1, 5),
)
def test_the_allowed_errors_are_whole_numbers(
    samples: int, errors: int, allowed_drop: int, scale: int
) -> None:
    errors = min(errors, samples)
    accuracy = (samples - errors) / samples
    assert allowed_errors(accuracy, 0.0, samples) == errors
    assert allowed_errors(accuracy, allowed_drop / samples, samples) == errors + allowed_drop
    assert allowed_errors(accuracy, (allowed_drop + 0.5) / samples, samples) == errors + allowed_drop


def test_an_infeasible_score_says_how_infeasible() -> None:
    scores = [score_of(np.array([place]), 0, 100, 5, 10, None).fitness for place in range(100)]
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (2.0, 1.01)


def test_the_samples_that_are_closest_to_failing_come_first() -> None:
    model = nn.Flatten()
    x = torch.tensor([[5.0, 0, 0], [0, 1, 0], [3, 0, 4], [float("nan"), 0, 0], [0, 0, 2]])
    y = torch.tensor([0, 1, 0, 0, 2])
    assert margins(model, x, y, no_tick).tolist() == [5, 1, -1, float("-inf"), 2]
    order = hardest_first(model, x, y, no_tick)
    assert (order.dtype, order.tolist()) == (torch.int32, [3, 2, 1, 4, 0])


def test_logits_that_are_not_finite_are_wrong() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(torch.arange(3) == 0, x, torch.zeros(3))

    x = torch.tensor([[1.0], [float("nan")], [float("inf")], [2.0]])
    assert count_errors(Broken(), x, torch.zeros(4, dtype=torch.int64), no_tick) == 2


def test_evaluating_leaves_the_mode_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
    for training in (True, False):
        model.train(training)
        count_errors(model, x, y, no_tick)
        assert model.training == training


def test_solutions_may_lose_what_the_weights_say(pruner: TorchPruner) -> None:
    run = small(constraint={"accuracy_drop": 0.05, "search_drop": 0.25})
    x, y = pruner.samples()
    errors = round((1 - pruner.reference_accuracy) * len(y))
    tensors, _ = unpack(pruner.weights(), "test")
    for info, allowed in ((None, 50), ({"drop": 0.05}, 10), ({"drop": 0}, 0)):
        weights = pack(tensors, info)  # as `pruner.weights()` does
        reference = Reference.build(run, weights, x, y, pruner.reference_accuracy)
        assert reference.allowed == errors + allowed
    for odd in ("0.1", -0.1, 2, [0.1], True):
        with pytest.raises(CoppiceError, match="model weights: no solution may lose"):
            Reference.build(run, pack(tensors, {"drop": odd}), x, y, pruner.reference_accuracy)


@pytest.mark.parametrize(
    "crates", [[0.0, 0.0], [0, 0, 0, 0], [0, float("nan"), 0], [0, 0, float("inf")], 0.0]
)
def test_odd_solutions_are_refused(pruner: TorchPruner, crates: list[float]) -> None:
    with pytest.raises(CoppiceError, match="a solution must be 3 finite numbers"):
        plainly(pruner).score(np.array(crates), no_tick)


def test_odd_weights_are_refused(pruner: TorchPruner) -> None:
    x, y = pruner.samples()
    good = pruner.weights()
    tensors, _ = unpack(good, "test")
    for weights, said in (
        (b"", "not a whole safetensors file"),
        (good[:-1], "not a whole safetensors file"),
        (pack({k: v for k, v in tensors.items() if k != "fc2.bias"}), "'fc2.bias' of the network is missing"),
        (pack(tensors | {"fc2.bias": torch.zeros(5)}), "'fc2.bias' has shape (5,), the network needs (12,)"),
        (pack(tensors | {"fc9.bias": torch.zeros(5)}), "'fc9.bias', which the network does not have"),
        (pack(tensors | {"fc2.bias": torch.full((12,), float("nan"))}), "holds NaN"),
        (
            pack({k: v for k, v in tensors.items() if k != "coppice.mask.fc1.weight"}),
            "masks of ['fc1.bias', 'fc2.bias'",
        ),
        (pack(tensors | {"coppice.mask.fc1.weight": torch.ones(2)}), "the mask of 'fc1.weight' does not fit"),
        (pack(tensors | {"coppice.order": torch.ones(200, dtype=torch.int32)}), "no order of samples"),
        (pack(tensors | {"coppice.order": torch.arange(200.0)}), "no order of samples"),
        (pack(tensors | {"coppice.order": torch.arange(9, dtype=torch.int32)}), "they order 9 samples"),
    ):
        with pytest.raises(CoppiceError) as caught:
            Reference.build(pruner.run, weights, x, y, pruner.reference_accuracy)
        assert said in str(caught.value)


def test_plain_weights_without_masks_are_scored_as_whole(pruner: TorchPruner) -> None:
    tensors, _ = unpack(pruner.weights(), "test")
    bare = pack({name: t for name, t in tensors.items() if not name.startswith("coppice.")})
    crates = np.array([0.5, 0.5, 0.0])
    assert plainly(pruner, bare).score(crates, no_tick) == plainly(pruner).score(crates, no_tick)


def test_the_masks_in_force_are_moved_not_made_afresh() -> None:
    pruner = trained(small())
    pruner.apply(np.array([0.5, 0.5, 0.0]), 0.5)
    pruner.train(20, no_tick)
    before = pruner.measure(no_tick)
    score = plainly(pruner).score(pruner.start_crates(), no_tick)
    pruner.apply(pruner.start_crates(), 0.5)
    after = pruner.measure(no_tick)
    # The same thresholds: at most the last step of training moved a weight over one of them.
    assert abs(after.weights_remaining - before.weights_remaining) <= 3
    assert score.accuracy == after.accuracy


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(CoppiceError, match="unknown device 'gpu'"):
        pick_device("gpu")
    with pytest.raises(CoppiceError, match="'meta' is not supported"):
        pick_device("meta")
    with pytest.raises(CoppiceError, match="there is no cuda:99 here"):
        pick_device("cuda:99")
