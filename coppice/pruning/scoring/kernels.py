"""Inner loops over sparse layers, compiled by numba.

Arrays are laid out with the samples last, and worked on in tiles of samples small enough for a processor's
own cache. None of the functions checks its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

from coppice.pruning.contract import Float32s, Int64s

Int8s = npt.NDArray[np.int8]
Pair = tuple[int, int]
_Function = TypeVar("_Function", bound=Callable[..., object])

TILE = 128
"""Samples."""
MAP_TILE = 16
"""Samples, where every unit is a map: whole vectors."""
PART = 4096
"""Numbers of a map that are worked on at a time."""


def _compiled(function: _Function) -> _Function:
    """Products and sums may be fused, nothing else is rearranged."""
    fused = {"contract"}
    try:
        return numba.njit(nogil=True, fastmath=fused, cache=True)(function)  # type: ignore[return-value]
    except RuntimeError:  # nowhere to keep the compiled code: compile it in every process
        return numba.njit(nogil=True, fastmath=fused)(function)  # type: ignore[return-value]


# Slots: those of one unit are a list, from heads[unit] over following[slot] to -1. names: int64 (slots, 3),
# the unit and the two numbers that say what it keeps.


@_compiled
def find_slots(
    wanted: Int64s,
    heads: Int64s,
    following: Int64s,
    names: Int64s,
    found: Int64s,
) -> None:
    """found[i]: the slot that has the name wanted[i]; -1 if none has."""
    for i in range(len(wanted)):
        slot = heads[wanted[i, 0]]
        while slot >= 0 and (names[slot, 1] != wanted[i, 1] or names[slot, 2] != wanted[i, 2]):
            slot = following[slot]
        found[i] = slot


@_compiled
def nearest_slots(
    wanted: Int64s,
    heads: Int64s,
    following: Int64s,
    names: Int64s,
    filled: Int64s,
    end: int,
    found: Int64s,
) -> None:
    """found[i]: the slot of the same unit that differs least from the name wanted[i], filled up to `end`; -1
    if to start from nothing is no more work."""
    for i in range(len(wanted)):
        least, found[i] = wanted[i, 1] + wanted[i, 2], -1
        slot = heads[wanted[i, 0]]
        while slot >= 0:
            if filled[slot] >= end:
                differ = abs(wanted[i, 1] - names[slot, 1]) + abs(wanted[i, 2] - names[slot, 2]) + 1
                if differ < least:
                    least, found[i] = differ, slot
            slot = following[slot]


@_compiled
def rename_slots(
    slots: Int64s,
    wanted: Int64s,
    heads: Int64s,
    following: Int64s,
    names: Int64s,
) -> None:
    """Give slots other names."""
    for i in range(len(slots)):
        slot, unit = slots[i], names[slots[i], 0]
        if unit >= 0:
            if heads[unit] == slot:
                heads[unit] = following[slot]
            else:
                before = heads[unit]
                while following[before] != slot:
                    before = following[before]
                following[before] = following[slot]
        names[slot] = wanted[i]
        following[slot] = heads[wanted[i, 0]]
        heads[wanted[i, 0]] = slot


@_compiled
def add_rows(
    x: Float32s,
    begins: Int64s,
    columns: Int64s,
    values: Float32s,
    base: Int64s,
    into: Int64s,
    since: Int64s,
    end: int,
    z: Float32s,
) -> None:
    """z[into[r], s] = z[base[r], s] + sum_k values[k] * x[columns[k], s], for s from since[r] to end.

    x: float32 (features, n), z: float32 (slots, n); k from begins[r] to begins[r + 1]; base -1 stands for 0.
    """
    sums = np.empty(TILE, np.float32)
    first = end
    for r in range(len(into)):
        first = min(first, since[r])
    for start in range(first, end, TILE):
        stop = min(start + TILE, end)
        for r in range(len(into)):
            left = max(start, since[r])
            size = stop - left
            if size <= 0:
                continue
            if base[r] < 0:
                for t in range(size):
                    sums[t] = np.float32(0)
            else:
                row = z[base[r], left:stop]
                for t in range(size):
                    sums[t] = row[t]
            k, last = begins[r], begins[r + 1]
            while k + 4 <= last:
                a, b, c, d = values[k], values[k + 1], values[k + 2], values[k + 3]
                xa, xb = x[columns[k], left:stop], x[columns[k + 1], left:stop]
                xc, xd = x[columns[k + 2], left:stop], x[columns[k + 3], left:stop]
                for t in range(size):
                    sums[t] += a * xa[t] + b * xb[t] + c * xc[t] + d * xd[t]
                k += 4
            while k < last:
                a, xa = values[k], x[columns[k], left:stop]
                for t in range(size):
                    sums[t] += a * xa[t]
                k += 1
            out = z[into[r], left:stop]
            for t in range(size):
                out[t] = sums[t]


@_compiled
def add_up(before: Float32s, begins: Int64s, columns: Int64s, values: Float32s, biases: Float32s) -> Float32s:
    """float32 (units,): what the terms of each unit add up to at most, without their signs, where those of
    the units that it reads do to `before`. Unit r has values[k] for k from begins[r] to begins[r + 1]."""
    sums = np.abs(biases)
    for r in range(len(biases)):
        for k in range(begins[r], begins[r + 1]):
            sums[r] += abs(values[k]) * before[columns[k]]
    return sums


@_compiled
def judge_rows(
    z: Float32s,
    rows: Int64s,
    shift: Float32s,
    cut_off: bool,
    sizes: Int64s,
    begins: Int64s,
    columns: Int64s,
    values: Float32s,
    biases: Float32s,
    relus: npt.NDArray[np.bool_],
    y: Int64s,
    reach: Float32s,
    close: np.float32,
    rounding: np.float32,
    codes: Int8s,
) -> None:
    """The linear layers that end a network, and what their logits say of the samples.

    z: float32 (slots, n); the input of the first of them is z[rows[i]] + shift[i], cut off below 0 if
    `cut_off`. Layer l has sizes[l] units; begins, biases and relus of all layers follow one another
    (begins: sizes[l] + 1 a layer). y: int64 (n,). reach: float32 (len(rows),), what the terms of each
    z[rows[i]] add up to at most, without their signs. Two logits are too close to call that differ by less
    than `close` of the largest, or `rounding` of what the terms of a logit add up to at most. codes: int8
    (n,), filled in.
    """
    widest = len(rows)
    for size in sizes:
        widest = max(widest, size)
    reach = reach + np.abs(shift)
    at, unit = 0, 0
    for size in sizes:
        reach = add_up(reach, begins[at : at + size + 1], columns, values, biases[unit : unit + size])
        at += size + 1
        unit += size
    noise = rounding * reach.max()
    before, after = np.empty((widest, TILE), np.float32), np.empty((widest, TILE), np.float32)
    zero = np.float32(0)
    for start in range(0, len(y), TILE):
        # As min(TILE, len(y) - start) it is compiled to loops that take a fifth longer.
        stop = min(start + TILE, len(y))
        width = stop - start
        for i in range(len(rows)):
            source, target, plus = z[rows[i], start : start + width], before[i], shift[i]
            if cut_off:
                for t in range(width):
                    target[t] = max(source[t] + plus, zero)
            else:
                for t in range(width):
                    target[t] = source[t] + plus
        at, unit = 0, 0
        for layer in range(len(sizes)):
            for r in range(sizes[layer]):
                sums, bias = after[r], biases[unit]
                for t in range(width):
                    sums[t] = bias
                k, last = begins[at], begins[at + 1]
                while k + 4 <= last:
                    a, b, c, d = values[k], values[k + 1], values[k + 2], values[k + 3]
                    xa, xb = before[columns[k]], before[columns[k + 1]]
                    xc, xd = before[columns[k + 2]], before[columns[k + 3]]
                    for t in range(width):
                        sums[t] += a * xa[t] + b * xb[t] + c * xc[t] + d * xd[t]
                    k += 4
                while k < last:
                    a, xa = values[k], before[columns[k]]
                    for t in range(width):
                        sums[t] += a * xa[t]
                    k += 1
                if relus[layer]:
                    for t in range(width):
                        sums[t] = max(sums[t], zero)
                at += 1
                unit += 1
            at += 1
            before, after = after, before
        classes = sizes[-1]
        for t in range(width):
            right = y[start + t]
            own = before[right, t]
            largest, other = abs(own), np.float32(-np.inf)
            for r in range(classes):
                logit = before[r, t]
                largest = max(largest, abs(logit))
                if r != right:
                    other = max(other, logit)
            margin = own - other
            if not abs(margin) > max(close * largest, noise):
                codes[start + t] = 2
            elif margin < 0:
                codes[start + t] = 1
            else:
                codes[start + t] = 0


@_compiled
def _sum_lines(
    maps: Float32s,
    tile: int,
    start: int,
    sources: Int64s,
    shifts: Int64s,
    values: Float32s,
    sums: Float32s,
) -> None:
    """sums[t] = sum_k values[k] * maps[sources[k], tile, start + shifts[k] + t]; sums: float32 (numbers,)."""
    last, k = len(values), 0
    stop = start + len(sums)
    if last >= 4:
        a, b, c, d = values[0], values[1], values[2], values[3]
        la, lb, lc, ld = shifts[0], shifts[1], shifts[2], shifts[3]
        xa = maps[sources[0], tile, start + la : stop + la]
        xb = maps[sources[1], tile, start + lb : stop + lb]
        xc = maps[sources[2], tile, start + lc : stop + lc]
        xd = maps[sources[3], tile, start + ld : stop + ld]
        for t in range(len(sums)):
            sums[t] = a * xa[t] + b * xb[t] + c * xc[t] + d * xd[t]
        k = 4
    else:
        for t in range(len(sums)):
            sums[t] = np.float32(0)
    while k + 8 <= last:
        a, b, c, d = values[k], values[k + 1], values[k + 2], values[k + 3]
        e, f, g, h = values[k + 4], values[k + 5], values[k + 6], values[k + 7]
        la, lb, lc, ld = shifts[k], shifts[k + 1], shifts[k + 2], shifts[k + 3]
        le, lf, lg, lh = shifts[k + 4], shifts[k + 5], shifts[k + 6], shifts[k + 7]
        xa = maps[sources[k], tile, start + la : stop + la]
        xb = maps[sources[k + 1], tile, start + lb : stop + lb]
        xc = maps[sources[k + 2], tile, start + lc : stop + lc]
        xd = maps[sources[k + 3], tile, start + ld : stop + ld]
        xe = maps[sources[k + 4], tile, start + le : stop + le]
        xf = maps[sources[k + 5], tile, start + lf : stop + lf]
        xg = maps[sources[k + 6], tile, start + lg : stop + lg]
        xh = maps[sources[k + 7], tile, start + lh : stop + lh]
        for t in range(len(sums)):
            four = a * xa[t] + b * xb[t] + c * xc[t] + d * xd[t]
            sums[t] += four + (e * xe[t] + f * xf[t] + g * xg[t] + h * xh[t])
        k += 8
    while k + 2 <= last:
        a, b = values[k], values[k + 1]
        la, lb = shifts[k], shifts[k + 1]
        xa = maps[sources[k], tile, start + la : stop + la]
        xb = maps[sources[k + 1], tile, start + lb : stop + lb]
        for t in range(len(sums)):
            sums[t] += a * xa[t] + b * xb[t]
        k += 2
    if k < last:
        a, la = values[k], shifts[k]
        xa = maps[sources[k], tile, start + la : stop + la]
        for t in range(len(sums)):
            sums[t] += a * xa[t]


@_compiled
def _pool_line(
    sums: Float32s,
    across: int,
    pool: Pair,
    right: int,
    bias: np.float32,
    floor: np.float32,
    size: int,
    places: int,
    step: int,
    out: Float32s,
) -> None:
    """One line of a convolution's result: of each pool the largest, plus the bias, not below `floor`.

    sums: float32 (places, MAP_TILE), a line of `across` places after the other; right: how far it is from
    pool to pool. out: float32, flat, filled in for `places` of them, `size` samples each, `step` by `step`.
    """
    pairs = size == MAP_TILE and pool[0] == 2 and pool[1] == 2
    for j in range(places):
        place, left = j * step, j * right
        if pairs:  # all sizes are known: a few whole vectors
            to = out[place : place + MAP_TILE]
            for t in range(MAP_TILE):
                upper = max(sums[left, t], sums[left + 1, t])
                lower = max(sums[left + across, t], sums[left + across + 1, t])
                to[t] = max(max(upper, lower) + bias, floor)
        else:
            to = out[place : place + size]
            for t in range(size):
                to[t] = sums[left, t]
            for p in range(pool[0]):
                for q in range(pool[1]):
                    other = left + p * across + q
                    for t in range(size):
                        to[t] = max(to[t], sums[other, t])
            for t in range(size):
                to[t] = max(to[t] + bias, floor)


@_compiled
def convolve(
    maps: Float32s,
    across: int,
    begins: Int64s,
    sources: Int64s,
    shifts: Int64s,
    values: Float32s,
    biases: Float32s,
    shape: Pair,
    pool: Pair,
    stride: Pair,
    relu: bool,
    into: Int64s,
    since: Int64s,
    end: int,
    out: Float32s,
    result: Pair,
    steps: tuple[int, int, int],
    samples: int,
    ahead: int,
) -> None:
    """A convolution with few weights, without padding or stride, with max pooling and a ReLU after it.

    maps: float32 (slots, tiles, h * w * MAP_TILE), the samples of a tile last; across: w. Unit r adds
    values[k] * maps[sources[k]], read shifts[k] places further on, for k from begins[r] to begins[r + 1].
    shape: (h', w') of the convolution itself. pool, stride: pairs, (1, 1) for none. result: (h'', w'') after
    that. out: float32, flat; steps: how far it is from unit to unit, tile to tile, and place to place. The
    samples from since[r] to end of out's unit into[r] are filled in, and the rest of their tiles, below
    `samples`. ahead: the tile of maps that is the first of out.
    """
    row, wide = across * MAP_TILE, shape[1] * MAP_TILE
    # So many lines of the result at a time that what they come from stays in the nearest cache. Lines are as
    # long as those of the maps, so that a weight is one long row; what is between them is of no use.
    together = max(1, (PART // row - pool[0]) // stride[0] + 1)
    sums = np.empty((((together - 1) * stride[0] + pool[0]) * across, MAP_TILE), np.float32)
    floor = np.float32(0) if relu else np.float32(-np.inf)
    first = end
    for r in range(len(into)):
        first = min(first, since[r])
    for tile in range(first // MAP_TILE, (end + MAP_TILE - 1) // MAP_TILE):
        size = min(MAP_TILE, samples - tile * MAP_TILE)
        for r in range(len(into)):
            if (tile + 1) * MAP_TILE <= since[r]:
                continue
            k, last = begins[r], begins[r + 1]
            for above in range(0, result[0], together):
                lines = min(together, result[0] - above)
                start = above * stride[0] * row
                long = ((lines - 1) * stride[0] + pool[0] - 1) * row + wide
                target = sums.reshape(-1)[:long]
                _sum_lines(maps, ahead + tile, start, sources[k:last], shifts[k:last], values[k:last], target)
                for i in range(lines):
                    place = into[r] * steps[0] + tile * steps[1] + (above + i) * result[1] * steps[2]
                    _pool_line(
                        sums[i * stride[0] * across :],
                        across,
                        pool,
                        stride[1],
                        biases[r],
                        floor,
                        size,
                        result[1],
                        steps[2],
                        out[place:],
                    )
