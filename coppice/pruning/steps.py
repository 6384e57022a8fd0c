"""Steps of training: which samples, how they are moved, what dropout draws, and the loss so far."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from coppice.errors import CoppiceError, first_line
from coppice.pruning.arrangement import channels_last
from coppice.pruning.augment import augment
from coppice.pruning.contract import Tick
from coppice.pruning.distill import Teacher
from coppice.pruning.masks import Masks
from coppice.pruning.phases import Phase, reference_phase, stage_phases
from coppice.pruning.randomness import torch_seed
from coppice.pruning.sgd import MaskedSGD
from coppice.runfile import RunFile

_LOOK_EVERY = 20
"""Iterations between two looks at the loss: a look waits for the device."""
_LOSS_MEMORY = 0.02


class Steps:
    """Takes them, for whichever network it is given: everything but the loss is a function of the run, the
    phase and the iteration."""

    def __init__(
        self,
        run: RunFile,
        x: torch.Tensor,
        y: torch.Tensor,
        arranged: bool,
        reference: Callable[[], nn.Module],
    ) -> None:
        """x: float (n, ...), y: int64 (n,), the samples to train on, where the networks are. `arranged`:
        these want channels last. `reference` gives the dense network, once it is trained."""
        self.x, self.y = x, y
        self.reference = reference_phase(run, len(y), x.device)
        self.stages = stage_phases(run, len(y), x.device)
        self.mean_loss = torch.zeros((), device=x.device)
        self.losses = 0
        """Of how many steps `mean_loss` is the mean, at first."""
        self._run = run
        self._arranged = arranged
        self._ask_reference = reference
        self._teacher: Teacher | None = None

    def forget(self) -> None:
        """No step was taken, and what the reference said may no longer be so."""
        self.mean_loss.zero_()
        self.losses = 0
        self._teacher = None

    def loss(self) -> float:
        """A mean that forgets 2 % an iteration; NaN before the first."""
        return float(self.mean_loss) if self.losses else float("nan")

    def step(
        self,
        model: nn.Module,
        sgd: MaskedSGD,
        masks: Masks,
        phase: Phase,
        iteration: int,
        rate: float,
        tick: Tick,
    ) -> None:
        """The step after so many iterations, at this learning rate; inside `training`."""
        tick()
        self._generator().manual_seed(torch_seed(self._run.seed, phase.dropout_draws, iteration))
        x, y = self.batch(phase, iteration)
        teacher = self._ask_teacher() if phase.taught else None
        loss = sgd.step(model, masks, x, y, rate, phase.how, teacher, phase.cut_decay)
        self.losses += 1
        self.mean_loss += (loss - self.mean_loss) * max(1.0 / self.losses, _LOSS_MEMORY)

    def batch(self, phase: Phase, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The samples of that step, moved; (batch, ...) and (batch,)."""
        chosen = phase.batches[iteration]
        x = augment(self.x[chosen], phase.moves, self._run.seed, phase.moves_draws, iteration)
        return channels_last(x) if self._arranged else x, self.y[chosen]

    def look(self, phase: Phase, iteration: int, last: bool) -> None:
        """Now and then, and after the last step, whether training still makes sense.

        Raises `CoppiceError` if it diverged.
        """
        if (iteration % _LOOK_EVERY == 0 or last) and not bool(torch.isfinite(self.mean_loss)):
            key = f"{phase.name}.learning_rate"
            raise CoppiceError(
                f"{phase.name} training diverged: the loss is {float(self.mean_loss)} "
                f"at iteration {iteration} with {key} {phase.how.learning_rate:g}; lower {key}"
            )

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        """Training mode, and torch's own random state (dropout) given back as it was."""
        devices = [self.x.device] if self.x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            model.train()
            yield

    def _ask_teacher(self) -> Teacher:
        if self._teacher is None:
            self._teacher = Teacher(self._ask_reference(), self._run.distill)
        return self._teacher

    def _generator(self) -> torch.Generator:
        if self.x.device.type == "cuda":
            return torch.cuda.default_generators[self.x.device.index or 0]
        return torch.default_generator


def check_single(model: nn.Module, run: RunFile, x: torch.Tensor) -> None:
    """Where a batch is one sample: raise `CoppiceError` if the network cannot be trained on that, as with
    batch norm, which has nothing to compare it with. x: (1, ...)."""
    sections = {"reference": run.reference, "surgery": run.surgery}
    single = [f"{name}.batch" for name, how in sections.items() if how.batch == 1]
    if not single:
        return
    own = copy.deepcopy(model).train()  # whose statistics may change
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            own(x)
    except Exception as error:  # torch's, or the user's own
        raise CoppiceError(
            f"{' and '.join(single)}: {run.model.name} cannot be trained on one sample at a time "
            f"({first_line(error)}); take more"
        ) from error
