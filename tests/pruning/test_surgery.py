"""Training with masks, one step and many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.randomness import Batches, Purpose, generator, torch_seed
from coppice.pruning.sgd import MaskedSGD, learning_rate
from coppice.runfile import SurgerySection
from tests.pruning.networks import no_tick, small

HOW = SurgerySection(learning_rate=0.1, momentum=0.9, weight_decay=0.01)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    x = torch.tensor(random.random((16, 1, 8, 8)), dtype=torch.float32)
    return x, torch.tensor(random.integers(0, 10, 16))


def test_masks_of_ones_are_sgd_as_torch_documents_it() -> None:
    # Written out, since making a torch.optim.SGD imports torch's compiler: 15 s.
    run = small()
    ours, theirs = build_model(run.model, 1), build_model(run.model, 1)
    sgd = MaskedSGD(ours)
    masks = {name: torch.ones_like(p) for name, p in ours.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in theirs.named_parameters()}
    for step in range(20):
        x, y = batch(step)
        sgd.step(ours, masks, x, y, 0.1, HOW)
        theirs.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                assert parameter.grad is not None
                velocity[name] = 0.9 * velocity[name] + (parameter.grad + 0.01 * parameter)
                parameter.sub_(0.1 * velocity[name])
    for name, parameter in theirs.named_parameters():
        assert torch.allclose(sgd.values[name], parameter, rtol=1e-5, atol=1e-7)


def test_a_cut_weight_learns_by_the_gradient_at_the_masked_network() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    sgd = MaskedSGD(model)
    before = sgd.values["1.weight"].clone()
    mask = torch.ones_like(before)
    mask[:, ::2] = 0
    x, y = batch(1)
    sgd.step(model, {"1.weight": mask}, x, y, 0.5, HOW.model_copy(update={"weight_decay": 0.0}))
    point = (before * mask).requires_grad_()
    bias = dict(model.named_parameters())["1.bias"].detach()  # the network still shows what was before
    loss = nn.functional.cross_entropy(nn.functional.linear(x.flatten(1), point, bias), y)
    loss.backward()  # type: ignore[no-untyped-call]
    assert point.grad is not None
    assert torch.allclose(sgd.values["1.weight"], before - 0.5 * point.grad, rtol=1e-5, atol=1e-7)
    assert (sgd.values["1.weight"][:, ::2] != before[:, ::2]).any()
    # What the network computed with was cut to exactly nothing.
    assert (dict(model.named_parameters())["1.weight"][:, ::2] == 0).all()


def test_only_what_is_cut_decays_more() -> None:
    ends = {}
    for cut_decay in (0.0, 0.25):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        sgd = MaskedSGD(model)
        mask = torch.ones_like(sgd.values["1.weight"])
        mask[:, ::2] = 0
        before = sgd.values["1.weight"].clone()
        sgd.step(model, {"1.weight": mask}, *batch(1), 0.5, HOW, cut_decay=cut_decay)
        ends[cut_decay] = sgd.values["1.weight"]
    assert torch.allclose(ends[0.25], ends[0.0] - 0.5 * 0.25 * before * (1 - mask), atol=1e-6)
    assert torch.allclose(ends[0.25][:, 1::2], ends[0.0][:, 1::2], atol=1e-6)


def test_noise_alone_brings_fewer_weights_back() -> None:
    def reopened(cut_decay: float) -> int:
        pruner = cut_pruner(prune_until=1000, gamma=0.0, cut_decay=cut_decay)
        cut = {name: mask.clone() for name, mask in pruner.masks.items()}
        pruner.train(60, no_tick)
        return sum(int(((cut[name] == 0) & (mask == 1)).sum()) for name, mask in pruner.masks.items())

    assert reopened(0.1) < 0.5 * reopened(0.0)


def test_frozen_parameters_stay() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    frozen = dict(model.named_parameters())["1.weight"].requires_grad_(False)
    before = frozen.clone()
    sgd = MaskedSGD(model)
    sgd.step(model, {}, *batch(1), 0.5, HOW)
    assert torch.equal(sgd.values["1.weight"], before)


def test_learning_rates() -> None:
    rates = [learning_rate(0.2, "cosine", i, 100) for i in (0, 50, 100, 400)]
    assert rates == pytest.approx([0.2, 0.1, 0.0, 0.0])
    assert [learning_rate(1.0, "step", i, 100) for i in (0, 49, 50, 74, 75, 99)] == [
        1,
        1,
        0.1,
        0.1,
        0.01,
        0.01,
    ]
    assert learning_rate(0.2, "constant", 70, 100) == 0.2


def test_every_epoch_takes_every_sample_once_in_a_new_order() -> None:
    batches = Batches(12, 4, 7, Purpose.SURGERY_BATCHES, torch.device("cpu"))
    epochs = [torch.cat([batches[3 * epoch + i] for i in range(3)]).tolist() for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]
    again = Batches(12, 4, 7, Purpose.SURGERY_BATCHES, torch.device("cpu"))
    assert again[4].tolist() == batches[4].tolist()  # from the middle, without what came before
    assert (
        Batches(12, 4, 7, Purpose.REFERENCE_BATCHES, torch.device("cpu"))[4].tolist() != batches[4].tolist()
    )
    small_set = Batches(3, 8, 7, Purpose.SURGERY_BATCHES, torch.device("cpu"))
    assert sorted(small_set[5].tolist()) == [0, 1, 2]


def test_draws_depend_on_seed_purpose_and_number() -> None:
    keys = [
        (1, Purpose.MASKS, 0),
        (1, Purpose.MASKS, 1),
        (1, Purpose.SURGERY_DROPOUT, 0),
        (2, Purpose.MASKS, 0),
    ]
    assert len({generator(*key).random() for key in keys}) == 4
    assert len({torch_seed(*key) for key in keys}) == 4
    assert all(0 <= torch_seed(*key) < 2**63 for key in keys)


def cut_pruner(**surgery: float) -> TorchPruner:
    pruner = TorchPruner(small(surgery=surgery, reference={"iterations": 60}))
    pruner.train_reference(60, no_tick)
    pruner.apply(np.array([0.5, 0.5, 0.0]), 0.5)
    return pruner


def test_before_any_cut_everything_stays() -> None:
    pruner = TorchPruner(small(reference={"iterations": 20}))
    pruner.train_reference(20, no_tick)
    pruner.train(20, no_tick)
    measure = pruner.measure(no_tick)
    assert measure.parameters_remaining == measure.parameters_total == 64 * 16 + 16 + 16 * 12 + 12 + 120 + 10
    assert measure.weights_remaining == measure.weights_total == 64 * 16 + 16 * 12 + 120
    assert measure.layer_remaining == (64 * 16, 16 * 12, 120)


def test_masks_open_again_while_surgery_lasts_and_then_stand_still() -> None:
    pruner = cut_pruner(prune_until=60, gamma=0.0)
    cut = {name: mask.clone() for name, mask in pruner.masks.items()}
    pruner.train(60, no_tick)
    reopened = sum(int(((cut[name] == 0) & (mask == 1)).sum()) for name, mask in pruner.masks.items())
    closed = sum(int(((cut[name] == 1) & (mask == 0)).sum()) for name, mask in pruner.masks.items())
    assert reopened > 0
    assert closed > 0
    stood = {name: mask.clone() for name, mask in pruner.masks.items()}
    values = {name: value.clone() for name, value in pruner.sgd.values.items()}
    pruner.train(30, no_tick)
    assert all(torch.equal(stood[name], mask) for name, mask in pruner.masks.items())
    assert any(not torch.equal(values[name], value) for name, value in pruner.sgd.values.items())


def test_masks_follow_the_rule_after_every_update() -> None:
    pruner = cut_pruner(prune_until=1000, gamma=0.0)
    for _ in range(30):
        before = {name: mask.clone() for name, mask in pruner.masks.items()}
        weights = {name: value.clone() for name, value in pruner.sgd.values.items()}
        pruner.train(1, no_tick)
        assert pruner.limits is not None
        for layer, limit in zip(pruner.found, pruner.limits, strict=True):
            magnitude, mask = weights[layer.weight].abs(), pruner.masks[layer.weight]
            assert (mask[magnitude < 0.9 * limit * (1 - 1e-5)] == 0).all()
            assert (mask[magnitude > 1.1 * limit * (1 + 1e-5)] == 1).all()
            between = (magnitude > 0.9 * limit * (1 + 1e-5)) & (magnitude < 1.1 * limit * (1 - 1e-5))
            assert torch.equal(mask[between], before[layer.weight][between])
            assert layer.bias is not None
            bias, has_input = pruner.masks[layer.bias], mask.amax(1)
            assert (bias[weights[layer.bias].abs() < 0.9 * limit * (1 - 1e-5)] == 0).all()
            large = weights[layer.bias].abs() > 1.1 * limit * (1 + 1e-5)
            assert torch.equal(bias[large], has_input[large])


def test_updates_become_rarer() -> None:
    def changes(gamma: float) -> int:
        pruner = cut_pruner(prune_until=1000, gamma=gamma)
        count = 0
        for _ in range(40):
            before = {name: mask.clone() for name, mask in pruner.masks.items()}
            pruner.train(1, no_tick)
            count += any(not torch.equal(before[name], mask) for name, mask in pruner.masks.items())
        return count

    assert changes(10.0) < changes(0.0)


def test_the_masked_network_is_exactly_zero_where_cut() -> None:
    pruner = cut_pruner()
    pruner.train(10, no_tick)
    measure = pruner.measure(no_tick)
    shown = dict(pruner.model.named_parameters())
    kept = 0
    for name, mask in pruner.masks.items():
        assert (shown[name][mask == 0] == 0).all()
        assert torch.equal(shown[name][mask == 1], pruner.sgd.values[name][mask == 1])
        kept += int(mask.sum())
    assert measure.parameters_remaining == kept  # all of this network's parameters have masks
    for layer in pruner.found:
        assert layer.bias is not None
        assert (pruner.masks[layer.bias] <= pruner.masks[layer.weight].amax(1)).all()


@pytest.mark.parametrize("model", [{}, {"name": "tests.pruning.networks:Normed", "arguments": {}}])
def test_biases_may_be_left_to_their_units(model: dict[str, Any]) -> None:
    pruner = TorchPruner(small(model=model, surgery={"biases": False}, reference={"iterations": 20}))
    pruner.train_reference(20, no_tick)
    pruner.apply(np.full(len(pruner.found), 0.5), 0.5)
    pruner.train(10, no_tick)
    for layer in pruner.found:
        assert layer.bias is not None
        assert torch.equal(pruner.masks[layer.bias], pruner.masks[layer.weight].flatten(1).amax(1))


def test_divergence_is_said_with_iteration_rate_and_what_to_do() -> None:
    pruner = TorchPruner(small(reference={"learning_rate": 1e9}))
    with pytest.raises(CoppiceError, match=r"reference training diverged.* at iteration \d+ .*1e\+09; lower"):
        pruner.train_reference(100, no_tick)
    pruner = TorchPruner(small(reference={"iterations": 1}, surgery={"learning_rate": 1e9}))
    pruner.train_reference(1, no_tick)
    with pytest.raises(CoppiceError, match=r"surgery training diverged.*lower surgery\.learning_rate"):
        pruner.train(100, no_tick)


@pytest.mark.parametrize(
    ("single", "named"),
    [(("reference",), "reference.batch"), (("reference", "surgery"), "reference.batch and surgery.batch")],
)
def test_batches_too_small_for_the_network_are_refused_before_it_is_trained(
    single: tuple[str, ...], named: str
) -> None:
    model = {"name": "tests.pruning.networks:compared", "arguments": {}}
    sections = {name: {"batch": 1} for name in single}
    with pytest.raises(CoppiceError, match=f"^{named}: tests.* cannot be trained on one sample at a time"):
        TorchPruner(small(model=model, **sections))
    TorchPruner(small(**sections)).train_reference(2, no_tick)


def test_the_loss_is_a_mean_of_the_last_iterations() -> None:
    pruner = TorchPruner(small(reference={"iterations": 100}))
    assert math.isnan(pruner.loss())
    pruner.train_reference(1, no_tick)
    first = pruner.loss()
    assert first == pytest.approx(math.log(10), rel=0.2)
    pruner.train_reference(80, no_tick)
    assert pruner.loss() < first
    pruner.train_reference(99, no_tick)  # only what is left
    assert pruner.reference_left == 0
    assert math.isnan(pruner.loss())


def test_every_batch_beats() -> None:
    beats: list[int] = []
    pruner = TorchPruner(small(reference={"iterations": 30}))
    pruner.train_reference(30, lambda: beats.append(1))
    assert len(beats) >= 30
    beats.clear()
    pruner.train(25, lambda: beats.append(1))
    assert len(beats) >= 25


def phase_rate(pruner: TorchPruner, iteration: int) -> float:
    phase = pruner.steps.stages[pruner.run.stage_at(iteration)]
    return phase.rate(iteration, pruner.run.round_of(iteration))


def test_each_phase_has_its_schedule() -> None:
    def rates(**sections: object) -> list[float]:
        rounds = {"iterations": 10, "tmax": 40}
        surgery = {"prune_until": 20, "learning_rate": 1.0, **sections.pop("surgery", {})}  # type: ignore[dict-item]
        pruner = TorchPruner(small(rounds=rounds, surgery=surgery, **sections))
        return [phase_rate(pruner, iteration) for iteration in range(40)]

    half = [0.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)]
    assert rates() == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 40)) for i in range(40)])
    assert rates(polish={"weight_decay": 0.5}) == rates()
    assert rates(polish={"learning_rate": 0.1}) == pytest.approx(half + [0.1 * rate for rate in half])
    constant = rates(polish={"learning_rate": 0.1, "schedule": "constant"})
    assert constant == pytest.approx(half + 20 * [0.1])
    assert rates(surgery={"prune_until": 0}) == rates(), "a run that cuts nothing trains all the same"
    cycle = [0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(10)]
    assert rates(surgery={"schedule": "cycle"}) == pytest.approx(4 * cycle)
    once = rates(surgery={"schedule": "cycle"}, polish={"learning_rate": 0.1})
    assert once == pytest.approx(2 * cycle + [0.1 * rate for rate in half])
    refine = {"begin": 25, "until": 35, "iterations": 5, "learning_rate": 0.2}
    short = [0.5 * (1 + math.cos(math.pi * i / 5)) for i in range(5)]
    refined = rates(polish={"learning_rate": 0.1}, refine=refine)
    polish = [0.1 * rate for rate in short]
    assert refined == pytest.approx(half + polish + 2 * [0.2 * rate for rate in short] + polish)
    refined = rates(refine={**refine, "schedule": "constant"})
    assert refined == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 25)) for i in range(25)] + [0.2] * 15)


def test_the_polish_has_its_own_weight_decay() -> None:
    ends = []
    for decay in (None, 0.5):
        pruner = TorchPruner(small(polish={"weight_decay": decay}, surgery={"prune_until": 5}))
        pruner.train_reference(120, no_tick)
        pruner.train(5, no_tick)
        at_five = pruner.sgd.values["fc1.weight"].norm()
        pruner.train(5, no_tick)
        ends.append((float(at_five), float(pruner.sgd.values["fc1.weight"].norm())))
    assert ends[0][0] == ends[1][0]
    assert ends[1][1] < 0.9 * ends[0][1]
