"""How weights are trained at each point of a run, and at what learning rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from coppice.pruning.randomness import Batches, Purpose
from coppice.pruning.sgd import learning_rate
from coppice.runfile import AugmentSection, RunFile, Stage, TrainingSection


@dataclass(frozen=True, slots=True)
class Phase:
    """A way to train, for a while."""

    name: str
    """The run file's section that has its learning rate."""
    how: TrainingSection
    moves: AugmentSection
    batches: Batches
    dropout_draws: Purpose
    moves_draws: Purpose
    falls: tuple[int, int]
    """From where to where the learning rate's schedule goes."""
    cycles: bool = False
    """Whether the schedule "cycle" means one in every round; otherwise it is one for all of `falls`."""
    taught: bool = False
    """Whether the reference may teach."""
    cut_decay: float = 0.0
    """Of weights that are cut."""
    operates: bool = False
    """Whether masks change."""

    def rate(self, iteration: int, round_of: tuple[int, int]) -> float:
        """The learning rate of an iteration in the round `round_of` (begin, end)."""
        begin, end = self.falls
        if self.how.schedule == "cycle" and self.cycles:
            begin, end = round_of
        return learning_rate(self.how.learning_rate, self.how.schedule, iteration - begin, end - begin)


def reference_phase(run: RunFile, samples: int, device: torch.device) -> Phase:
    """The training of the dense network on `samples` samples."""
    return Phase(
        name="reference",
        how=run.reference,
        moves=run.augment,
        batches=Batches(samples, run.reference.batch, run.seed, Purpose.REFERENCE_BATCHES, device),
        dropout_draws=Purpose.REFERENCE_DROPOUT,
        moves_draws=Purpose.REFERENCE_MOVES,
        falls=(0, run.reference.iterations),
    )


def stage_phases(run: RunFile, samples: int, device: torch.device) -> dict[Stage, Phase]:
    """That of each stage of a run, in order."""
    surgery = Phase(
        name="surgery",
        how=run.surgery,
        moves=run.augment,
        batches=Batches(samples, run.surgery.batch, run.seed, Purpose.SURGERY_BATCHES, device),
        dropout_draws=Purpose.SURGERY_DROPOUT,
        moves_draws=Purpose.SURGERY_MOVES,
        falls=(0, 0),  # each stage says
        cycles=True,
        cut_decay=run.surgery.cut_decay,
        operates=True,
    )
    polishing = run.polish.model_dump(exclude={"augment", "average"}, exclude_none=True)
    refining = run.refine.model_dump(include={"learning_rate", "schedule", "weight_decay"}, exclude_none=True)
    phases: dict[Stage, Phase] = {}
    before = surgery
    for stage, following in zip(run.stages, (*run.stages[1:], None), strict=True):
        falls = (stage.begin, stage.end)
        if following is not None and not following.cuts and "learning_rate" not in polishing:
            falls = (stage.begin, following.end)  # it goes on through the polish
        if stage.section == "surgery":
            phase = replace(surgery, falls=falls)
        elif stage.section == "refine":
            how = before.how.model_copy(update=refining)
            phase = replace(surgery, name="refine", how=how, falls=falls, cut_decay=run.refine.cut_decay)
        else:
            phase = replace(
                before,
                how=before.how.model_copy(update=polishing),
                moves=run.augment.times(run.polish.augment),
                falls=(before.falls[0], stage.end),
                operates=False,
            )
            if "learning_rate" in polishing:
                phase = replace(phase, name="polish", falls=falls, cycles=False)
        taught = run.distill.weight > 0 and stage.begin >= run.distill.begin
        phases[stage] = before = replace(phase, taught=taught)
    return phases
