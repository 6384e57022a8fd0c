"""How activations lie in memory, and the convolution that reads and writes them.

Samples are last, so that a weight is one multiplication of whole rows: a linear layer reads (units, ..., n),
a convolution tiles of `kernels.MAP_TILE` samples, (units, tiles, h, w * MAP_TILE), so that what it works on
stays in the cache. Each layer writes what the one behind it reads.
"""

from __future__ import annotations

import math

import numpy as np

from coppice.pruning.contract import Float32s, Int64s
from coppice.pruning.scoring import kernels
from coppice.pruning.scoring.stages import Stage


def arranged(x: Float32s, stage: Stage) -> Float32s:
    """Samples (n, *stage.inputs) as `stage` reads them: (features, n), or (channels, tiles, h, w * MAP_TILE),
    the last tile filled up with zeros."""
    if stage.kernel is None:
        return np.ascontiguousarray(x.T)
    samples, channels, height, width = x.shape
    tiles = _tiles(samples)
    padded = np.zeros((tiles * kernels.MAP_TILE, channels, height, width), np.float32)
    padded[:samples] = x
    split = padded.reshape(tiles, kernels.MAP_TILE, channels, height, width)
    return np.ascontiguousarray(split.transpose(2, 0, 3, 4, 1)).reshape(channels, tiles, height, -1)


def room(units: int, stage: Stage, after: Stage, samples: int) -> Float32s:
    """For what so many units of `stage` give, as `after` reads it; not filled in."""
    if after.kernel is None:
        return np.empty((units, *stage.result[1:], samples), np.float32)
    _, height, width = stage.result
    return np.empty((units, _tiles(samples), height, width * kernels.MAP_TILE), np.float32)


def largest_inputs(x: Float32s, stage: Stage) -> Float32s:
    """(inputs,): the largest magnitude that each weight of a unit meets; x: the samples, `arranged`."""
    of_unit = x.reshape(len(x), -1)
    return np.repeat(np.maximum(of_unit.max(axis=1), -of_unit.min(axis=1)), stage.field)


def _tiles(samples: int) -> int:
    return -(-samples // kernels.MAP_TILE)


def convolve(
    stage: Stage,
    maps: Float32s,
    weights: tuple[Int64s, Int64s, Int64s, Float32s],
    biases: Float32s,
    into: Int64s,
    since: Int64s,
    end: int,
    out: Float32s,
    tiled: bool,
    ahead: int = 0,
) -> None:
    """See `kernels.convolve`; weights: begins, sources, places in the kernel, values.

    out: of `room`, (slots, tiles, h, w * MAP_TILE) if `tiled`, else (slots, h, w, n).
    """
    assert stage.kernel is not None
    begins, sources, fields, values = weights
    downs, rights = np.divmod(fields, stage.kernel[1])
    result = (stage.result[1], stage.result[2])
    each = math.prod(out.shape[1:])
    if tiled:
        samples = out.shape[1] * kernels.MAP_TILE
        steps = (each, each // out.shape[1], kernels.MAP_TILE)
    else:
        samples = out.shape[-1]
        steps = (each, kernels.MAP_TILE, samples)
    across = maps.shape[3] // kernels.MAP_TILE
    kernels.convolve(
        maps.reshape(
            *maps.shape[:2], maps.shape[2] * maps.shape[3]
        ),  # -1 cannot be told where there are none
        across,
        begins,
        sources,
        (downs * across + rights) * kernels.MAP_TILE,
        values,
        biases,
        (stage.outputs[1], stage.outputs[2]),
        *stage.pool,
        stage.relu,
        into,
        since,
        end,
        out.reshape(-1),
        result,
        steps,
        samples,
        ahead,
    )
