"""The plain scorer: cut the network at a solution's crates and look at every sample.

It says what is right; `coppice.pruning.scoring.fast` must say the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.pruning.evaluation import BATCH, wrong_in
from coppice.pruning.masks import Masks, count_kept
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.verdict import Judgement, score_of


class PlainScorer:
    """Implements `coppice.pruning.contract.Scorer`. Not for two threads at once: it cuts one network in
    place."""

    def __init__(self, reference: Reference) -> None:
        """`reference` is taken over."""
        self._reference = reference

    @property
    def layers(self) -> int:
        """How many crates a solution has."""
        return len(self._reference.found)

    @property
    def batch(self) -> int:
        """One at a time."""
        return 1

    def score_many(self, solutions: Sequence[Float64s], tick: Tick) -> list[Score]:
        """See `Scorer.score_many`; always with the accuracy. Raises as `score`."""
        return [self.score(crates, tick) for crates in solutions]

    def score(self, crates: Float64s, tick: Tick) -> Score:
        """One solution. Raises `CoppiceError` for crates of a wrong length or not finite."""
        reference = self._reference
        limits = reference.limits(crates)
        remaining = reference.fixed + sum(count_kept(self.cut(limits)).values())
        samples = len(reference.y)
        wrong = []
        for begin in range(0, samples, BATCH):
            tick()
            wrong.append(self.wrong(begin))
        errors = torch.cat(wrong).nonzero()[:, 0].cpu().numpy()
        accuracy = (samples - len(errors)) / samples
        return score_of(
            errors, reference.allowed, samples, remaining, reference.total, accuracy, reference.least
        )

    def cut(self, limits: tuple[float, ...]) -> Masks:
        """Show the network as it is when cut at these thresholds; its masks."""
        masks = self._reference.cut_masks(limits)
        self._reference.show(masks)
        return masks

    def settle(self, judgement: Judgement, limits: tuple[float, ...], tick: Tick) -> None:
        """Ask the network cut at `limits` about the samples that a judgement hangs on, in the very batches
        in which `score` meets them."""
        doubtful = judgement.doubtful
        if not len(doubtful):
            return
        self.cut(limits)
        for begin in np.unique(doubtful // BATCH) * BATCH:
            here = doubtful[(doubtful >= begin) & (doubtful < begin + BATCH)]
            tick()
            wrong = self.wrong(int(begin)).cpu().numpy()
            judgement.settle(here, wrong[here - begin])

    def wrong(self, begin: int) -> torch.Tensor:
        """bool (batch,), on the device: which of the samples from `begin`, a multiple of `BATCH`, the
        network fails on as it is shown."""
        x, y = self._reference.x[begin : begin + BATCH], self._reference.y[begin : begin + BATCH]
        return wrong_in(self._reference.model, x, y)
