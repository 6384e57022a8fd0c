from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coppice.data import load_data
from coppice.data.dataset import stratified_split
from coppice.runfile import DataSection


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=200),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_split_is_disjoint_whole_stratified_and_repeatable(
    labels: list[int], share: float, seed: int
) -> None:
    y = np.array(labels)
    held_out = min(max(1, round(share * len(y))), len(y) - 1)
    kept, held = stratified_split(y, held_out, seed)
    assert len(held) == held_out
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(y)))
    for label in np.unique(y):
        exact = (y == label).sum() * held_out / len(y)
        assert abs((y[held] == label).sum() - exact) < 1
    again = stratified_split(y, held_out, seed)
    assert np.array_equal(again[1], held)


@pytest.mark.parametrize("held_out", [0, 4, 9])
def test_nothing_and_everything_cannot_be_held_out(held_out: int) -> None:
    with pytest.raises(ValueError, match="samples out"):
        stratified_split(np.zeros(4, dtype=np.int64), held_out, 1)


def test_digits_are_split_alike_always_and_no_sample_is_on_both_sides() -> None:
    first, again = load_data(DataSection(name="digits")), load_data(DataSection(name="digits"))
    assert np.array_equal(first.test_x, again.test_x)
    assert first.train_x.shape == (1437, 1, 8, 8)
    assert first.test_x.shape == (360, 1, 8, 8)
    assert first.train_x.dtype == np.float32
    assert first.train_y.dtype == np.int64
    assert (first.train_x.min(), first.train_x.max()) == (0.0, 1.0)
    assert first.classes == 10
    # All of scikit-learn's samples are there once (no two of its images are the same).
    images = {x.tobytes() for x in np.concatenate([first.train_x, first.test_x])}
    assert len(images) == 1797
    assert set(np.bincount(first.test_y)) <= {34, 35, 36, 37}
