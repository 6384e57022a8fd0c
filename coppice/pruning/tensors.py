"""Named tensors as safetensors bytes, with one JSON object beside them; nothing is ever pickled."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from coppice.errors import CoppiceError
from coppice.work.contents import json_from_bytes

Tensors = dict[str, torch.Tensor]
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""What is turned into one another."""
_KEY = "coppice"
# One key only: safetensors does not promise the order of several, and equal states must give equal bytes.


def pack(tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any] | None = None) -> bytes:
    """safetensors bytes; `info` is kept as JSON under one metadata key. Equal input, equal bytes."""
    metadata = None if info is None else {_KEY: json.dumps(info, sort_keys=True, allow_nan=False)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(safetensors.torch.save(plain, metadata))


def unpack(content: bytes, origin: str) -> tuple[Tensors, dict[str, Any]]:
    """Tensors on the CPU and the JSON object ({} if there is none).

    Raises `CoppiceError` naming `origin` if these are no safetensors bytes.
    """
    try:
        tensors = safetensors.torch.load(content)
        (size,) = struct.unpack("<Q", content[:8])
        metadata = json_from_bytes(content[8 : 8 + size], origin).get("__metadata__", {})
        info = json_from_bytes(metadata.get(_KEY, "{}").encode(), origin)
    except CoppiceError:
        raise
    except Exception as error:  # safetensors and torch raise half a dozen types on damaged input
        raise CoppiceError(f"{origin}: not a whole safetensors file") from error
    return tensors, info


def model_tensors(model: nn.Module) -> Tensors:
    """The network's parameters and persistent buffers, each once, by the first of its names.

    The tensors are the network's own, not copies.
    """
    found: Tensors = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def fill_model(model: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Set the network's parameters and buffers from `tensors`, found by any of their names.

    Raises `CoppiceError` naming `origin` if one is missing, left over, or of another shape; and if the
    network has not got its own shapes yet.
    """
    own = {k: t for k, t in model.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise CoppiceError(
            f"{origin}: holds {unknown[0]!r}, which the network does not have; check model.name"
        )
    aliases: dict[int, list[str]] = {}
    for name, tensor in own.items():
        aliases.setdefault(id(tensor), []).append(name)
    with torch.no_grad():
        for names in aliases.values():
            given = next((tensors[name] for name in names if name in tensors), None)
            if given is None:
                raise CoppiceError(f"{origin}: {names[0]!r} of the network is missing; check model.name")
            target = own[names[0]]
            if is_lazy(target):
                raise CoppiceError(
                    f"model: {names[0]} has no shape yet (a lazy module); build it with its sizes"
                )
            if given.shape != target.shape:
                raise CoppiceError(
                    f"{origin}: {names[0]!r} has shape {tuple(given.shape)}, the network needs "
                    f"{tuple(target.shape)}; check model.arguments"
                )
            if given.dtype != target.dtype and {given.dtype, target.dtype} - _FLOATS:
                raise CoppiceError(
                    f"{origin}: {names[0]!r} is {given.dtype}, the network needs {target.dtype}"
                )
            values = given.to(target.dtype)  # where a float64 may become infinite
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise CoppiceError(f"{origin}: {names[0]!r} holds NaN or infinite numbers")
            target.copy_(values)


def load_weights_file(model: nn.Module, path: str) -> None:
    """Fill the network from a user's .safetensors file."""
    try:
        content = Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # ~somebody, who has no home
        raise CoppiceError(
            f"reference.weights: {path} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    tensors, _ = unpack(content, f"reference.weights: {path}")
    fill_model(model, tensors, f"reference.weights: {path}")
