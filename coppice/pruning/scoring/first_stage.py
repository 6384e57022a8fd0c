"""The first layer, which solutions share.

What a unit of it gives hangs on nothing but which of its weights remain: it is kept in a slot and taken by
every later solution that cuts the unit alike; one that cuts it nearly alike adds or takes away what differs.
Where much has been added and taken away again, roundings are left: a unit begins anew now and then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coppice.pruning.contract import Float32s, Float64s, Int64s
from coppice.pruning.scoring import kernels
from coppice.pruning.scoring.cuts import LayerCuts
from coppice.pruning.scoring.layout import convolve, largest_inputs, room
from coppice.pruning.scoring.stages import Stage

_MOST = 4.0
"""How many times what its terms add up to may have gone through a slot."""


@dataclass(slots=True)
class Filling:
    """How slots are filled: from what stands in other slots, and with which weights."""

    slots: Int64s
    biases: Float32s
    """Of their units."""
    base: Int64s
    """The slot to begin with; -1 for nothing."""
    begins: Int64s
    """(slots + 1,): where the weights of each begin."""
    columns: Int64s
    values: Float32s
    """Negative what is taken away."""
    reach: Float32s
    """What goes through each slot, that of its base too, adds up to at most, without signs."""


def slot_bytes(stage: Stage, samples: int) -> int:
    """Of what one unit gives."""
    return 4 * samples * stage.each


class FirstStage:
    """What units of the first stage give, by which of their weights remain.

    Of a linear layer the sums, without bias and ReLU; of a convolution the maps, with all that follows.
    """

    def __init__(
        self, stage: Stage, after: Stage, x: Float32s, samples: int, cuts: LayerCuts, cache_bytes: int
    ) -> None:
        """x: the samples, `arranged` for `stage`; `after`: the stage behind it; `cuts`: of `stage`."""
        self.stage = stage
        self._tiled = after.kernel is not None
        self._x = x
        slots = max(stage.units, cache_bytes // slot_bytes(stage, samples))
        self.number = min(slots, 200 * stage.units)
        self.values = room(self.number, stage, after, samples)
        self.reach = np.zeros(self.number, np.float32)
        """What the terms that have gone through a slot add up to at most, without their signs."""
        self._filled = np.zeros(self.number, np.int64)
        """Samples, from the first."""
        self._name_in = np.full((self.number, 3), -1, np.int64)
        """Unit, and how many of its weights in force and of its others remain."""
        self._heads = np.full(stage.units, -1, np.int64)
        self._following = np.full(self.number, -1, np.int64)
        self._used = np.zeros(self.number, np.int64)
        self._fresh = 0
        self._now = 0
        # Each unit's weights, those in force first, each kind from the largest down: a cut keeps the first
        # so many of each.
        in_force, others = cuts.descending()
        units = [group // stage.weight.shape[1] for group in (in_force, others)]
        self._ranked = [
            group[np.argsort(unit, kind="stable")]
            for group, unit in zip((in_force, others), units, strict=True)
        ]
        self._begins = [
            np.concatenate([[0], np.cumsum(np.bincount(unit, minlength=stage.units))]) for unit in units
        ]
        sizes = np.abs(stage.weight * largest_inputs(x, stage)).ravel().astype(np.float64)
        self._up_to = [np.concatenate([[0.0], np.cumsum(sizes[group])]) for group in self._ranked]
        """What terms add up to at most, from the first of each group to any."""

    def find(self, units: Int64s, in_force: Int64s, others: Int64s) -> Int64s:
        """The slot of each unit that keeps so many weights; new ones take what was not used for longest."""
        self._now += 1
        names = np.stack([units, in_force, others], axis=1)
        found = np.empty(len(names), np.int64)
        kernels.find_slots(names, self._heads, self._following, self._name_in, found)
        self._used[found[found >= 0]] = self._now
        missing = np.flatnonzero(found < 0)
        if len(missing):
            slots = self._free(len(missing))
            kernels.rename_slots(slots, names[missing], self._heads, self._following, self._name_in)
            found[missing] = slots
            self._used[slots] = self._now
            self._filled[slots] = 0
        return found

    def _free(self, number: int) -> Int64s:
        new = np.arange(self._fresh, min(self._fresh + number, self.number))
        self._fresh += len(new)
        oldest = np.zeros(0, np.int64)
        if len(new) < number:
            left = number - len(new)
            used = self._used.copy()
            used[new] = self._now
            oldest = np.argpartition(used, left - 1)[:left]
        return np.concatenate([new, oldest])

    def fill(self, slots: Int64s, biases: Float32s, end: int, filling: Filling | None) -> Filling | None:
        """Make `slots`, whose units have `biases`, good for the samples up to `end`; gives what the next
        call for the same slots may take as its `filling`."""
        wanting = self._filled[slots] < end
        if not wanting.any():
            return filling
        if not (filling and np.array_equal(filling.slots, slots[wanting]) and self._based(filling, end)):
            filling = self._filling(slots[wanting], biases[wanting], end)
        since = self._filled[filling.slots]
        if self.stage.kernel is None:
            kernels.add_rows(
                self._x,
                filling.begins,
                filling.columns,
                filling.values,
                filling.base,
                filling.slots,
                since,
                end,
                self.values,
            )
        else:
            sources, fields = np.divmod(filling.columns, self.stage.field)
            weights = (filling.begins, sources, fields, filling.values)
            convolve(
                self.stage,
                self._x,
                weights,
                filling.biases,
                filling.slots,
                since,
                end,
                self.values,
                self._tiled,
            )
        before = np.where(since > 0, self.reach[filling.slots], 0)
        self.reach[filling.slots] = np.maximum(before, filling.reach)
        self._filled[filling.slots] = end
        return filling

    def _based(self, filling: Filling, end: int) -> bool:
        base = filling.base[filling.base >= 0]
        return bool((self._filled[base] >= end).all())

    def _filling(self, slots: Int64s, biases: Float32s, end: int) -> Filling:
        names = self._name_in[slots]
        base = np.full(len(slots), -1, np.int64)
        have = np.zeros((len(slots), 2), np.int64)
        reach = self._reach(names, have)
        if self.stage.kernel is None:
            kernels.nearest_slots(names, self._heads, self._following, self._name_in, self._filled, end, base)
            have[base >= 0] = self._name_in[base[base >= 0], 1:]
            through = self.reach[base] + self._reach(names, have)
            anew = (base < 0) | (through > _MOST * reach)
            base[anew], have[anew] = -1, 0
            reach = np.where(anew, reach, through)
        else:
            reach += np.abs(biases)
        begins, places, signs = self._differences(names, have)
        values = self.stage.weight.ravel()[places] * signs
        columns = places % self.stage.weight.shape[1]
        return Filling(slots, biases, base, begins, columns, values, reach.astype(np.float32))

    def _reach(self, names: Int64s, have: Int64s) -> Float64s:
        """What all terms add up to at most, without signs, that make units that have so many weights already
        what they are named."""
        total = np.zeros(len(names))
        for group, up_to in enumerate(self._up_to):
            first = self._begins[group][names[:, 0]]
            total += np.abs(up_to[first + names[:, 1 + group]] - up_to[first + have[:, group]])
        return total

    def _differences(self, names: Int64s, have: Int64s) -> tuple[Int64s, Int64s, Float32s]:
        """What to add to units that have so many weights already: begins (units + 1,), and for each weight
        its place in the flattened weight and its sign."""
        units = names[:, 0]
        starts, lengths, signs = [], [], []
        for group in (0, 1):
            want, there = names[:, 1 + group], have[:, group]
            starts.append(self._begins[group][units] + np.minimum(want, there))
            lengths.append(np.abs(want - there))
            signs.append(np.where(want >= there, np.float32(1), np.float32(-1)))
        total = lengths[0] + lengths[1]
        begins = np.concatenate([[0], np.cumsum(total)])
        places = np.empty(begins[-1], np.int64)
        sign = np.empty(begins[-1], np.float32)
        for group, offset in ((0, begins[:-1]), (1, begins[:-1] + lengths[0])):
            steps = _steps(lengths[group])
            target = np.repeat(offset, lengths[group]) + steps
            places[target] = self._ranked[group][np.repeat(starts[group], lengths[group]) + steps]
            sign[target] = np.repeat(signs[group], lengths[group])
        return begins, places, sign


def _steps(lengths: Int64s) -> Int64s:
    """0, 1, ... of each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
