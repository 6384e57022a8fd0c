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
CLAIMS = "claims"
SCORES = "scores"
ASIDE = "aside"
ROLES = "roles"
ROUNDS = "rounds"
OUTER = "outer"
NCS = "ncs"
HISTORY = "history"
RESULT = "result"
LOGS = "logs"

RESULT_JSON = f"{RESULT}/result.json"
RESULT_MODEL = f"{RESULT}/model.safetensors"
RESULT_HISTORY = f"{RESULT}/history.csv"
RESULT_CRATES = f"{RESULT}/crates.npy"
RESULT_REPORT = f"{RESULT}/report.html"

OWN_FILES = frozenset((RUN, NEW_ITR, REPORT, NCS_START, NCS_OVER, CRATES, DATA, LABELS, ACCURACY, FAILED))
OWN_FOLDERS = frozenset(
    (CLAIMS, SCORES, ASIDE, ROLES, ROUNDS, OUTER, NCS, HISTORY, RESULT, LOGS, TEMPORARY_FOLDER)
)

WORKER = r"[A-Za-z0-9-]{1,80}"
_ID = r"(?P<run>[0-9a-f]{8})_s(?P<search>\d{4,9})_g(?P<generation>\d{4,9})_i(?P<index>\d{2,9})"
_ATTEMPT = r"[1-9]\d{0,3}"
_SOLUTION = re.compile(rf"solution_{_ID}(?:_t(?P<attempt>{_ATTEMPT}))?\.npy")
_FIT = re.compile(rf"fit_solution_{_ID}\.npy")
_CLAIM = re.compile(rf"solution_{_ID}_t(?P<attempt>{_ATTEMPT})\.(?P<worker>{WORKER})\.npy")
_NUMBER = r"[0-9.e+-]{1,32}"
_SCORE = re.compile(
    rf"i(?P<index>\d{{2,9}})_t(?P<attempt>{_ATTEMPT})_"
    rf"(?:f(?P<fitness>{_NUMBER})_a(?P<accuracy>{_NUMBER})|(?P<aside>aside))\.(?P<worker>{WORKER})\.npy",
    re.ASCII,
)
_SCORES_FOLDER = re.compile(r"(?P<run>[0-9a-f]{8})_s(?P<search>\d{4,9})_g(?P<generation>\d{4,9})")
_ROUND = re.compile(r"round_(?P<number>\d{4,9})\.json")
_WEIGHTS = re.compile(r"weights_s(?P<search>\d{4,9})\.safetensors")


@dataclass(frozen=True, slots=True, order=True)
class SolutionId:
    """Which solution of which run: no two in the life of a work folder are the same."""

    run: str
    """Run id, eight hexadecimal digits."""
    search: int
    generation: int
    index: int

    def __str__(self) -> str:
        return f"{self.run}_s{self.search:04d}_g{self.generation:04d}_i{self.index:02d}"

    @property
    def fit_file(self) -> str:
        """`fit_solution_<id>.npy`."""
        return f"fit_solution_{self}.npy"

    @property
    def scores_folder(self) -> str:
        """Where the scores of its generation are announced."""
        return scores_folder(self.run, self.search, self.generation)


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A solution that waits for an evaluator: `solution_<id>.npy`, or `..._t2.npy` on its second try."""

    id: SolutionId
    attempt: int = 1

    @property
    def file(self) -> str:
        """Its path."""
        return f"solution_{self.id}.npy" if self.attempt == 1 else f"solution_{self.id}_t{self.attempt}.npy"


@dataclass(frozen=True, slots=True, order=True)
class Claimed:
    """A solution in an evaluator's hands: `claims/solution_<id>_t<attempt>.<worker>.npy`."""

    id: SolutionId
    attempt: int
    worker: str

    @property
    def file(self) -> str:
        """Its path."""
        return f"{CLAIMS}/solution_{self.id}_t{self.attempt}.{self.worker}.npy"


@dataclass(frozen=True, slots=True)
class Scored:
    """An announced score: the claim, renamed into the generation's folder, carries the verdict in its name.

    A rename costs a NameNode some 4 ms where a file with content costs up to 400, so the name is what the
    searcher reads; `repr` of a float64 gives the same float64 back.
    """

    index: int
    attempt: int
    fitness: float | None
    """None: set aside, no evaluator survived it."""
    accuracy: float | None
    worker: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        if self.fitness is None or self.accuracy is None:
            verdict = "aside"
        else:  # numpy's own repr says np.float64(...)
            verdict = f"f{float(self.fitness)!r}_a{float(self.accuracy)!r}"
        return f"i{self.index:02d}_t{self.attempt}_{verdict}.{self.worker}.npy"


def scores_folder(run: str, search: int, generation: int) -> str:
    """The folder in which a generation's scores are announced."""
    return f"{SCORES}/{run}_s{search:04d}_g{generation:04d}"


def parse_scores_folder(name: str) -> tuple[str, int, int] | None:
    """Run, search and generation, from the last part of its path; None for other names."""
    match = _SCORES_FOLDER.fullmatch(name)
    found = (match["run"], int(match["search"]), int(match["generation"])) if match else None
    return found if found is not None and scores_folder(*found) == f"{SCORES}/{name}" else None


def weights(search: int) -> str:
    """The reference weights that search number `search` is judged by."""
    return f"weights_s{search:04d}.safetensors"


def history(search: int) -> str:
    """The whole record of one search."""
    return f"{HISTORY}/search_{search:04d}.zip"


def round_record(number: int) -> str:
    """The master's record of one finished round."""
    return f"{ROUNDS}/round_{number:04d}.json"


# A name is only known if it is written as we write it: what `solution_..._t1.npy` or `..._i003.npy` was taken
# for would be looked for under another name and never be found.


def _solution_id(match: re.Match[str]) -> SolutionId:
    return SolutionId(match["run"], int(match["search"]), int(match["generation"]), int(match["index"]))


def parse_waiting(name: str) -> Waiting | None:
    """None where `name` is not a waiting solution's."""
    match = _SOLUTION.fullmatch(name)
    found = Waiting(_solution_id(match), int(match["attempt"] or 1)) if match else None
    return found if found is not None and found.file == name else None


def parse_fit(name: str) -> SolutionId | None:
    """None where `name` is not a fit file's."""
    match = _FIT.fullmatch(name)
    found = _solution_id(match) if match else None
    return found if found is not None and found.fit_file == name else None


def parse_claim(name: str) -> Claimed | None:
    """From the last part of the path; None where it is not a claim's."""
    match = _CLAIM.fullmatch(name)
    found = Claimed(_solution_id(match), int(match["attempt"]), match["worker"]) if match else None
    return found if found is not None and found.file == f"{CLAIMS}/{name}" else None


def parse_score(name: str) -> Scored | None:
    """From the last part of the path; None where it is not a score's (also for NaN and other nonsense)."""
    match = _SCORE.fullmatch(name)
    if match is None:
        return None
    fitness = accuracy = None
    if not match["aside"]:
        try:
            fitness, accuracy = float(match["fitness"]), float(match["accuracy"])
        except ValueError:
            return None
        if abs(fitness) == float("inf") or abs(accuracy) == float("inf"):  # "1e999"
            return None
    return Scored(int(match["index"]), int(match["attempt"]), fitness, accuracy, match["worker"])


def parse_weights(name: str) -> int | None:
    """The search number of a weights file, None for other names."""
    match = _WEIGHTS.fullmatch(name)
    return int(match["search"]) if match and weights(int(match["search"])) == name else None


def parse_round(name: str) -> int | None:
    """The number of a round's record, from the last part of its path; None for other names."""
    match = _ROUND.fullmatch(name)
    known = match is not None and round_record(int(match["number"])) == f"{ROUNDS}/{name}"
    return int(match["number"]) if match and known else None


def is_own(name: str) -> bool:
    """Whether a name directly in the work folder belongs to the protocol; everything else is foreign."""
    return (
        name in OWN_FILES
        or name in OWN_FOLDERS
        or parse_weights(name) is not None
        or parse_waiting(name) is not None
        or parse_fit(name) is not None
    )
