"""The dense reference teaches what is left of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from coppice.pruning.distill import Teacher
from coppice.pruning.phases import stage_phases
from coppice.pruning.pruner import TorchPruner
from coppice.runfile import DistillSection, RunFileError
from tests.pruning.networks import Normed, no_tick, small


def log_softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, classes) -> (n, classes)."""
    return np.asarray(values - np.log(np.exp(values).sum(1, keepdims=True)))


CPU = torch.device("cpu")
TAUGHT: dict[str, Any] = {"weight": 0.5, "temperature": 3.0}


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.3, 4.0), (0.9, 0.5), (0.0, 2.0)])
def test_the_loss_is_the_formula(weight: float, temperature: float) -> None:
    torch.manual_seed(1)
    model = nn.Linear(6, 4).double()
    x, output = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    y = torch.tensor([0, 3, 1, 2, 0])
    loss = Teacher(model, DistillSection(weight=weight, temperature=temperature)).loss(x, output, y)
    taught = log_softmax(model(x).detach().numpy() / temperature)
    said = log_softmax(output.numpy() / temperature)
    distance = temperature**2 * (np.exp(taught) * (taught - said)).sum(1).mean()
    entropy = -log_softmax(output.numpy())[np.arange(5), y].mean()
    assert float(loss) == pytest.approx((1 - weight) * entropy + weight * distance)


def test_who_says_what_the_teacher_says_learns_nothing_more() -> None:
    model = nn.Linear(6, 4)
    output = model(torch.ones(3, 6)).detach().requires_grad_()
    loss = Teacher(model, DistillSection(weight=1.0)).loss(torch.ones(3, 6), output, torch.zeros(3).long())
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert output.grad is not None
    assert torch.allclose(output.grad, torch.zeros(3, 4), atol=1e-6)


def test_the_teacher_neither_drops_out_nor_learns() -> None:
    torch.manual_seed(2)
    model = Normed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, output = torch.randn(4, 1, 8, 8), torch.zeros(4, 10, requires_grad=True)
    teacher = Teacher(model, DistillSection(**TAUGHT))
    losses = [teacher.loss(x, output, torch.arange(4)) for _ in range(2)]
    losses[0].backward()  # type: ignore[no-untyped-call]
    assert torch.equal(losses[0], losses[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("model", ["mlp", "tests.pruning.networks:Normed"])
def test_a_taught_run_goes_on_as_if_it_had_not_been_interrupted(model: str) -> None:
    arguments = {"hidden": [16, 12]} if model == "mlp" else {}
    run = small(model={"name": model, "arguments": arguments}, distill=TAUGHT)
    whole, first, second = (TorchPruner(run) for _ in range(3))
    for pruner in (whole, first):
        pruner.train_reference(120, no_tick)
    whole.apply(np.full(len(whole.found), 0.3), 0.5)
    whole.train(60, no_tick)
    first.apply(np.full(len(whole.found), 0.3), 0.5)
    first.train(25, no_tick)
    second.restore(first.checkpoint())
    second.train(35, no_tick)
    assert second.checkpoint() == whole.checkpoint()


def test_the_reference_is_not_taught_and_all_else_is() -> None:
    plain, taught = TorchPruner(small()), TorchPruner(small(distill=TAUGHT))
    for pruner in (plain, taught):
        pruner.train_reference(120, no_tick)
    assert torch.equal(plain.sgd.values["fc1.weight"], taught.sgd.values["fc1.weight"])
    for pruner in (plain, taught):
        pruner.train(10, no_tick)
    assert not torch.equal(plain.sgd.values["fc1.weight"], taught.sgd.values["fc1.weight"])


@pytest.mark.parametrize("wrong", [{"weight": 1.5}, {"temperature": 0}])
def test_odd_teaching_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RunFileError, match=f"distill.{next(iter(wrong))}"):
        small(distill=wrong)


def test_it_may_begin_with_the_polish() -> None:
    run = small(distill={**TAUGHT, "begin": 80})
    taught = {stage.section: phase.taught for stage, phase in stage_phases(run, 100, CPU).items()}
    assert taught == {"surgery": False, "polish": True}
    always = stage_phases(small(distill=TAUGHT), 100, CPU).values()
    never = stage_phases(small(), 100, CPU).values()
    assert all(phase.taught for phase in always)
    assert not any(phase.taught for phase in never)
