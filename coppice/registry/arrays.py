"""Arrays that scripts wrote: checked before they are published, both of a pair or none."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coppice.registry import layout
from coppice.registry.errors import OrderFailed
from coppice.store import MAX_READ_BYTES, Store
from coppice.store.paths import parent_of
from coppice.work.contents import array_from_bytes, array_header
from coppice.work.errors import BadContent

_HOPELESS = 8


def read_output(local: Path, what: str) -> bytes:
    """What a script wrote; raises `OrderFailed` if it is not there, or too large to be read back."""
    try:
        if not local.is_file():
            raise OrderFailed(f"{what} was not written, though the script ended with status 0")
        if local.stat().st_size > MAX_READ_BYTES:
            raise OrderFailed(f"{what}: larger than the {MAX_READ_BYTES} bytes that are read from a registry")
        return local.read_bytes()
    except OSError as error:
        raise OrderFailed(f"{what} cannot be read ({error.strerror})") from error


def check_set(files: Mapping[str, bytes]) -> None:
    """x, and y where the set has labels, by path; raises `OrderFailed` naming the file at fault."""
    arrays = {path: _array(content, path) for path, content in files.items()}
    (x_path, x), *labels = arrays.items()
    if x.ndim < 2 or x.size == 0:
        raise OrderFailed(f"{x_path}: expected numbers of shape (samples, ...), found {x.dtype} {x.shape}")
    for path, y in labels:
        if y.ndim < 1 or len(y) != len(x):
            raise OrderFailed(f"{path}: expected {len(x)} labels, as many as samples, found shape {y.shape}")


def check_prediction(content: bytes, path: str, x: bytes) -> npt.NDArray[Any]:
    """A row for each sample of x (a .npy file); raises `OrderFailed`."""
    values = _array(content, path)
    shape, _, _ = array_header(io.BytesIO(x), "x", len(x))
    if values.ndim < 1 or len(values) != shape[0]:
        raise OrderFailed(
            f"{path}: expected a row for each of {shape[0]} samples, found shape {values.shape}"
        )
    return values


def brief(values: npt.NDArray[Any]) -> str:
    """How an array begins, for a table."""
    return np.array2string(values, precision=4, threshold=12, edgeitems=2, separator=", ").replace("\n", "")


def publish_set(store: Store, name: str, files: Mapping[str, bytes]) -> bool:
    """Publish the arrays of a set, by path; False: it was there before.

    Two workers that made the set at once made two, and an x of one with the y of the other would be worth
    nothing. So a set goes into a folder first, which one of them can publish; whoever finds it there moves
    its files to their places, and it is removed only when they have all arrived.
    """
    if _is_there(store, files):
        return False
    if len(files) == 1:
        ((path, content),) = files.items()
        return store.create(path, content, durable=True)
    whole = _whole(files, name)
    made = False
    for _ in range(_HOPELESS):
        made |= store.stage({Path(path).name: content for path, content in files.items()}).publish(whole)
        for path in files:
            store.rename(f"{whole}/{Path(path).name}", path)
        if _is_there(store, files):
            store.delete_tree(whole)
            return made
        if not store.list(whole):  # left behind when somebody removed the arrays by hand
            store.delete_tree(whole)
    raise OrderFailed(f"{name}: somebody removes its arrays as they are published")


def set_is_there(store: Store, name: str) -> bool:
    """Whether all arrays of a set are in their places."""
    return _is_there(store, layout.set_files(name))


def tidy_set(store: Store, name: str) -> None:
    """Remove what a worker that died at the very end left beside a set that is there."""
    store.delete_tree(_whole(layout.set_files(name), name))


def _whole(files: Iterable[str], name: str) -> str:
    return f"{parent_of(next(iter(files)))}/{name}.whole"


def _is_there(store: Store, files: Iterable[str]) -> bool:
    return all(store.stat(path) is not None for path in files)


def _array(content: bytes, path: str) -> npt.NDArray[Any]:
    try:
        array = array_from_bytes(content, path)
    except BadContent as error:
        raise OrderFailed(str(error)) from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise OrderFailed(f"{path}: holds NaN or infinite numbers")
    return array
