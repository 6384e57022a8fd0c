"""From errors to a score, and the order in which samples are looked at.

The samples stand in an order that goes with the weights: those first that the network published is closest
to failing on, or fails on. So a network that is cut too far shows it after a few hundred samples, and how
infeasible it is can be said without looking at the others: by how early it had made more errors than it may.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.pruning.contract import Int64s, Score, Tick
from coppice.pruning.evaluation import BATCH, judged

RIGHT, WRONG, DOUBTFUL = 0, 1, 2
Codes = npt.NDArray[np.int8]
"""(n,): `RIGHT`, `WRONG` or `DOUBTFUL`, a sample each."""

CLOSE = 2e-5
"""Two logits nearer to one another than this, relative to the largest, are too close to call: forty times
what float32 was seen to differ from float64 by, in trained networks cut to a hundredth."""

ROUNDING = 5e-7
"""So are two that differ by less than this share of what all the terms of a logit, from the samples on, add
up to at most without their signs: where they nearly cancel, noise is left. Four roundings of float32."""


class Judgement:
    """One solution under judgement: takes the samples' codes in order until the verdict is certain."""

    def __init__(self, samples: int, allowed: int, accuracy: bool) -> None:
        """`allowed`: the most errors that are feasible. `accuracy`: look at all samples in any case."""
        self._codes = np.empty(samples, np.int8)
        self._allowed = allowed
        self._accuracy = accuracy
        self.seen = 0
        """Samples taken."""
        self._errors = 0
        self._doubts = 0

    def take(self, codes: Codes) -> None:
        """Those of the next samples."""
        self._codes[self.seen : self.seen + len(codes)] = codes
        self.seen += len(codes)
        counts = np.bincount(codes, minlength=3)
        self._errors += int(counts[WRONG])
        self._doubts += int(counts[DOUBTFUL])

    @property
    def doubtful(self) -> Int64s:
        """The samples, by their place in the order, that the verdict hangs on; empty while it does not."""
        complete = self._accuracy and self.seen == len(self._codes)
        if not self._doubts or (self._errors + self._doubts <= self._allowed and not complete):
            return np.zeros(0, np.int64)
        return np.flatnonzero(self._codes[: self.seen] == DOUBTFUL)

    def settle(self, places: Int64s, wrong: npt.NDArray[np.bool_]) -> None:
        """Say what is true of doubtful samples."""
        self._codes[places] = wrong
        self._doubts -= len(places)
        self._errors += int(wrong.sum())

    @property
    def certain(self) -> bool:
        """Whether `score` can be asked. (All that `doubtful` names must have been settled.)"""
        unseen = len(self._codes) - self.seen
        if self._accuracy or not unseen:
            return not unseen
        return self._errors > self._allowed or self._errors + self._doubts + unseen <= self._allowed

    def score(self, remaining: int, total: int, least: int) -> Score:
        """The verdict; `remaining` of `total` parameters stay, and no fewer than `least` shall."""
        samples = len(self._codes)
        accuracy = (samples - self._errors) / samples if self._accuracy else None
        wrong = np.flatnonzero(self._codes[: self.seen] == WRONG)
        return score_of(wrong, self._allowed, samples, remaining, total, accuracy, least)


def codes(logits: torch.Tensor, right: torch.Tensor, classes: int) -> torch.Tensor:
    """int8: what logits that were not computed as the plain network does say of samples.

    logits: floats, overwritten; dimension `classes` are the classes. right: int64, 1 in that dimension, the
    labels. Gives the shape of logits without that dimension; `DOUBTFUL` also where a logit is not finite.
    """
    own = logits.gather(classes, right)
    largest = logits.abs().amax(classes)
    others = logits.scatter_(classes, right, -torch.inf).amax(classes)
    margin = own.squeeze(classes) - others
    # Also true for NaN, which compares as false.
    doubtful = torch.logical_not(margin.abs() > CLOSE * largest)
    return (margin < 0).to(torch.int8).masked_fill_(doubtful, DOUBTFUL)


def score_of(
    errors: Int64s,
    allowed: int,
    samples: int,
    remaining: int,
    total: int,
    accuracy: float | None,
    least: int = 0,
) -> Score:
    """The score of a network that keeps `remaining` of `total` parameters.

    errors: int64, ascending: where, in the order of the `samples`, it is wrong; if they are more than
    `allowed`, those up to the first that is too many are enough.

    Feasible: the fraction of the parameters that remain; above 0 even for a network cut to nothing.
    Infeasible: 1 + the fraction of samples that were left at the first error too many, itself among them: in
    (1, 2], the more the worse. Where fewer parameters remain than the `least` that shall: 1 + the fraction of
    these that are missing, whatever the errors.
    """
    if remaining < least:
        return Score(1.0 + (least - remaining) / least, False, accuracy)
    if len(errors) <= allowed:
        return Score(max(remaining, 1) / total, True, accuracy)
    return Score(1.0 + (samples - int(errors[allowed])) / samples, False, accuracy)


def margins(model: nn.Module, x: torch.Tensor, y: torch.Tensor, tick: Tick) -> torch.Tensor:
    """(n,) float32: the logit of the right class less the largest other; -inf where logits are not finite.

    x: (n, ...), y: int64 (n,). In evaluation mode.
    """

    def margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits, right = logits.float(), y[:, None]
        own = logits.gather(1, right).squeeze(1)
        others = logits.scatter(1, right, -torch.inf).amax(1)
        found = torch.where(logits.isfinite().all(1), own - others, -torch.inf)
        return found.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

    was_training = model.training
    model.eval()
    found = []
    for begin in range(0, len(y), BATCH):
        tick()
        found.append(judged(model, x[begin : begin + BATCH], y[begin : begin + BATCH], margin))
    model.train(was_training)
    return torch.cat(found)


def hardest_first(model: nn.Module, x: torch.Tensor, y: torch.Tensor, tick: Tick) -> torch.Tensor:
    """int32 (n,), on the CPU: the samples' numbers in the order of their `margins`, the smallest first."""
    return torch.argsort(margins(model, x, y, tick), stable=True).to("cpu", torch.int32)
