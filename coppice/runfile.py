"""The run file: everything that a run needs to know, validated before anything starts.

A mistake is answered in one line with file, key and what was expected. Every key has a default (only
`name` has none), written here once; `coppice master --help` points here and docs/runfile.md prints it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from coppice.errors import CoppiceError
from coppice.work.contents import json_from_bytes, json_to_bytes, unfit
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_TEXT_BYTES


class RunFileError(CoppiceError):
    """The run file cannot be used; the message names file, key and what was expected."""


MAX_RUN_FILE_BYTES = 50_000
"""Twenty times what a run file has; PyYAML needs seconds for more."""
MOST = 10**9
"""Of anything that is counted: numbers in the work folder's names have nine digits."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Schedule = Literal["constant", "cosine", "step", "cycle"]
"""constant; cosine: half a cosine down to zero at the end; step: divided by ten after 1/2 and 3/4; cycle: a
cosine in every round, so that each ends settled (the reference is trained in one)."""


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


class DataSection(_Section):
    """The samples: a built-in set, or arrays of the user's own."""

    name: Literal["digits", "mnist", "arrays"] = "digits"
    folder: str | None = None
    """mnist: where the four idx .gz files are (or COPPICE_MNIST, or downloaded into a cache)."""
    train: str | None = None
    """arrays: <train>_x.npy and <train>_y.npy."""
    test: str | None = None
    """arrays: <test>_x.npy and <test>_y.npy."""


class TrainingSection(_Section):
    """How weights are fitted: SGD with momentum, cross entropy."""

    batch: int = Field(default=64, ge=1, le=MOST)
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule = "cosine"


class ReferenceSection(TrainingSection):
    """The dense network that everything is compared with."""

    iterations: int = Field(default=2000, ge=0, le=MOST)
    weights: str | None = None
    """A .safetensors file to start from; with iterations: 0 it is taken as it is."""


class RoundsSection(_Section):
    """The master's rounds."""

    iterations: int = Field(default=500, ge=1, le=MOST)
    """Iterations of one round (the number in new_itr.txt)."""
    tmax: int = Field(default=5000, ge=1, le=MOST)
    """Iterations of surgery in all; the last round is shortened to end there."""


class SurgerySection(TrainingSection):
    """Dynamic network surgery: training in which masks may also open again."""

    prune_until: int = Field(default=3000, ge=0, le=MOST)
    """Searches and mask changes end at this iteration; after it the kept weights are only trained."""
    gamma: float = Field(default=0.0001, ge=0)
    """Masks are updated with probability 1 / (1 + gamma * iteration)."""
    biases: bool = True
    """Whether surgery cuts and restores biases, too, at the threshold of their layer; otherwise a unit has
    its bias as long as it has an input."""


class PolishSection(_Section):
    """How the weights that stay are trained once masks no longer change: from surgery.prune_until to
    rounds.tmax."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Of its first step, where the schedule begins anew, surgery's having ended there; default: surgery's
    schedule goes on to rounds.tmax."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Default: surgery's. Pruning wants much of it, the few weights that stay hardly any."""


class SearchSection(_Section):
    """The search for the layers' crates."""

    method: Literal["ncs", "cmaes", "random"] = "ncs"
    population: int = Field(default=10, ge=2, le=1000)
    evaluations: int = Field(default=500, ge=1, le=MOST)
    """Solutions scored in one search."""
    sigma: float | None = Field(default=None, gt=0)
    """First step size; default (upper - lower) / population, as published."""
    lower: float = 0.0
    upper: float = 10.0

    @model_validator(mode="after")
    def _box(self) -> SearchSection:
        if not self.lower < self.upper:
            raise ValueError("lower must be below upper")
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

    def drop_in_search(self, boldness: float) -> float:
        """What a search may give up; boldness, in (0, 1]: how much of what search_drop adds."""
        if self.search_drop is None:
            return self.accuracy_drop
        return self.accuracy_drop + (self.search_drop - self.accuracy_drop) * boldness

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
    """cpu, cuda, cuda:0, or auto."""
    accuracy: bool = False
    """Whether every solution's accuracy shall stand in history.csv; otherwise scoring stops as soon as the
    verdict is certain, which is several times faster."""
    cache_mb: int = Field(default=512, ge=0, le=10**6)
    """Memory, MB, that an evaluator on a CPU may use for what solutions share."""


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


class _Loader(yaml.SafeLoader):
    """YAML without what only hides mistakes here: keys given twice, and aliases (which may go in circles)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases such as *this are not taken", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value[:40]!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_run_file(path: str | Path) -> RunFile:
    """Read and check a run file.

    Raises `RunFileError`: one line with the file, the key and what was expected.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_RUN_FILE_BYTES + 1)
    except OSError as error:
        raise RunFileError(
            f"{path}: cannot be read ({error.strerror}); give the path of a run file"
        ) from error
    if len(text) > MAX_RUN_FILE_BYTES:
        raise RunFileError(f"{path}: larger than {MAX_RUN_FILE_BYTES:,} bytes; this is not a run file")
    try:
        content = yaml.load(text, Loader=_Loader)
    except Exception as error:  # a YAMLError, or what PyYAML's own code stumbles over: !!int "", !!bool maybe
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        what = _printable(getattr(error, "problem", None) or "not readable as text")[:200]
        raise RunFileError(f"{path}{line}: not valid YAML ({what})") from error
    if not isinstance(content, dict):
        raise RunFileError(
            f"{path}: expected keys such as 'name:' and 'model:', found {type(content).__name__}"
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
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        key = _printable(".".join(place))[:120] or "the whole file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RunFileError(f"{origin}: {key}: {_expected(first, place)}{more}") from error
    # All roles read it from run.json, where every default stands beside it.
    if len(json_to_bytes(run.model_dump(mode="json"))) > MAX_TEXT_BYTES // 2:
        raise RunFileError(f"{origin}: too large for run.json, where the roles find it; give less")
    return run


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _expected(problem: Any, place: list[str]) -> str:
    if problem["type"] == "extra_forbidden":
        section: Any = RunFile
        for part in place[:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key; expected one of {', '.join(section.model_fields)}"
    if problem["type"] == "missing":
        return "missing; this key has no default"
    given = repr(problem.get("input"))
    if problem["type"] == "model_type":
        return f"expected keys and values, found {given[:80]}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{message}, found {given[:80]}"
