"""How a run stands, read from its work folder and from nothing else; it writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from coppice.roles.context import read_failure, read_record
from coppice.roles.history import SearchHistory
from coppice.roles.rounds import read_rounds
from coppice.roles.searcher import read_progress
from coppice.runfile import parse_run_file
from coppice.store import Store, StoreError
from coppice.work import names
from coppice.work.checkpoints import Checkpoints
from coppice.work.errors import BadContent
from coppice.work.generation import Tokens, look_at, newest_generation
from coppice.work.limits import MAX_TEXT_BYTES, read_limited
from coppice.work.names import GenerationId
from coppice.work.presence import gone_from_this_machine, read_role_file, role_files
from coppice.work.sentinels import NcsStart, NewItr


@dataclass(slots=True)
class RoleStatus:
    """One process that serves the run, or did."""

    role: str
    worker: str
    host: str
    pid: int
    container: str | None
    state: str
    """alive, ended, or lost (its process is known to be dead)."""
    beat_age_s: float | None
    """Seconds since its last heartbeat, by the store's clock against this machine's: roughly right only."""
    scored: int = 0
    """Solutions of the search under way (or the last one) that it has scored."""
    holds: list[str] = field(default_factory=list)
    """Solutions it has claimed."""
    holds_since_s: float | None = None
    """Age of its oldest claim's last beat, likewise rough."""


@dataclass(slots=True)
class Status:
    """A run at a glance."""

    url: str
    run_id: str
    name: str
    seed: int
    state: str
    reason: str | None
    """Why it failed, where it did."""
    round: int
    """The round under way, or the last."""
    iterations_done: int
    iterations_total: int
    searches: int
    """Searches that are over."""
    search: int | None
    """The search under way."""
    generation: int
    """Generations told of the search under way (or the last one)."""
    generations: int
    """How many it will have."""
    evaluations: int
    """Told in that search."""
    evaluations_all: int
    """Told in all searches."""
    search_fitness: float | None
    """Best of the search so far: the fraction of parameters kept, over 1 if nothing feasible was found."""
    waiting: int
    claimed: int
    scored: int
    """Of the generation under way."""
    compression: float
    """After the last round."""
    accuracy: float | None
    best_compression: float
    """Of the best feasible network after any round."""
    aside: int
    """Solutions and files set aside."""
    last_error: str | None
    foreign: list[str]
    """Names in the work folder that are not Coppice's."""
    roles: list[RoleStatus]
    rounds: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def read_status(store: Store) -> Status:
    """Raises `BadContent` for a damaged run.json or one that is missing, other damage is shown as it is."""
    record = read_record(store)
    if record is None:
        raise BadContent(f"{store.url}: no run here (no {names.RUN}); the master creates it")
    run = parse_run_file(record.run_file, names.RUN)
    entries = store.list()
    order = _sentinel(store, names.NEW_ITR, NewItr)
    start = _sentinel(store, names.NCS_START, NcsStart)
    rounds = read_rounds(store)
    last = rounds[-1] if rounds else {}
    progress, scored_by = _search_progress(store)
    told = int(progress.get("search", 0))
    running = None
    if start is not None and start.crates is not None and not (told >= start.search and progress.get("over")):
        running = start.search
    over = told if progress.get("over") else told - 1
    searches = max(int(last.get("searches", 0)), over, (running or 0) - 1)
    current = progress if running in (None, told) else {}
    per_search = run.search.evaluations
    generation = int(current.get("generation", 0))
    newest = newest_generation(store, record.run_id)
    tokens = look_at(store, newest) if newest is not None else Tokens()
    if newest is not None and newest.search == running:
        generation = max(generation, newest.number - 1)  # the checkpoint may be a second old
    evaluations = min(per_search, generation * run.search.population)
    aside = [e.name for e in store.list(names.ASIDE)]
    return Status(
        url=store.url,
        run_id=record.run_id,
        name=run.name,
        seed=run.seed,
        state=record.state,
        reason=record.reason or (read_failure(store) if names.FAILED in {e.name for e in entries} else None),
        round=min(order.round, len(rounds)) if order and order.iterations is None else len(rounds) + 1,
        iterations_done=sum(int(r.get("iterations", 0)) for r in rounds),
        iterations_total=run.rounds.tmax,
        searches=searches,
        search=running,
        generation=generation,
        generations=-(-per_search // run.search.population),
        evaluations=evaluations,
        evaluations_all=max(0, (running or told) - 1) * per_search + evaluations,
        search_fitness=current.get("fitness"),
        waiting=len(tokens.waiting),
        claimed=len(tokens.claimed),
        scored=len(tokens.scored),
        compression=float(last.get("compression", 1.0)),
        accuracy=last.get("accuracy"),
        best_compression=float(last.get("best_compression", 1.0)),
        aside=len([name for name in aside if name.endswith(".npy")]),
        last_error=_last_note(store, aside),
        foreign=[e.name for e in entries if not names.is_own(e.name)],
        roles=_roles(store, newest, tokens, scored_by),
        rounds=rounds,
    )


def _sentinel(store: Store, name: str, kind: Any) -> Any:
    try:
        data = read_limited(store, name, MAX_TEXT_BYTES)
        return None if data is None else kind.from_bytes(data, name)
    except BadContent:
        return None


def _search_progress(store: Store) -> tuple[dict[str, Any], Counter[str]]:
    """The searcher's own account, and how many solutions each worker has scored in this search."""
    parts = Checkpoints(store, names.NCS, lambda line: None).load()
    try:
        progress = asdict(read_progress(parts)) if parts else {}
        workers = SearchHistory.from_bytes(parts["history.zip"], names.NCS, 0).workers if parts else []
    except (KeyError, BadContent):
        return {}, Counter()
    return progress, Counter(workers)


def _last_note(store: Store, aside: list[str]) -> str | None:
    notes = [name for name in aside if name.endswith(".txt")]
    if not notes:
        return None
    try:
        data = read_limited(store, f"{names.ASIDE}/{notes[-1]}", MAX_TEXT_BYTES)
    except StoreError as error:  # somebody's own, such as a folder: to say what it is will do
        return f"{notes[-1]}: {error}"
    except BadContent as error:
        return str(error)
    lines = data.decode("utf-8", "replace").strip().splitlines() if data else []
    return f"{notes[-1]}: {lines[-1]}" if lines else None


def _roles(
    store: Store, generation: GenerationId | None, tokens: Tokens, scored_by: Counter[str]
) -> list[RoleStatus]:
    now_ms = time.time() * 1000
    found = []
    for file in role_files(store):
        content = read_role_file(store, file.path)
        if content is None:
            continue
        worker, pid = str(content.get("worker", "?")), content.get("pid")
        held = {c: mtime for c, mtime in tokens.claimed.items() if c.worker == worker}
        state = "ended" if file.ended else "lost" if gone_from_this_machine(content) else "alive"
        found.append(
            RoleStatus(
                role=file.role,
                worker=worker,
                host=str(content.get("host", "?")),
                pid=pid if isinstance(pid, int) else 0,
                container=None if content.get("container") is None else str(content["container"]),
                state=state,
                beat_age_s=max(0.0, now_ms - file.mtime_ms) / 1000 if state == "alive" else None,
                scored=scored_by[worker],
                holds=[str(generation.solution(c.index)) for c in sorted(held)] if generation else [],
                holds_since_s=max(0.0, now_ms - min(held.values())) / 1000 if held else None,
            )
        )
    order = ("master", "outer", "ncs", "evaluator")
    return sorted(found, key=lambda role: (order.index(role.role), role.worker))
