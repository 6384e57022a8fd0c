from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from coppice.errors import CoppiceError
from coppice.models.builtin import mlp
from coppice.pruning.layers import PrunableLayer, find_layers
from tests.pruning.networks import Normed, Recurrent, Shared, lazy


def test_linear_and_conv_layers_are_found_in_order_and_others_left_alone() -> None:
    assert find_layers(Normed()) == (
        PrunableLayer("conv", "conv.weight", "conv.bias", (4, 1, 3, 3)),
        PrunableLayer("out", "out.weight", "out.bias", (10, 144)),
    )


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_convolutions_of_every_rank(kind: type[nn.Module]) -> None:
    (layer,) = find_layers(nn.Sequential(kind(2, 6, 3, groups=2)))
    assert (layer.name, layer.bias) == ("0", "0.bias")
    assert layer.shape[:2] == (6, 1)


def test_a_transposed_convolutions_bias_does_not_go_with_its_rows() -> None:
    (layer,) = find_layers(nn.Sequential(nn.ConvTranspose2d(2, 6, 3)))
    assert (layer.weight, layer.bias) == ("0.weight", None)


def test_a_network_that_is_one_layer_has_a_name() -> None:
    assert find_layers(nn.Linear(3, 2, bias=False)) == (PrunableLayer("model", "weight", None, (2, 3)),)


def test_a_shared_weight_is_one_layer() -> None:
    assert find_layers(Shared()) == (
        PrunableLayer("first", "first.weight", "first.bias", (64, 64)),
        PrunableLayer("out", "out.weight", "out.bias", (10, 64)),
    )


def test_a_weight_shared_with_an_embedding_is_found() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(7, 5), "out": nn.Linear(5, 7)})
    out = model["out"]
    assert isinstance(out, nn.Linear)
    out.weight = model["words"].weight  # type: ignore[assignment]
    (layer,) = find_layers(model)
    assert (layer.name, layer.weight) == ("out", "words.weight")


def test_the_run_file_may_name_layers() -> None:
    assert [layer.name for layer in find_layers(Normed(), ["out"])] == ["out"]
    with pytest.raises(CoppiceError, match="the network has no module 'fc9'"):
        find_layers(Normed(), ["fc9"])
    with pytest.raises(CoppiceError, match="'norm' is BatchNorm2d"):
        find_layers(Normed(), ["out", "norm"])


def test_parametrised_weights_are_left_alone() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    assert [layer.name for layer in find_layers(model)] == ["1"]
    with pytest.raises(CoppiceError, match="only Linear and Conv layers with plain weights"):
        find_layers(model, ["0"])


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(CoppiceError, match="nothing to prune"):
        find_layers(Recurrent())
    with pytest.raises(CoppiceError, match="nothing to prune"):
        find_layers(nn.Sequential(nn.ReLU()), [])


def test_layers_without_weights_are_refused() -> None:
    with (
        pytest.warns(UserWarning, match="zero-element"),
        pytest.raises(CoppiceError, match=r"fc1 has no weights \(shape \(0, 64\)\)"),
    ):
        find_layers(mlp(hidden=[0]))


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(CoppiceError, match=r"1\.weight has no shape yet"):
        find_layers(lazy())


def test_finding_changes_nothing() -> None:
    model = Normed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_layers(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
