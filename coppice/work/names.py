"""Every name in the work folder, and the only place where names are built or taken apart.

The files that the four jobs were always known by stand at the top; whatever else the protocol needs lives
in folders of its own, so that a listing stays easy to read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from coppice.store import TEMPORARY_FOLDER

# The sentinels and arrays of the original four jobs.
RUN = "run.json"
NEW_ITR = "new_itr.txt"
REPORT = "report.txt"
NCS_START = "ncs_start.txt"
NCS_OVER = "ncs_over.txt"
CRATES = "crates_list.npy"
DATA = "data.npy"
LABELS = "labels.npy"
ACCURACY = "accuracy.npy"
FAILED = "failed.txt"

# Folders of the protocol's own.
GENERATIONS = "generations"
ASIDE = "aside"
ROLES = "roles"
ROUNDS = "rounds"
OUTER = "outer"
NCS = "ncs"
HISTORY = "history"
RESULT = "result"
LOGS = "logs"

SOLUTIONS = "solutions.npy"
"""In a generation's folder: all its solutions."""

TOLD = f"{OUTER}/told.json"
"""What the platform of status messages was told last; only where there are settings for them."""

RESULT_JSON = f"{RESULT}/result.json"
RESULT_MODEL = f"{RESULT}/model.safetensors"
RESULT_HISTORY = f"{RESULT}/history.csv"
RESULT_CRATES = f"{RESULT}/crates.npy"
RESULT_REPORT = f"{RESULT}/report.html"
RESULT_EXPORT = f"{RESULT}/export"
"""A folder: the pruned network as files for those who do not have Coppice."""

OWN_FILES = frozenset((RUN, NEW_ITR, REPORT, NCS_START, NCS_OVER, CRATES, DATA, LABELS, ACCURACY, FAILED))
OWN_FOLDERS = frozenset(
    (GENERATIONS, ASIDE, ROLES, ROUNDS, OUTER, NCS, HISTORY, RESULT, LOGS, TEMPORARY_FOLDER)
)

OF_ONE_RUN = frozenset((FAILED, ROUNDS, OUTER, NCS, HISTORY, RESULT))
"""Of the run in run.json, without saying so themselves, and not written anew by another."""

WORKER = r"[A-Za-z0-9-]{1,80}"
_NUMBER = r"[0-9.e+-]{1,32}"
_GENERATION = re.compile(r"(?P<run>[0-9a-f]{8})_s(?P<search>\d{4,9})_g(?P<number>\d{4,9})", re.ASCII)
_SOLUTION = re.compile(rf"(?P<fit>fit_)?solution_{_GENERATION.pattern}_i(?P<index>\d{{2,9}})\.npy", re.ASCII)
_TOKEN = re.compile(
    r"i(?P<index>\d{2,9})_t(?P<attempt>[1-9]\d{0,3})_"
    rf"(?:waiting|(?:claimed|(?P<aside>aside)|f(?P<fitness>{_NUMBER})(?:_a(?P<accuracy>{_NUMBER}))?)"
    rf"_by_(?P<worker>{WORKER}))",
    re.ASCII,
)
_ROUND = re.compile(r"round_(?P<number>\d{4,9})\.json", re.ASCII)
_HISTORY = re.compile(r"search_(?P<number>\d{4,9})\.zip", re.ASCII)
_WEIGHTS = re.compile(r"weights_s(?P<search>\d{4,9})\.safetensors", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class GenerationId:
    """Which generation of which search of which run."""

    run: str
    """Run id, eight hexadecimal digits."""
    search: int
    number: int

    def __str__(self) -> str:
        return f"{self.run}_s{self.search:04d}_g{self.number:04d}"

    @property
    def folder(self) -> str:
        """Where its solutions stand, and how far each is."""
        return f"{GENERATIONS}/{self}"

    def path(self, name: str) -> str:
        """A file in its folder."""
        return f"{GENERATIONS}/{self}/{name}"

    @property
    def solutions_file(self) -> str:
        """All its solutions, float64 (population, layers)."""
        return self.path(SOLUTIONS)

    def solution(self, index: int) -> SolutionId:
        """One of its solutions."""
        return SolutionId(self, index)


@dataclass(frozen=True, slots=True, order=True)
class SolutionId:
    """Which solution of which run: no two in the life of a work folder are the same."""

    generation: GenerationId
    index: int

    def __str__(self) -> str:
        return f"{self.generation}_i{self.index:02d}"

    @property
    def solution_file(self) -> str:
        """`solution_<id>.npy`."""
        return f"solution_{self}.npy"

    @property
    def fit_file(self) -> str:
        """`fit_solution_<id>.npy`."""
        return f"fit_solution_{self}.npy"


# Tokens: the empty files in a generation's folder, one a solution, whose names say how far it is. A rename
# costs a NameNode some 4 ms where a file with content costs up to 400, so everything that happens to a
# solution is a rename, and what there is to say about it stands in the name.


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A solution that waits for an evaluator."""

    index: int
    attempt: int = 1

    @property
    def name(self) -> str:
        """`i05_t1_waiting`."""
        return f"i{self.index:02d}_t{self.attempt}_waiting"


@dataclass(frozen=True, slots=True, order=True)
class Claimed:
    """A solution in an evaluator's hands."""

    index: int
    attempt: int
    worker: str

    @property
    def name(self) -> str:
        """`i05_t1_claimed_by_<worker>`."""
        return f"i{self.index:02d}_t{self.attempt}_claimed_by_{self.worker}"


@dataclass(frozen=True, slots=True)
class Scored:
    """A solution with its verdict; `repr` of a float64 gives the same float64 back."""

    index: int
    attempt: int
    fitness: float | None
    """None: set aside, no evaluator survived it."""
    accuracy: float | None
    """None also where only a fit file says how fit it is."""
    worker: str

    @property
    def name(self) -> str:
        """`i05_t1_f0.0213_a0.984_by_<worker>`, or `i05_t5_aside_by_<worker>`."""
        if self.fitness is None:
            verdict = "aside"
        else:  # numpy's own repr says np.float64(...)
            verdict = f"f{float(self.fitness)!r}"
            verdict += "" if self.accuracy is None else f"_a{float(self.accuracy)!r}"
        return f"i{self.index:02d}_t{self.attempt}_{verdict}_by_{self.worker}"


Token = Waiting | Claimed | Scored


def weights(search: int) -> str:
    """The reference weights that search number `search` is judged by."""
    return f"weights_s{search:04d}.safetensors"


def history(search: int) -> str:
    """The whole record of one search."""
    return f"{HISTORY}/search_{search:04d}.zip"


def exported(name: str) -> str:
    """One file of the finished run's export."""
    return f"{RESULT_EXPORT}/{name}"


def round_record(number: int) -> str:
    """The master's record of one finished round."""
    return f"{ROUNDS}/round_{number:04d}.json"


# A name is only known if it is written as we write it: what `solution_..._i003.npy` was taken for would be
# looked for under another name and never be found.


def _generation_id(match: re.Match[str]) -> GenerationId:
    return GenerationId(match["run"], int(match["search"]), int(match["number"]))


def parse_generation(name: str) -> GenerationId | None:
    """From the last part of its folder's path; None for other names."""
    match = _GENERATION.fullmatch(name)
    found = _generation_id(match) if match else None
    return found if found is not None and str(found) == name else None


def parse_solution(name: str) -> SolutionId | None:
    """Whose solution file or fit file `name` is; None for other names."""
    match = _SOLUTION.fullmatch(name)
    if match is None:
        return None
    found = SolutionId(_generation_id(match), int(match["index"]))
    return found if name in (found.solution_file, found.fit_file) else None


def parse_token(name: str) -> Token | None:
    """From the last part of its path; None where it is no token (also for NaN and other nonsense)."""
    match = _TOKEN.fullmatch(name)
    if match is None:
        return None
    index, attempt, worker = int(match["index"]), int(match["attempt"]), match["worker"]
    found: Token
    if worker is None:
        found = Waiting(index, attempt)
    elif match["aside"]:
        found = Scored(index, attempt, None, None, worker)
    elif match["fitness"] is None:
        found = Claimed(index, attempt, worker)
    else:
        try:
            fitness = float(match["fitness"])
            accuracy = None if match["accuracy"] is None else float(match["accuracy"])
        except ValueError:
            return None
        if float("inf") in (abs(fitness), abs(accuracy or 0.0)):  # "1e999"
            return None
        # Any text of a number will do: an evaluator written in another language may round otherwise.
        return Scored(index, attempt, fitness, accuracy, worker) if match["index"] == f"{index:02d}" else None
    return found if found.name == name else None


def parse_weights(name: str) -> int | None:
    """The search number of a weights file, None for other names."""
    match = _WEIGHTS.fullmatch(name)
    return int(match["search"]) if match and weights(int(match["search"])) == name else None


def parse_round(name: str) -> int | None:
    """The number of a round's record, from the last part of its path; None for other names."""
    match = _ROUND.fullmatch(name)
    known = match is not None and round_record(int(match["number"])) == f"{ROUNDS}/{name}"
    return int(match["number"]) if match and known else None


def parse_history(name: str) -> int | None:
    """The number of a search's record, from the last part of its path; None for other names."""
    match = _HISTORY.fullmatch(name)
    known = match is not None and history(int(match["number"])) == f"{HISTORY}/{name}"
    return int(match["number"]) if match and known else None


def is_own(name: str) -> bool:
    """Whether a name directly in the work folder belongs to the protocol; everything else is foreign."""
    return (
        name in OWN_FILES
        or name in OWN_FOLDERS
        or parse_weights(name) is not None
        or parse_solution(name) is not None
    )
