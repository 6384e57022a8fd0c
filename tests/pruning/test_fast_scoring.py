"""The fast scorer says what the plain one says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.scoring import TRACES
from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.pruning.contract import Score
from coppice.pruning.evaluation import BATCH, wrong_in
from coppice.pruning.layers import find_layers
from coppice.pruning.masks import operate, unit_mask
from coppice.pruning.published import unpack_published
from coppice.pruning.scoring.batched import Batched
from coppice.pruning.scoring.cuts import LayerCuts
from coppice.pruning.scoring.fast import FastScorer
from coppice.pruning.scoring.plain import PlainScorer
from coppice.pruning.scoring.stages import read_chain
from coppice.pruning.scoring.verdict import Judgement
from coppice.runfile import parse_run_file
from tests.pruning.networks import no_tick
from tests.pruning.scored import (
    NETWORKS,
    SAMPLES,
    reference_of,
    small_mlp,
    smallest_cache,
    solutions,
    verdict,
)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("network", NETWORKS)
def test_the_verdict_is_the_plain_scorers(network: str, seed: int) -> None:
    plain = PlainScorer(reference_of(network, seed))
    crates = solutions(plain.layers, 16, seed)
    errors = [round((1 - (score.accuracy or 0)) * SAMPLES) for score in plain.score_many(crates, no_tick)]
    allowed = int(np.quantile(errors, (0.1, 0.3, 0.4, 0.5)[seed % 4]))
    plain = PlainScorer(reference_of(network, seed, allowed))
    fast = FastScorer(reference_of(network, seed, allowed))
    reference = reference_of(network, seed, allowed)
    exact = FastScorer(reference, accuracy=True, cache_bytes=smallest_cache(reference))
    for scorer in (fast, exact):
        assert (scorer._chain is not None) == NETWORKS[network][2]
    expected = plain.score_many(crates, no_tick)
    assert {score.feasible for score in expected} == {True, False}
    for patience in (fast._plain_s, 1e9):  # 1e9: sparsely, whatever it costs
        fast._plain_s, fast._known = patience, {}
        assert [verdict(s) for s in fast.score_many(crates, no_tick)] == [verdict(s) for s in expected]
    exact._plain_s = 1e9
    assert exact.score_many(crates, no_tick) == expected


def test_what_is_smaller_than_it_need_be_is_infeasible_by_how_much() -> None:
    allowed = SAMPLES // 2
    plain = PlainScorer(reference_of("mlp", 2, allowed))
    fast = FastScorer(reference_of("mlp", 2, allowed))
    crates = solutions(plain.layers, 12, 2)
    total = plain._reference.total
    kept = [round(total * s.fitness) if s.feasible else None for s in plain.score_many(crates, no_tick)]
    least = int(np.median([each for each in kept if each]))
    for scorer in (plain, fast):
        scorer._reference.least = least
    scores = plain.score_many(crates, no_tick)
    for score, remaining in zip(scores, kept, strict=True):
        if remaining is not None:
            assert score.feasible == (remaining >= least)
            expected = remaining / total if score.feasible else 1 + (least - remaining) / least
            assert score.fitness == pytest.approx(expected)
    assert [verdict(s) for s in fast.score_many(crates, no_tick)] == [verdict(s) for s in scores]


@pytest.mark.parametrize("network", ["mlp", "lenet", "normed", "shared"])
def test_many_in_one_pass_say_the_same(network: str) -> None:
    reference = reference_of(network, 2)
    plain = PlainScorer(reference_of(network, 2))
    crates = solutions(plain.layers, 12, 2)
    fast = FastScorer(reference)
    fast._batched = Batched(reference, fast._plain)
    fast._batched.solutions = 7
    assert fast.batch == 7
    assert [verdict(s) for s in fast.score_many(crates, no_tick)] == [
        verdict(s) for s in plain.score_many(crates, no_tick)
    ]
    assert fast._batched is not None


class Cramped(nn.Module):
    """On a device with room for so many numbers."""

    room = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.room and x.shape[0] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        inner: torch.Tensor = self.inner(x)
        return inner


@pytest.mark.parametrize(("room", "batched"), [(2 * BATCH, True), (BATCH, True), (60, False)])
def test_what_has_no_room_is_done_in_smaller_parts(
    room: int, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "cramped", (Cramped, None, False))
    reference = reference_of("cramped", 2)
    plain = PlainScorer(reference_of("cramped", 2))
    crates = solutions(plain.layers, 12, 2)
    expected = [verdict(score) for score in plain.score_many(crates, no_tick)]
    fast = FastScorer(reference)
    fast._batched = Batched(reference, fast._plain)
    monkeypatch.setattr(Cramped, "room", room)
    assert [verdict(score) for score in fast.score_many(crates, no_tick)] == expected
    assert (fast._batched is not None) == batched


def test_nothing_is_hidden_that_is_no_question_of_room() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        wrong_in(Broken(), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))


def test_a_network_that_cannot_be_batched_is_scored_one_by_one() -> None:
    reference, plain = reference_of("branching", 2), PlainScorer(reference_of("branching", 2))
    fast = FastScorer(reference)
    fast._batched = Batched(reference, fast._plain)
    crates = solutions(plain.layers, 6, 2)
    assert [verdict(s) for s in fast.score_many(crates, no_tick)] == [
        verdict(s) for s in plain.score_many(crates, no_tick)
    ]
    assert fast.batch == 1


def test_too_few_slots_are_enough() -> None:
    plain, reference = PlainScorer(reference_of("mlp", 1)), reference_of("mlp", 1)
    enough = smallest_cache(reference)
    assert FastScorer(reference_of("mlp", 1), cache_bytes=enough - 1)._chain is None
    fast = FastScorer(reference, cache_bytes=enough)
    fast._plain_s = 1e9
    assert fast._chain is not None
    assert fast._chain.first.number == 30
    crates = [crates for seed in range(8) for crates in solutions(plain.layers, 16, seed)]
    assert [verdict(s) for s in fast.score_many(crates, no_tick)] == [
        verdict(s) for s in plain.score_many(crates, no_tick)
    ]


def test_weights_that_could_overflow_are_no_chain() -> None:
    reference = reference_of("mlp", 1)
    assert read_chain(reference) is not None
    reference.weights["fc1.weight"] *= 1e36
    assert read_chain(reference) is None


def test_hooks_are_not_passed_over() -> None:
    reference = reference_of("mlp", 1)
    reference.model[2].register_forward_hook(lambda *_: None)  # type: ignore[index]
    assert read_chain(reference) is None


def test_judging_ends_when_the_verdict_is_certain() -> None:
    allowed = int(0.6 * SAMPLES)
    for crate, feasible in ((1e9, False), (-9.0, True)):
        fast = FastScorer(reference_of("strided", 1, allowed))
        ticks: list[int] = []
        assert fast.score(np.full(2, crate), lambda: ticks.append(1)).feasible == feasible  # noqa: B023
        assert len(ticks) < 2 * -(-SAMPLES // BATCH)
        before = len(ticks)
        fast.score(np.full(2, crate), lambda: ticks.append(1))  # noqa: B023
        assert len(ticks) == before + 1  # known


@pytest.mark.parametrize("trace", sorted(TRACES.glob("*.npz")), ids=lambda path: path.stem)
def test_the_shipped_traces_can_be_judged(trace: Path) -> None:
    with np.load(trace, allow_pickle=False) as parts:
        run = parse_run_file(json.loads(str(parts["run"])), trace.stem)
        weights, solutions = parts["weights"].tobytes(), parts["solutions"]
    model = build_model(run.model, run.seed)
    found = find_layers(model, run.model.layers)
    masks = unpack_published(weights, model, found).masks
    assert masks.keys() == {name for layer in found for name in layer.parameters}
    assert solutions.shape == (run.search.evaluations, len(found))


@pytest.mark.parametrize("seed", range(40))
def test_a_cut_is_what_surgery_makes(seed: int) -> None:
    random = np.random.default_rng(seed)
    weight = torch.from_numpy(random.normal(size=(12, 17)) * 10 ** random.uniform(-6, 3)).float()
    if seed % 3 == 0:
        weight = (weight * 8).round() / 8
    mask = (
        torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < (0, 0.3, 0.9, 1)[seed % 4]
    ).float()
    bias_mask = torch.arange(12) % 5 != 0
    cuts = LayerCuts(weight, mask, bias_mask)
    magnitude = weight.abs()
    at = [float(np.float32(m / edge)) for m in magnitude.ravel().tolist()[::5] for edge in (0.9, 1.1)]
    for limit in [0.0, 1e30, *at]:
        kept = operate(mask, magnitude, limit)
        cut = cuts.at(limit)
        assert np.array_equal(cuts.kept(cut), np.flatnonzero(kept.numpy()))
        biases = unit_mask(kept) * bias_mask
        assert (cut.weights, cut.biases) == (int(kept.sum()), int(biases.sum()))
    assert LayerCuts(weight, mask, None).at(0.0).biases == 0


def test_doubts_are_settled_only_where_the_verdict_hangs_on_them() -> None:
    judgement = Judgement(samples=6, allowed=2, accuracy=False)
    judgement.take(np.array([1, 2, 0], np.int8))
    assert not len(judgement.doubtful)
    assert not judgement.certain
    judgement.take(np.array([1], np.int8))
    assert judgement.doubtful.tolist() == [1]
    judgement.settle(judgement.doubtful, np.array([True]))
    assert judgement.certain
    assert verdict(judgement.score(5, 10, 0)) == (1 + (6 - 4 + 1) / 6, False)
    calm = Judgement(samples=4, allowed=2, accuracy=False)
    calm.take(np.array([2, 0, 2], np.int8))
    assert not calm.certain
    calm.take(np.array([0], np.int8))
    assert calm.certain
    assert not len(calm.doubtful)
    assert calm.score(5, 10, 0) == Score(0.5, True, None)
    asked = Judgement(samples=2, allowed=2, accuracy=True)
    asked.take(np.array([2, 0], np.int8))
    asked.settle(asked.doubtful, np.array([True]))
    assert asked.score(5, 10, 0) == Score(0.5, True, 0.5)


@pytest.mark.parametrize("crates", [[0.0], [0, float("nan"), 0]])
def test_odd_solutions_are_refused(crates: list[float]) -> None:
    with pytest.raises(CoppiceError, match="must be 3 finite numbers"):
        FastScorer(reference_of("mlp", 1)).score(np.array(crates), no_tick)
