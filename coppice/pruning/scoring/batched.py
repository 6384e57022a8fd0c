"""Several solutions in one pass, for devices that one network of this size does not keep busy."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from coppice.pruning.contract import Tick
from coppice.pruning.evaluation import BATCH
from coppice.pruning.scoring.plain import PlainScorer
from coppice.pruning.scoring.reference import Reference
from coppice.pruning.scoring.verdict import Judgement, codes

SOLUTIONS = 32
"""At once; halved while the device has no room."""
_SAMPLES = 4 * BATCH
"""In one pass, after the first batch; halved when a single solution has no room."""


class Batched:
    """Judges many solutions of one reference at a time, by torch.func.vmap over their weights."""

    def __init__(self, reference: Reference, plain: PlainScorer) -> None:
        """`plain`: of the same reference; settles what is too close to call. Raises `RuntimeError` for a
        network that cannot be copied (torch.nn.utils.weight_norm)."""
        self._reference = reference
        self._plain = plain
        # A copy, since a call that fails can leave a network behind that is not whole.
        self._model = copy.deepcopy(reference.model)
        self._rest = {
            name: tensor.detach()
            for name, tensor in (*reference.parameters.items(), *reference.model.named_buffers())
            if name not in reference.weights
        }
        self.solutions = SOLUTIONS
        # Where samples have to do with one another, they must meet in the batches of the plain scorer.
        norms = [module for module in self._model.modules() if isinstance(module, _BatchNorm)]
        together = any(norm.running_mean is None for norm in norms)
        self._samples = BATCH if together else _SAMPLES

    def judge(self, limits: Sequence[tuple[float, ...]], judgements: Sequence[Judgement], tick: Tick) -> None:
        """Bring each judgement to its end; `limits`: the thresholds of each.

        Raises torch.OutOfMemoryError if not even one solution and one batch of samples have room, and
        whatever torch raises for a network that cannot be mapped over its weights.
        """
        open_ = list(range(len(limits)))
        while open_:
            some = open_[: self.solutions]
            try:
                self._judge_some([limits[i] for i in some], [judgements[i] for i in some], tick)
            except torch.OutOfMemoryError:
                if not self._ask_for_less(len(some)):
                    raise
            else:
                open_ = open_[len(some) :]

    def _ask_for_less(self, solutions: int) -> bool:
        if solutions > 1:
            self.solutions = solutions // 2
        elif self._samples > BATCH:
            self._samples //= 2
        else:
            return False
        torch.cuda.empty_cache()
        return True

    def _judge_some(
        self, limits: Sequence[tuple[float, ...]], judgements: Sequence[Judgement], tick: Tick
    ) -> None:
        reference = self._reference
        weights = self._cut(limits)
        while True:
            # First, since there may have been no room for it before. Then all that run have seen the same.
            for judgement, own in zip(judgements, limits, strict=True):
                self._plain.settle(judgement, own, tick)
            running = [i for i, judgement in enumerate(judgements) if not judgement.certain]
            if not running:
                return
            begin = judgements[running[0]].seen
            end = min(begin + (self._samples if begin else BATCH), len(reference.y))
            tick()
            chosen = torch.tensor(running, device=reference.y.device)
            logits = self._logits(
                {name: value[chosen] for name, value in weights.items()}, reference.x[begin:end].clone()
            )
            right = reference.y[begin:end, None].expand(len(running), -1, 1)
            found = codes(logits, right, 2).cpu().numpy()  # one trip from the device for all solutions
            for i, each in zip(running, found, strict=True):
                judgements[i].take(each)

    def _cut(self, limits: Sequence[tuple[float, ...]]) -> dict[str, torch.Tensor]:
        """The masked weights and biases, (solutions, ...) each."""
        reference = self._reference

        def one(*own: torch.Tensor) -> dict[str, torch.Tensor]:
            return {name: mask * reference.weights[name] for name, mask in reference.cut_masks(own).items()}

        by_layer = torch.tensor(limits, dtype=torch.float64, device=reference.y.device).unbind(1)
        return vmap(one)(*by_layer)

    def _logits(self, weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """(solutions, n, classes)."""

        def one(cut: dict[str, torch.Tensor]) -> torch.Tensor:
            result: torch.Tensor = functional_call(self._model, {**self._rest, **cut}, (x,))
            return result

        return vmap(one)(weights)
