"""The fast scorer: the plain scorer's verdict for a fraction of the work.

- What remains is counted by binary search in sorted magnitudes (`cuts`), without touching a weight.
- Samples are looked at hardest first, until the verdict is certain either way.
- A cut that was judged before is not judged again.
- On a CPU, chains of ordinary layers (`stages`) are computed sparsely (`solution`), and what two solutions
  share of the first layer once (`chain`); on a GPU, several solutions in one pass (`batched`). Both round
  differently from the plain scorer: where a sample is too close to call, the plain network is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np
import torch

from coppice.pruning.contract import Float64s, Score, Scorer, Tick
from coppice.pruning.evaluation import BATCH
from coppice.pruning.scoring.batched import Batched
from coppice.pruning.scoring.chain import Chain, best_time
from coppice.pruning.scoring.cuts import LayerCut, LayerCuts
from coppice.pruning.scoring.plain import PlainScorer
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.solution import Solution
from coppice.pruning.scoring.stages import read_chain
from coppice.pruning.scoring.verdict import Codes, Judgement

_KNOWN = 10_000
"""Verdicts kept."""


def make_scorer(reference: Reference, accuracy: bool, cache_bytes: int) -> Scorer:
    """The fast scorer; the plain one for weights that are not float32, since thresholds are in it."""
    if any(weight.dtype != torch.float32 for weight in reference.weights.values()):
        return PlainScorer(reference)
    return FastScorer(reference, accuracy, cache_bytes)


class Judged(Protocol):
    """One solution under judgement."""

    def codes(self) -> Codes:
        """Those of the next samples."""
        ...


class FastScorer:
    """Implements `coppice.pruning.contract.Scorer`. Not for two threads at once.

    Fitness and verdict are the plain scorer's. The accuracy is, too, if it is asked for; otherwise it is
    None wherever the verdict was certain without it.
    """

    def __init__(self, reference: Reference, accuracy: bool = False, cache_bytes: int = 512_000_000) -> None:
        """`reference`, of float32 weights, is taken over. `accuracy`: look at all samples, of every solution.
        `cache_bytes`: for what solutions share, as far as it is needed; where it is too little for a single
        one, torch does the work."""
        self._reference = reference
        self._accuracy = accuracy
        self._plain = PlainScorer(reference)
        self._cuts = [
            LayerCuts(
                reference.weights[layer.weight],
                reference.masks[layer.weight],
                None if layer.bias is None else reference.masks[layer.bias],
            )
            for layer in reference.found
        ]
        self._chain: Chain | None = None
        self._batched: Batched | None = None
        if reference.y.device.type == "cpu":
            stages = read_chain(reference)
            if stages is not None and Chain.least_bytes(stages, len(reference.y)) <= cache_bytes:
                self._chain = Chain(reference, stages, self._cuts, cache_bytes)
        else:
            with suppress(RuntimeError):  # cannot be copied: one by one
                self._batched = Batched(reference, self._plain)
        self._plain_s = self._measure() if self._chain else 0.0
        self._known: dict[tuple[tuple[int, int], ...], Score] = {}

    @property
    def layers(self) -> int:
        """How many crates a solution has."""
        return len(self._reference.found)

    @property
    def batch(self) -> int:
        """How many solutions it is best given at once."""
        return self._batched.solutions if self._batched else 1

    def score(self, crates: Float64s, tick: Tick) -> Score:
        """One solution."""
        return self.score_many([crates], tick)[0]

    def score_many(self, solutions: Sequence[Float64s], tick: Tick) -> list[Score]:
        """See `Scorer.score_many`. Raises `CoppiceError` for crates of a wrong length or not finite."""
        limits = [self._reference.limits(crates) for crates in solutions]
        tick()
        cuts = [[each.at(limit) for each, limit in zip(self._cuts, own, strict=True)] for own in limits]
        cut_names = [tuple(cut.ranks for cut in own) for own in cuts]
        new = {name: i for i, name in enumerate(cut_names) if name not in self._known}
        if len(self._known) + len(new) > _KNOWN:
            kept = {name: self._known[name] for name in cut_names if name in self._known}
            self._known = kept
        judgements = self._judge([limits[i] for i in new.values()], [cuts[i] for i in new.values()], tick)
        for (name, i), judgement in zip(new.items(), judgements, strict=True):
            remaining = self._remaining(cuts[i])
            self._known[name] = judgement.score(remaining, self._reference.total, self._reference.least)
        return [self._known[name] for name in cut_names]

    def _remaining(self, cuts: Sequence[LayerCut]) -> int:
        """Parameters that a solution keeps."""
        return self._reference.fixed + sum(cut.weights + cut.biases for cut in cuts)

    def _judge(
        self, limits: Sequence[tuple[float, ...]], cuts: Sequence[Sequence[LayerCut]], tick: Tick
    ) -> list[Judgement]:
        reference = self._reference
        judgements = [Judgement(len(reference.y), reference.allowed, self._accuracy) for _ in limits]
        if self._batched and len(limits) > 1:
            try:
                with torch.inference_mode():
                    self._batched.judge(limits, judgements, tick)
            except RuntimeError:  # cannot be mapped over its weights, or no room at all: one by one
                self._batched = None
                return self._judge(limits, cuts, tick)
            return judgements
        for own_limits, own_cuts, judgement in zip(limits, cuts, judgements, strict=True):
            judged = self._take_up(own_limits, own_cuts)
            while not judgement.certain:
                tick()
                judgement.take(judged.codes())
                self._plain.settle(judgement, own_limits, tick)
        return judgements

    def _take_up(self, limits: tuple[float, ...], cuts: Sequence[LayerCut]) -> Judged:
        """Sparsely, unless the plain network is quicker."""
        if self._chain:
            by_stage = self._chain.by_stage(cuts)
            if self._chain.seconds(by_stage) <= self._plain_s:
                return Solution(self._chain, by_stage)
        return _Plainly(self._plain, limits)

    def _measure(self) -> float:
        """Seconds that the plain network takes for all samples."""
        samples = len(self._reference.y)
        return best_time(lambda: self._plain.wrong(0)) * samples / min(BATCH, samples)


class _Plainly:
    """Any network, by the plain scorer's own means: never a doubt."""

    def __init__(self, plain: PlainScorer, limits: tuple[float, ...]) -> None:
        self._plain = plain
        self._seen = 0
        plain.cut(limits)

    def codes(self) -> Codes:
        """See `Judged.codes`."""
        wrong = self._plain.wrong(self._seen).cpu().numpy().astype(np.int8)
        self._seen += len(wrong)
        return wrong
