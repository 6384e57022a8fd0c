"""Channels side by side in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coppice.models import build_model
from coppice.pruning.arrangement import arrange, arranged_like, channels_last
from coppice.pruning.layers import find_layers
from coppice.pruning.masks import open_masks, spread
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.sgd import MaskedSGD
from coppice.pruning.tensors import pack, unpack
from coppice.pruning.units import Narrowed, bury, find_edges
from coppice.runfile import ModelSection
from tests.pruning.networks import Normed, no_tick, small


@pytest.mark.parametrize("shape", [(5, 1, 4, 3), (5, 7, 4, 3), (1, 3, 1, 1)])
def test_the_same_numbers_in_another_order(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert y.stride(1) == 1
    assert channels_last(y) is y
    assert arranged_like(x, y).stride() == y.stride()
    assert arranged_like(x, x) is x


def test_thresholds_do_not_hang_on_the_order() -> None:
    """The pruner's kernels are arranged, those that evaluators read are not."""
    for seed in range(50):
        weight = torch.randn(50, 20, 5, 5, generator=torch.Generator().manual_seed(seed))
        assert spread(channels_last(weight)) == spread(weight)


def test_only_images_have_channels() -> None:
    for shape in ((4,), (4, 5), (4, 5, 6), (2, 3, 4, 5, 6)):
        x = torch.randn(shape)
        assert channels_last(x) is x


class Viewer(nn.Module):
    """Flattens by `view`, which takes only numbers that lie in order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.out = nn.Linear(4 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) -> (n, 10)."""
        return self.out(self.conv(x).view(-1, 144))  # type: ignore[no-any-return]


def test_a_module_of_the_users_is_left_as_it_is() -> None:
    for model in (Viewer(), Normed(), nn.Sequential(Viewer())):
        assert not arrange(model)
    pruner = TorchPruner(small(model={"name": f"{__name__}:Viewer", "arguments": {}}))
    pruner.train_reference(3, no_tick)
    assert not arrange(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)))  # nothing to arrange


def test_the_whole_way_is_the_same_to_rounding() -> None:
    plain, arranged = (build_model(ModelSection(name="lenet-5"), 1) for _ in range(2))
    assert arrange(arranged)
    x = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    y = torch.arange(16) % 10
    how = small().surgery
    ends = []
    for model, samples in ((plain, x), (arranged, channels_last(x))):
        sgd = MaskedSGD(model)
        masks = open_masks(find_layers(model), sgd.values)
        for _ in range(3):
            sgd.step(model, masks, samples, y, 0.05, how)
        ends.append(sgd.values)
    for name, value in ends[0].items():
        assert torch.allclose(ends[1][name], value, atol=1e-5), name
    assert ends[1]["conv2.weight"].stride(1) == 1
    read, _ = unpack(pack(ends[1]), "x")
    assert read["conv2.weight"].is_contiguous()


def test_narrow_convolutions_fill_whole_lanes() -> None:
    model = build_model(ModelSection(name="lenet-5"), 1)
    arrange(model)
    found = find_layers(model)
    sgd = MaskedSGD(model)
    masks = open_masks(found, sgd.values)
    masks["conv1.weight"][11:] = 0  # 11 of 20 live: 16 are a multiple of eight
    masks["conv2.weight"][17:] = 0  # 17 of 50: 24
    masks["fc1.weight"][100:] = 0  # of a Linear, no more than live
    edges = find_edges(model, found)
    bury(edges, masks, (sgd.values, sgd.momentum))
    narrowed = Narrowed(model, edges, sgd.values)
    shapes = {name: tuple(each.shape) for name, each in narrowed.model.named_parameters()}
    assert shapes["conv1.weight"] == (16, 1, 5, 5)
    assert shapes["conv2.weight"] == (24, 16, 5, 5)
    assert shapes["fc1.weight"] == (100, 24 * 16)
    own, _ = narrowed.enter(sgd, masks)
    assert own.values["conv2.weight"].stride(1) == own.momentum["conv2.weight"].stride(1) == 1
    parameters = dict(narrowed.model.named_parameters())
    assert parameters["conv1.weight"].stride(1) == parameters["conv2.weight"].stride(1) == 1
    sgd.show(masks)
    own.show({})
    x = torch.rand(3, 1, 28, 28)
    assert torch.allclose(narrowed.model(x), model(x), atol=1e-5)
