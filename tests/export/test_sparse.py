"""The sparse file gives every bit back, by the loader that stands beside it, and is small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.models.builtin import lenet_300_100
from coppice.pruning.export import loaders
from coppice.pruning.export.loaders.load_model import load, read
from coppice.pruning.export.sparse import pack_sparse, rounded_to_half, state_of
from coppice.pruning.tensors import Tensors, pack
from tests.export.networks import cut
from tests.pruning.networks import Shared

LOADERS = Path(loaders.__file__).parent


def through(tensors: Tensors, folder: Path, half: bool = False) -> Tensors:
    """Packed, written, and read by the loader."""
    path = folder / "model.safetensors"
    path.write_bytes(pack_sparse(tensors, half=half).content)
    return load(str(path))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the bit, NaN included; -0.0 counts as 0.0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.equal(*((t + 0).flatten().view(views[t.element_size()]) for t in (one, other)))


@st.composite
def tensor(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 40), max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    keep = draw(st.sampled_from([0.0, 0.0002, 0.01, 0.1, 0.5, 0.9, 1.0]))
    values = 4 * torch.randn(shape, generator=random, dtype=torch.float64)
    values *= torch.rand(shape, generator=random) < keep
    return values.to(dtype)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b.weight", "c:gaps", "c", "c:values"]), tensor()))
def test_every_tensor_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, tensors: Tensors
) -> None:
    back = through(tensors, tmp_path_factory.mktemp("sparse"))
    assert back.keys() == tensors.keys()
    assert all(same_bits(back[name], tensors[name]) for name in tensors)


@settings(deadline=None)
@given(st.floats(0.0001, 0.5), st.integers(0, 2**32))
def test_it_is_never_larger_than_dense_and_near_the_entropy(keep: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(400, 250, generator=random) * (torch.rand(400, 250, generator=random) < keep)
    kept = int(weight.count_nonzero())
    size = len(pack_sparse({"w": weight}).content)
    share = torch.tensor(max(kept, 1) / weight.numel())
    entropy = (
        float(-(share * share.log2() + (1 - share) * (1 - share).clamp(1e-9).log2())) * weight.numel() / 8
    )
    assert size <= 4 * weight.numel() + 250
    assert size <= 4 * kept + 1.25 * entropy + 400


def test_what_there_is_besides_plain_weights(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.0),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "nothing": torch.zeros(500, 500),
        "turned": (torch.arange(60.0).reshape(6, 10) * (torch.arange(60).reshape(6, 10) % 7 == 0)).t(),
        "odd": torch.zeros(3000),
        "u16": torch.tensor([1, 65_535], dtype=torch.uint16),
        "u32": torch.tensor([1, 2**32 - 1], dtype=torch.uint32),
        "u64": torch.tensor([1, 2**63], dtype=torch.uint64),
    }
    tensors["odd"][[5, 2999]] = torch.tensor([float("nan"), float("-inf")])
    back = through(tensors, tmp_path)
    assert all(same_bits(back[name], tensors[name]) for name in tensors)
    assert (tmp_path / "model.safetensors").stat().st_size < 2000


@pytest.mark.parametrize("distance", [0, 1, 254, 255, 256, 65534, 65535, 65536, 200_000])
def test_gaps_around_the_highest_code(distance: int, tmp_path: Path) -> None:
    tensor = torch.zeros(2 * distance + 700)
    tensor[[0, distance + 1, 2 * distance + 2, *range(2 * distance + 400, 2 * distance + 420)]] = 1.5
    assert same_bits(through({"t": tensor}, tmp_path)["t"], tensor)


def test_a_tensor_under_two_names_is_stored_once_and_is_one_again(tmp_path: Path) -> None:
    model = cut(Shared(16, 4), 0.5)
    back = through(state_of(model), tmp_path)
    assert back["first.weight"] is back["twin.weight"]
    assert "twin.weight" not in read(str(tmp_path / "model.safetensors"))[0]
    fresh = Shared(16, 4)
    fresh.load_state_dict(back)
    x = torch.rand(5, 16)
    assert torch.equal(fresh(x), model(x))


def test_float16_is_nearest_and_says_what_does_not_fit(tmp_path: Path) -> None:
    model = cut(lenet_300_100(), 0.01)
    with torch.no_grad():
        dict(model.named_parameters())["fc2.bias"][3] = 1e6
    state = state_of(model)
    packed = pack_sparse(state, half=True)
    (warning,) = packed.warnings
    assert "fc2.bias is kept as float32: 1 of its values" in warning
    back = through(state, tmp_path, half=True)
    rounded = rounded_to_half(model).state_dict()
    for name, tensor in state.items():
        assert back[name].dtype == torch.float32
        expected = tensor if name == "fc2.bias" else tensor.half().float()
        assert same_bits(back[name], expected.detach())
        assert same_bits(back[name], rounded[name])
    assert len(packed.content) < 0.7 * len(pack_sparse(state).content)


def test_float16_keeps_what_is_too_small_for_it(tmp_path: Path) -> None:
    mixed = torch.tensor([0.5, 1e-9])
    state = {"small": torch.full((6, 8), 1e-8), "plain": torch.full((6, 8), 0.5), "mixed": mixed}
    (warning,) = pack_sparse(state, half=True).warnings
    assert warning == (
        "small is kept as float32: its values are too small for float16 (the largest is 1e-08, float16 has "
        "all its digits from 6.1e-05 on)"
    )
    back = through(state, tmp_path, half=True)
    assert same_bits(back["small"], state["small"])
    assert back["mixed"].tolist() == [0.5, 0.0], "less than 0.5 may be rounded by"


def test_at_100x_it_is_more_than_40x_smaller() -> None:
    model = cut(lenet_300_100(), 0.0085, with_biases=True)
    state = state_of(model)
    kept = sum(int(tensor.count_nonzero()) for tensor in state.values())
    assert 95 < 266_610 / kept < 110
    dense = len(pack({name: tensor.clone() for name, tensor in state.items()}))
    assert dense / len(pack_sparse(state).content) > 60
    assert dense / len(pack_sparse(state, half=True).content) > 90


def test_equal_input_gives_equal_bytes() -> None:
    state = state_of(cut(lenet_300_100(), 0.02))
    assert pack_sparse(state).content == pack_sparse(dict(state)).content


# The loader


def test_the_loader_needs_torch_alone(tmp_path: Path) -> None:
    state = state_of(cut(lenet_300_100(), 0.01))
    (tmp_path / "model.safetensors").write_bytes(pack_sparse(state).content)
    (tmp_path / "load_model.py").write_bytes((LOADERS / "load_model.py").read_bytes())
    torch.save(state, tmp_path / "expected.pt")
    script = """
import sys
for name in ("coppice", "safetensors", "numpy"):
    sys.modules[name] = None          # importing them fails
from load_model import load
import torch
back, expected = load("model.safetensors"), torch.load("expected.pt", weights_only=True)
assert back.keys() == expected.keys()
assert all(torch.equal(back[name], expected[name]) for name in expected)
print("the same")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


@pytest.mark.parametrize("name", ["load_model.py", "load_narrow.py"])
def test_the_loaders_import_nothing_else(name: str) -> None:
    tree = ast.parse((LOADERS / name).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    assert imported <= {"__future__", "json", "typing", "collections", "torch", "load_model"}
