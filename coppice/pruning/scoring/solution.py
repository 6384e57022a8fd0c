"""One solution under judgement, computed sparsely.

Only what is needed is computed: units that some kept weight reads, from units that are not dead. The first
layer's come from the chain's slots, convolutions behind it follow one by one, and the linear layers that end
the network are computed in one pass, tile by tile, down to the samples' codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coppice.pruning.contract import Float32s, Int64s
from coppice.pruning.scoring import kernels
from coppice.pruning.scoring.chain import BLOCK, Chain
from coppice.pruning.scoring.cuts import LayerCut
from coppice.pruning.scoring.first_stage import Filling
from coppice.pruning.scoring.layout import convolve, room
from coppice.pruning.scoring.stages import Stage
from coppice.pruning.scoring.verdict import CLOSE, ROUNDING, Codes


@dataclass(slots=True)
class _Layer:
    """A later stage of one solution."""

    stage: Stage
    units: Int64s
    """Those to compute."""
    begins: Int64s
    """(len(units) + 1,): where the weights of each begin."""
    sources: Int64s
    """The unit that each weight reads, by its place among the units computed before."""
    fields: Int64s
    """Which of that unit's numbers, or where in the kernel."""
    values: Float32s
    biases: Float32s


class Solution:
    """One solution under judgement."""

    def __init__(self, chain: Chain, cuts: Sequence[LayerCut]) -> None:
        """`cuts`: of each stage."""
        self._chain = chain
        self._seen = 0
        self._filling: Filling | None = None
        stages = chain.stages
        kept = [each.kept(cut) for each, cut in zip(chain.cuts, cuts, strict=True)]
        biases, alive = [], []
        for stage, places in zip(stages, kept, strict=True):
            has = np.zeros(stage.units, bool)
            has[places // stage.weight.shape[1]] = True
            biases.append(np.where(has, stage.bias, np.float32(0)) if stage.bias_goes else stage.bias)
            alive.append(has | (biases[-1] != 0))
        needed = np.ones(stages[-1].units, bool)
        layers: list[_Layer] = []
        for number in range(len(stages) - 1, 0, -1):
            stage, before = stages[number], stages[number - 1]
            units = np.flatnonzero(needed)
            row, column = np.divmod(kept[number], stage.weight.shape[1])
            source, field = np.divmod(column, stage.field if stage.kernel else before.each)
            wanted = needed[row] & alive[number - 1][source]
            row, source, field = row[wanted], source[wanted], field[wanted]
            needed = np.zeros(before.units, bool)
            needed[source] = True
            counts = np.bincount(row, minlength=stage.units)[units]
            layers.append(
                _Layer(
                    stage,
                    units,
                    np.concatenate([[0], np.cumsum(counts)]),
                    (np.cumsum(needed) - 1)[source],
                    field,
                    stage.weight.ravel()[kept[number][wanted]],
                    biases[number][units],
                )
            )
        layers.reverse()
        self._units = np.flatnonzero(needed)
        self._biases = biases[0][self._units]
        unit, other = kept[0] // stages[0].weight.shape[1], chain.cuts[0].is_other(kept[0])
        kinds = [np.bincount(unit[other == kind], minlength=stages[0].units) for kind in (False, True)]
        self._slots = chain.first.find(self._units, *(number[self._units] for number in kinds))
        self._maps = [layer for layer in layers if layer.stage.kernel]
        self._rows = _Rows(layers[len(self._maps) :], self._width(layers))

    def _width(self, layers: Sequence[_Layer]) -> tuple[int, int]:
        """Units before the first of the linear layers, and the numbers of each."""
        number = len(self._maps)
        if number == 0:
            return len(self._units), self._chain.stages[0].each
        return len(layers[number - 1].units), layers[number - 1].stage.each

    def codes(self) -> Codes:
        """Those of the next samples."""
        chain, begin = self._chain, self._seen
        # So few are all that many solutions need; those that need more mostly need all.
        end = min(2 * begin or BLOCK, begin + chain.at_once, chain.samples)
        self._filling = chain.first.fill(self._slots, self._biases, end, self._filling)
        z, slots, reach = chain.first.values, self._slots, chain.first.reach[self._slots]
        offset = 0
        for number, layer in enumerate(self._maps, start=1):
            units = np.arange(len(layer.units))
            out = room(len(units), layer.stage, chain.stages[number + 1], end - begin)
            tiled = chain.stages[number + 1].kernel is not None
            ahead = (begin - offset) // kernels.MAP_TILE
            weights = (layer.begins, slots[layer.sources], layer.fields, layer.values)
            since = np.zeros(len(units), np.int64)
            convolve(layer.stage, z, weights, layer.biases, units, since, end - begin, out, tiled, ahead)
            z, slots, offset = out, units, begin
            reach = kernels.add_up(reach, layer.begins, layer.sources, layer.values, layer.biases)
        first = chain.stages[0]
        sums = not self._maps and first.kernel is None
        self._seen = end
        return self._rows.judge(
            z.reshape(-1, z.shape[-1])[:, begin - offset : end - offset],
            slots,
            self._biases if sums else None,
            sums and first.relu,
            chain.y[begin:end],
            reach,
        )


class _Rows:
    """The linear layers that end a network, packed for `kernels.judge_rows`."""

    def __init__(self, layers: Sequence[_Layer], width: tuple[int, int]) -> None:
        """`layers`: at least one; `width`: how many units there are before them, and the numbers of each."""
        units, each = width
        first = layers[0].sources * each + layers[0].fields
        read = np.unique(first)
        self._unit, self._field = np.divmod(read, each)
        self._each = each
        places = np.zeros(units * each, np.int64)
        places[read] = np.arange(len(read))
        columns = [places[first], *(layer.sources for layer in layers[1:])]
        offsets = np.cumsum([0, *(len(layer.values) for layer in layers)])
        self._sizes = np.array([len(layer.units) for layer in layers])
        self._begins = np.concatenate(
            [layer.begins + offset for layer, offset in zip(layers, offsets, strict=False)]
        )
        self._columns = np.concatenate(columns)
        self._values = np.concatenate([layer.values for layer in layers])
        self._biases = np.concatenate([layer.biases for layer in layers])
        self._relus = np.array([layer.stage.relu for layer in layers])

    def judge(
        self,
        z: Float32s,
        slots: Int64s,
        biases: Float32s | None,
        relu: bool,
        y: Int64s,
        reach: Float32s,
    ) -> Codes:
        """z: (slots * each, n), what stands in the slots; `slots`: those of the units before these layers;
        `biases`, `relu`: what is still to be done to what these units give. y: (n,), the labels. reach:
        (len(slots),), what the terms of each unit add up to at most."""
        codes = np.empty(len(y), np.int8)
        rows = slots[self._unit] * self._each + self._field
        shift = np.zeros(len(rows), np.float32) if biases is None else biases[self._unit]
        kernels.judge_rows(
            z,
            rows,
            shift,
            relu,
            self._sizes,
            self._begins,
            self._columns,
            self._values,
            self._biases,
            self._relus,
            y,
            reach[self._unit],
            np.float32(CLOSE),
            np.float32(ROUNDING),
            codes,
        )
        return codes
