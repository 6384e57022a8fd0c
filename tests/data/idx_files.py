"""Small idx files in MNIST's format, for tests that should run without MNIST."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

REAL = Path(os.environ.get("COPPICE_MNIST") or Path(__file__).parents[3] / "shared" / "data" / "mnist")
"""Where the real files are, if anywhere."""


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
    return gzip.compress(head + array.tobytes(), mtime=0)


def write_small_mnist(folder: Path, train: int = 60, test: int = 20) -> dict[str, npt.NDArray[np.uint8]]:
    """The four files with random images, and what is in them by file name."""
    random = np.random.default_rng(5)
    arrays = {}
    for part, samples in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (samples, 28, 28)).astype(np.uint8)
        arrays[f"{part}-images-idx3-ubyte.gz"] = images
        arrays[f"{part}-labels-idx1-ubyte.gz"] = (np.arange(samples) % 10).astype(np.uint8)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx_bytes(array))
    return arrays
