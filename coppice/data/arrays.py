"""Own data: <prefix>_x.npy and <prefix>_y.npy, as the registry keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coppice.data.dataset import Dataset, Float32s, Int64s, stratified_split
from coppice.errors import CoppiceError
from coppice.work.contents import array_from_file
from coppice.work.errors import BadContent

_ONE_IN = 10


def load_arrays(train: str, test: str | None = None) -> Dataset:
    """Samples from .npy files (never unpickled): <train>_x.npy, <train>_y.npy, and the same of `test`.

    x: numbers (n, ...), become float32 as they are (integers are not scaled); y: integers (n,) from 0.
    The number of classes is the largest label + 1. Without `test`, a tenth of each class's samples is set
    aside, always the same. Raises `CoppiceError` naming the file at fault.
    """
    train_x, train_y = _pair(train)
    classes = int(train_y.max()) + 1
    if test is None:
        if len(train_y) < 2 * _ONE_IN:
            raise CoppiceError(f"{train}_x.npy: too few samples to set some aside; give data.test")
        kept, aside = stratified_split(train_y, len(train_y) // _ONE_IN, 0)
        return Dataset(train_x[kept], train_y[kept], train_x[aside], train_y[aside], classes)
    test_x, test_y = _pair(test)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise CoppiceError(
            f"{test}_x.npy: samples of shape {test_x.shape[1:]}, but {train}_x.npy has {train_x.shape[1:]}"
        )
    if int(test_y.max()) >= classes:
        raise CoppiceError(f"{test}_y.npy: label {int(test_y.max())} does not occur in {train}_y.npy")
    return Dataset(train_x, train_y, test_x, test_y, classes)


def _pair(prefix: str) -> tuple[Float32s, Int64s]:
    x_path, y_path = Path(f"{prefix}_x.npy"), Path(f"{prefix}_y.npy")
    x, y = _read(x_path), _read(y_path)
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise CoppiceError(f"{x_path}: expected numbers of shape (samples, ...), found {x.dtype} {x.shape}")
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise CoppiceError(f"{y_path}: expected integers of shape (samples,), found {y.dtype} {y.shape}")
    if len(x) != len(y):
        raise CoppiceError(f"{y_path}: {len(y)} labels for {len(x)} samples in {x_path.name}")
    if len(x) == 0 or x.size == 0:
        raise CoppiceError(f"{x_path}: holds no samples")
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(floats).all():
        raise CoppiceError(f"{x_path}: holds NaN, infinite, or too large numbers")
    if int(y.min()) < 0:
        raise CoppiceError(f"{y_path}: holds the label {int(y.min())}; labels count from 0")
    if int(y.max()) > 1_000_000:
        raise CoppiceError(f"{y_path}: holds the label {int(y.max())}; labels count from 0, without gaps")
    return floats, y.astype(np.int64)


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        return array_from_file(path, str(path))
    except OSError as error:
        raise CoppiceError(f"{path}: cannot be read ({error.strerror or 'not a .npy file'})") from error
    except BadContent as error:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                message = f"{path}: expected one array (.npy), found an archive (.npz)"
                raise CoppiceError(message) from error
        raise
