"""A model's file: safetensors, with the name of its network and what that was called with.

What is read here needs no torch: a worker passes models on without loading them.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.work.contents import json_from_bytes
from coppice.work.errors import BadContent

_MAX_HEADER_BYTES = 1 << 26
_NETWORK = re.compile(
    r"[A-Za-z0-9_-]+"  # a built-in one
    r"|(?![^:]*\.py:)[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_.]*"
    r"|(?P<script>arch/ARC\d{6}_(?:train|test|predict)\.py):[A-Za-z_][A-Za-z0-9_.]*",
    re.ASCII,
)
_RUN = re.compile(r"[0-9a-f]{0,32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model's file says of itself."""

    architecture: str
    """A built-in network, module:callable, or arch/ARC000001_train.py:callable."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for it."""
    parameters: int = 0
    """How many of its parameters are not cut."""
    parent: str | None = None
    compression: float | None = None
    run: str | None = None
    """Of a pruned model, see `coppice.registry.records.ModelRecord`."""

    @property
    def script(self) -> str | None:
        """The script of the registry that makes its network, if it is one."""
        match = _NETWORK.fullmatch(self.architecture)
        return None if match is None else match["script"]

    def metadata(self) -> dict[str, str]:
        """For the file's header."""
        said = {"architecture": self.architecture, "arguments": json.dumps(self.arguments, sort_keys=True)}
        if self.parameters or self.parent is not None:
            said["parameters"] = str(self.parameters)
        if self.parent is not None:
            said["parent"] = self.parent
            said["compression"] = repr(self.compression)
            said["run"] = self.run or ""
        return said


def read_info(content: bytes, origin: str) -> ModelInfo:
    """From a model's file; raises `RegistryError` if that is no whole safetensors file, or says not what its
    network is."""
    header = _header(content, origin)
    metadata = header.pop("__metadata__", {})
    wanted = "write it with coppice.registry.scripting.save_model, or see docs/registry.md, Scripts"
    if not isinstance(metadata, dict) or not isinstance(metadata.get("architecture"), str):
        raise RegistryError(f"{origin}: does not say its architecture; {wanted}")
    name = metadata["architecture"]
    if not _NETWORK.fullmatch(name):
        raise RegistryError(
            f"{origin}: its network {name!r:.80} is neither a built-in one, nor module:callable, nor "
            "arch/ARC000001_train.py:callable"
        )
    try:
        arguments = json_from_bytes(str(metadata.get("arguments", "{}")).encode(), "arguments")
        parameters = sum(math.prod(each["shape"]) for each in header.values())  # buffers, too
        said = str(metadata.get("parameters", ""))
        if said.isascii() and said.isdigit() and len(said) < 16 and int(said) <= parameters:
            parameters = int(said)
        pruned = _pruned(metadata) if "parent" in metadata else {}
    except (BadContent, ValueError, TypeError, KeyError) as error:
        raise RegistryError(f"{origin}: what it says of its network is damaged; {wanted}") from error
    return ModelInfo(name, arguments, **{"parameters": parameters, **pruned})


def _pruned(metadata: dict[str, Any]) -> dict[str, Any]:
    """What only a pruned model says; raises ValueError, TypeError or KeyError."""
    parent, run = layout.parse_id(metadata["parent"]), metadata["run"]
    parameters, compression = int(metadata["parameters"]), float(metadata["compression"])
    sound = parent is not None and parent[0] == "MDL" and _RUN.fullmatch(run)
    if not (sound and 0 <= parameters < 10**15 and 0 < compression < float("inf")):
        raise ValueError
    return {"parent": metadata["parent"], "run": run, "parameters": parameters, "compression": compression}


def with_info(content: bytes, info: ModelInfo, origin: str) -> bytes:
    """The same tensors under another header: what the model is."""
    header = _header(content, origin)
    header["__metadata__"] = info.metadata()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (size,) = struct.unpack("<Q", content[:8])
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _header(content: bytes, origin: str) -> dict[str, Any]:
    damaged = f"{origin}: not a whole safetensors file"
    if len(content) < 8:
        raise RegistryError(damaged)
    (size,) = struct.unpack("<Q", content[:8])
    if not 2 <= size <= min(_MAX_HEADER_BYTES, len(content) - 8):
        raise RegistryError(damaged)
    try:
        header = json_from_bytes(content[8 : 8 + size], origin)
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        whole = max(ends, default=0) == len(content) - 8 - size
    except (BadContent, TypeError, KeyError, IndexError, ValueError) as error:
        raise RegistryError(damaged) from error
    if not whole:
        raise RegistryError(damaged)
    return header


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As they will be read; raises `RegistryError` for what JSON does not keep."""
    try:
        text = json.dumps(dict(arguments), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RegistryError(
            f"arguments: only text, numbers, lists and mappings are kept ({error})"
        ) from error
    return json_from_bytes(text.encode(), "arguments")
