"""Chains of ordinary layers on a CPU, computed sparsely, the first layer shared between solutions.

Here is what all solutions have in common: the chain itself (read by `stages`), the samples, and what units of
the first layer gave before (`first_stage`). What one solution adds is in `solution`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from coppice.pruning.evaluation import BATCH
from coppice.pruning.scoring import kernels
from coppice.pruning.scoring.cuts import LayerCut, LayerCuts
from coppice.pruning.scoring.first_stage import FirstStage, slot_bytes
from coppice.pruning.scoring.layout import arranged, convolve
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.stages import Stage, float32s

BLOCK = 512
"""Samples, the fewest that are worked on together: whole tiles."""


class Chain:
    """What all solutions share."""

    def __init__(
        self, reference: Reference, stages: Sequence[Stage], cuts: Sequence[LayerCuts], cache_bytes: int
    ) -> None:
        """`stages`: of `read_chain`; `cuts`: of each layer in `Reference.found`."""
        self.stages = stages
        self.samples = len(reference.y)
        self.y = reference.y.cpu().numpy()
        self.cuts = [
            LayerCuts(torch.from_numpy(stage.weight), torch.ones(stage.weight.shape), None)
            if stage.layer is None
            else cuts[stage.layer]
            for stage in stages
        ]
        """Of each stage."""
        self._whole = {
            number: self.cuts[number].at(0.0) for number, stage in enumerate(stages) if stage.layer is None
        }
        first = stages[0]
        x = arranged(float32s(reference.x).reshape(self.samples, *first.inputs), first)
        self.first = FirstStage(first, stages[1], x, self.samples, self.cuts[0], cache_bytes)
        between = [stage.units * stage.each for stage in stages[1:] if stage.kernel is not None]
        self.at_once = max(BLOCK, cache_bytes // (4 * max(1, sum(between))) // BLOCK * BLOCK)
        """Samples that may be worked on together."""
        self._positions = [stage.positions for stage in stages]
        self._product_s = self._measure()

    @staticmethod
    def least_bytes(stages: Sequence[Stage], samples: int) -> int:
        """Of memory for what solutions share: room for what a single one needs of the first stage."""
        return stages[0].units * slot_bytes(stages[0], samples)

    def by_stage(self, cuts: Sequence[LayerCut]) -> list[LayerCut]:
        """A solution's cuts, of each layer in `Reference.found`, as those of each stage: stages that are left
        alone stay whole."""
        return [
            self._whole[number] if stage.layer is None else cuts[stage.layer]
            for number, stage in enumerate(self.stages)
        ]

    def seconds(self, cuts: Sequence[LayerCut]) -> float:
        """About how long a solution takes for all samples; `cuts`: of each stage."""
        first, *later = (cut.weights * times for cut, times in zip(cuts, self._positions, strict=True))
        # Of the first layer, most is there already.
        return (first // 4 + sum(later)) * self.samples * self._product_s

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
        x = arranged(np.ones((samples, *stage.inputs), np.float32), stage)
        out = np.empty((len(units), *stage.result[1:], samples), np.float32)

        def act() -> None:
            if stage.kernel is None:
                kernels.add_rows(x, begins, columns, values, since - 1, units, since, samples, out)
            else:
                weights = (begins, *np.divmod(columns, stage.field), values)
                convolve(stage, x, weights, zeros, units, since, samples, out, tiled=False)

        act()
        return best_time(act) / (len(columns) * stage.positions * samples)


def best_time(act: Callable[[], object]) -> float:
    """Seconds, the least of three calls."""
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        act()
        best = min(best, time.perf_counter() - begin)
    return best
