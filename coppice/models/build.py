"""From the run file's `model:` section to a torch module."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.models.builtin import lenet_5, lenet_300_100, mlp
from coppice.runfile import ModelSection

BUILTIN: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
}


def build_model(section: ModelSection, seed: int) -> nn.Module:
    """The network of a run file, on the CPU, initialised from `seed` alone.

    torch's global random state is left as it was. Raises `CoppiceError` in one line if the name is
    unknown, cannot be imported or called, or gives no torch.nn.Module.
    """
    make = _find(section.name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % 2**63)
        try:
            model = make(**section.arguments)
        except Exception as error:  # the user's own code: whatever it raises is for them to read
            raise CoppiceError(
                f"model.name: {section.name} cannot be built with the arguments {sorted(section.arguments)} "
                f"({_brief(error)}); check model.arguments"
            ) from error
    if not isinstance(model, nn.Module):
        raise CoppiceError(
            f"model.name: {section.name} gave {type(model).__name__}; it must return a torch.nn.Module"
        )
    return model


def _find(name: str) -> Callable[..., Any]:
    if name in BUILTIN:
        return BUILTIN[name]
    place, colon, attribute = name.rpartition(":")
    if not (colon and place and attribute):
        raise CoppiceError(
            f"model.name: no built-in network {name!r}; expected one of {', '.join(BUILTIN)}, "
            "or your own as module:callable or file.py:callable"
        )
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _import(place)
    except CoppiceError:
        raise
    except Exception as error:  # importing runs the user's code
        raise CoppiceError(f"model.name: {place} cannot be imported ({_brief(error)})") from error
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise CoppiceError(f"model.name: {place} has no {attribute!r}")
    if not callable(found):
        raise CoppiceError(
            f"model.name: {attribute!r} in {place} is {type(found).__name__}, not callable; "
            "name a class or a function that returns a torch.nn.Module"
        )
    return found  # type: ignore[no-any-return]


def _import(name: str) -> Any:
    # The console script does not have the current folder on its path, as `python` has; users expect it.
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise CoppiceError(f"model.name: there is no file {path} (looked from {os.getcwd()})")
    spec = importlib.util.spec_from_file_location(f"coppice_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CoppiceError(f"model.name: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses in the file look themselves up here
    spec.loader.exec_module(module)
    return module


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
