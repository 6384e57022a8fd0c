"""A pruner's checkpoint: all tensors and numbers that its future depends on, as safetensors bytes."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn
from typing_extensions import TypedDict

from coppice.errors import CoppiceError
from coppice.pruning.best import Best, best_from
from coppice.pruning.contract import Float64s
from coppice.pruning.sgd import MaskedSGD
from coppice.pruning.steps import Steps
from coppice.pruning.tensors import Tensors, model_tensors, pack, unpack
from coppice.runfile import RunFile

_VERSION = 5
_BEST: Literal["best"] = "best"
"""In place of the result: it is the best network."""
_Count = Annotated[int, Field(ge=0, lt=10**15)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Measure(TypedDict):
    parameters_total: _Count
    parameters_remaining: _Count
    weights_total: _Count
    weights_remaining: _Count
    layer_remaining: list[_Count]
    accuracy: _Share
    feasible: bool


class _BestInfo(TypedDict):
    measure: _Measure
    crates: list[_Number]
    limits: list[_Number] | None


class _Info(TypedDict):
    """The numbers beside the tensors."""

    iteration: _Count
    reference_left: _Count
    reference_accuracy: _Share | None
    crates: list[_Number]
    limits: list[_Number] | None
    losses: _Count
    meant: _Count
    boldness: Annotated[float, Field(gt=0, le=1)]
    paced_from: Annotated[int, Field(ge=1, lt=10**15)] | None
    waits: bool
    best: _BestInfo | None
    result: _BestInfo | Literal["best"] | None


_INFO = TypeAdapter(_Info)


class Saved(Protocol):
    """What of a pruner is saved, beside the tensors of its network, its optimizer and its steps."""

    run: RunFile
    """Not saved itself; a checkpoint says which it is of."""
    model: nn.Module
    sgd: MaskedSGD
    steps: Steps
    masks: Tensors
    reference: Tensors
    """The dense network's; empty until it is trained."""
    reference_left: int
    """Iterations of its training."""
    reference_accuracy: float
    """NaN until it is trained."""
    iteration: int
    crates: Float64s
    limits: tuple[float, ...] | None
    boldness: float
    paced_from: int | None
    waits: bool
    best: Best | None
    result: Best | None


def identity(run: RunFile) -> str:
    """What of a run file a checkpoint belongs to: all but its name, its place and its evaluators."""
    content = run.model_dump(mode="json", exclude={"name", "work", "evaluators"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_state(pruner: Saved) -> bytes:
    """Everything, to the bit; equal states give equal bytes."""
    best = pruner.best
    result = None if pruner.result is best else pruner.result
    groups: dict[str, Tensors] = {
        "value": pruner.sgd.values,
        "momentum": pruner.sgd.momentum,
        "mean": pruner.sgd.mean,
        "mask": pruner.masks,
        "buffer": _buffers(pruner),
        "reference": pruner.reference,
        "best": {} if best is None else best.values,
        "best_mask": {} if best is None else best.masks,
        "result": {} if result is None else result.values,
        "result_mask": {} if result is None else result.masks,
    }
    tensors = {f"{group}.{name}": tensor for group, held in groups.items() for name, tensor in held.items()}
    tensors["mean_loss"] = pruner.steps.mean_loss
    info = {
        "version": _VERSION,
        "identity": identity(pruner.run),
        "iteration": pruner.iteration,
        "reference_left": pruner.reference_left,
        "reference_accuracy": None if pruner.reference_left else pruner.reference_accuracy,
        "crates": pruner.crates.tolist(),
        "limits": None if pruner.limits is None else list(pruner.limits),
        "losses": pruner.steps.losses,
        "meant": pruner.sgd.meant,
        "boldness": pruner.boldness,
        "paced_from": pruner.paced_from,
        "waits": pruner.waits,
        "best": None if best is None else best.info(),
        "result": result.info() if result is not None else None if pruner.result is None else _BEST,
    }
    return pack(tensors, info)


def load_state(pruner: Saved, content: bytes, device: torch.device) -> None:
    """Make `pruner`, built from the same run file, what it was when `content` was saved.

    Raises `CoppiceError` for anything else; then the pruner is unchanged.
    """
    tensors, info = unpack(content, "checkpoint")
    if info.get("version") != _VERSION:
        raise CoppiceError("checkpoint: not one of this version of Coppice; start the run with --fresh")
    if info.get("identity") != identity(pruner.run):
        raise CoppiceError("checkpoint: of another run file or seed; start the run with --fresh")
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor.to(device)
    own: dict[str, Tensors] = {
        "value": pruner.sgd.values,
        "momentum": pruner.sgd.momentum,
        "mask": pruner.masks,
        "buffer": _buffers(pruner),
    }
    for group, expected in own.items():
        _same(group, groups.get(group, {}), expected)
    for group in ("reference", "best", "result"):
        if group in groups:
            _same(group, groups[group], model_tensors(pruner.model))
    if "mean" in groups:
        _same("mean", groups["mean"], pruner.sgd.values)
    for group in ("best_mask", "result_mask"):
        if group in groups:
            _same(group, groups[group], pruner.masks)
    _same("mean_loss", groups.get("mean_loss", {}), {"": pruner.steps.mean_loss})
    _fill(pruner, groups, _checked(pruner, groups, info))


def _checked(pruner: Saved, groups: dict[str, Tensors], info: dict[str, object]) -> _Info:
    try:
        numbers = _INFO.validate_python(info)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CoppiceError(f"checkpoint: {key} is not as it was saved; start the run with --fresh") from error
    layers = len(pruner.crates)
    listed = [numbers["crates"], numbers["limits"]]
    networks = {"best": numbers["best"], "result": _apart(numbers)}
    for kept in networks.values():
        if kept is not None:
            listed += [kept["crates"], kept["limits"], [*kept["measure"]["layer_remaining"]]]
    if any(each is not None and len(each) != layers for each in listed):
        raise CoppiceError(f"checkpoint: not of a network with {layers} layers; another network?")
    if (numbers["reference_accuracy"] is None) != (numbers["reference_left"] > 0):
        raise CoppiceError(
            "checkpoint: reference_accuracy is not as it was saved; start the run with --fresh"
        )
    if numbers["reference_left"] == 0 and "reference" not in groups:
        raise CoppiceError("checkpoint: the reference is missing in it; start the run with --fresh")
    if (numbers["meant"] > 0) != ("mean" in groups):
        raise CoppiceError("checkpoint: the mean of the weights is missing in it; start the run with --fresh")
    for name, kept in networks.items():
        if kept is not None and not {name, f"{name}_mask"} <= groups.keys():
            raise CoppiceError(f"checkpoint: the {name} network is missing in it; start the run with --fresh")
    if numbers["result"] == _BEST and numbers["best"] is None:
        raise CoppiceError("checkpoint: the best network is missing in it; start the run with --fresh")
    return numbers


def _apart(numbers: _Info) -> _BestInfo | None:
    """The result, where it is not the best network."""
    return None if numbers["result"] == _BEST else numbers["result"]


def _fill(pruner: Saved, groups: dict[str, Tensors], info: _Info) -> None:
    pruner.steps.forget()
    with torch.no_grad():
        for name, buffer in _buffers(pruner).items():
            buffer.copy_(groups["buffer"][name])
        for name, value in pruner.sgd.values.items():
            value.copy_(groups["value"][name])
            pruner.sgd.momentum[name].copy_(groups["momentum"][name])
        pruner.steps.mean_loss.copy_(groups["mean_loss"][""])
    pruner.sgd.mean, pruner.sgd.meant = groups.get("mean", {}), info["meant"]
    pruner.masks = groups["mask"]
    pruner.reference = groups.get("reference", {})
    pruner.iteration = info["iteration"]
    pruner.reference_left = info["reference_left"]
    accuracy = info["reference_accuracy"]
    pruner.reference_accuracy = float("nan") if accuracy is None else accuracy
    pruner.crates = np.array(info["crates"], dtype=np.float64)
    pruner.limits = None if info["limits"] is None else tuple(info["limits"])
    pruner.steps.losses = info["losses"]
    pruner.boldness = info["boldness"]
    pruner.paced_from, pruner.waits = info["paced_from"], info["waits"]
    pruner.best = _network(info["best"], groups, "best")
    pruner.result = pruner.best if info["result"] == _BEST else _network(_apart(info), groups, "result")


def _network(info: _BestInfo | None, groups: dict[str, Tensors], group: str) -> Best | None:
    return None if info is None else best_from(info, groups[group], groups[f"{group}_mask"])


def _buffers(pruner: Saved) -> Tensors:
    own = model_tensors(pruner.model)
    return {name: tensor for name, tensor in own.items() if name not in pruner.sgd.values}


def _same(group: str, given: Tensors, expected: Tensors) -> None:
    for name in sorted(set(given) ^ set(expected)):
        raise CoppiceError(
            f"checkpoint: {group} {name!r} is not in both it and the network; another network?"
        )
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape or given[name].dtype != tensor.dtype:
            raise CoppiceError(f"checkpoint: {group} {name!r} has another shape or dtype; another network?")
