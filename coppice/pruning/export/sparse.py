"""The sparse file: safetensors whose size falls with the weights that are left.

A tensor that is mostly zero is stored as its other values and the gaps between them. A gap is one or more
codes of `bits` bits: one below the highest means so many zeros and then a value; the highest, 2**bits - 1,
means so many zeros, and the gap goes on. With one bit that is a bitmap. Whichever of 1 to 16 bits is smallest
is taken. `loaders/load_model.py` reads it without Coppice, and is the only reader there is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.pruning.tensors import Tensors, pack

GAPS = ":gaps"
VALUES = ":values"
WIDTHS = range(1, 17)
"""Wider codes never pay: with 16 bits the longest gaps cost a bit in 2,048 elements."""
ENTRY_BYTES = 160
"""What a second tensor costs in safetensors' header, about."""
_SPARSE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_ROUNDED = (torch.float32, torch.float64)

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SparseFile:
    """A network's tensors, packed."""

    content: bytes
    warnings: list[str] = field(default_factory=list)


def pack_sparse(
    tensors: Mapping[str, torch.Tensor], *, half: bool = False, about: Mapping[str, Any] | None = None
) -> SparseFile:
    """`tensors` as the bytes of a sparse file; equal input, equal bytes.

    Every value comes back to the bit, but for -0.0, which comes back as 0.0. With `half`, float32 and float64
    are rounded to float16; a tensor with a value that would become infinite, or of values that are all
    too small for its digits, stays as it is, with a warning.
    `about`: further keys of the file's JSON. The same tensor object under two names is stored once.
    """
    stored: Tensors = {}
    sparse: dict[str, dict[str, Any]] = {}
    dtypes: dict[str, str] = {}
    same: dict[str, str] = {}
    warnings: list[str] = []
    first: dict[int, str] = {}
    for name, given in tensors.items():
        if id(given) in first:
            same[name] = first[id(given)]
            continue
        first[id(given)] = name
        tensor = given.detach().cpu()
        if half and tensor.dtype in _ROUNDED:
            rounded, lost = _half(tensor)
            if lost:
                warnings.append(f"{name} is kept as {_name(tensor.dtype)}: {lost}")
            else:
                dtypes[name] = _name(tensor.dtype)
                tensor = rounded
        taken = {name + GAPS, name + VALUES} & tensors.keys()
        packed = None if taken or tensor.dtype not in _SPARSE else _sparse(tensor)
        if packed is None:
            stored[name] = tensor.clone()  # safetensors takes no two tensors of one storage
        else:
            bits, gaps, values = packed
            sparse[name] = {"shape": list(tensor.shape), "bits": bits}
            stored[name + GAPS] = torch.from_numpy(gaps)
            stored[name + VALUES] = values
    info = {"format": 1, "sparse": sparse, "dtypes": dtypes, "same": same, **(about or {})}
    return SparseFile(pack(stored, info), warnings)


def state_of(model: nn.Module) -> Tensors:
    """The state_dict's tensors; one that has two names is the same object under both."""
    return {k: t for k, t in model.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}


def rounded_to_half(model: nn.Module) -> nn.Module:
    """A copy of `model` with the values that a file written with `half` gives back."""
    model = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype in _ROUNDED:
            rounded, lost = _half(tensor.detach())
            if not lost:
                tensor.data.copy_(rounded)
    return model


def _half(tensor: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Rounded to float16, and what of it was lost, "" for nothing but digits."""
    rounded = tensor.to(torch.float16)
    large = tensor[rounded.isinf() & tensor.isfinite()].abs()
    if len(large):
        return rounded, (
            f"{len(large):,} of its values are too large for float16 (the largest is "
            f"{float(large.max()):.4g}, float16 ends at 65504)"
        )
    # In a tensor with larger values, what becomes 0 is less than these are rounded by.
    largest = tensor.abs().max() if tensor.numel() else tensor.new_zeros(())
    if 0 < largest < torch.finfo(torch.float16).tiny:
        return rounded, (
            f"its values are too small for float16 (the largest is {float(largest):.4g}, float16 has all its "
            "digits from 6.1e-05 on)"
        )
    return rounded, ""


def _sparse(tensor: torch.Tensor) -> tuple[int, Bytes, torch.Tensor] | None:
    """Code width, packed gaps, uint8, and values; None where the plain tensor is smaller."""
    flat = tensor.flatten()
    positions = flat.nonzero().flatten()  # int64, ascending; NaN counts
    size = tensor.element_size()
    if len(positions) * size + ENTRY_BYTES >= tensor.numel() * size:
        return None
    gaps: Int64s = np.diff(positions.numpy(), prepend=-1) - 1
    bits = min(WIDTHS, key=lambda width: _packed_bytes(gaps, width))
    if len(positions) * size + _packed_bytes(gaps, bits) + ENTRY_BYTES >= tensor.numel() * size:
        return None
    return bits, _packed(gaps, bits), flat[positions]


def _packed_bytes(gaps: Int64s, width: int) -> int:
    codes = len(gaps) + int((gaps // (2**width - 1)).sum())
    return math.ceil(codes * width / 8)


def _packed(gaps: Int64s, width: int) -> Bytes:
    top = 2**width - 1
    more = gaps // top
    ends = np.cumsum(more + 1) - 1  # where each gap's last code stands
    codes = np.full(int(ends[-1]) + 1 if len(ends) else 0, top, dtype=np.uint16)
    codes[ends] = gaps - more * top
    bits = (codes[:, None] >> np.arange(width, dtype=np.uint16)) & 1
    # The last byte is filled with ones, so that no further value can be read from it.
    filled = np.pad(bits.astype(np.uint8).ravel(), (0, -bits.size % 8), constant_values=1)
    return np.packbits(filled, bitorder="little")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
