"""From a folder of scripts to a task in a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import yaml

from coppice.registry.registry import Registry, SetKind
from coppice.registry.tasks import TaskSettings

Example = Literal["digits", "mnist"]
EXAMPLES: tuple[Example, ...] = get_args(Example)
_KINDS: tuple[SetKind, ...] = ("train", "test", "predict")
_ARCHS: dict[Example, tuple[str, ...]] = {"digits": ("wide", "slim"), "mnist": ("lenet",)}


def folder_of(example: Example) -> Path:
    """Where its scripts are: to read, or to begin one's own from."""
    return Path(__file__).parent / example


def install(registry: Registry, example: Example) -> str:
    """Add the task with its architectures, and order a train set and a test set; the task's id."""
    folder = folder_of(example)
    settings = TaskSettings.model_validate(yaml.safe_load((folder / "task.yaml").read_text()))
    task = registry.add_task(settings, {kind: (folder / f"{kind}.py").read_bytes() for kind in _KINDS})
    for arch in _ARCHS[example]:
        scripts: dict[SetKind, bytes] = {
            "train": (folder / f"{arch}_train.py").read_bytes(),
            "test": (folder / "arch_test.py").read_bytes(),
            "predict": (folder / "arch_predict.py").read_bytes(),
        }
        registry.add_arch(task, scripts, arch)
    registry.order_set(task, "train")
    registry.order_set(task, "test")
    return task
