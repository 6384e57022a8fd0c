"""One step of training a masked network, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from coppice.pruning.distill import Teacher
from coppice.pruning.masks import Masks
from coppice.runfile import Schedule, TrainingSection


def learning_rate(base: float, schedule: Schedule, iteration: int, iterations: int) -> float:
    """The rate of `iteration` (from 0) out of `iterations`; past the end it stays at its last value."""
    progress = min(iteration / max(iterations, 1), 1.0)
    if schedule in ("cosine", "cycle"):
        return base * 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "step":
        return base * (1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
    return base


class MaskedSGD:
    """SGD with momentum as torch.optim.SGD does it, except that a masked parameter has two values: the one
    it learns (`values`) and the one the network computes with (values * mask). The gradient is taken at the
    second and applied to all of the first, so cut weights keep learning and can come back (Guo, Yao, Chen,
    NIPS 2016, eq. 6). With masks of ones it is torch.optim.SGD.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self.values = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self.momentum = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self.mean: dict[str, torch.Tensor] = {}
        self.meant = 0
        """Of how many values `mean` is the mean; see `add_to_mean`."""

    def show(
        self, masks: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Put values * mask into the network, of its own values or of others."""
        values = self.values if values is None else values
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if name in masks:
                    torch.mul(values[name], masks[name], out=parameter.data)
                else:
                    parameter.data.copy_(values[name])

    @property
    def settled(self) -> Mapping[str, torch.Tensor]:
        """What there is to judge: the mean, as far as it goes; else the values."""
        return self.mean if self.meant else self.values

    def forget(self) -> None:
        """Stand still: no momentum, and nothing in the mean."""
        for buffer in self.momentum.values():
            buffer.zero_()
        self.mean, self.meant = {}, 0

    def add_to_mean(self) -> None:
        """Let the values as they are now count in the mean."""
        self.meant += 1
        for name, value in self.values.items():
            if name in self.mean:
                self.mean[name].lerp_(value, 1.0 / self.meant)
            else:
                self.mean[name] = value.clone()

    def go_to_mean(self) -> None:
        """Go on from the mean, with the momentum as it is: noise that steps leave behind is averaged out
        (Polyak, Juditsky, SIAM J. Control Optim. 1992; of weights in deep learning: Izmailov et al., UAI
        2018)."""
        for name, mean in self.mean.items():
            self.values[name].copy_(mean)
        self.mean, self.meant = {}, 0

    def step(
        self,
        model: nn.Module,
        masks: Masks,
        x: torch.Tensor,
        y: torch.Tensor,
        rate: float,
        how: TrainingSection,
        teacher: Teacher | None = None,
        cut_decay: float = 0.0,
    ) -> torch.Tensor:
        """One step on a batch; gives its loss (cross entropy, or the teacher's), still on the device. The
        network is left showing the values before the step. `cut_decay`: weight decay of what is cut, beside
        that of all."""
        self.show(masks)
        for parameter in self._parameters.values():
            parameter.grad = None
        output = model(x)
        loss = nn.functional.cross_entropy(output, y) if teacher is None else teacher.loss(x, output, y)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if parameter.grad is None:  # frozen, or not used
                    continue
                value, buffer, slope = self.values[name], self.momentum[name], parameter.grad
                if how.weight_decay or cut_decay:
                    slope = slope.add(value, alpha=how.weight_decay + cut_decay)
                if cut_decay:  # the network shows what is not cut
                    slope.sub_(parameter, alpha=cut_decay)
                buffer.mul_(how.momentum).add_(slope)
                value.sub_(buffer, alpha=rate)
        return loss.detach()
