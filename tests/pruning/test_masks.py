from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.func import vmap

from coppice.pruning.layers import PrunableLayer
from coppice.pruning.masks import (
    count_kept,
    crate_for,
    open_masks,
    operate,
    operate_all,
    put_masks,
    spread,
    threshold,
    thresholds,
    unit_mask,
)

weights = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(-3, 3, width=32, allow_subnormal=False),
)
crates = st.floats(-5, 12)


@given(w=weights, c=crates)
def test_the_threshold_is_numpys(w: np.ndarray, c: float) -> None:
    magnitude = np.abs(w.astype(np.float64))
    expected = max(0.0, magnitude.mean() + c * magnitude.std())
    assert np.isclose(threshold(spread(torch.tensor(w)), c), expected, rtol=1e-6, atol=1e-6)


@given(w=weights, c=st.tuples(crates, crates), seed=st.integers(0, 99))
def test_a_larger_crate_never_keeps_more(w: np.ndarray, c: tuple[float, float], seed: int) -> None:
    weight = torch.tensor(w)
    mask = torch.tensor(np.random.default_rng(seed).integers(0, 2, w.shape).astype(np.float32))
    looser, harder = (operate(mask, weight.abs(), threshold(spread(weight), x)) for x in sorted(c))
    assert bool((harder <= looser).all())


@given(w=weights, limit=st.floats(0, 3, width=32), seed=st.integers(0, 99))
def test_surgery_cuts_restores_and_leaves_between(w: np.ndarray, limit: float, seed: int) -> None:
    before = np.random.default_rng(seed).integers(0, 2, w.shape).astype(np.float32)
    after = operate(torch.tensor(before), torch.tensor(w).abs(), limit).numpy()
    magnitude, near = np.abs(w).astype(np.float64), 1e-6 * (1 + limit)
    assert (after[magnitude < 0.9 * limit - near] == 0).all()
    assert (after[magnitude > 1.1 * limit + near] == 1).all()
    between = (magnitude > 0.9 * limit + near) & (magnitude < 1.1 * limit - near)
    assert np.array_equal(after[between], before[between])


@pytest.mark.filterwarnings("error:There is a performance drop")
@given(w=weights, limits=st.lists(st.floats(0, 3, width=32), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_many_thresholds_at_once_are_the_same_surgery(w: np.ndarray, limits: list[float], seed: int) -> None:
    mask = torch.tensor(np.random.default_rng(seed).integers(0, 2, w.shape).astype(np.float32))
    magnitude = torch.tensor(w).abs()
    limits += [float(np.float32(m / edge)) for m in magnitude.ravel().tolist() for edge in (0.9, 1.1)]
    at_once = vmap(lambda limit: operate(mask, magnitude, limit))(torch.tensor(limits, dtype=torch.float64))
    assert torch.equal(at_once, torch.stack([operate(mask, magnitude, limit) for limit in limits]))


@given(w=weights, c=st.floats(-0.5, 12))
def test_the_crate_of_a_threshold(w: np.ndarray, c: float) -> None:
    of = spread(torch.tensor(w))
    assume(of.std > 1e-3)
    limit = threshold(of, c)
    assert np.isclose(threshold(of, crate_for(of, limit)), limit, rtol=1e-6, atol=1e-7)


def test_equal_magnitudes_have_no_crate_of_their_own() -> None:
    assert crate_for(spread(torch.full((2, 2), -0.5)), 3.0) == 0.0


def test_spliced_weights_come_back() -> None:
    mask = operate(torch.ones(1, 2), torch.tensor([[0.5, 2.0]]), 1.0)
    assert mask.tolist() == [[0, 1]]
    assert operate(mask, torch.tensor([[1.05, 0.95]]), 1.0).tolist() == [[0, 1]]
    assert operate(mask, torch.tensor([[1.2, 0.8]]), 1.0).tolist() == [[1, 0]]


def test_extreme_crates_cut_everything_or_nothing() -> None:
    w = torch.tensor([[0.5, -2.0]])
    everything = threshold(spread(w), 1e300)
    assert operate(torch.ones_like(w), w.abs(), everything).sum() == 0
    nothing = threshold(spread(w), -1e300)
    assert nothing == 0
    assert operate(torch.zeros_like(w), torch.zeros_like(w), nothing).sum() == 2


def test_biases_go_with_units_that_have_no_input_left() -> None:
    layer = PrunableLayer("conv", "conv.weight", "conv.bias", (3, 1, 2, 2))
    weight = torch.zeros(3, 1, 2, 2)
    weight[1, 0, 1, 0] = 5.0
    before = open_masks([layer], {"conv.weight": weight, "conv.bias": torch.zeros(3)})
    masks = operate_all([layer], before, {"conv.weight": weight.abs()}, [1.0])
    assert before["conv.weight"].all()  # new masks: the old ones stay as they were
    assert masks["conv.bias"].tolist() == [0, 1, 0]
    assert torch.equal(masks["conv.bias"], unit_mask(masks["conv.weight"]))
    assert count_kept(masks) == {"conv.weight": 1, "conv.bias": 1}
    put_masks(masks, layer, torch.ones(3, 1, 2, 2), torch.ones(3))
    assert masks["conv.bias"].tolist() == [1, 1, 1]
    put_masks(masks, layer, torch.ones(3, 1, 2, 2), torch.tensor([1.0, 0.0, 1.0]))
    assert masks["conv.bias"].tolist() == [1, 0, 1]
    masks = operate_all([layer], masks, {"conv.weight": torch.ones(3, 1, 2, 2)}, [0.1])
    assert masks["conv.bias"].tolist() == [1, 0, 1]  # a cut leaves to surgery what is cut already


def test_open_masks_are_ones_and_every_layer_has_its_own_threshold() -> None:
    layers = [PrunableLayer("a", "a.weight", None, (2, 2)), PrunableLayer("b", "b.weight", None, (1, 2))]
    values = {"a.weight": torch.tensor([[1.0, 3.0], [1.0, 3.0]]), "b.weight": torch.tensor([[2.0, 2.0]])}
    assert count_kept(open_masks(layers, values)) == {"a.weight": 4, "b.weight": 2}
    limits = thresholds([spread(values[layer.weight]) for layer in layers], np.array([0.5, 1.0]))
    assert limits == (2.5, 2.0)
