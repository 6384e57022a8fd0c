"""The pruner as the outer loop drives it, and its checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.local_run import run_locally
from coppice.data import load_data
from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.pruning.best import Best
from coppice.pruning.contract import Pruner, Scorer
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.scoring.fast import FastScorer
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.tensors import pack, unpack
from coppice.runfile import RunFile
from tests.data.idx_files import write_small_mnist
from tests.pruning.networks import no_tick, small

NORMED = {
    "model": {"name": "tests.pruning.networks:Normed", "arguments": {}},
    "reference": {"iterations": 20},
}
SHARED = {
    "model": {"name": "tests.pruning.networks:Shared", "arguments": {}},
    "reference": {"iterations": 20},
}


def trained(run: RunFile) -> TorchPruner:
    pruner = TorchPruner(run)
    pruner.train_reference(run.reference.iterations, no_tick)
    return pruner


def test_the_contract_is_kept() -> None:
    # mypy reads this; at run time there is nothing to see.
    pruner: Pruner = trained(small(reference={"iterations": 1}))
    x, y = pruner.samples()
    reference = Reference.build(small(), pruner.weights(), x, y, pruner.reference_accuracy)
    scorer: Scorer = FastScorer(reference)
    assert len(pruner.layers) == 3
    assert 0 < scorer.score_many([pruner.start_crates()], no_tick)[0].fitness <= 2
    assert [(layer.name, layer.shape) for layer in pruner.layers] == [
        ("fc1", (16, 64)),
        ("fc2", (12, 16)),
        ("fc3", (10, 12)),
    ]


def script(pruner: TorchPruner) -> Iterator[Callable[[], object]]:
    """A short run in single steps."""
    for _ in range(4):
        yield lambda: pruner.train_reference(5, no_tick)
    for crates, fitness in (([0.2, 0.4], 0.6), ([0.5, 0.1], 0.4), ([9.0, 9.0], 1.3)):
        chosen = np.resize(np.array(crates), len(pruner.layers))
        yield lambda chosen=chosen, fitness=fitness: pruner.apply(chosen, fitness)  # type: ignore[misc]
        for _ in range(3):
            yield lambda: pruner.train(7, no_tick)
        yield lambda: pruner.measure(no_tick)


NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"reference": {"iterations": 20}},
    "normed": NORMED,
    "shared": SHARED,
}


def script_run(network: str) -> RunFile:
    return small(**NETWORKS[network], surgery={"prune_until": 50}, constraint={"accuracy_drop": 0.6})


def digest(content: bytes) -> str:
    """Short, so that a failure can be read."""
    return hashlib.sha256(content).hexdigest()


def end(pruner: TorchPruner) -> tuple[str, str]:
    return digest(pruner.checkpoint()), digest(pruner.finish(no_tick).model)


@cache
def undisturbed(network: str) -> tuple[str, str]:
    """What the script comes to."""
    pruner = TorchPruner(script_run(network))
    for step in script(pruner):
        step()
    return end(pruner)


@settings(max_examples=10, deadline=None)
@given(network=st.sampled_from(["mlp", "normed", "shared"]), breaks=st.sets(st.integers(0, 18), max_size=3))
def test_a_restored_pruner_goes_on_to_the_bit(network: str, breaks: set[int]) -> None:
    pruner = TorchPruner(script_run(network))
    steps = script(pruner)
    for number in range(19):
        if number in breaks:
            saved = pruner.checkpoint()
            pruner = TorchPruner(script_run(network))
            steps = script(pruner)
            for _ in range(number):  # the steps of the new pruner, those already done left out
                next(steps)
            pruner.restore(saved)
            assert digest(pruner.checkpoint()) == digest(saved)
        next(steps)()
    assert next(steps, None) is None
    assert end(pruner) == undisturbed(network)


def test_torchs_global_randomness_is_neither_used_nor_touched() -> None:
    torch.manual_seed(123)
    expected = torch.rand(4)
    torch.manual_seed(123)
    pruner = TorchPruner(script_run("normed"))  # it has dropout
    for step in script(pruner):
        step()
    assert torch.equal(torch.rand(4), expected)
    assert end(pruner) == undisturbed("normed")


def test_training_twice_is_training_once() -> None:
    whole, parts = trained(small()), TorchPruner(small())
    for _ in range(4):
        parts.train_reference(30, no_tick)
    for pruner in (whole, parts):
        pruner.apply(np.array([0.5, 0.5, 0.0]), 0.5)
    whole.train(100, no_tick)
    for iterations in (1, 49, 50):
        parts.train(iterations, no_tick)
    assert whole.iteration == parts.iteration == 100
    assert digest(whole.checkpoint()) == digest(parts.checkpoint())
    assert whole.loss() == parts.loss()


def test_the_seed_matters() -> None:
    assert trained(small()).weights() != trained(small(seed=4)).weights()


def test_held_out_samples_are_of_the_training_set_and_not_trained_on() -> None:
    pruner = TorchPruner(small())
    x, y = pruner.samples()
    data = load_data(pruner.run.data)
    training = {sample.tobytes() for sample in data.train_x}
    held = {sample.tobytes() for sample in x}
    assert len(y) == 200
    assert held <= training
    assert not held & {sample.numpy().tobytes() for sample in pruner.steps.x}
    assert not held & {sample.tobytes() for sample in data.test_x}
    other, _ = TorchPruner(small(seed=9)).samples()
    assert not np.array_equal(x, other)


def test_too_many_samples_cannot_be_held_out() -> None:
    with pytest.raises(CoppiceError, match=r"constraint\.samples: 1437 cannot be held out of 1437"):
        TorchPruner(small(constraint={"samples": 1437}))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("wrong_size", "does not take samples of shape (1, 8, 8)"),
        ("spatial", "gives (2, 10, 6, 6) for 2 samples; expected logits"),
        ("few_classes", "expected logits of shape (samples, 10 or more)"),
        ("lazy", "has no shape yet"),
        ("Recurrent", "nothing to prune"),
    ],
)
def test_networks_that_do_not_fit_are_refused(model: str, said: str) -> None:
    with pytest.raises(CoppiceError) as caught:
        TorchPruner(small(model={"name": f"tests.pruning.networks:{model}", "arguments": {}}))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_named_layers_are_cut() -> None:
    pruner = trained(small(model={"layers": ["fc2"]}, reference={"iterations": 10}))
    pruner.apply(np.array([50.0]), 0.9)
    measure = pruner.measure(no_tick)
    assert [layer.name for layer in pruner.layers] == ["fc2"]
    assert measure.weights_total == 16 * 12
    assert measure.weights_remaining == 0
    assert measure.parameters_total - measure.parameters_remaining == 16 * 12 + 12


def test_crates_in_force_and_where_the_next_search_begins() -> None:
    pruner = trained(small(reference={"iterations": 10}, search={"lower": 0.1, "upper": 0.9}))
    assert pruner.crates.tolist() == [0, 0, 0]
    assert pruner.start_crates().tolist() == [0.1, 0.1, 0.1]
    pruner.apply(np.array([9.0, 9.0, 9.0]), 0.5)
    assert pruner.start_crates().tolist() == [0.9, 0.9, 0.9]
    pruner.apply(np.array([0.3, 0.4, 0.5]), 0.5)
    assert pruner.crates.tolist() == [0.3, 0.4, 0.5]
    assert pruner.start_crates() == pytest.approx([0.3, 0.4, 0.5])
    limits = pruner.limits
    pruner.train(40, no_tick)  # the weights move, the thresholds stay
    assert pruner.limits == limits
    start = pruner.start_crates()
    assert start != pytest.approx([0.3, 0.4, 0.5])
    pruner.apply(start, 0.5)
    assert pruner.limits == pytest.approx(limits)
    before = pruner.checkpoint()
    pruner.apply(np.array([1.9, 1.9, 1.9]), 1.01)  # a search that found nothing feasible
    assert digest(pruner.checkpoint()) == digest(before)
    for odd in ([1.0, 2.0], [1.0, 2.0, float("nan")]):
        with pytest.raises(CoppiceError, match="expected 3 finite crates"):
            pruner.apply(np.array(odd), 0.5)


def test_layers_take_part_ever_more_rarely_but_one_always() -> None:
    pruner = TorchPruner(small(reference={"iterations": 1}))
    assert pruner.searched_layers(1).all()
    pruner.iteration = 10**9
    chosen = np.array([pruner.searched_layers(search) for search in range(1, 40)])
    assert (chosen.sum(1) == 1).all()
    assert chosen.any(0).all()
    assert np.array_equal(chosen[4], pruner.searched_layers(5))


def test_the_best_is_feasible_then_small_then_accurate_then_late() -> None:
    pruner = trained(small(constraint={"accuracy_drop": 1.0}, reference={"iterations": 10}))
    base = pruner.measure(no_tick)
    best = Best(replace(base, parameters_remaining=100, accuracy=0.9), np.zeros(3), None, {}, {})
    assert best.beaten_by(replace(base, parameters_remaining=99, accuracy=0.5))
    assert best.beaten_by(replace(base, parameters_remaining=100, accuracy=0.9))
    assert not best.beaten_by(replace(base, parameters_remaining=100, accuracy=0.89))
    assert not best.beaten_by(replace(base, parameters_remaining=101, accuracy=1.0))


def test_finish_takes_the_best_network_and_plain_torch_can_load_it() -> None:
    pruner = trained(small(constraint={"accuracy_drop": 0.3}))
    pruner.apply(np.array([0.2, 0.2, 0.0]), 0.5)
    pruner.train(20, no_tick)
    measure = pruner.measure(no_tick)
    assert measure.feasible
    pruner.apply(np.array([9.0, 9.0, 9.0]), 0.01)  # smaller, but worthless
    assert not pruner.measure(no_tick).feasible
    before = pruner.checkpoint()
    outcome = pruner.finish(no_tick)
    assert digest(pruner.checkpoint()) == digest(before)
    assert outcome.measure == measure
    assert outcome.crates.tolist() == [0.2, 0.2, 0.0]
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10)
    )
    tensors = safetensors.torch.load(outcome.model)
    model.load_state_dict(dict(zip(model.state_dict(), (tensors[k] for k in NAMES), strict=True)))
    assert sum(int((t != 0).sum()) for t in tensors.values()) == measure.parameters_remaining
    data = load_data(pruner.run.data)
    with torch.no_grad():
        right = (model(torch.tensor(data.test_x)).argmax(1) == torch.tensor(data.test_y)).sum()
    assert outcome.pruned_accuracy == int(right) / 360


NAMES = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"]


def test_without_a_feasible_network_the_reference_is_the_result() -> None:
    pruner = trained(small())
    weights, _ = unpack(pruner.weights(), "test")
    pruner.apply(np.array([9.0, 9.0, 9.0]), 0.01)
    assert not pruner.measure(no_tick).feasible
    pruner.train(100, no_tick)
    outcome = pruner.finish(no_tick)
    assert outcome.measure.compression == 1
    assert outcome.measure.accuracy == pruner.reference_accuracy
    assert outcome.pruned_accuracy == outcome.reference_accuracy
    model = safetensors.torch.load(outcome.model)
    assert model.keys() == {name for name in weights if not name.startswith("coppice.")}
    assert all(torch.equal(weights[name], t) for name, t in model.items())


def test_a_shared_weight_is_in_the_result_under_all_its_names() -> None:
    pruner = trained(small(**SHARED, constraint={"accuracy_drop": 0.9}))
    pruner.apply(np.array([0.5, 0.5]), 0.5)
    pruner.measure(no_tick)
    model = build_model(pruner.run.model, 1)
    tensors = safetensors.torch.load(pruner.finish(no_tick).model)
    model.load_state_dict(tensors)
    assert torch.equal(tensors["first.weight"], tensors["twin.weight"])
    assert pruner.measure(no_tick).parameters_total == sum(p.numel() for p in model.parameters())


def test_training_to_the_end_is_of_the_network_that_will_be_taken() -> None:
    pruner = trained(small(constraint={"accuracy_drop": 0.3}, surgery={"prune_until": 40}))
    pruner.apply(np.array([0.2, 0.2, 0.0]), 0.5)
    pruner.train(20, no_tick)
    good = pruner.measure(no_tick)
    pruner.apply(np.array([9.0, 9.0, 9.0]), 0.01)
    pruner.train(20, no_tick)
    pruner.measure(no_tick)
    pruner.train(30, no_tick)
    assert pruner.measure(no_tick).layer_remaining == good.layer_remaining
    assert pruner.crates.tolist() == [0.2, 0.2, 0.0]


def told_drop(pruner: TorchPruner) -> float:
    return float(unpack(pruner.weights(), "test")[1]["drop"])


def test_a_cut_that_is_not_repaired_is_taken_back_and_the_next_one_is_gentler() -> None:
    pruner = trained(small(constraint={"accuracy_drop": 0.05, "search_drop": 0.25}))
    assert told_drop(pruner) == 0.25
    pruner.apply(np.array([-0.5, -0.3, -0.6]), 0.5)
    pruner.train(5, no_tick)
    good = pruner.measure(no_tick)
    assert good.feasible
    assert told_drop(pruner) == 0.25
    before = pruner.checkpoint()
    pruner.apply(np.array([9.0, 9.0, 9.0]), 0.01)
    assert not pruner.measure(no_tick).feasible
    assert told_drop(pruner) == pytest.approx(0.15)
    again = pruner.measure(no_tick)
    assert (again.layer_remaining, again.accuracy) == (good.layer_remaining, good.accuracy)
    assert pruner.crates.tolist() == [-0.5, -0.3, -0.6]
    earlier = TorchPruner(pruner.run)
    earlier.restore(before)
    earlier.sgd.forget()
    assert digest(pruner.start_crates().tobytes()) == digest(earlier.start_crates().tobytes())
    restored = TorchPruner(pruner.run)
    restored.restore(pruner.checkpoint())
    for each in (pruner, restored):
        each.train(3, no_tick)
    assert digest(restored.weights()) == digest(pruner.weights())


def test_cuts_that_are_repaired_make_bold_again() -> None:
    pruner = trained(small(constraint={"accuracy_drop": 0.05, "search_drop": 0.25}))
    pruner.measure(no_tick)
    pruner.boldness = 0.25
    for _ in range(4):
        pruner.measure(no_tick)
    assert told_drop(pruner) == pytest.approx(0.15)
    for _ in range(9):
        pruner.measure(no_tick)
    assert told_drop(pruner) == 0.25


def test_a_cut_that_is_not_repaired_stays_where_there_is_nothing_to_go_back_to() -> None:
    pruner = trained(small(constraint={"accuracy_drop": 0.05, "search_drop": 0.25}))
    pruner.apply(np.array([9.0, 9.0, 9.0]), 0.01)
    first = pruner.measure(no_tick)
    assert not first.feasible
    assert pruner.measure(no_tick).layer_remaining == first.layer_remaining
    assert told_drop(pruner) == pytest.approx(0.10)


def test_without_a_drop_of_their_own_searches_keep_to_the_constraint() -> None:
    pruner = trained(small(constraint={"accuracy_drop": 0.05}))
    assert told_drop(pruner) == 0.05
    pruner.apply(np.array([9.0, 9.0, 9.0]), 0.01)
    pruner.measure(no_tick)
    assert told_drop(pruner) == 0.05


def test_surgery_waits_for_the_reference() -> None:
    with pytest.raises(CoppiceError, match="the reference is not trained yet"):
        TorchPruner(small()).train(1, no_tick)


# Reference weights of the user's


def test_given_weights_are_taken_as_they_are(tmp_path: Path) -> None:
    source = trained(small())
    path = tmp_path / "mine.safetensors"
    path.write_bytes(source.finish(no_tick).model)
    pruner = TorchPruner(small(reference={"weights": str(path), "iterations": 0}))
    assert pruner.reference_left == 0
    assert pruner.reference_accuracy == source.reference_accuracy
    assert unpack(pruner.weights(), "a")[0].keys() == unpack(source.weights(), "b")[0].keys()
    assert digest(pruner.finish(no_tick).model) == digest(source.finish(no_tick).model)


def test_weights_saved_by_plain_safetensors_are_taken(tmp_path: Path) -> None:
    model = build_model(small(**SHARED).model, 5)
    safetensors.torch.save_model(model, str(tmp_path / "shared.safetensors"))
    run = small(**{**SHARED, "reference": {"weights": str(tmp_path / "shared.safetensors"), "iterations": 0}})
    tensors, _ = unpack(TorchPruner(run).weights(), "test")
    assert torch.equal(tensors["first.weight"], dict(model.named_parameters())["first.weight"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file"),
        (b"\x80\x04pickle", "not a whole safetensors file"),
        (b"", "not a whole safetensors file"),
        (pack({"fc1.weight": torch.zeros(16, 64)}), "'fc1.bias' of the network is missing"),
        (pack({"conv.weight": torch.zeros(1)}), "holds 'conv.weight', which the network does not have"),
        (pack({name: torch.zeros(2) for name in NAMES}), "'fc1.weight' has shape (2,), the network needs"),
    ],
)
def test_unfit_weights_are_one_clear_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CoppiceError) as caught:
        TorchPruner(small(reference={"weights": str(path)}))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Checkpoints that do not fit


@contextmanager
def unchanged(pruner: TorchPruner) -> Iterator[None]:
    before = pruner.checkpoint()
    yield
    assert digest(pruner.checkpoint()) == digest(before)


def test_foreign_checkpoints_are_refused_and_change_nothing() -> None:
    pruner = TorchPruner(small())
    own = pruner.checkpoint()
    tensors, info = unpack(own, "test")
    for content, said in (
        (b"", "checkpoint: not a whole safetensors file"),
        (own[: len(own) // 2], "checkpoint: not a whole safetensors file"),
        (TorchPruner(small(seed=4)).checkpoint(), "another run file or seed"),
        (TorchPruner(small(surgery={"gamma": 0.5})).checkpoint(), "another run file or seed"),
        (pruner.weights(), "not one of this version"),
        (pack(tensors, info | {"version": 0}), "not one of this version"),
        (pack({k: t for k, t in tensors.items() if k != "momentum.fc2.bias"}, info), "momentum 'fc2.bias'"),
        (pack(tensors | {"value.fc2.bias": torch.zeros(5)}, info), "'fc2.bias' has another shape"),
    ):
        with unchanged(pruner), pytest.raises(CoppiceError) as caught:
            pruner.restore(content)
        assert said in str(caught.value)


def test_a_checkpoint_holds_no_pickle_and_does_not_mind_other_evaluators() -> None:
    saved = trained(small()).checkpoint()
    size = int.from_bytes(saved[:8], "little")
    header = json.loads(saved[8 : 8 + size])
    assert json.loads(header["__metadata__"]["coppice"])["iteration"] == 0
    other = TorchPruner(small(name="renamed", evaluators={"count": 7}))
    other.restore(saved)
    assert digest(other.checkpoint()) == digest(saved)


@pytest.mark.parametrize(("name", "total"), [("lenet-5", 431_080), ("lenet-300-100", 266_610)])
def test_the_lenets_run_on_images(tmp_path: Path, name: str, total: int) -> None:
    write_small_mnist(tmp_path)
    run = small(
        model={"name": name, "arguments": {}},
        data={"name": "mnist", "folder": str(tmp_path)},
        reference={"iterations": 2},
        rounds={"iterations": 2, "tmax": 4},
        surgery={"prune_until": 2},
        search={"evaluations": 5},
        constraint={"accuracy_drop": 1.0, "samples": 20},
    )
    outcome = run_locally(run).outcome
    assert outcome.measure.parameters_total == total
    assert outcome.measure.compression > 1
    tensors = safetensors.torch.load(outcome.model)
    assert sum(int((t != 0).sum()) for t in tensors.values()) == outcome.measure.parameters_remaining


def test_a_whole_small_run_prunes() -> None:
    run = small(
        rounds={"iterations": 40, "tmax": 200}, surgery={"prune_until": 120}, reference={"iterations": 300}
    )
    local = run_locally(run)
    assert local.searches == 3
    assert local.evaluations == 60
    assert len(local.rounds) == 5
    assert local.outcome.measure.compression > 2
    assert local.outcome.measure.feasible
    assert local.outcome.pruned_accuracy > 0.8
    assert digest(run_locally(run).outcome.model) == digest(local.outcome.model)


def test_it_searches_until_the_network_is_small_enough() -> None:
    pruner = TorchPruner(small(constraint={"compression": 5.0}))
    pruner.train_reference(120, no_tick)
    assert pruner.searches()
    pruner.apply(np.full(3, 0.3), 0.5)
    assert 1 < pruner.measure(no_tick).compression < 5
    assert pruner.searches()
    pruner.apply(np.full(3, 1.5), 0.5)
    assert pruner.measure(no_tick).compression >= 5
    assert not pruner.searches()


def test_a_run_ends_with_the_compression_asked_for_and_not_much_more() -> None:
    every = run_locally(small())
    asked = 2.0
    run = run_locally(small(constraint={"compression": asked}))
    assert run.searches < every.searches
    assert asked <= run.outcome.measure.compression < 1.5 * asked
