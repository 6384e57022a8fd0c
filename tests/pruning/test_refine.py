"""The second surgery, on the polished network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from coppice.pruning.masks import CUT_BELOW
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.tensors import unpack
from coppice.runfile import RunFile, RunFileError, Stage
from tests.pruning.networks import no_tick, small

BEGIN = 60


def refined(**sections: Any) -> RunFile:
    """Surgery to 40, a polish to 60, a refinement to 100 in rounds of 20, a polish to 110."""
    standing: dict[str, Any] = {
        "rounds": {"iterations": 30, "tmax": 110},
        "surgery": {"prune_until": 40, "accuracy_drop": 0.6, "gamma": 0.0},
        "polish": {"weight_decay": 0.0},
        "refine": {"begin": BEGIN, "until": 100, "iterations": 20, "search_drop": 0.3},
        "constraint": {"accuracy_drop": 0.2, "search_drop": 0.7},
    }
    return small(**{key: {**standing.get(key, {}), **sections.get(key, {})} for key in standing})


def polished(run: RunFile, crates: float = 0.4) -> TorchPruner:
    """At the refinement's begin, its last round not yet measured."""
    pruner = TorchPruner(run)
    pruner.train_reference(120, no_tick)
    pruner.apply(np.full(3, crates), 0.5)
    for until in (30, 40, BEGIN):
        pruner.train(until - pruner.iteration, no_tick)
        if until < BEGIN:
            pruner.measure(no_tick)
    return pruner


def told_drop(pruner: TorchPruner) -> float:
    return float(unpack(pruner.weights(), "test")[1]["drop"])


def test_the_stages_follow_each_other_without_gaps() -> None:
    assert refined().stages == (
        Stage("surgery", 0, 40, 30),
        Stage("polish", 40, 60, 30),
        Stage("refine", 60, 100, 20),
        Stage("polish", 100, 110, 30),
    )
    rounds, done = [], 0
    while done < 110:
        begin, end = refined().round_of(done)
        assert all(refined().round_of(each) == (begin, end) for each in range(begin, end))
        rounds.append((begin, end, refined().cuts(done)))
        done = end
    assert rounds == [
        (0, 30, True),
        (30, 40, True),
        (40, 60, False),
        (60, 80, True),
        (80, 100, True),
        (100, 110, False),
    ]
    assert not refined().cuts(110)
    assert refined(refine={"begin": 40, "until": None}).stages == (
        Stage("surgery", 0, 40, 30),
        Stage("refine", 40, 110, 20),
    )
    assert refined(surgery={"prune_until": 0}, refine={"begin": 0, "until": 110}).stages == (
        Stage("refine", 0, 110, 20),
    )


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"refine": {"begin": 30}}, "refine.begin must be at least surgery.prune_until"),
        ({"refine": {"until": 60}}, "below refine.until"),
        ({"refine": {"until": 111}}, "at most rounds.tmax"),
        ({"refine": {"begin": None}}, "refine needs refine.begin"),
        ({"refine": {"search_drop": 0.1}}, "refine.search_drop must not be below 0.2"),
        ({"surgery": {"accuracy_drop": 0.1}}, "surgery.accuracy_drop must not be below 0.2"),
        ({"constraint": {"search_drop": 0.5}}, "constraint.search_drop must not be below 0.6"),
    ],
)
def test_what_cannot_be_is_said(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(RunFileError, match=said) as caught:
        refined(**sections)
    assert "{" not in str(caught.value), "no whole file in a message"


def test_before_it_more_may_be_lost() -> None:
    run = refined()
    assert [run.accuracy_drop(i) for i in (0, 40, 59, 60, 110)] == [0.6, 0.6, 0.6, 0.2, 0.2]
    assert run.search_drop(0, 0.5) == pytest.approx(0.65)
    assert run.search_drop(60, 0.5) == pytest.approx(0.25)
    assert small(constraint={"accuracy_drop": 0.1}).search_drop(0, 0.5) == 0.1


def test_it_goes_on_from_the_best_network_with_what_is_cut_at_zero() -> None:
    pruner = polished(refined())
    pruner.boldness = 0.01
    learnt = pruner.sgd.values["fc1.weight"] * (1 - pruner.masks["fc1.weight"])
    assert learnt.any(), "what is cut learns on while masks stay"
    measure = pruner.measure(no_tick)
    assert measure.feasible
    assert pruner.best is not None
    assert pruner.best.measure.layer_remaining == measure.layer_remaining
    assert pruner.limits is not None
    for layer, limit in zip(pruner.found, pruner.limits, strict=True):
        value, mask = pruner.sgd.values[layer.weight], pruner.masks[layer.weight]
        assert not (value * (1 - mask)).any()
        assert torch.equal(mask, pruner.best.masks[layer.weight])
        below = float((value[mask > 0].abs() < CUT_BELOW * limit).float().mean())
        assert 0.05 < below < 0.15
    assert told_drop(pruner) == pytest.approx(0.3)


def test_a_round_that_fails_goes_back_to_where_it_began() -> None:
    pruner = polished(refined())
    pruner.measure(no_tick)
    began = {name: value.clone() for name, value in pruner.sgd.values.items()}
    limits, crates = pruner.limits, pruner.start_crates()
    pruner.apply(np.full(3, 4.9), 0.001)
    pruner.train(20, no_tick)
    assert not pruner.measure(no_tick).feasible
    assert all(torch.equal(value, began[name]) for name, value in pruner.sgd.values.items())
    assert pruner.limits == limits
    assert np.array_equal(pruner.start_crates(), crates)
    assert told_drop(pruner) == pytest.approx(0.25)


@pytest.mark.parametrize(("drop", "kept"), [(0.6, True), (0.0, False)])
def test_a_network_that_loses_too_much_is_gone_on_from_but_is_no_result(drop: float, kept: bool) -> None:
    pruner = polished(refined(constraint={"accuracy_drop": drop}, refine={"search_drop": drop}), 1.0)
    measure = pruner.measure(no_tick)
    assert measure.feasible, "by what was asked of it"
    assert measure.accuracy < pruner.reference_accuracy
    assert (pruner.best is not None) == kept
    assert pruner.measure(no_tick).layer_remaining == measure.layer_remaining
    assert (pruner.finish(no_tick).measure.compression > 1.0) == kept


def test_what_the_refinement_does_not_win_back_leaves_an_earlier_network_as_the_result() -> None:
    run = refined(refine={"search_drop": 0.2})
    pruner = TorchPruner(run)
    pruner.train_reference(120, no_tick)
    for crates, until in ((0.2, 30), (1.8, 40)):
        pruner.apply(np.full(3, crates), 0.5)
        pruner.train(until - pruner.iteration, no_tick)
        pruner.measure(no_tick)
    assert pruner.best is not None
    assert pruner.result is not None
    small, safe = pruner.best.measure, pruner.result.measure
    assert small.parameters_remaining < safe.parameters_remaining
    assert small.accuracy < pruner.reference_accuracy - 0.2 <= safe.accuracy
    again = TorchPruner(run)
    again.restore(pruner.checkpoint())
    assert again.checkpoint() == pruner.checkpoint()
    for each in (pruner, again):
        assert each.finish(no_tick).measure == safe


def test_masks_change_in_it_and_stay_after_it() -> None:
    pruner = polished(refined(constraint={"accuracy_drop": 0.6}, refine={"search_drop": 0.6}))
    kept = []
    for until in (60, 80, 100, 105, 110):
        pruner.train(until - pruner.iteration, no_tick)
        kept.append(pruner.measure(no_tick).weights_remaining)
    assert kept[0] > kept[1] >= kept[2] == kept[3] == kept[4]


@pytest.mark.parametrize("at", [60, 70, 80, 100, 105])
def test_a_checkpoint_in_the_middle_changes_no_bit(at: int) -> None:
    def rounds(pruner: TorchPruner, until: int) -> None:
        for end in (60, 80, 100, 110):
            if pruner.iteration < end and pruner.iteration < until:
                begins = pruner.iteration in (60, 80)
                if begins:
                    pruner.apply(pruner.start_crates() + 0.1, 0.5)
                pruner.train(min(end, until) - pruner.iteration, no_tick)
                if pruner.iteration == end:
                    pruner.measure(no_tick)

    straight, broken = polished(refined()), polished(refined())
    straight.measure(no_tick)
    broken.measure(no_tick)
    rounds(straight, 110)
    rounds(broken, at)
    checkpoint = broken.checkpoint()
    again = TorchPruner(refined())
    again.restore(checkpoint)
    assert again.checkpoint() == checkpoint
    for end in (70, 80, 100, 105, 110):
        rounds(again, end)
    assert again.checkpoint() == straight.checkpoint()
