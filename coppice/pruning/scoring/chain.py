"""Chains of ordinary layers on a CPU, computed sparsely, the first layer shared between solutions.

Activations are kept with the samples last, (units, ..., samples), so that a weight is one multiplication of
whole rows. Of the first layer, a unit's output hangs on nothing but which of its weights remain: it is kept
in a slot and taken by every later solution that cuts the unit alike; one that cuts it nearly alike adds or
takes away what differs.

Only what is needed is computed: units that some kept weight reads, from units that are not dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.pruning.evaluation import BATCH
from coppice.pruning.scoring import kernels
from coppice.pruning.scoring.cuts import LayerCut, LayerCuts
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.verdict import CLOSE, Codes

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

_OVERFLOW = 1e30
"""No activation can reach this in a chain that is taken."""
_NO_POOL = ((1, 1), (1, 1))


@dataclass(slots=True)
class Stage:
    """A Linear or Conv2d layer with what follows it: at most one pooling, and ReLUs."""

    layer: int | None
    """Its place in `Reference.found`; None: left alone."""
    weight: Float32s
    """(units, inputs)."""
    bias: Float32s
    """(units,)."""
    bias_goes: bool
    """Whether a unit that keeps no weight loses its bias."""
    kernel: tuple[int, int] | None
    """Of a convolution."""
    inputs: tuple[int, ...]
    """Shape of a sample before it: (features,) or (channels, h, w)."""
    outputs: tuple[int, ...]
    """Shape after the layer itself."""
    pool: tuple[tuple[int, int], tuple[int, int]] = _NO_POOL
    """Kernel and stride."""
    relu: bool = False
    result: tuple[int, ...] = ()
    """Shape after all that."""

    @property
    def units(self) -> int:
        """Rows of the weight."""
        return len(self.weight)

    @property
    def each(self) -> int:
        """Numbers that a unit gives."""
        return int(np.prod(self.result[1:], dtype=np.int64))

    @property
    def field(self) -> int:
        """Inputs that belong to one unit (channel) of a convolution's input, side by side in the weight."""
        return self.kernel[0] * self.kernel[1] if self.kernel else 1

    @property
    def positions(self) -> int:
        """How often each weight is used on a sample."""
        return int(np.prod(self.outputs[1:], dtype=np.int64))


def read_chain(reference: Reference) -> list[Stage] | None:
    """The network as a chain; None if it is none, or not one that this module understands."""
    if any(parameter.dtype != torch.float32 for parameter in reference.parameters.values()):
        return None
    name_of = {id(parameter): name for name, parameter in reference.parameters.items()}
    layer_of = {layer.weight: number for number, layer in enumerate(reference.found)}
    stages: list[Stage] = []
    taken: set[str] = set()
    shape = tuple(reference.x.shape[1:])
    for module in _flat(reference.model):
        if _has_hooks(module):
            return None
        last = stages[-1] if stages else None
        if type(module) in (nn.Linear, nn.Conv2d):
            assert isinstance(module, nn.Linear | nn.Conv2d)
            names = [name_of.get(id(p)) for p in (module.weight, module.bias) if p is not None]
            outputs = _layer_shape(module, shape)
            if outputs is None or None in names or taken & set(names):
                return None
            taken |= {str(name) for name in names}
            # From the reference: the model itself may be showing a network that is cut.
            values = [_numbers(reference.weights.get(str(n), reference.parameters[str(n)])) for n in names]
            number = layer_of.get(str(names[0]))
            goes = number is not None and reference.found[number].bias is not None
            if goes != (len(names) == 2 and names[1] in reference.weights):
                return None  # its bias goes with another layer's units
            weight = values[0].reshape(len(values[0]), -1)
            bias = values[1] if len(values) == 2 else np.zeros(len(weight), np.float32)
            kernel = module.kernel_size if isinstance(module, nn.Conv2d) else None
            stages.append(Stage(number, weight, bias, goes, kernel, shape, outputs, result=outputs))  # type: ignore[arg-type]
            shape = outputs
        elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            shape = (int(np.prod(shape)),)
        elif isinstance(module, nn.ReLU) and last is not None:
            last.relu = True
        elif isinstance(module, nn.MaxPool2d) and last is not None and last.pool == _NO_POOL:
            pool = _pool(module)
            if pool is None or last.result != shape or len(shape) != 3:
                return None
            (rows, columns), (down, right) = pool
            shape = (shape[0], (shape[1] - rows) // down + 1, (shape[2] - columns) // right + 1)
            if min(shape) < 1:
                return None
            last.pool, last.result = pool, shape
        elif not isinstance(module, nn.Dropout | nn.Identity):
            return None
    whole = {stage.layer for stage in stages} - {None} == set(range(len(reference.found)))
    if not whole or len(stages) < 2 or stages[-1].kernel or _overflows(stages, reference.x):
        return None
    return stages


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential and not _has_hooks(module):
        for child in module:
            yield from _flat(child)
    else:
        yield module


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _numbers(tensor: torch.Tensor) -> Float32s:
    return tensor.detach().cpu().numpy().astype(np.float32)


def _layer_shape(module: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if isinstance(module, nn.Linear):
        return (module.out_features,) if shape == (module.in_features,) else None
    plain = (
        module.stride == (1, 1)
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )
    if not plain or len(shape) != 3 or shape[0] != module.in_channels:
        return None
    height, width = shape[1] - module.kernel_size[0] + 1, shape[2] - module.kernel_size[1] + 1
    return (module.out_channels, height, width) if min(height, width) > 0 else None


def _pool(module: nn.MaxPool2d) -> tuple[tuple[int, int], tuple[int, int]] | None:
    def pair(value: object) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type,return-value]

    plain = pair(module.padding) == (0, 0) and pair(module.dilation) == (1, 1)
    if not plain or module.ceil_mode or module.return_indices:
        return None
    return pair(module.kernel_size), pair(module.stride)


def _overflows(stages: Sequence[Stage], x: torch.Tensor) -> bool:
    """Whether some activation of some cut could leave what float32 holds."""
    largest = float(x.abs().max())
    for stage in stages:
        largest *= float(np.abs(stage.weight.astype(np.float64)).sum(axis=1).max())
        largest += float(np.abs(stage.bias).max())
        if not largest < _OVERFLOW:
            return True
    return False


class Chain:
    """What all solutions share; `begin` takes up one."""

    def __init__(
        self, reference: Reference, stages: Sequence[Stage], cuts: Sequence[LayerCuts], cache_bytes: int
    ) -> None:
        self.stages = stages
        self.samples = len(reference.y)
        first = stages[0]
        x = _numbers(reference.x).reshape(self.samples, *first.inputs)
        x = _tiled(x) if first.kernel else np.ascontiguousarray(x.T)
        self.y = reference.y.cpu().numpy()
        self.cuts = [
            LayerCuts(torch.from_numpy(stage.weight), torch.ones(stage.weight.shape))
            if stage.layer is None
            else cuts[stage.layer]
            for stage in stages
        ]
        self.first = FirstStage(first, stages[1], x, self.samples, self.cuts[0], cache_bytes)
        self.seconds = self._measure()

    def begin(self, cuts: Sequence[LayerCut], patience_s: float) -> Solution | None:
        """Take up a solution; None if it would take longer than `patience_s` for all samples."""
        own = [
            self.cuts[number].at(0.0) if stage.layer is None else cuts[stage.layer]
            for number, stage in enumerate(self.stages)
        ]
        positions = [stage.positions for stage in self.stages]
        products = sum(cut.weights * times for cut, times in zip(own[1:], positions[1:], strict=True))
        # Of the first layer, most is there already.
        products += own[0].weights * positions[0] // 4
        if products * self.samples * self.seconds > patience_s:
            return None
        return Solution(self, own)

    def _measure(self) -> float:
        """Seconds for a multiplication in the layer that has most of them (and compiles the kernels)."""
        widest = max(
            range(len(self.stages)), key=lambda i: self.stages[i].positions * self.stages[i].weight.size
        )
        stage, samples = self.stages[widest], min(self.samples, 2 * BATCH)
        begins = np.arange(0, 20 * 9, 9)
        columns = np.linspace(0, stage.weight.shape[1] - 1, begins[-1]).astype(np.int64)
        values, units = np.ones(len(columns), np.float32), np.arange(len(begins) - 1)
        since, zeros = np.zeros(len(units), np.int64), np.zeros(len(units), np.float32)
        x = np.ones((samples, *stage.inputs), np.float32)
        x = _tiled(x) if stage.kernel else np.ascontiguousarray(x.T)
        out = np.empty((len(units), *stage.result[1:], samples), np.float32)

        def act() -> None:
            if stage.kernel is None:
                kernels.add_rows(x, begins, columns, values, since - 1, units, since, samples, out)
            else:
                weights = (begins, *np.divmod(columns, stage.field), values)
                convolve(stage, x, weights, zeros, units, since, samples, out, tiled=False)

        act()
        return _best_time(act) / (len(columns) * stage.positions * samples)


def _best_time(act: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        act()
        best = min(best, time.perf_counter() - begin)
    return best


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

    out: (slots, tiles, h, w * MAP_TILE) if `tiled`, else (slots, h, w, n).
    """
    assert stage.kernel is not None
    begins, sources, fields, values = weights
    downs, rights = np.divmod(fields, stage.kernel[1])
    result = (stage.result[1], stage.result[2])
    each = int(np.prod(out.shape[1:]))
    if tiled:
        samples = out.shape[1] * kernels.MAP_TILE
        steps = (each, each // out.shape[1], kernels.MAP_TILE)
    else:
        samples = out.shape[-1]
        steps = (each, kernels.MAP_TILE, samples)
    kernels.convolve(
        maps,
        begins,
        sources,
        downs,
        rights,
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


def _room(units: int, stage: Stage, after: Stage, samples: int) -> Float32s:
    """For what units of `stage` give, laid out as `after` reads it: see `convolve`."""
    if after.kernel is None:
        return np.empty((units, *stage.result[1:], samples), np.float32)
    _, height, width = stage.result
    tiles = -(-samples // kernels.MAP_TILE)
    return np.empty((units, tiles, height, width * kernels.MAP_TILE), np.float32)


def _tiled(x: Float32s) -> Float32s:
    """(n, channels, h, w) as (channels, tiles, h, w * MAP_TILE); the last tile is filled with zeros."""
    samples, channels, height, width = x.shape
    tiles = -(-samples // kernels.MAP_TILE)
    padded = np.zeros((tiles * kernels.MAP_TILE, channels, height, width), np.float32)
    padded[:samples] = x
    split = padded.reshape(tiles, kernels.MAP_TILE, channels, height, width)
    return np.ascontiguousarray(split.transpose(2, 0, 3, 4, 1)).reshape(channels, tiles, height, -1)


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


class FirstStage:
    """What units of the first stage give, by which of their weights remain.

    Of a linear layer the sums, without bias and ReLU; of a convolution the maps, with all that follows.
    """

    def __init__(
        self, stage: Stage, after: Stage, x: Float32s, samples: int, cuts: LayerCuts, cache_bytes: int
    ) -> None:
        """x: (features, n), or tiled as `convolve` reads it."""
        self.stage = stage
        self._tiled = after.kernel is not None
        self._x = x
        slots = max(2 * stage.units, cache_bytes // (4 * samples * stage.each))
        self.number = min(slots, 200 * stage.units)
        self.values = _room(self.number, stage, after, samples)
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
        self._filled[filling.slots] = end
        return filling

    def _based(self, filling: Filling, end: int) -> bool:
        base = filling.base[filling.base >= 0]
        return bool((self._filled[base] >= end).all())

    def _filling(self, slots: Int64s, biases: Float32s, end: int) -> Filling:
        names = self._name_in[slots]
        base = np.full(len(slots), -1, np.int64)
        have = np.zeros((len(slots), 2), np.int64)
        if self.stage.kernel is None:
            kernels.nearest_slots(names, self._heads, self._following, self._name_in, self._filled, end, base)
            have[base >= 0] = self._name_in[base[base >= 0], 1:]
        begins, places, signs = self._differences(names, have)
        values = self.stage.weight.ravel()[places] * signs
        return Filling(slots, biases, base, begins, places % self.stage.weight.shape[1], values)

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
        # One batch is all that many solutions need; those that need more mostly need all.
        end = min(2 * begin or BATCH, chain.samples)
        self._filling = chain.first.fill(self._slots, self._biases, end, self._filling)
        z, slots = chain.first.values, self._slots
        offset = 0
        for number, layer in enumerate(self._maps, start=1):
            units = np.arange(len(layer.units))
            out = _room(len(units), layer.stage, chain.stages[number + 1], end - begin)
            tiled = chain.stages[number + 1].kernel is not None
            ahead = (begin - offset) // kernels.MAP_TILE
            weights = (layer.begins, slots[layer.sources], layer.fields, layer.values)
            since = np.zeros(len(units), np.int64)
            convolve(layer.stage, z, weights, layer.biases, units, since, end - begin, out, tiled, ahead)
            z, slots, offset = out, units, begin
        found = np.empty(end - begin, np.int8)
        first = chain.stages[0]
        plain = not self._maps and first.kernel is None
        self._rows.judge(
            z.reshape(-1, z.shape[-1]),
            slots,
            begin - offset,
            self._biases if plain else None,
            plain and first.relu,
            chain.y[begin:end],
            found,
        )
        self._seen = end
        return found


class _Rows:
    """The linear layers that end a network, packed for `kernels.judge_rows`."""

    def __init__(self, layers: Sequence[_Layer], width: tuple[int, int]) -> None:
        units, each = width
        first = layers[0].sources * each + layers[0].fields if layers else np.zeros(0, np.int64)
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
        begin: int,
        biases: Float32s | None,
        relu: bool,
        y: Int64s,
        codes: Codes,
    ) -> None:
        """z: (slots * each, n); `begin`: the column of the first sample; y, codes: those to judge."""
        rows = slots[self._unit] * self._each + self._field
        shift = np.zeros(len(rows), np.float32) if biases is None else biases[self._unit]
        kernels.judge_rows(
            z[:, begin : begin + len(y)],
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
            0,
            len(y),
            np.float32(CLOSE),
            codes,
        )
