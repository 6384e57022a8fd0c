"""A surgery that cuts to a schedule."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.local_run import run_locally, scorer_for
from coppice.pruning.masks import operate
from coppice.pruning.pace import AHEAD, MOST_AT_ONCE, one_threshold, scheduled
from coppice.pruning.pruner import TorchPruner
from coppice.runfile import RunFile, RunFileError
from tests.pruning.networks import no_tick, small


def paced(**sections: Any) -> RunFile:
    """Rounds of 20 to 400, of which those before 300 cut, down to a sixth by 200."""
    standing: dict[str, Any] = {
        "reference": {"iterations": 300},
        "rounds": {"iterations": 20, "tmax": 400},
        "surgery": {"prune_until": 300, "pace_until": 200, "accuracy_drop": 0.9},
        "constraint": {"accuracy_drop": 0.1, "search_drop": 0.9, "compression": 6.0},
    }
    return small(
        **{key: {**standing.get(key, {}), **sections.get(key, {})} for key in {**standing, **sections}}
    )


def after_first_cut(run: RunFile, crates: float = 0.0) -> TorchPruner:
    """One round of it done."""
    pruner = TorchPruner(run)
    pruner.train_reference(run.reference.iterations, no_tick)
    pruner.apply(np.full(3, crates), 0.5)
    pruner.train(20, no_tick)
    pruner.measure(no_tick)
    return pruner


def test_the_schedule_falls_geometrically_and_then_stays() -> None:
    sizes = [scheduled(1600, 100.0, progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0, 3.0)]
    assert sizes == [1600, 800, 400, 200, 100, 100]
    assert scheduled(50, 100.0, 0.5) == 50, "smaller already"


@pytest.mark.parametrize("weights", [1, 50, 250, 700])
def test_one_threshold_leaves_so_many(weights: int) -> None:
    pruner = after_first_cut(paced())
    masks = {layer.weight: pruner.masks[layer.weight] for layer in pruner.found}
    limit = one_threshold(pruner.found, pruner.sgd.values, pruner.masks, weights)
    after = {name: operate(mask, pruner.sgd.values[name].abs(), limit) for name, mask in masks.items()}
    left = sum(int(mask.sum()) for mask in after.values())
    assert abs(left - weights) <= 1, "the one at the threshold falls or stays by rounding"
    if weights == 700:
        assert any(bool((after[name] > masks[name]).any()) for name in masks), "what returns is counted"


def test_a_search_begins_at_what_the_schedule_asks_for_and_may_lose_what_that_loses() -> None:
    pruner = after_first_cut(paced())
    before = pruner.measure(no_tick).parameters_remaining
    assert pruner.searches()
    total = sum(value.numel() for value in pruner.sgd.values.values())
    assert pruner.paced_from is not None
    target = max(scheduled(pruner.paced_from, total / 6 / AHEAD, 20 / 200), before / MOST_AT_ONCE)
    start = pruner.start_crates()
    scorer = scorer_for(pruner.run, pruner)
    (score,) = scorer.score_many([start], no_tick)
    assert score.feasible, "or a search might find nothing"
    assert score.fitness * total == pytest.approx(target, rel=0.05)
    far_below = pruner.start_crates() + 3
    (score,) = scorer.score_many([far_below], no_tick)
    assert not score.feasible
    plain = TorchPruner(paced())
    plain.restore(pruner.checkpoint())
    assert plain.weights() == pruner.weights()
    pruner.apply(start, 0.5)
    assert target / AHEAD <= pruner.measure(no_tick).parameters_remaining <= 1.05 * target


def test_what_is_ahead_of_the_schedule_is_trained_and_not_cut() -> None:
    pruner = after_first_cut(paced(), crates=1.0)
    pruner.paced_from = 10 * pruner.measure(no_tick).parameters_remaining
    assert not pruner.searches()
    pruner.paced_from = None  # nothing was found yet: as the first one
    assert pruner.searches()


def test_a_round_that_lost_too_much_is_not_taken_back_but_repaired() -> None:
    pruner = after_first_cut(paced(surgery={"accuracy_drop": 0.3}))
    assert pruner.searches()
    pruner.apply(np.full(3, 1.3), 0.1)
    masks = {name: mask.clone() for name, mask in pruner.masks.items()}
    measure = pruner.measure(no_tick)
    assert not measure.feasible
    assert all(torch.equal(pruner.masks[name], mask) for name, mask in masks.items())
    assert not pruner.searches()
    restored = TorchPruner(pruner.run)
    restored.restore(pruner.checkpoint())
    assert not restored.searches()
    for until in range(40, 300, 20):
        pruner.train(until - pruner.iteration, no_tick)
        feasible = pruner.measure(no_tick).feasible
        if feasible:
            break
    assert feasible, "training repairs it"
    assert pruner.waits is False


def test_a_paced_run_ends_with_what_was_asked_for_and_keeps_the_constraint() -> None:
    run = paced()
    local = run_locally(run)
    assert 6 <= local.outcome.measure.compression <= 7.5
    assert local.outcome.measure.feasible
    sizes = [measure.parameters_remaining for measure in local.rounds]
    assert all(now <= 1.15 * before for before, now in pairwise(sizes))
    assert local.outcome.model == run_locally(run).outcome.model


def test_without_a_search_the_schedule_alone_cuts() -> None:
    run = paced(search={"method": "random", "population": 1, "evaluations": 1})
    local = run_locally(run)
    assert local.outcome.measure.feasible
    assert local.outcome.measure.compression == pytest.approx(6, rel=0.1)
    assert local.evaluations == local.searches


def test_what_it_comes_to_goes_before_smaller_ones_on_the_way() -> None:
    pruner = after_first_cut(paced(constraint={"accuracy_drop": 0.9}))
    pruner.train(280, no_tick)
    pruner.measure(no_tick)
    assert pruner.result is not None
    smallest = pruner.result.measure.parameters_remaining
    assert pruner.best is None, "nothing to go back to"
    pruner.masks["fc1.weight"].fill_(1.0)
    pruner.train(20, no_tick)
    polished = pruner.measure(no_tick)
    assert polished.parameters_remaining > smallest
    assert pruner.result is not None
    assert pruner.result.measure == polished
    assert pruner.best is pruner.result


def test_what_only_the_surgery_may_lose_is_no_result() -> None:
    strict = run_locally(paced(constraint={"accuracy_drop": 0.0}))
    kept = [measure for measure in strict.rounds if measure.accuracy >= strict.outcome.measure.accuracy]
    assert strict.outcome.measure.compression < max(measure.compression for measure in strict.rounds)
    assert not kept or strict.outcome.measure.compression >= min(measure.compression for measure in kept)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"constraint": {"compression": None}}, "surgery.pace_until needs constraint.compression"),
        ({"surgery": {"pace_until": 301}}, "surgery.pace_until must not be above surgery.prune_until"),
        ({"rounds": {"tmax": 199}}, "surgery.pace_until must not be above .* or rounds.tmax"),
        ({"surgery": {"pace_until": None}}, "surgery.accuracy_drop needs a refinement"),
        ({"rounds": {"tmax": 300}}, "surgery.accuracy_drop needs .* and a polish"),
        ({"surgery": {"accuracy_drop": 0.09}}, "surgery.accuracy_drop must not be below 0.1"),
        ({"constraint": {"search_drop": 0.5}}, "constraint.search_drop must not be below 0.9"),
        ({"polish": {"schedule": "constant"}}, "polish.schedule needs polish.learning_rate"),
    ],
)
def test_what_cannot_be_is_said(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(RunFileError, match=said):
        paced(**sections)


def test_what_may_be_lost_until_the_polish() -> None:
    assert [paced().accuracy_drop(i) for i in (0, 299, 300, 400)] == [0.9, 0.9, 0.1, 0.1]
    assert [paced().paced(i) for i in (0, 299, 300, 400)] == [True, True, False, False]
    assert not small().paced(0)
