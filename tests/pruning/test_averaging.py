"""The mean of the weights, of each round or of a whole polish."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coppice.pruning.layers import find_layers
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.sgd import MaskedSGD
from coppice.pruning.tensors import Tensors
from coppice.pruning.units import Narrowed, bury, find_edges
from tests.pruning.networks import no_tick, small

NORMED = {"name": "tests.pruning.networks:Normed", "arguments": {}}


def averaging(share: float = 0.5, model: object = None, **surgery: float) -> TorchPruner:
    """Rounds of 30 iterations, 75 in all, masks that stay from iteration 50 on."""
    more = {} if model is None else {"model": model}
    pruner = TorchPruner(
        small(
            surgery={"average": share, "prune_until": 50, **surgery},
            rounds={"iterations": 30, "tmax": 75},
            reference={"iterations": 60},
            **more,
        )
    )
    pruner.train_reference(60, no_tick)
    pruner.apply(np.full(len(pruner.found), 0.3), 0.5)
    return pruner


def values(pruner: TorchPruner) -> Tensors:
    return {name: value.clone() for name, value in pruner.sgd.values.items()}


def test_the_mean_is_that_of_all_that_was_added() -> None:
    sgd = MaskedSGD(nn.Linear(5, 3))
    steps = [torch.randn(3, 5) for _ in range(7)]
    for step in steps:
        sgd.values["weight"].copy_(step)
        sgd.add_to_mean()
    momentum = sgd.momentum["weight"].fill_(2.0).clone()
    sgd.go_to_mean()
    assert torch.allclose(sgd.values["weight"], torch.stack(steps).mean(0), atol=1e-6)
    assert torch.equal(sgd.momentum["weight"], momentum)
    assert not sgd.mean
    assert sgd.meant == 0


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_each_round_and_the_surgery_end_at_the_mean_of_their_last_share(share: float) -> None:
    # Round 1: 0 to 30. Round 2: to 50, where masks settle. Round 3: to 75, where all ends.
    for begin, end in ((0, 30), (30, 50), (50, 75)):
        pruner = averaging(share)
        pruner.train(begin, no_tick) if begin else None
        steps = []
        for iteration in range(begin + 1, end + 1):
            pruner.train(1, no_tick)
            if iteration < end:
                steps.append(values(pruner))
            assert (pruner.sgd.meant > 0) == (end - round(share * (end - begin)) < iteration < end)
        # The last value itself is replaced by the mean in the same call: what is left must fit.
        counted = round(share * (end - begin))
        mean = values(pruner)["fc1.weight"]
        others = [step["fc1.weight"] for step in steps[len(steps) - counted + 1 :]]
        last = mean * counted - (torch.stack(others).sum(0) if others else 0.0)
        before = steps[-1]["fc1.weight"]
        assert (last - before).abs().max() < 0.2  # one step away from the one before
        if counted > 1:
            assert not torch.equal(mean, before)


def test_none_unless_asked_for() -> None:
    pruner = averaging(0.0)
    pruner.train(29, no_tick)
    assert pruner.sgd.meant == 0


@pytest.mark.parametrize("at", [20, 29, 30, 47, 55, 70])
def test_a_checkpoint_in_the_middle_changes_no_bit(at: int) -> None:
    straight, broken = averaging(), averaging()
    straight.train(75, no_tick)
    broken.train(at, no_tick)
    checkpoint = broken.checkpoint()
    again = averaging()
    again.restore(checkpoint)
    assert again.checkpoint() == checkpoint
    again.train(75 - at, no_tick)
    assert again.checkpoint() == straight.checkpoint()


def test_going_back_forgets_the_mean() -> None:
    pruner = averaging()
    pruner.train(30, no_tick)
    assert pruner.measure(no_tick).feasible
    pruner.train(33, no_tick)  # over iteration 50, where it goes back to the best network
    assert pruner.sgd.meant == 0  # of 50 to 75, the last twelve count
    pruner.train(1, no_tick)
    assert pruner.sgd.meant == 1


def test_what_is_judged_is_less_noisy() -> None:
    """The accuracy that is measured at a high learning rate, over many rounds of the same training."""

    def accuracies(share: float) -> list[float]:
        run = small(
            surgery={"average": share, "prune_until": 3000, "learning_rate": 0.4, "schedule": "constant"},
            rounds={"iterations": 40, "tmax": 3000},
            reference={"iterations": 300},
            constraint={"accuracy_drop": 0.9},
        )
        pruner = TorchPruner(run)
        pruner.train_reference(300, no_tick)
        found = []
        for _ in range(10):
            pruner.train(40, no_tick)
            found.append(pruner.measure(no_tick).accuracy)
        return found

    assert np.mean(accuracies(0.5)) > np.mean(accuracies(0.0))


def test_batch_norm_learns_anew_what_the_mean_gives_it() -> None:
    pruner = averaging(model=NORMED, learning_rate=0.3)
    pruner.train(30, no_tick)
    pruner.sgd.show(pruner.masks)
    norm = pruner.model.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == 0.1  # as the network has it
    with torch.no_grad():
        conv = pruner.model.conv
        assert isinstance(conv, nn.Conv2d)
        mean = conv(pruner.steps.x).mean((0, 2, 3))
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, mean, atol=0.02)
    again = averaging(model=NORMED, learning_rate=0.3)
    again.train(17, no_tick)
    checkpoint = again.checkpoint()
    again = averaging(model=NORMED, learning_rate=0.3)
    again.restore(checkpoint)
    again.train(13, no_tick)
    assert again.checkpoint() == pruner.checkpoint()


def test_the_mean_goes_into_the_narrow_network_and_out_again() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    found = find_layers(model)
    sgd = MaskedSGD(model)
    masks = {name: torch.ones_like(value) for name, value in sgd.values.items()}
    masks["1.weight"][2] = 0
    masks["1.bias"][2] = 0
    edges = find_edges(model, found)
    bury(edges, masks, (sgd.values, sgd.momentum))
    narrowed = Narrowed(model, edges, sgd.values)
    own, own_masks = narrowed.enter(sgd, masks)
    assert own.values["1.weight"].shape == (4, 6)
    own.add_to_mean()
    for value in own.values.values():
        value.add_(2.0)
    own.add_to_mean()
    narrowed.leave(own, own_masks, model, sgd, masks)
    assert sgd.meant == 2
    living = [0, 1, 3, 4]
    assert torch.allclose(sgd.mean["1.weight"][living], sgd.values["1.weight"][living] - 1.0)
    assert (sgd.mean["1.weight"][2] == 0).all()
    again, _ = narrowed.enter(sgd, masks)
    assert again.meant == 2
    assert torch.equal(again.mean["1.weight"], own.mean["1.weight"])
    again.go_to_mean()
    narrowed.leave(again, own_masks, model, sgd, masks)
    assert not sgd.mean
    assert sgd.meant == 0


def polishing(**polish: object) -> TorchPruner:
    """Surgery to 40, then a polish in rounds of 20 to 140: the mean of its last 80 steps."""
    how = {"learning_rate": 0.2, "schedule": "constant", "average": 0.8, **polish}
    pruner = TorchPruner(
        small(
            surgery={"prune_until": 40},
            rounds={"iterations": 20, "tmax": 140},
            polish=how,
            constraint={"accuracy_drop": 0.9},
            model=NORMED,
        )
    )
    pruner.train_reference(120, no_tick)
    pruner.apply(np.full(len(pruner.found), 0.3), 0.5)
    pruner.train(60, no_tick)
    return pruner


def test_in_a_polish_the_mean_is_judged_while_the_weights_go_their_way() -> None:
    pruner, plain = polishing(), polishing(average=None)
    assert values(pruner).keys() == values(plain).keys()
    for begin in range(60, 140, 20):
        steps = []
        for _ in range(20):
            pruner.train(1, no_tick)
            steps.append(values(pruner)["out.weight"])
        plain.train(20, no_tick)
        if begin + 20 < 140:
            assert torch.equal(values(pruner)["out.weight"], values(plain)["out.weight"]), "as if unjudged"
            assert pruner.sgd.meant == begin + 20 - 60
        measure = pruner.measure(no_tick)
        assert pruner.best is not None
        assert pruner.best.measure == measure, "the mean of more steps goes before luck"
        if begin == 60:
            mean = torch.stack(steps).mean(0)
            assert torch.allclose(pruner.best.values["out.weight"], mean, atol=1e-6)
            shown = dict(pruner.model.named_parameters())["out.weight"]
            assert torch.equal(shown, pruner.best.tensors()["out.weight"])
    assert pruner.sgd.meant == 0
    assert pruner.best is not None
    assert torch.equal(pruner.best.values["out.weight"], values(pruner)["out.weight"]), "it ends there"


def test_the_mean_of_a_polish_survives_a_restart() -> None:
    def rounds(pruner: TorchPruner, restarts: bool) -> bytes:
        for _ in range(4):
            pruner.train(20, no_tick)
            pruner.measure(no_tick)
            if restarts:
                checkpoint = pruner.checkpoint()
                pruner = TorchPruner(pruner.run)
                pruner.restore(checkpoint)
        return pruner.checkpoint()

    assert rounds(polishing(), restarts=True) == rounds(polishing(), restarts=False)


def test_before_the_mean_begins_the_most_accurate_weights_are_kept() -> None:
    pruner = polishing(average=0.2)
    measures = [pruner.measure(no_tick)]
    for _ in range(3):
        pruner.train(20, no_tick)
        measures.append(pruner.measure(no_tick))
    assert pruner.sgd.meant == 0
    assert pruner.best is not None
    assert pruner.best.measure.accuracy == max(each.accuracy for each in measures)
