"""A generation's way: published by the searcher in one step, claimed and scored solution by solution.

    generations/<generation>/solutions.npy                      all its solutions
    generations/<generation>/i03_t1_waiting                     one empty file a solution: its token
    generations/<generation>/i03_t1_claimed_by_<worker>         the same token, renamed; touched while scored
    generations/<generation>/i03_t1_f0.0213_a0.984_by_<worker>  renamed again: its fitness (and accuracy)

The folder is prepared under a temporary name and renamed to its place, so a generation is there whole or not
at all. From then on every step is one rename of a token: of several evaluators one wins, a crash leaves the
token in one place, and an evaluator that lost its claim finds nothing to rename. One listing shows it all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from coppice.store import Staging, Store
from coppice.work import names
from coppice.work.contents import array_to_bytes, matrix_from_bytes, vector_from_bytes
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_GENERATION_BYTES, MAX_SOLUTION_BYTES, read_limited
from coppice.work.names import Claimed, GenerationId, Scored, SolutionId, Token, Waiting

Float64s = npt.NDArray[np.float64]


# Publishing


def prepare(store: Store, population: int) -> Staging:
    """Lay out the tokens of a generation to come, where nobody looks yet."""
    return store.stage({Waiting(index).name: b"" for index in range(population)})


def publish(staging: Staging, generation: GenerationId, solutions: Float64s) -> bool:
    """Publish `solutions`, (population, layers), with the tokens prepared for them, in one rename.

    False: a generation of this id stands there already.
    """
    return staging.publish(generation.folder, {names.SOLUTIONS: array_to_bytes(solutions)})


def repair(store: Store, generation: GenerationId, solutions: Float64s) -> list[str]:
    """Put back what somebody removed from a published generation or spoilt in it, and remove tokens that
    belong to none of its solutions. Returns what was done, for people.

    Looks once: a token that is being renamed at this moment may be missed, and its solution published and
    scored twice, which changes nothing.
    """
    done = []
    tokens = look_at(store, generation)
    data = array_to_bytes(solutions)
    if not holds(store, generation, data):
        store.replace(generation.solutions_file, data)
        done.append(f"{names.SOLUTIONS} published again")
    missing = [index for index in range(len(solutions)) if index not in tokens]
    if missing:
        store.create_many([(generation.path(Waiting(index).name), b"") for index in missing])
        done.append(f"{len(missing)} solutions were gone, published again")
    foreign = [token for token in tokens.all() if token.index >= len(solutions)]
    if foreign:
        store.delete_many([generation.path(token.name) for token in foreign])
        done.append(f"{len(foreign)} that it never had were removed")
    return done


def holds(store: Store, generation: GenerationId, data: bytes) -> bool:
    """Whether its solutions are these very bytes; False also where there are none."""
    try:
        return read_limited(store, generation.solutions_file, MAX_GENERATION_BYTES) == data
    except BadContent:
        return False


# Looking


@dataclass(slots=True)
class Tokens:
    """How far the solutions of one generation were at one look.

    A token that was being renamed meanwhile may be missing, or seen under two names.
    """

    has_solutions: bool = False
    waiting: list[Waiting] = field(default_factory=list)
    """In the order of their index."""
    claimed: dict[Claimed, int] = field(default_factory=dict)
    """With their mtime in milliseconds."""
    scored: dict[int, Scored] = field(default_factory=dict)
    """By index. Should a solution ever have been scored twice, every reader takes the first by name."""

    def unscored(self) -> Iterator[Waiting | Claimed]:
        """Those that wait or are claimed."""
        return chain(self.waiting, self.claimed)

    def all(self) -> Iterator[Token]:
        """One after the other."""
        return chain(self.waiting, self.claimed, self.scored.values())

    def __contains__(self, index: int) -> bool:
        """Whether that solution was seen at all."""
        return any(token.index == index for token in self.all())


def look_at(store: Store, generation: GenerationId) -> Tokens:
    """List a generation's folder: empty where there is none (any more)."""
    tokens = Tokens()
    for entry in store.list(generation.folder):
        token = names.parse_token(entry.name)
        match token:
            case Waiting():
                tokens.waiting.append(token)
            case Claimed():
                tokens.claimed[token] = entry.mtime_ms
            case Scored():
                tokens.scored.setdefault(token.index, token)
            case None:
                tokens.has_solutions |= entry.name == names.SOLUTIONS
    return tokens


def generations(store: Store) -> list[GenerationId]:
    """All that stand in the folder, of whatever run, in the order of run, search and number."""
    found = (names.parse_generation(e.name) for e in store.list(names.GENERATIONS) if e.is_folder)
    return sorted(g for g in found if g is not None)


def newest_generation(store: Store, run: str) -> GenerationId | None:
    """The one that is being scored; older ones only wait to be tidied away."""
    return max((g for g in generations(store) if g.run == run), default=None)


def read_solutions(store: Store, generation: GenerationId) -> Float64s | None:
    """All its solutions, (population, layers); None where there are none.

    Raises `BadContent` if they cannot be used.
    """
    data = read_limited(store, generation.solutions_file, MAX_GENERATION_BYTES)
    return None if data is None else matrix_from_bytes(data, generation.solutions_file)


# Fit files: what people and evaluators of their own write and read


def fit_bytes(crates: Float64s, fitness: float) -> bytes:
    """The content of a fit file: solution and, last, its fitness; float64 (layers + 1,)."""
    return array_to_bytes(np.append(crates, np.float64(fitness)))


def read_fit(store: Store, id_: SolutionId, crates: Float64s) -> float | None:
    """The fitness in a fit file that answers the solution `crates`; None where there is no such file.

    Raises `BadContent` if it is damaged, holds NaN, or answers another solution.
    """
    data = read_limited(store, id_.fit_file, MAX_SOLUTION_BYTES)
    if data is None:
        return None
    values = vector_from_bytes(data, id_.fit_file, len(crates) + 1)
    if not np.array_equal(values[:-1], crates):
        raise BadContent(f"{id_.fit_file}: answers another solution than the one that was published")
    return float(values[-1])


def put_aside(store: Store, path: str, name: str, reason: str) -> None:
    """Move a file that nobody can use out of the way, as aside/`name`, with the reason beside it."""
    store.create(f"{names.ASIDE}/{name}.txt", (reason.rstrip() + "\n").encode())
    if not store.rename(path, f"{names.ASIDE}/{name}"):
        store.delete(path)  # one like it lies there already


# Claiming


@dataclass(frozen=True, slots=True)
class Claim:
    """A solution in this evaluator's hands."""

    store: Store
    generation: GenerationId
    token: Claimed

    @property
    def id(self) -> SolutionId:
        """The solution's."""
        return self.generation.solution(self.token.index)

    @property
    def _path(self) -> str:
        return self.generation.path(self.token.name)

    def beat(self) -> bool:
        """Show that its holder lives; False: the claim was taken back meanwhile."""
        return self.store.touch(self._path)

    def announce(self, fitness: float, accuracy: float | None) -> bool:
        """Publish the score and let the claim go, in one rename; False: it had been taken back, the score
        does not count."""
        token = self.token
        known = None if accuracy is None else float(accuracy)
        score = Scored(token.index, token.attempt, float(fitness), known, token.worker)
        return self.store.rename(self._path, self.generation.path(score.name))

    def discard(self) -> None:
        """Scored before, by this same evaluator: there is nothing more to do with it."""
        self.store.delete(self._path)

    def give_back(self) -> bool:
        """Unscored, through no fault of the solution."""
        waiting = Waiting(self.token.index, self.token.attempt)
        return self.store.rename(self._path, self.generation.path(waiting.name))

    def failed(self, reason: str, tries: int) -> bool:
        """It cost an evaluator its life, or raised: back for the next try, or set aside after the last.

        True: it was set aside.
        """
        return return_failed(self.store, self.generation, self.token, reason, tries)


def claim(store: Store, generation: GenerationId, waiting: Waiting, worker: str) -> Claim | None:
    """Take a waiting solution; None: somebody else was quicker."""
    token = Claimed(waiting.index, waiting.attempt, worker)
    moved = store.rename(generation.path(waiting.name), generation.path(token.name))
    return Claim(store, generation, token) if moved else None


def return_failed(store: Store, generation: GenerationId, token: Claimed, reason: str, tries: int) -> bool:
    """Put a claim that came to nothing back for its next try, or set it aside after `tries`.

    Called by the holder after an exception and by whoever takes back the claim of a dead holder; several
    may do so at once, the rename decides. True: it was set aside by this call.
    """
    id_, path = generation.solution(token.index), generation.path(token.name)
    note = f"{names.ASIDE}/solution_{id_}_t{token.attempt}.txt"
    store.create(note, (reason.rstrip() + "\n").encode())
    if token.attempt < tries:
        store.rename(path, generation.path(Waiting(token.index, token.attempt + 1).name))
        return False
    try:
        solutions = read_solutions(store, generation)
    except BadContent:
        solutions = None
    if solutions is not None and token.index < len(solutions):
        store.create(f"{names.ASIDE}/solution_{id_}.npy", array_to_bytes(solutions[token.index]))
    aside = Scored(token.index, token.attempt, None, None, token.worker)
    return store.rename(path, generation.path(aside.name))
