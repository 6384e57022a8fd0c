"""Reads model.safetensors, which keeps only the weights that are left. Needs torch, and no Coppice.

    from load_model import load
    net.load_state_dict(load("model.safetensors"))     # net: the network's own class, with its own sizes

A tensor that is mostly zero is kept as its other values, and as the gaps between them, in codes of a few
bits (lowest bit first): a code below the highest says how many zeros stand before the next value, the
highest one says that so many zeros follow and that the gap is not over.
"""

from __future__ import annotations

import json
from typing import Any

import torch

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
DTYPES |= {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "C64": "complex64"}
DTYPES |= {"U16": "uint16", "U32": "uint32", "U64": "uint64"}


def read(path: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A safetensors file: its tensors by name, and what stands in it about them."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    about = json.loads(header.pop("__metadata__")["coppice"])
    tensors = {}
    for name, entry in header.items():
        part = bytearray(data[slice(*entry["data_offsets"])])
        dtype = getattr(torch, DTYPES.get(entry["dtype"], entry["dtype"].lower()))
        flat = torch.frombuffer(part, dtype=dtype) if part else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, about


def load(path: str) -> dict[str, torch.Tensor]:
    """The state_dict: every tensor under its own name, in full, zeros where weights were cut."""
    tensors, about = read(path)
    for name, how in about["sparse"].items():
        gaps, values, width = tensors.pop(name + ":gaps"), tensors.pop(name + ":values"), how["bits"]
        bits = (gaps[:, None] >> torch.arange(8, dtype=torch.uint8)).flatten() & 1
        bits = bits[: len(bits) // width * width].view(-1, width)
        codes = (bits.long() << torch.arange(width)).sum(1)
        kept = codes < 2**width - 1
        tensors[name] = torch.zeros(how["shape"], dtype=values.dtype)
        tensors[name].view(-1)[((codes + kept).cumsum(0) - 1)[kept]] = values
    for name, dtype in about["dtypes"].items():  # what was rounded to float16
        tensors[name] = tensors[name].to(getattr(torch, dtype))
    for name, first in about["same"].items():  # one tensor under two names
        tensors[name] = tensors[first]
    return tensors
