"""Dead units: buried without a change, and done without in training."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from coppice.models.builtin import lenet_5, mlp
from coppice.pruning.layers import find_layers
from coppice.pruning.masks import Masks, open_masks, put_masks
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.sgd import MaskedSGD
from coppice.pruning.units import Narrowed, bury, find_edges
from coppice.runfile import SurgerySection
from tests.pruning.networks import Normed, Shared, no_tick, small

HOW = SurgerySection(learning_rate=0.1, momentum=0.9, weight_decay=0.01)


def padded() -> nn.Module:
    """Convolutions with padding, pools, dropout, nested sequences, a layer without bias."""
    body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.Tanh(), nn.AvgPool2d(2, padding=1))
    return nn.Sequential(
        body,
        nn.Conv2d(6, 8, 3, padding=1),
        nn.LeakyReLU(),
        nn.AdaptiveMaxPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(72, 12),
        nn.ReLU(),
        nn.Linear(12, 10),
    ).to(torch.float64)


def double_mlp() -> nn.Module:
    return mlp(64, (16, 12), 10).to(torch.float64)


def double_lenet() -> nn.Module:
    return lenet_5().to(torch.float64)


NETWORKS = [(padded, (1, 9, 9)), (double_mlp, (1, 8, 8)), (double_lenet, (1, 28, 28))]


def cut(model: nn.Module, share: float, seed: int) -> tuple[MaskedSGD, Masks]:
    """Random masks that keep `share` of the weights; some units have no inputs, some no outputs."""
    found = find_layers(model)
    sgd = MaskedSGD(model)
    masks = open_masks(found, sgd.values)
    random = torch.Generator().manual_seed(seed)
    for layer in found:
        kept = torch.rand(layer.shape, generator=random) < share
        if layer.shape[1] > 1:
            kept[:, torch.rand(layer.shape[1], generator=random) < 0.3] = False
        kept[torch.rand(layer.shape[0], generator=random) < 0.3] = False
        bias = torch.rand(layer.shape[0], generator=random) < 0.9
        put_masks(masks, layer, kept.to(torch.float64), bias.to(torch.float64))
    sgd.show(masks)
    return sgd, masks


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_burying_changes_no_output_and_leaves_no_dead_unit(
    make: object, shape: tuple[int, ...], seed: int
) -> None:
    torch.manual_seed(seed)
    model: nn.Module = make()  # type: ignore[operator]
    found = find_layers(model)
    edges = find_edges(model, found)
    assert len(edges) == len(found) - 1
    sgd, masks = cut(model, 0.5, seed)
    x = torch.rand(5, *shape, dtype=torch.float64)
    before, kept = model(x), sum(float(mask.sum()) for mask in masks.values())
    bury(edges, masks, (sgd.values, sgd.momentum))
    sgd.show(masks)
    assert torch.allclose(model(x), before, atol=1e-12)
    assert sum(float(mask.sum()) for mask in masks.values()) < kept
    for edge in edges:
        inputs = masks[edge.source.weight].flatten(1).any(1)
        columns = masks[edge.target.weight].transpose(0, 1).flatten(1).any(1)
        outputs = columns.reshape(len(inputs), edge.group).any(1)
        assert torch.equal(inputs, outputs)
        assert inputs.any()


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_the_narrow_network_learns_as_the_whole_one(make: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    model: nn.Module = make()  # type: ignore[operator]
    edges = find_edges(model, find_layers(model))
    sgd, masks = cut(model, 0.4, 1)
    bury(edges, masks, (sgd.values, sgd.momentum))
    twin = MaskedSGD(model)
    twin.values = {name: value.clone() for name, value in sgd.values.items()}
    narrowed = Narrowed(model, edges, sgd.values)
    assert narrowed.names
    whole = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in narrowed.model.parameters()) < 0.7 * whole
    own, own_masks = narrowed.enter(sgd, masks)
    for step in range(5):
        x = torch.rand(16, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        y = torch.arange(16) % 10
        narrow_loss = own.step(narrowed.model, own_masks, x, y, 0.1, HOW)
        loss = twin.step(model, masks, x, y, 0.1, HOW)
        assert torch.allclose(narrow_loss, loss, atol=1e-12)
    narrowed.leave(own, own_masks, model, sgd, masks)
    for name, value in twin.values.items():
        assert torch.allclose(sgd.values[name], value, atol=1e-10), name
        assert torch.allclose(sgd.momentum[name], twin.momentum[name], atol=1e-10), name


def test_a_layer_is_never_buried_whole() -> None:
    model = double_mlp()
    found = find_layers(model)
    sgd, masks = cut(model, 0.5, 1)
    put_masks(masks, found[1], torch.zeros(found[1].shape, dtype=torch.float64), torch.ones(12))
    before = {name: value.clone() for name, value in sgd.values.items()}
    bury(find_edges(model, found), masks, (sgd.values,))
    assert all(torch.equal(sgd.values[name], value) for name, value in before.items())


def linear_chain(*between: nn.Module) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            [("a", nn.Linear(64, 8)), *((str(i), m) for i, m in enumerate(between)), ("b", nn.Linear(8, 10))]
        )
    )


@pytest.mark.parametrize(
    "model",
    [
        Normed(),
        Shared(),
        linear_chain(nn.Sigmoid()),
        linear_chain(nn.Softmax(1)),
        linear_chain(nn.BatchNorm1d(8)),
        linear_chain(nn.Hardtanh(0.5, 1.0)),
        linear_chain(nn.MaxPool1d(3, 1, 1)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 10)),
    ],
    ids=["no sequence", "shared", "sigmoid", "softmax", "norm", "hardtanh", "pool", "groups"],
)
def test_where_a_dead_unit_may_matter_nothing_is_buried(model: nn.Module) -> None:
    assert find_edges(model, find_layers(model)) == ()


def test_layers_left_alone_keep_their_units() -> None:
    model = mlp(64, (16, 12), 10)
    names = [(edge.source.name, edge.target.name) for edge in find_edges(model, find_layers(model))]
    assert names == [("fc1", "fc2"), ("fc2", "fc3")]
    assert find_edges(model, find_layers(model, ["fc1", "fc3"])) == ()


def test_surgery_on_a_narrow_network_is_the_same_in_any_portions() -> None:
    states = []
    for portions in ((12,), (5, 7), (1,) * 12):
        pruner = TorchPruner(small(surgery={"prune_until": 8}, reference={"iterations": 20}))
        pruner.train_reference(20, no_tick)
        pruner.apply([1.5, 1.5, 0.5], 0.1)  # type: ignore[arg-type]
        buried = ~pruner.sgd.values["fc1.weight"].any(1)
        assert buried.any()
        for portion in portions:
            pruner.train(portion, no_tick)
        assert torch.equal(~pruner.sgd.values["fc1.weight"].any(1), buried)
        states.append(pruner.checkpoint())
    assert states[0] == states[1] == states[2]


def test_an_interrupted_training_leaves_the_whole_network() -> None:
    pruner = TorchPruner(small(reference={"iterations": 20}))
    pruner.train_reference(20, no_tick)
    pruner.apply([1.5, 1.5, 0.5], 0.1)  # type: ignore[arg-type]
    ticks = iter([None] * 4)

    def tick() -> None:
        if next(ticks, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pruner.train(10, tick)
    assert pruner.iteration == 4
    assert pruner.sgd.values["fc1.weight"].shape == (16, 64)
    other = TorchPruner(pruner.run)
    other.restore(pruner.checkpoint())
    for each in (pruner, other):
        each.train(3, no_tick)
    assert pruner.checkpoint() == other.checkpoint()
