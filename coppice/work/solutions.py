"""A solution's way: published by the searcher, claimed by one evaluator, scored, announced.

    solution_<id>.npy            waits (top of the work folder)
    claims/solution_<id>_t1.<worker>.npy    claimed: the same file, renamed; touched while it is being scored
    scores/<generation>/i03_t1_f0.0213_a0.984.<worker>.npy    scored: the same file, renamed again
    fit_solution_<id>.npy        solution and fitness, for whoever inspects the folder or scores by hand

Every step is one atomic rename, so of several evaluators one wins, a crash leaves the file in one place, and
an evaluator that lost its claim finds nothing to rename.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coppice.store import Entry, Store
from coppice.work import names
from coppice.work.contents import MAX_SOLUTION_BYTES, array_to_bytes, vector_from_bytes
from coppice.work.errors import BadContent
from coppice.work.names import Claimed, Scored, SolutionId, Waiting

Float64s = npt.NDArray[np.float64]


def waiting_solutions(entries: list[Entry], run: str) -> list[Waiting]:
    """The solutions of this run that wait, in order of search, generation, index."""
    found = [w for e in entries if not e.is_folder and (w := names.parse_waiting(e.name)) is not None]
    return sorted(w for w in found if w.id.run == run)


def claimed_solutions(store: Store, run: str) -> dict[Claimed, int]:
    """The claims of this run, with their mtime in milliseconds."""
    entries = store.list(names.CLAIMS)
    found = {c: e.mtime_ms for e in entries if (c := names.parse_claim(e.name)) is not None}
    return {c: mtime for c, mtime in found.items() if c.id.run == run}


def announced_scores(store: Store, folder: str) -> dict[int, Scored]:
    """The scores of one generation by index.

    Should a solution ever have been scored twice, every reader takes the same one: the first by name.
    """
    scores: dict[int, Scored] = {}
    for entry in store.list(folder):
        score = names.parse_score(entry.name)
        if score is not None:
            scores.setdefault(score.index, score)
    return scores


def fit_bytes(crates: Float64s, fitness: float) -> bytes:
    """The content of a fit file: solution and, last, its fitness; float64 (layers + 1,)."""
    return array_to_bytes(np.append(crates, np.float64(fitness)))


def read_fit(store: Store, id_: SolutionId, crates: Float64s) -> float | None:
    """The fitness in a fit file that answers the solution `crates`; None where there is no such file.

    Raises `BadContent` if it is damaged, holds NaN, or answers another solution.
    """
    data = store.read(id_.fit_file, MAX_SOLUTION_BYTES)
    if data is None:
        return None
    values = vector_from_bytes(data, id_.fit_file, len(crates) + 1)
    if not np.array_equal(values[:-1], crates):
        raise BadContent(f"{id_.fit_file}: answers another solution than the one that was published")
    return float(values[-1])


def put_aside(store: Store, path: str, reason: str) -> None:
    """Move a file that nobody can use out of the way, with the reason beside it."""
    name = path.rpartition("/")[2]
    store.create(f"{names.ASIDE}/{name}.txt", (reason.rstrip() + "\n").encode())
    if not store.rename(path, f"{names.ASIDE}/{name}"):
        store.delete(path)  # one like it lies there already


@dataclass(frozen=True, slots=True)
class Claim:
    """A solution in this evaluator's hands."""

    store: Store
    what: Claimed

    def read(self, layers: int) -> Float64s:
        """The solution, float64 (layers,). Raises `BadContent` if it cannot be used."""
        data = self.store.read(self.what.file, MAX_SOLUTION_BYTES)
        if data is None:
            raise BadContent(f"{self.what.file}: the claim was taken back before it was read")
        return vector_from_bytes(data, self.what.file, layers)

    def beat(self) -> bool:
        """Show that its holder lives; False: the claim was taken back meanwhile."""
        return self.store.touch(self.what.file)

    def announce(self, fitness: float, accuracy: float) -> bool:
        """Publish the score and let the claim go, in one rename; False: it had been taken back, the score
        does not count."""
        score = Scored(
            self.what.id.index, self.what.attempt, float(fitness), float(accuracy), self.what.worker
        )
        return self.store.rename(self.what.file, f"{self.what.id.scores_folder}/{score.name}")

    def discard(self) -> None:
        """Scored before, by this same evaluator: there is nothing more to do with it."""
        self.store.delete(self.what.file)

    def give_back(self) -> bool:
        """Unscored, through no fault of the solution."""
        return self.store.rename(self.what.file, Waiting(self.what.id, self.what.attempt).file)

    def failed(self, reason: str, tries: int) -> bool:
        """It cost an evaluator its life, or raised: back for the next try, or set aside after the last.

        True: it was set aside.
        """
        return return_failed(self.store, self.what, reason, tries)

    def unusable(self, reason: str) -> None:
        """Not a solution at all: out of the way with it, the searcher will see that it is missing."""
        put_aside(self.store, self.what.file, reason)


def claim(store: Store, solution: Waiting, worker: str) -> Claim | None:
    """Take a waiting solution; None: somebody else was quicker."""
    what = Claimed(solution.id, solution.attempt, worker)
    return Claim(store, what) if store.rename(solution.file, what.file) else None


def return_failed(store: Store, what: Claimed, reason: str, tries: int) -> bool:
    """Put a claim that came to nothing back for its next try, or set it aside after `tries`.

    Called by the holder after an exception and by whoever takes back the claim of a dead holder; several
    may do so at once, the rename decides. True: it was set aside by this call.
    """
    note = f"{names.ASIDE}/solution_{what.id}_t{what.attempt}.txt"
    store.create(note, (reason.rstrip() + "\n").encode())
    if what.attempt < tries:
        store.rename(what.file, Waiting(what.id, what.attempt + 1).file)
        return False
    data = store.read(what.file, MAX_SOLUTION_BYTES)
    if data is None:
        return False
    store.create(f"{names.ASIDE}/solution_{what.id}.npy", data)
    score = Scored(what.id.index, what.attempt, None, None, what.worker)
    return store.rename(what.file, f"{what.id.scores_folder}/{score.name}")


def publish_missing(
    store: Store,
    run: str,
    solutions: dict[SolutionId, Float64s],
    have: Callable[[int], bool],
    also: tuple[str, bytes] | None = None,
) -> tuple[int, bool]:
    """Publish those of `solutions` that are neither waiting nor claimed nor, says `have(index)`, scored.

    Looks in the order in which solutions move, so that one moving meanwhile is not missed; should one be
    taken back at just that moment it is published twice, which costs a scoring and changes nothing. `also`
    is a further file to create in the same batch. Returns how many were published and whether `also` was
    created (True where there is none).
    """
    there = {w.id for w in waiting_solutions(store.list(), run)}
    there |= {c.id for c in claimed_solutions(store, run)}
    missing = [(id_, x) for id_, x in solutions.items() if id_ not in there and not have(id_.index)]
    files = [(Waiting(id_).file, array_to_bytes(x)) for id_, x in missing]
    created = store.create_many([*([also] if also else []), *files])
    return len(missing), created[0] if also else True
