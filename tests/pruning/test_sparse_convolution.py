"""The sparse convolution against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coppice.pruning.contract import Float32s
from coppice.pruning.scoring.kernels import MAP_TILE, PART, Pair
from coppice.pruning.scoring.layout import arranged, convolve, room
from coppice.pruning.scoring.stages import Stage

SAMPLES = 2 * MAP_TILE + 5
CHANNELS, UNITS = 3, 4
WEIGHTS = (0, 1, 7, 12)
"""Of each unit: it takes them by fours, eights, pairs and one by one."""


def as_torch_has_it(stage: Stage, x: Float32s) -> Float32s:
    """(n, *stage.result)."""
    weight = torch.from_numpy(stage.weight).reshape(UNITS, CHANNELS, *(stage.kernel or ()))
    y = nn.functional.conv2d(
        torch.from_numpy(x).double(), weight.double(), torch.from_numpy(stage.bias).double()
    )
    y = nn.functional.max_pool2d(y, *stage.pool)
    return (y.relu() if stage.relu else y).float().numpy()


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "pool", [((1, 1), (1, 1)), ((2, 2), (2, 2)), ((3, 2), (2, 2)), ((2, 3), (1, 2)), ((2, 2), (3, 3))]
)
@pytest.mark.parametrize("size", [(9, 8), (41, 37), (12, 300)])
def test_it_is_torchs(size: Pair, pool: tuple[Pair, Pair], relu: bool, tiled: bool) -> None:
    """Images that are worked on whole, some lines at a time, and a line at a time."""
    random = np.random.default_rng(0)
    kernel = (3, 2)
    inner = (size[0] - kernel[0] + 1, size[1] - kernel[1] + 1)
    result = tuple((inner[i] - pool[0][i]) // pool[1][i] + 1 for i in (0, 1))
    weight = np.zeros((UNITS, CHANNELS * kernel[0] * kernel[1]), np.float32)
    kept = [np.sort(random.choice(weight.shape[1], number, replace=False)) for number in WEIGHTS]
    for row, places in zip(weight, kept, strict=True):
        row[places] = random.standard_normal(len(places))
    bias = random.standard_normal(UNITS).astype(np.float32)
    stage = Stage(
        0, weight, bias, True, kernel, (CHANNELS, *size), (UNITS, *inner), pool, relu, (UNITS, *result)
    )
    after = Stage(1, weight, bias, True, kernel if tiled else None, (UNITS, *result), (UNITS,))
    x = random.standard_normal((SAMPLES, CHANNELS, *size), dtype=np.float32)

    out = room(UNITS, stage, after, SAMPLES)
    out.fill(np.nan)
    fields = np.concatenate(kept).astype(np.int64)
    begins = np.cumsum([0, *WEIGHTS])
    weights = (begins, *np.divmod(fields, kernel[0] * kernel[1]), weight[weight != 0])
    since = np.array([0, 0, MAP_TILE, 0])
    into = np.array([3, 2, 1, 0])
    convolve(stage, arranged(x, stage), weights, bias, into, since, SAMPLES, out, tiled)

    if tiled:
        found = out.reshape(UNITS, -1, *result, MAP_TILE).transpose(1, 4, 0, 2, 3).reshape(-1, UNITS, *result)
    else:
        found = out.transpose(3, 0, 1, 2)
    expected = as_torch_has_it(stage, x)[:, into]
    assert np.isnan(found[:MAP_TILE, 1]).all()  # was there already
    np.testing.assert_allclose(found[MAP_TILE:SAMPLES], expected[MAP_TILE:], rtol=1e-4, atol=1e-5)
    others = [0, 2, 3]
    np.testing.assert_allclose(found[:MAP_TILE, others], expected[:MAP_TILE, others], rtol=1e-4, atol=1e-5)


def test_the_sizes_tried_are_of_all_kinds() -> None:
    row = 37 * MAP_TILE
    assert 9 * 8 * MAP_TILE <= PART < 41 * row
    assert PART < 300 * MAP_TILE
