"""For the scripts of tasks and architectures: arrays in and out, models without pickles, a score.

    x, y = load_arrays(sys.argv[1], sys.argv[2])
    save_model(sys.argv[3], network, "lenet-300-100")

What a script is given, and what it is to write: docs/registry.md, Scripts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from coppice.registry.errors import RegistryError
from coppice.registry.models import ModelInfo, checked_arguments, read_info, with_info
from coppice.work.contents import array_from_file

REPORT_VARIABLE = "COPPICE_REPORT"

if TYPE_CHECKING:
    from torch import nn


def seed() -> int:
    """The number in the id of what is being made: another one for each train set, model, and so on."""
    return int(os.environ.get("COPPICE_SEED", "1"))


def report(step: int, percentage: float, **graphs: Mapping[str, float]) -> None:
    """Say how far the script is, 0 to 100 percent, and add a line to each of the metric logs named.

        report(epoch, 100 * epoch / epochs, loss={"epoch": epoch, "training": loss})

    The first value of a graph is its x axis. It costs nothing where nobody listens.
    """
    path = os.environ.get(REPORT_VARIABLE)
    if path:
        line = json.dumps(
            {"step": step, "percentage": percentage, "metrics": {k: dict(v) for k, v in graphs.items()}}
        )
        with open(path, "a") as file:
            file.write(line + "\n")


def load_arrays(*paths: str) -> tuple[npt.NDArray[Any], ...]:
    """The arrays in .npy files, never unpickled."""
    return tuple(array_from_file(path, path) for path in paths)


def save_array(path: str, array: npt.ArrayLike) -> None:
    """Write an array of plain numbers."""
    np.save(Path(path), np.asarray(array), allow_pickle=False)


def save_score(path: str, score: float) -> None:
    """Write a score: one finite number."""
    Path(path).write_text(f"{float(score)!r}\n")


def save_model(path: str, model: nn.Module, architecture: str, **arguments: Any) -> None:
    """Write a network's parameters and buffers, with what it is.

    architecture, arguments: what builds it again, as in a run file: a built-in network, module:callable, or
    arch/ARC000001_train.py:callable, and its keyword arguments.
    """
    from coppice.pruning.tensors import model_tensors, pack

    content = pack({name: tensor.detach() for name, tensor in model_tensors(model).items()})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    info = ModelInfo(architecture, checked_arguments(arguments), parameters)
    Path(path).write_bytes(with_info(content, info, path))


def load_model(path: str) -> nn.Module:
    """Build the network that a model's file names and fill it; ready to be used (eval)."""
    from coppice.models import build_model
    from coppice.pruning.tensors import fill_model, unpack
    from coppice.runfile import ModelSection

    content = Path(path).read_bytes()
    info = read_info(content, path)
    name = info.architecture
    if name.startswith("arch/"):
        folder = os.environ.get("COPPICE_SCRIPTS")
        if folder is None:
            raise RegistryError(f"{path}: its network is made by {name}, which only a worker has at hand")
        name = f"{folder}/{name.removeprefix('arch/')}"
    model = build_model(ModelSection(name=name, arguments=info.arguments), seed=1)
    fill_model(model, unpack(content, path)[0], path)
    return model.eval()
