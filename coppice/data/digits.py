"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, shipped with it, nothing to download."""

from __future__ import annotations

import numpy as np

from coppice.data.dataset import Dataset, stratified_split

TEST_SAMPLES = 360
"""A fifth. Always the same ones, whatever a run's seed, so that accuracies can be compared."""


def load_digits() -> Dataset:
    """x: float32 (n, 1, 8, 8) in [0, 1]; 1,437 to train on, 360 to test on, stratified."""
    from sklearn.datasets import load_digits as sklearn_digits  # a second to load, needed for these alone

    x, y = sklearn_digits(return_X_y=True)
    x = (x / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    y = y.astype(np.int64)
    train, test = stratified_split(y, TEST_SAMPLES, seed=0)
    return Dataset(x[train], y[train], x[test], y[test], classes=10)
