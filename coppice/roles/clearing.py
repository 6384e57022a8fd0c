"""Throwing runs away: who still lives in a work folder, and how it is emptied."""

from __future__ import annotations

from collections.abc import Callable

from coppice.roles.context import Context, read_record
from coppice.store import TEMPORARY_FOLDER, Store
from coppice.work import names
from coppice.work.errors import BadContent, RunRefused
from coppice.work.presence import (
    OFFICE_LEASE_S,
    LeaseWatch,
    gone_from_this_machine,
    read_role_file,
    role_files,
)


def discard(context: Context) -> None:
    """Throw away the run in the work folder. Raises `RunRefused` where one lives."""
    refuse_the_living(context)
    clear(context.store, stored_run_id(context.store))


def clean(context: Context) -> list[str]:
    """Remove a run that nobody works on any more; returns the foreign names that were left.

    Raises `RunRefused` where a run lives, or where there is none.
    """
    store = context.store
    if store.stat(names.RUN) is None and not any(names.is_own(e.name) for e in store.list()):
        raise RunRefused(f"{store.url}: no run here")
    refuse_the_living(context)
    left = clear(store, stored_run_id(store))
    if not left:
        store.remove_root()
    return left


def stored_run_id(store: Store) -> str:
    """The run that stands in the folder; "" for none, or one whose run.json is damaged."""
    try:
        record = read_record(store)
    except BadContent:
        record = None
    return record.run_id if record else ""


def living_roles(context: Context) -> str | None:
    """The first role in the folder that still lives, for people; None if all have ended or are dead.

    A role on this machine is looked up; one elsewhere is watched until its file changes or its lease is over.
    """
    watch = LeaseWatch(context.clock, OFFICE_LEASE_S)
    first: dict[str, int] = {}
    backoff = context.backoff()
    dead: set[str] = set()
    told = False
    while True:
        files = {f.path: f for f in role_files(context.store) if not f.ended and f.path not in dead}
        stale = watch.stale({path: f.mtime_ms for path, f in files.items()})
        for path, file in files.items():
            content = read_role_file(context.store, path) if path not in first else {}
            if content is None or path in stale or gone_from_this_machine(content):
                dead.add(path)
            elif path in first and first[path] != file.mtime_ms:
                return f"{file.role} ({file.worker or 'term ' + str(file.term)})"
            elif path not in first and content.get("machine") == context.me.machine:
                return f"{file.role} (process {content.get('pid')} on {content.get('host')})"
            first.setdefault(path, file.mtime_ms)
        if not set(files) - dead:
            return None
        if not told:
            told = True
            context.say(
                f"watching for {OFFICE_LEASE_S:.0f} s whether {next(iter(set(files) - dead))} still lives"
            )
        context.check()
        backoff.pause()


def refuse_the_living(context: Context) -> None:
    try:
        record = read_record(context.store)
    except BadContent:
        record = None  # damaged: it cannot be gone on with, but somebody may still be living here
    if record is not None and record.state == "over":
        return  # whoever is still there is about to leave
    alive = living_roles(context)
    if alive:
        raise RunRefused(
            f"{context.store.url}: a run is alive here: {alive}; stop it first, or take another --work"
        )


def clear(store: Store, run_id: str, still_mine: Callable[[], None] | None = None) -> list[str]:
    """Remove the run `run_id` ("": whatever there is): only what is Coppice's own, run.json last, so that a
    crash in between leaves a run that can be cleared again. Returns the foreign names that were left.

    `still_mine` is called before each step, for a master that clears in office, and raises to give up;
    then the folder of the offices stays.

    Nothing is deleted under its own name, but moved into a folder that is, with all in it: a request that
    arrives long after its sender gave up, or from a master that slept, would delete the next run's file of
    that name. A move that comes late finds the folder gone and does nothing.
    """
    check = still_mine or (lambda: None)
    away = f"{TEMPORARY_FOLDER}/discarded-{run_id or 'unknown'}"
    if not store.list():
        return []
    check()
    store.delete_tree(TEMPORARY_FOLDER)  # also what an interrupted clearing had moved already
    store.make_folder(away)
    left = []
    for entry in store.list():
        check()
        if not names.is_own(entry.name):
            left.append(entry.name)
        elif entry.name == names.ROLES and still_mine is not None:
            store.delete_many([f.path for f in role_files(store) if f.ended and f.worker is not None])
        elif entry.name not in (names.RUN, TEMPORARY_FOLDER):
            store.move_into(away, entry.name, entry.is_folder)
    check()
    store.move_into(away, names.RUN)
    store.delete_tree(TEMPORARY_FOLDER if still_mine is None else away)
    return left
