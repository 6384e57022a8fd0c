from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.models import build_model
from coppice.runfile import ModelSection


def parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those of them that are weights."""
    weights = sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight"))
    return sum(p.numel() for p in model.parameters()), weights


@pytest.mark.parametrize(
    ("name", "shape", "total", "weights"),
    [
        ("lenet-300-100", (28, 28), 266_610, 266_200),
        ("lenet-5", (28, 28), 431_080, 430_500),
        ("mlp", (8, 8), 64 * 300 + 300 * 100 + 100 * 10 + 410, 64 * 300 + 300 * 100 + 100 * 10),
    ],
)
def test_built_ins_have_the_published_sizes(
    name: str, shape: tuple[int, int], total: int, weights: int
) -> None:
    model = build_model(ModelSection(name=name), seed=1)
    assert parameters(model) == (total, weights)
    assert model(torch.zeros(2, 1, *shape)).shape == (2, 10)


def test_mlp_takes_its_sizes() -> None:
    model = build_model(
        ModelSection(name="mlp", arguments={"inputs": 6, "hidden": [5], "classes": 3}), seed=1
    )
    assert parameters(model) == (6 * 5 + 5 + 5 * 3 + 3, 45)
    assert model(torch.zeros(4, 2, 3)).shape == (4, 3)


def test_the_seed_alone_decides_the_weights_and_nothing_else_is_touched() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = build_model(ModelSection(name="lenet-5"), seed=3)
    assert torch.equal(torch.rand(3), expected)
    again = build_model(ModelSection(name="lenet-5"), seed=3)
    other = build_model(ModelSection(name="lenet-5"), seed=4)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


MINE = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Sizes:
    width: int = 4

def make(width=4):
    return nn.Linear(Sizes(width).width, 2)

class Nets:
    class Small(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)

number = 3

def gives_a_number():
    return 3
"""


def test_the_users_own_from_a_module_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coppice_test_my_nets.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    model = build_model(ModelSection(name="coppice_test_my_nets:make", arguments={"width": 6}), seed=1)
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == (2, 6)


@pytest.mark.parametrize("name", ["make", "Nets.Small"])
def test_the_users_own_from_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "with space.py"
    path.write_text(MINE)
    assert isinstance(build_model(ModelSection(name=f"{path}:{name}"), seed=1), nn.Linear)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("lenet", {}, "no built-in network 'lenet'; expected one of mlp, lenet-300-100, lenet-5"),
        ("lenet-5", {"classes": 3}, "cannot be built with the arguments ['classes']"),
        ("mlp", {"hidden": ["many"]}, "cannot be built"),
        ("no_such_module_here:make", {}, "no_such_module_here cannot be imported (ModuleNotFoundError"),
        ("{folder}/absent.py:make", {}, "there is no file"),
        ("{folder}/broken.py:make", {}, "cannot be imported (SyntaxError"),
        ("{folder}/mine.py:absent", {}, "has no 'absent'"),
        ("{folder}/mine.py:number", {}, "'number' in"),
        ("{folder}/mine.py:gives_a_number", {}, "gave int; it must return a torch.nn.Module"),
        ("{folder}/mine.py:make", {"depth": 1}, "check model.arguments"),
        (":make", {}, "no built-in network"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path, name: str, arguments: dict[str, object], said: str
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("def make(:\n")
    section = ModelSection(name=name.format(folder=tmp_path), arguments=arguments)
    with pytest.raises(CoppiceError) as caught:
        build_model(section, seed=1)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
