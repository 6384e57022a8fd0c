"""MNIST from its four idx files, found in a folder or downloaded once."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import requests

from coppice.data.dataset import Dataset
from coppice.errors import CoppiceError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Of the uncompressed idx files: mirrors compress them differently, the content is the same everywhere.
SHA256 = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_LARGEST_FILE = 100_000_000
_TIMEOUT_S = 60.0


def load_mnist(folder: str | None = None) -> Dataset:
    """x: float32 (n, 1, 28, 28) in [0, 1]; 60,000 to train on, 10,000 to test on.

    `folder` holds the four .gz files; without it COPPICE_MNIST is taken, and without that they are
    downloaded into `cache_folder()`. Files in a folder of the user's are checked for their format, so that
    other sets of that format can be used (Fashion-MNIST); downloaded ones for their content (sha256).
    Raises `CoppiceError` naming the file at fault.
    """
    named = folder or os.environ.get("COPPICE_MNIST")
    home = Path(named).expanduser() if named else download(cache_folder() / "mnist")
    train_x, train_y = _samples(home, "train")
    test_x, test_y = _samples(home, "t10k")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise CoppiceError(f"{home}: images of two sizes, {train_x.shape[2:]} and {test_x.shape[2:]}")
    classes = int(max(train_y.max(), test_y.max())) + 1
    return Dataset(train_x, train_y, test_x, test_y, classes)


def cache_folder() -> Path:
    """Where downloads are kept: COPPICE_CACHE, or ~/.cache/coppice."""
    return Path(os.environ.get("COPPICE_CACHE") or "~/.cache/coppice").expanduser()


def download(folder: Path, mirrors: tuple[str, ...] = MIRRORS, sha256: dict[str, str] = SHA256) -> Path:
    """Fetch the files of `sha256` that `folder` does not hold yet, from the first mirror that has them.

    A file appears under its name only when it is whole and checked, so several processes may do this at
    once. Raises `CoppiceError` when no mirror gives a file of the expected content.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CoppiceError(f"{folder}: cannot be created ({error.strerror}); set COPPICE_CACHE") from error
    for name, expected in sha256.items():
        if not (folder / name).is_file():
            _fetch(folder / name, expected, mirrors)
    return folder


def _fetch(path: Path, expected: str, mirrors: tuple[str, ...]) -> None:
    reasons = []
    for mirror in mirrors:
        try:
            reply = requests.get(mirror + path.name, timeout=_TIMEOUT_S)
            reply.raise_for_status()
            content = reply.content
            if hashlib.sha256(gzip.decompress(content)).hexdigest() != expected:
                reasons.append(f"{mirror}: wrong content")
                continue
        except (requests.RequestException, OSError, EOFError, zlib.error) as error:
            reasons.append(f"{mirror}: {type(error).__name__}")
            continue
        _publish(path, content)
        return
    raise CoppiceError(
        f"{path.name} could not be downloaded ({'; '.join(reasons)}); "
        "put the four idx .gz files into a folder and name it in data.folder or COPPICE_MNIST"
    )


def _publish(path: Path, content: bytes) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, path)
            except OSError:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise CoppiceError(f"{path}: cannot be written ({error.strerror}); set COPPICE_CACHE") from error


def _samples(folder: Path, part: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    images_path = folder / f"{part}-images-idx3-ubyte.gz"
    labels_path = folder / f"{part}-labels-idx1-ubyte.gz"
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise CoppiceError(f"{labels_path}: {len(labels)} labels for {len(images)} images")
    if images.size == 0:
        raise CoppiceError(f"{images_path}: holds no images")
    x = images.astype(np.float32)[:, None]  # (n, 1, rows, columns)
    x /= 255.0
    return x, labels.astype(np.int64)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes, gzipped: magic 0x000008 and the number of dimensions, the sizes as
    big-endian uint32, the bytes (http://yann.lecun.com/exdb/mnist/). Gives uint8 of `dimensions` axes."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise CoppiceError(
            f"{path}: not found; data.folder or COPPICE_MNIST must hold the four .gz files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise CoppiceError(f"{path}: not a whole gzip file; fetch it again") from error
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes((0, 0, 8, dimensions)):
        raise CoppiceError(f"{path}: not an idx file of bytes in {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = head + math.prod(shape)
    if len(content) != expected or math.prod(max(1, size) for size in shape) > _LARGEST_FILE:
        raise CoppiceError(f"{path}: {len(content)} bytes, expected {expected}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
