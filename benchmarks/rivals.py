"""Other ways to choose the thresholds, with the same surgery and the same training around them.

Each is a `benchmarks.local_run.Cut`.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.local_run import optimizer_for, scorer_for
from coppice.pruning.contract import Float64s
from coppice.pruning.masks import CUT_BELOW, crate_for, spread
from coppice.pruning.pruner import TorchPruner
from coppice.runfile import RunFile


def crates_at(pruner: TorchPruner, limit: float) -> Float64s:
    """float64 (layers,): the crates that give every layer the threshold `limit`."""
    return np.array([crate_for(spread(pruner.sgd.values[layer.weight]), limit) for layer in pruner.found])


def magnitudes(pruner: TorchPruner, kept: bool = False) -> torch.Tensor:
    """All layers' |w|, the largest first; `kept`: of the weights that are not cut alone."""
    found = [pruner.sgd.values[layer.weight].abs() for layer in pruner.found]
    if kept:
        masks = [pruner.masks[layer.weight].bool() for layer in pruner.found]
        found = [values[mask] for values, mask in zip(found, masks, strict=True)]
    return torch.cat([values.flatten() for values in found]).sort(descending=True).values


def one_threshold(run: RunFile, pruner: TorchPruner, number: int) -> tuple[float, int]:
    """The run's search method looks for one threshold that all layers share.

    What is searched is log2 of the share of weights above it, from all to one in a million.
    """
    sizes = magnitudes(pruner)

    def limit(share: float) -> float:
        return float(sizes[min(len(sizes) - 1, int(len(sizes) * 2.0**share))])

    limits = pruner.limits
    in_force = 1.0 if limits is None else float((sizes >= max(limits)).float().mean())
    start = np.clip(np.array([np.log2(max(in_force, 1e-6))]), -20.0, 0.0)
    optimizer = optimizer_for(run, start, -20.0, 0.0, number)
    scorer = scorer_for(run, pruner)
    while not optimizer.done:
        solutions = [crates_at(pruner, limit(float(row[0]))) for row in optimizer.ask()]
        optimizer.tell(np.array([score.fitness for score in scorer.score_many(solutions, lambda: None)]))
    pruner.apply(crates_at(pruner, limit(float(optimizer.best_solution[0]))), optimizer.best_fitness)
    return optimizer.best_fitness, optimizer.evaluations


class GradualMagnitude:
    """Cuts to a schedule instead of searching: the smallest weights of all layers together, some in every
    round, down to `compression`. The first cut goes half of the way there (the square root); from then on the
    share that remains falls geometrically, until it is there after three quarters of the cuts. (Zhu, Gupta
    2017 let it fall with the cube of the time: down to less than a hundredth, that takes nearly all of the
    weights at once. From the dense network on geometrically, half of the time goes by before it is small.)
    """

    def __init__(self, compression: float) -> None:
        self._compression = compression

    def __call__(self, run: RunFile, pruner: TorchPruner, number: int) -> tuple[float, int]:
        """See `Cut`; scores nothing."""
        cuts = -(-run.surgery.prune_until // run.rounds.iterations)
        progress = min(1.0, 0.5 + 0.5 * (number - 1) / (0.75 * cuts))
        total = sum(value.numel() for value in pruner.sgd.values.values())
        biases = sum(int(pruner.masks[layer.bias].sum()) for layer in pruner.found if layer.bias is not None)
        wanted = int(total * self._compression**-progress) - biases
        sizes = magnitudes(pruner, kept=True)
        if wanted < len(sizes):
            pruner.apply(crates_at(pruner, float(sizes[max(wanted, 1) - 1]) / CUT_BELOW), 0.0)
        # No constraint is asked for: what the schedule comes to counts, not what was smaller for a moment.
        pruner.best = pruner.result = None
        return self._compression**-progress, 0
