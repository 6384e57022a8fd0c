"""The forms in which the work folder's files hold arrays, bundles of parts, and JSON.

Every reader refuses what it does not understand with `BadContent`; nothing is evaluated, nothing unpickled.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from coppice.work.errors import BadContent

Float64s = npt.NDArray[np.float64]

_MAX_ZIP_ENTRIES = 16
_MAX_ZIP_LIST_BYTES = 1 << 16
"""Names and places of so many parts are shorter."""
_ZIP_COUNT = slice(-12, -10)
"""Where a zip without a comment says how many parts it has, in its last 22 bytes,"""
_ZIP_LIST, _ZIP64_LIST = slice(-10, -6), slice(-58, -50)
"""and how long its list of them is; the latter counts where a mark in front of those 22 bytes says so."""
_ZIP64_MARK = slice(-42, -38)
_MAX_DEPTH = 60
"""Of JSON and YAML: Python gives up at some hundreds, at another number in every place."""
_MAX_DIGITS = 300
"""Of a whole number in JSON: every such number can be made a float and written out."""
_MAX_DIMENSION = 2**48
_MAX_DIMENSIONS = 32
"""What every numpy can hold."""


# Arrays


def array_to_bytes(array: npt.NDArray[Any]) -> bytes:
    """The .npy form of an array of numbers."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False)
    return buffer.getvalue()


def array_from_bytes(data: bytes, name: str) -> npt.NDArray[Any]:
    """The array in a .npy file; raises `BadContent` for anything else.

    Written out here instead of np.load because that allocates what the header promises before it looks
    whether the data is there.
    """
    stream = io.BytesIO(data)
    shape, fortran, dtype = array_header(stream, name, len(data))
    flat = np.frombuffer(memoryview(data)[stream.tell() :], dtype=dtype)
    return _shaped(flat, shape, fortran, name).copy()


def array_from_file(path: str | Path, name: str) -> npt.NDArray[Any]:
    """The array in a .npy file of the user's, of any size; raises `BadContent` and `OSError`."""
    with open(path, "rb") as file:
        shape, fortran, dtype = array_header(file, name, os.fstat(file.fileno()).st_size)
        flat = np.fromfile(file, dtype=dtype, count=math.prod(shape))
    if len(flat) != math.prod(shape):
        raise BadContent(f"{name}: truncated while it was read")
    return _shaped(flat, shape, fortran, name)


def _shaped(flat: npt.NDArray[Any], shape: tuple[int, ...], fortran: bool, name: str) -> npt.NDArray[Any]:
    try:
        return flat.reshape(shape, order="F" if fortran else "C")
    except ValueError as error:  # (2**40, 0, 2**40): no bytes, and yet too big for numpy
        raise BadContent(f"{name}: impossible shape {_brief(shape)}") from error


def array_header(stream: BinaryIO, name: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order (True: Fortran's) and dtype of plain numbers that fill the rest of a .npy file of `size`
    bytes; `stream` is left at the first of them. Raises `BadContent`."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise BadContent(f"{name}: .npy version {version} is not known here")
    except BadContent:
        raise
    except Exception as error:  # numpy raises ValueError, but also Syntax-, Type- and OverflowError
        raise BadContent(f"{name}: not a whole .npy file ({str(error)[:120]})") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise BadContent(f"{name}: holds {str(dtype)[:80]}, expected plain numbers")
    if any(type(n) is not int or not 0 <= n <= _MAX_DIMENSION for n in shape) or len(shape) > _MAX_DIMENSIONS:
        raise BadContent(f"{name}: impossible shape {_brief(shape)}")
    there, needed = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if there != needed:
        raise BadContent(
            f"{name}: truncated or damaged: {there} bytes of data where "
            f"{_brief(shape)} {dtype} needs {needed}"
        )
    return shape, bool(fortran), dtype


def _brief(value: object) -> str:
    """Short text for a complaint."""
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        return "of huge numbers"


def vector_from_bytes(data: bytes, name: str, length: int | None = None) -> Float64s:
    """A finite float64 vector, (length,) if a length is given; raises `BadContent`."""
    array = array_from_bytes(data, name)
    if array.dtype != np.float64 or array.ndim != 1:
        raise BadContent(f"{name}: expected a float64 vector, found {array.dtype} of shape {array.shape}")
    if length is not None and len(array) != length:
        raise BadContent(f"{name}: expected {length} values, found {len(array)}")
    if not np.isfinite(array).all():
        raise BadContent(f"{name}: holds NaN or infinity")
    return array


def accuracy_from_bytes(data: bytes, name: str) -> float:
    """A file that holds one accuracy, from 0 to 1; raises `BadContent`."""
    accuracy = float(vector_from_bytes(data, name, 1)[0])
    if not 0 <= accuracy <= 1:
        raise BadContent(f"{name}: expected an accuracy from 0 to 1, found {accuracy:g}")
    return accuracy


def matrix_from_bytes(data: bytes, name: str) -> Float64s:
    """A finite float64 matrix that is not empty; raises `BadContent`."""
    array = array_from_bytes(data, name)
    if array.dtype != np.float64 or array.ndim != 2 or array.size == 0:
        raise BadContent(f"{name}: expected a float64 matrix, found {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise BadContent(f"{name}: holds NaN or infinity")
    return array


# Bundles: several named byte strings in one file


def bundle_to_bytes(parts: dict[str, bytes]) -> bytes:
    """An uncompressed zip of the parts: one file, so saved whole or not at all, with a CRC for each part.

    The same parts give the same bytes (no time stamps).
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in parts.items():
            bundle.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def bundle_from_bytes(data: bytes, name: str) -> dict[str, bytes]:
    """The parts of a bundle; raises `BadContent` where a byte is wrong or missing."""
    try:
        listed = int.from_bytes(data[_ZIP64_LIST if data[_ZIP64_MARK] == b"PK\6\7" else _ZIP_LIST], "little")
        if listed > _MAX_ZIP_LIST_BYTES:  # zipfile would take it all apart before it can be counted
            raise BadContent(f"{name}: truncated or damaged (its list of parts is too long)")
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            infos = bundle.infolist()
            if len(infos) > _MAX_ZIP_ENTRIES or any(i.compress_type != zipfile.ZIP_STORED for i in infos):
                raise BadContent(f"{name}: not one of Coppice's bundles")
            # zipfile itself does not miss a part whose entry another entry's damaged length has swallowed.
            if len(infos) != int.from_bytes(data[_ZIP_COUNT], "little"):
                raise BadContent(f"{name}: truncated or damaged (a part is missing)")
            if sum(info.file_size for info in infos) > len(data):  # parts that share their bytes
                raise BadContent(f"{name}: truncated or damaged (its parts are larger than it)")
            return {info.filename: bundle.read(info) for info in infos}
    except BadContent:
        raise
    except Exception as error:  # zipfile raises half a dozen types on damaged input
        raise BadContent(f"{name}: truncated or damaged ({str(error)[:120]})") from error


# JSON


def json_to_bytes(value: Any) -> bytes:
    """Readable JSON, keys in the order given, with a final newline."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def json_from_bytes(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object of plain values; raises `BadContent` for anything else, also for keys given twice, NaN,
    infinities, whole numbers of more than 300 digits, text that no file can hold, and lists in lists in
    lists."""
    try:
        value = json.loads(
            data,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_object,
        )
        problem = unfit(value)
    except (ValueError, RecursionError) as error:
        raise BadContent(f"{name}: not whole JSON ({str(error)[:120]})") from error
    if not isinstance(value, dict):
        raise BadContent(f"{name}: expected a JSON object, found {type(value).__name__}")
    if problem:
        raise BadContent(f"{name}: holds {problem}")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def unfit(value: Any, forbidden: str = "") -> str | None:
    """What is wrong with a value of JSON or YAML: nested too deeply, text that cannot be encoded or holds one
    of the `forbidden` characters, a whole number too long to be written out. None: nothing."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        if not level:
            return None
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.keys()
                below += each.values()
            elif isinstance(each, list | tuple | set):
                below += each
            elif isinstance(each, str) and (not set(forbidden).isdisjoint(each) or not _encodable(each)):
                return "text that no file can hold"
            elif isinstance(each, int) and each.bit_length() > _MAX_DIGITS * 3:
                return "a number that is too large"
        level = below
    return "lists or mappings nested too deeply"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
