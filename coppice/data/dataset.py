"""What every data set becomes, and the one way to split it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training and test samples of a classification task."""

    train_x: Float32s
    """float32 (n, ...)"""
    train_y: Int64s
    """int64 (n,), in [0, classes)"""
    test_x: Float32s
    """float32 (m, ...)"""
    test_y: Int64s
    """int64 (m,), in [0, classes)"""
    classes: int


def stratified_split(y: Int64s, held_out: int, seed: int | tuple[int, ...]) -> tuple[Int64s, Int64s]:
    """Indices (kept, held out) of `y`, both ascending; each class gives its share, by largest remainders.

    y: int64 (n,). The same labels and seed (as numpy.random.SeedSequence takes it) give the same split.
    Raises `ValueError` unless 0 < held_out < n.
    """
    if not 0 < held_out < len(y):
        raise ValueError(f"cannot hold {held_out} of {len(y)} samples out")
    random = np.random.default_rng(np.random.SeedSequence(seed))
    labels, counts = np.unique(y, return_counts=True)
    exact = counts * (held_out / len(y))
    shares = np.floor(exact).astype(np.int64)
    missing = held_out - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    chosen = [
        random.permutation(np.flatnonzero(y == label))[:share]
        for label, share in zip(labels, shares, strict=True)
    ]
    out = np.zeros(len(y), dtype=np.bool_)
    out[np.concatenate(chosen)] = True
    return np.flatnonzero(~out).astype(np.int64), np.flatnonzero(out).astype(np.int64)
