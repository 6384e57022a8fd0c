"""The run file: everything that a run needs to know, validated before anything starts.

A mistake is answered in one line with file, key and what was expected. Every key has a default (only
`name` has none), written here once; `coppice master --help` points here and docs/runfile.md prints it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from coppice.errors import CoppiceError
from coppice.work.contents import json_from_bytes, json_to_bytes, unfit
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_TEXT_BYTES
from coppice.yamlfile import first_mistake, read_yaml


class RunFileError(CoppiceError):
    """The run file cannot be used; the message names file, key and what was expected."""


MAX_RUN_FILE_BYTES = 50_000
"""Twenty times what a run file has; PyYAML needs seconds for more."""
MOST = 10**9
"""Of anything that is counted: numbers in the work folder's names have nine digits. And of what training and
searches compute with: float32 holds its square."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Schedule = Literal["constant", "cosine", "step", "cycle"]
"""constant; cosine: half a cosine down to zero at the end; step: divided by ten after 1/2 and 3/4; cycle: a
cosine in every round, so that each ends settled (in the reference, and in a polish with a learning_rate of
its own, as cosine)."""


class ModelSection(_Section):
    """The network: a built-in name, or `module:callable` (or `file.py:callable`) of the user's own."""

    name: str = "mlp"
    """mlp, lenet-300-100, lenet-5, or module:callable; the callable returns a torch.nn.Module."""
    arguments: dict[str, Any] = {}
    """Keyword arguments for it."""
    layers: list[str] | None = None
    """Names of the modules to prune; default: every Linear and Conv layer."""

    @field_validator("arguments")
    @classmethod
    def _plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        # They travel in run.json, where a date would become text and .nan nothing at all.
        try:
            plain = json_from_bytes(json_to_bytes(arguments), "") == arguments
        except (TypeError, ValueError, RecursionError, BadContent):
            plain = False
        if not plain:
            raise ValueError("only text, finite numbers, true, false, null, and lists and mappings of them")
        return arguments


class AugmentSection(_Section):
    """Training images are moved at random each time they are seen, by at most so much. Not the samples held
    out, nor the test set."""

    shift: float = Field(default=0.0, ge=0)
    """Pixels, to each side."""
    rotate: float = Field(default=0.0, ge=0, le=180)
    """Degrees, either way."""
    scale: float = Field(default=0.0, ge=0, lt=1)
    """A fraction of the size: 0.1 is 10 % larger or smaller."""
    shear: float = Field(default=0.0, ge=0, le=1)
    """Pixels to the side, a pixel of height."""

    @property
    def any(self) -> bool:
        """Whether images are moved at all."""
        return any((self.shift, self.rotate, self.scale, self.shear))

    def times(self, factor: float) -> AugmentSection:
        """The same amounts, each times `factor`, from 0 to 1."""
        amounts = {name: factor * amount for name, amount in self}
        return self.model_copy(update=amounts)


class DataSection(_Section):
    """The samples: a built-in set, or arrays of the user's own."""

    name: Literal["digits", "mnist", "arrays"] = "digits"
    folder: str | None = None
    """mnist: where the four idx .gz files are (or COPPICE_MNIST, or downloaded into a cache)."""
    train: str | None = None
    """arrays: <train>_x.npy and <train>_y.npy."""
    test: str | None = None
    """arrays: <test>_x.npy and <test>_y.npy; default: a tenth of the training samples, which are then not
    trained on."""

    @model_validator(mode="after")
    def _of_that_set(self) -> DataSection:
        for key, name in (("folder", "mnist"), ("train", "arrays"), ("test", "arrays")):
            if getattr(self, key) is not None and self.name != name:
                raise ValueError(f"{key} needs name: {name}")
        if self.name == "arrays" and self.train is None:
            raise ValueError("name: arrays needs train; <train>_x.npy and <train>_y.npy are read")
        return self


class TrainingSection(_Section):
    """How weights are fitted: SGD with momentum, cross entropy."""

    batch: int = Field(default=64, ge=1, le=MOST)
    learning_rate: float = Field(default=0.1, gt=0, le=MOST)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=MOST)
    schedule: Schedule = "cosine"


class ReferenceSection(TrainingSection):
    """The dense network that everything is compared with."""

    iterations: int = Field(default=2000, ge=0, le=MOST)
    weights: str | None = None
    """A .safetensors file to start from; with iterations: 0 it is taken as it is."""

    @model_validator(mode="after")
    def _trained(self) -> ReferenceSection:
        if self.iterations == 0 and self.weights is None:
            raise ValueError("iterations: 0 needs weights, of a network that is trained already")
        return self


class RoundsSection(_Section):
    """The master's rounds."""

    iterations: int = Field(default=500, ge=1, le=MOST)
    """Iterations of one round (the number in new_itr.txt), but for those of the refinement."""
    tmax: int = Field(default=5000, ge=1, le=MOST)
    """Iterations in all, without the reference's. A round that would go beyond it, or beyond the end of the
    surgery, the polish or the refinement, is shortened to end there."""


class SurgerySection(TrainingSection):
    """Dynamic network surgery: training in which masks may also open again."""

    prune_until: int = Field(default=3000, ge=0, le=MOST)
    """Searches and mask changes end at this iteration; after it the kept weights are only trained (until
    refine.begin, if there is one)."""
    pace_until: int | None = Field(default=None, ge=1, le=MOST)
    """Cut to a schedule, evenly from what the first search has left to constraint.compression, which is
    reached at this iteration; or later, or not at all: a round that ends below accuracy_drop is followed by
    one without a cut, and after the first no cut takes much more than a tenth of what is left, so that 10x
    takes some 25 rounds. A search begins at one threshold for all layers, the one that cuts to where the
    schedule is, and may lose as much accuracy as that does. No cut is taken back. Default: every search cuts
    as far as it may."""
    accuracy_drop: float | None = Field(default=None, ge=0, le=1)
    """In place of constraint.accuracy_drop until refine.begin, or in a surgery with pace_until: what the
    refinement, or the polish, wins back may be lost. What keeps only this is no result: should it not be won
    back, the smallest network is that kept constraint.accuracy_drop."""
    gamma: float = Field(default=0.0001, ge=0)
    """Masks are updated with probability 1 / (1 + gamma * iteration)."""
    biases: bool = True
    """Whether surgery cuts and restores biases, too, at the threshold of their layer; otherwise a unit has
    its bias as long as it has an input."""
    cut_decay: float = Field(default=0.0, ge=0, le=MOST)
    """More weight decay for weights while they are cut. These learn on, and return once they are larger than
    the threshold: with it only those whose gradients agree for long, without it some by noise alone."""
    average: float = Field(default=0.0, ge=0, le=1)
    """The last share of each round over which the weights are averaged; the mean is judged, searched on, and
    trained on. 0: none. Without it the noise of the last steps is judged, too."""


class PolishSection(_Section):
    """How the weights that stay are trained once masks no longer change: from surgery.prune_until to
    rounds.tmax, or to refine.begin, and again from refine.until on."""

    learning_rate: float | None = Field(default=None, gt=0, le=MOST)
    """Of its first step, where the schedule begins anew, that of the surgery before it having ended there;
    default: that schedule goes on to the end of the polish."""
    schedule: Schedule | None = None
    """Needs a learning_rate; default: that of the surgery before it."""
    weight_decay: float | None = Field(default=None, ge=0, le=MOST)
    """Default: that of the surgery before it. Pruning wants much of it, the weights that stay hardly any."""
    average: float | None = Field(default=None, ge=0, le=1)
    """The last share of the polish over which the weights are averaged: from there on their mean is judged,
    and training goes on from the weights themselves, best at a constant rate (`schedule`). Of networks that
    are as small the last one is then the result. Default: in each round for itself, as surgery.average."""
    augment: float = Field(default=1.0, ge=0, le=1)
    """How much is left of what `augment` moves images by: 0.5 is half as far, 0 not at all."""


class RefineSection(_Section):
    """A second surgery, on the polished network: it searches and cuts again, in rounds so long that each
    repairs what it has cut; then it is polished again."""

    begin: int | None = Field(default=None, ge=0, le=MOST)
    """The iteration, at or after surgery.prune_until; default: no refinement."""
    until: int | None = Field(default=None, ge=1, le=MOST)
    """The iteration at which it ends; default: rounds.tmax."""
    iterations: int = Field(default=2000, ge=1, le=MOST)
    """Of one round."""
    learning_rate: float = Field(default=0.02, gt=0, le=MOST)
    schedule: Schedule = "cycle"
    weight_decay: float | None = Field(default=None, ge=0, le=MOST)
    """Default: that of the polish before it, or of the surgery where there is none in between."""
    cut_decay: float = Field(default=0.02, ge=0, le=MOST)
    """As surgery.cut_decay."""
    search_drop: float | None = Field(default=None, ge=0, le=1)
    """As constraint.search_drop; default: constraint.accuracy_drop."""


class DistillSection(_Section):
    """In surgery and polish the dense reference teaches what is left of it: how likely it holds each class,
    the wrong ones too, which says more of a sample than its label."""

    weight: float = Field(default=0.0, ge=0, le=1)
    """Of the loss, how much is the distance to what the reference says; the rest is cross entropy with the
    label. 0: no distilling, which saves asking the reference about every batch."""
    temperature: float = Field(default=2.0, ge=0.001, le=MOST)
    """What both networks' outputs are divided by before the softmax: the higher, the more wrong classes
    count."""
    begin: int = Field(default=0, ge=0, le=MOST)
    """Not in a surgery, polish or refinement that begins before this iteration. Asking the reference about
    every batch costs time: with that of surgery.prune_until only the polish pays."""


class SearchSection(_Section):
    """The search for the layers' crates."""

    method: Literal["ncs", "cmaes", "random"] = "ncs"
    """Negatively Correlated Search, CMA-ES, or random search. With random, population: 1 and evaluations: 1
    there is no search, each cut is what it would begin with: for a surgery with pace_until, which decides
    that."""
    population: int = Field(default=10, ge=1, le=1000)
    """Solutions of one generation, which can all be scored at the same time. At least 2, unless the method is
    random."""
    evaluations: int = Field(default=500, ge=1, le=MOST)
    """Solutions scored in one search."""
    sigma: float | None = Field(default=None, gt=0, le=MOST)
    """First step size; default: for ncs (upper - lower) / population, as published, for cmaes (upper - lower)
    / 10. A random search has none."""
    lower: float = Field(default=0.0, ge=-MOST, le=MOST)
    upper: float = Field(default=10.0, ge=-MOST, le=MOST)

    @model_validator(mode="after")
    def _box(self) -> SearchSection:
        if not self.lower < self.upper:
            raise ValueError("lower must be below upper")
        if self.population < 2 and self.method != "random":
            raise ValueError(f"population must be at least 2 for {self.method}")
        if self.evaluations < self.population:
            raise ValueError("evaluations must be at least population")
        return self


class ConstraintSection(_Section):
    """What a pruned network must keep, judged on samples held out of the training set."""

    accuracy_drop: float = Field(default=0.0, ge=0, le=1)
    """Accuracy that may be lost against the reference, as a fraction (0.005: half a percent)."""
    search_drop: float | None = Field(default=None, ge=0, le=1)
    """Accuracy that a search may give up by its cut, since surgery repairs it afterwards. Where it does not,
    that is accuracy_drop is not kept at the end of the round, the run goes back to its best network, and the
    next search may give up only half as much beyond accuracy_drop. Default: accuracy_drop."""
    samples: int = Field(default=500, ge=1, le=MOST)
    """How many training samples are held out for it."""
    compression: float | None = Field(default=None, gt=1)
    """Enough: no search cuts to more than so many times fewer parameters (and a tenth more), and none is made
    while so few are left. Default: as few as can be."""

    @model_validator(mode="after")
    def _search_gives_up_more(self) -> ConstraintSection:
        if self.search_drop is not None and self.search_drop < self.accuracy_drop:
            raise ValueError("search_drop must not be below accuracy_drop")
        return self


class EvaluatorsSection(_Section):
    """The workers that score solutions."""

    count: int = Field(default=2, ge=1, le=1000)
    """How many `simulate` starts; elsewhere as many as you submit."""
    lease_s: float = Field(default=30.0, gt=0)
    """A claim whose holder did not beat for so long is taken back."""
    tries: int = Field(default=5, ge=1, le=1000)
    """A solution that cost so many evaluators their life is set aside as infeasible."""
    device: str = "cpu"
    """cpu, cuda, cuda:0, or auto; of the outer loop, too. A role's own --device goes first."""
    accuracy: bool = False
    """Whether every solution's accuracy shall stand in history.csv; otherwise scoring stops as soon as the
    verdict is certain, which is several times faster."""
    cache_mb: int = Field(default=512, ge=0, le=10**6)
    """Memory, MB, that an evaluator on a CPU may use for what solutions share."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of a run that is all done in one way."""

    section: Literal["surgery", "polish", "refine"]
    """Of the run file, where that way stands."""
    begin: int
    end: int
    round: int
    """Iterations of one of its rounds."""

    @property
    def cuts(self) -> bool:
        """Whether its rounds search and cut, and its masks change."""
        return self.section != "polish"

    def round_of(self, iteration: int) -> tuple[int, int]:
        """(begin, end) of the round in it to which the step after so many iterations belongs."""
        begin = self.begin + (iteration - self.begin) // self.round * self.round
        return begin, min(begin + self.round, self.end)


class RunFile(_Section):
    """A whole run file."""

    name: str
    work: str | None = None
    """The work folder: a path or a webhdfs:// URL; --work and COPPICE_WORK go before it."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    augment: AugmentSection = AugmentSection()
    reference: ReferenceSection = ReferenceSection()
    rounds: RoundsSection = RoundsSection()
    surgery: SurgerySection = SurgerySection()
    polish: PolishSection = PolishSection()
    refine: RefineSection = RefineSection()
    distill: DistillSection = DistillSection()
    search: SearchSection = SearchSection()
    constraint: ConstraintSection = ConstraintSection()
    evaluators: EvaluatorsSection = EvaluatorsSection()

    @field_validator("name")
    @classmethod
    def _short_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
            raise ValueError(
                "letters, digits, '_', '.' and '-' only, at most 100, starting with a letter or digit"
            )
        return name

    @model_validator(mode="after")
    def _pace(self) -> RunFile:
        if self.surgery.pace_until is not None:
            if self.constraint.compression is None:
                raise ValueError("surgery.pace_until needs constraint.compression, where the schedule ends")
            if self.surgery.pace_until > min(self.surgery.prune_until, self.rounds.tmax):
                raise ValueError("surgery.pace_until must not be above surgery.prune_until or rounds.tmax")
        return self

    @model_validator(mode="after")
    def _polish(self) -> RunFile:
        if self.polish.schedule is not None and self.polish.learning_rate is None:
            raise ValueError("polish.schedule needs polish.learning_rate, where it begins")
        return self

    @model_validator(mode="after")
    def _refinement(self) -> RunFile:
        begin = self.refine.begin
        if begin is None:
            if self.refine != RefineSection():
                raise ValueError("refine needs refine.begin; without it there is no refinement")
            return self
        until = self.refine.until or self.rounds.tmax
        if not self.surgery.prune_until <= begin < until <= self.rounds.tmax:
            raise ValueError(
                "refine.begin must be at least surgery.prune_until, and below refine.until, which is at most "
                "rounds.tmax"
            )
        return self

    @model_validator(mode="after")
    def _drops(self) -> RunFile:
        given = self.surgery.accuracy_drop
        polished = self.surgery.pace_until is not None and self.surgery.prune_until < self.rounds.tmax
        if given is not None and self.refine.begin is None and not polished:
            raise ValueError(
                "surgery.accuracy_drop needs a refinement (refine.begin), or a pace (surgery.pace_until) "
                "and a polish, that wins it back"
            )
        for key, drop, least in (
            ("surgery.accuracy_drop", given, self.constraint.accuracy_drop),
            ("refine.search_drop", self.refine.search_drop, self.constraint.accuracy_drop),
            ("constraint.search_drop", self.constraint.search_drop, given or 0.0),
        ):
            if drop is not None and drop < least:
                raise ValueError(f"{key} must not be below {least:g}, the accuracy_drop in force then")
        return self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What a run does after the reference, in order and without gaps, from 0 to rounds.tmax."""
        tmax, length = self.rounds.tmax, self.rounds.iterations
        settles = min(self.surgery.prune_until, tmax)
        begin, until = tmax, tmax
        if self.refine.begin is not None:
            begin, until = self.refine.begin, self.refine.until or tmax
        stages = (
            Stage("surgery", 0, settles, length),
            Stage("polish", settles, begin, length),
            Stage("refine", begin, until, self.refine.iterations),
            Stage("polish", until, tmax, length),
        )
        return tuple(stage for stage in stages if stage.begin < stage.end)

    def stage_at(self, iteration: int) -> Stage:
        """To which the step after so many iterations belongs; after the end, the last."""
        stages = self.stages
        return next((stage for stage in stages if iteration < stage.end), stages[-1])

    def round_of(self, iteration: int) -> tuple[int, int]:
        """(begin, end) of the round to which that step belongs. A round ends where its stage does."""
        return self.stage_at(iteration).round_of(iteration)

    def cuts(self, iteration: int) -> bool:
        """Whether a round that begins after so many iterations may begin with a search and a cut."""
        return iteration < self.rounds.tmax and self.stage_at(iteration).cuts

    def averaged(self, stage: Stage, iteration: int) -> tuple[int, int]:
        """(begin, end) of the steps whose weights are averaged, in the round, or the polish, to which the
        step after so many iterations belongs; both the same: of none."""
        share = self.polish.average if stage.section == "polish" else None
        begin, end = stage.round_of(iteration) if share is None else (stage.begin, stage.end)
        return end - round((self.surgery.average if share is None else share) * (end - begin)), end

    def paced(self, iteration: int) -> bool:
        """Whether the step after so many iterations belongs to a surgery that cuts to a schedule."""
        return self.surgery.pace_until is not None and self.stage_at(iteration).section == "surgery"

    def accuracy_drop(self, iteration: int) -> float:
        """What a network may lose that is cut after so many iterations."""
        before, begin = self.surgery.accuracy_drop, self.refine.begin
        until = self.surgery.prune_until if begin is None else begin
        if before is None or iteration >= until:
            return self.constraint.accuracy_drop
        return before

    def search_drop(self, iteration: int, boldness: float) -> float:
        """What a search may give up then; boldness, in (0, 1]: how much of what search_drop adds."""
        lost = self.accuracy_drop(iteration)
        refines = self.stage_at(iteration).section == "refine"
        most = (self.refine if refines else self.constraint).search_drop
        return lost if most is None else lost + (most - lost) * boldness


def load_run_file(path: str | Path) -> RunFile:
    """Read and check a run file.

    Raises `RunFileError`: one line with the file, the key and what was expected.
    """
    content = read_yaml(
        path,
        kind="run file",
        examples="'name:' and 'model:'",
        most_bytes=MAX_RUN_FILE_BYTES,
        error=RunFileError,
    )
    return parse_run_file(content, str(path))


def parse_run_file(content: dict[Any, Any], origin: str) -> RunFile:
    """Check the content of a run file that came from `origin` (a path, for the message)."""
    problem = unfit(content, forbidden="\0")
    if problem:
        raise RunFileError(f"{origin}: holds {problem}")
    try:
        run = RunFile.model_validate(content)
    except ValidationError as error:
        raise RunFileError(f"{origin}: {first_mistake(error, RunFile)}") from error
    # All roles read it from run.json, where every default stands beside it.
    if len(json_to_bytes(run.model_dump(mode="json"))) > MAX_TEXT_BYTES // 2:
        raise RunFileError(f"{origin}: too large for run.json, where the roles find it; give less")
    return run
