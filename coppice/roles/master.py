"""main1, the master: opens the run, orders rounds, closes the run."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, replace
from typing import Any

from coppice import __version__
from coppice.roles.clearing import clear, refuse_the_living, stored_run_id
from coppice.roles.context import Board, Context, Ticker, in_office, read_failure, read_record
from coppice.roles.result import RESULT
from coppice.roles.rounds import checked, keep_round, read_rounds
from coppice.runfile import RunFile
from coppice.store import TEMPORARY_FOLDER, Store
from coppice.work import names
from coppice.work.contents import json_from_bytes
from coppice.work.errors import BadContent, RunFailed, RunRefused
from coppice.work.limits import MAX_RESULT_BYTES, read_limited
from coppice.work.presence import (
    OFFICE_LEASE_S,
    LeaseWatch,
    gone_from_this_machine,
    read_role_file,
    role_files,
)
from coppice.work.sentinels import NewItr, Report, RunRecord

LAST_LOOKS = 3
"""At the top of a work folder, for what is to be removed: a listing may be older than the last files."""
_IRRELEVANT = ("work", "evaluators")
"""What may change between two starts of the same run: none of it can change the result."""


def master(context: Context, run: RunFile, fresh: bool = False) -> dict[str, Any]:
    """Serve a run from opening to the end; returns the content of result.json.

    `fresh` throws away what stands in the work folder, but never this very run: the command may have been
    started again by a cluster that knows nothing of what was done since.

    Raises `RunRefused` if the work folder is another run's, `RunFailed` if a role gave the run up.
    """
    store = context.store
    doomed = _to_throw_away(context, run) if fresh else None
    store.make_folder()
    if doomed is None:
        _check_same(store, run)
    with in_office(context, "master") as tick:
        if doomed is not None:
            _throw_away(context, run, doomed, tick)
        record = _open(context, run)
        if record.state == "over":
            context.say(f"run {record.run_id} is over already")
            result = read_result(store)
        else:
            result = _rounds(context, record, run, tick)
            _set_state(store, record, "over")
            context.say(f"run {record.run_id} is over")
        _tidy(context, tick)  # one that is over, too: its master may have died before it was done
        return result


# Opening


def _comparable(run_file: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run_file.items() if key not in _IRRELEVANT}


def _unfinished(store: Store, run: RunFile) -> RunRecord | None:
    """The run of these very settings that stands in the folder and whose master has not ended by itself."""
    try:
        record = read_record(store)
    except BadContent:
        return None
    if record is None or _comparable(run.model_dump(mode="json")) != _comparable(record.run_file):
        return None
    if record.state != "over":
        return record
    terms = [file for file in role_files(store) if file.role == "master"]
    closed = bool(terms) and max(terms, key=lambda file: file.term or 0).ended
    return None if closed else record


def _to_throw_away(context: Context, run: RunFile) -> str | None:
    """The run that --fresh is about, "" for none in particular; None if what stands there must stay.

    Raises `RunRefused` where a run lives.
    """
    store = context.store
    doomed = stored_run_id(
        store
    )  # first of all: what is opened from here on is not what --fresh was said about
    unfinished = _unfinished(store, run)
    if unfinished is not None:
        context.say(
            f"--fresh: run {unfinished.run_id} has these very settings and is unfinished; going on with it "
            f"(to throw it away: coppice clean {store.url})"
        )
        return None
    if store.stat(names.RUN) is None:
        _refuse_foreign(store)  # nothing of anybody else's is there either
    refuse_the_living(context)
    return doomed


def _throw_away(context: Context, run: RunFile, doomed: str, tick: Ticker) -> None:
    """Clear the folder for a new run, unless another master did so while this one waited or slept."""
    if stored_run_id(context.store) == doomed and _unfinished(context.store, run) is None:
        clear(context.store, doomed, tick.now)
    else:
        _check_same(context.store, run)


def _check_same(store: Store, run: RunFile) -> RunRecord | None:
    """The record of this very run, or None for an empty folder; raises `RunRefused` for another's."""
    record = read_record(store)
    if record is None:
        _refuse_foreign(store)
        _refuse_leftovers(store)
        return None
    wanted = _comparable(run.model_dump(mode="json"))
    there = _comparable(record.run_file)
    if wanted != there:
        keys = [key for key in wanted if wanted[key] != there.get(key)]
        raise RunRefused(
            f"{store.url}: holds run {record.run_id} ({record.run_file.get('name')}, {record.state}) "
            f"with other settings ({', '.join(keys)}); take another --work, or --fresh to throw that run away"
        )
    return record


def _refuse_foreign(store: Store) -> None:
    foreign = [e.name for e in store.list() if not names.is_own(e.name)]
    if foreign:
        raise RunRefused(
            f"{store.url}: not empty and no run of Coppice's (it holds {foreign[0]!r}); "
            "choose a folder of the run's own"
        )


def _refuse_leftovers(store: Store) -> None:
    """What says itself of no run would be taken for the new one's: another's searches, rounds, results."""
    for entry in store.list():
        if entry.name in names.OF_ONE_RUN and (not entry.is_folder or store.list(entry.name)):
            raise RunRefused(
                f"{store.url}: holds {entry.name} of a run whose {names.RUN} is gone; put that back, or "
                "throw the rest away (coppice clean, or --fresh)"
            )


def _open(context: Context, run: RunFile) -> RunRecord:
    store = context.store
    record = _check_same(store, run)
    if record is None:
        record = RunRecord(
            run_id=secrets.token_hex(4),
            state="running",
            run_file=run.model_dump(mode="json"),
            version=__version__,
            started=time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(context.clock.time())),
        )
        if not store.create(names.RUN, record.to_bytes(), durable=True):
            raise RunRefused(
                f"{store.url}: another master has just opened a run here; look with: coppice status"
            )
        context.say(f"run {record.run_id} ({run.name}) opened in {store.url}")
        return record
    if record.state == "over":
        return record
    if record.state == "failed":
        context.say(f"run {record.run_id} had failed ({record.reason}); trying to go on")
        store.delete(names.FAILED)
    else:
        context.say(f"run {record.run_id} ({run.name}) goes on in {store.url}")
    # What may change has perhaps been changed: roles that start from now on go by it.
    now = replace(record, state="running", reason=None, run_file=run.model_dump(mode="json"))
    if now != record:
        store.replace(names.RUN, now.to_bytes(), durable=True)
    return now


def _set_state(store: Store, record: RunRecord, state: str, reason: str | None = None) -> None:
    store.replace(names.RUN, replace(record, state=state, reason=reason).to_bytes(), durable=True)


# Rounds


def _rounds(context: Context, record: RunRecord, run: RunFile, tick: Ticker) -> dict[str, Any]:
    store = context.store
    board = Board(context, record.run_id, watch_state=False)
    done = read_rounds(store)
    backoff = context.backoff()
    while True:
        total = sum(int(r["iterations"]) for r in done)
        number = len(done) + 1
        left = run.round_of(total)[1] - total
        order = NewItr(record.run_id, number, left if left > 0 else None)
        if order.iterations is not None:
            context.say(f"round {number}: {order.iterations} iterations ({total} of {run.rounds.tmax} done)")
        else:
            context.say(f"{total} iterations done: over")
        backoff.reset()
        while True:
            tick()
            board.look()
            _keep_record(store, board, record, tick)
            board.ensure(names.NEW_ITR, order)
            reason = read_failure(store) if board.has(names.FAILED) else None
            if reason is not None:
                _set_state(store, record, "failed", reason)
                raise RunFailed(reason)
            if order.iterations is None:
                result = _stored_result(store)
                if result is not None and result.get("run_id") == record.run_id:
                    return result
            else:
                report = board.get(names.REPORT, Report)
                if report is not None and report.round == number:
                    done.append(keep_round(store, report))
                    break
                if report is not None and report.round > number:
                    # The master before this one was not dead when it was silent: it has recorded this round.
                    recorded = read_rounds(store)
                    if len(recorded) >= number:
                        done = recorded
                        break
            backoff.pause()


def _keep_record(store: Store, board: Board, record: RunRecord, tick: Ticker) -> None:
    """Write run.json again if somebody removed or damaged it, as of the last look."""
    if not board.has(names.RUN):
        # A request to remove the run before this one may have come very late; or the whole folder is gone,
        # and this master's office with it: then nothing is begun in the one that has its name now.
        tick.now()
        store.create(names.RUN, record.to_bytes(), durable=True)
    elif board.is_damaged(names.RUN, RunRecord.from_bytes):
        store.replace(names.RUN, record.to_bytes(), durable=True)


# Closing


def read_result(store: Store) -> dict[str, Any]:
    """result.json of a run that is over. Raises `RunRefused` if there is none."""
    result = _stored_result(store)
    if result is None:
        raise RunRefused(f"{store.url}/{names.RESULT_JSON}: not there; the run has no result yet")
    return result


def _stored_result(store: Store) -> dict[str, Any] | None:
    data = read_limited(store, names.RESULT_JSON, MAX_RESULT_BYTES)
    if data is None:
        return None
    result = json_from_bytes(data, names.RESULT_JSON)
    return {**result, **asdict(checked(RESULT, result, names.RESULT_JSON))}


def _tidy(context: Context, tick: Ticker) -> None:
    """Wait for the others to end, and remove what nobody needs once the run is over."""
    store = context.store
    watch = LeaseWatch(context.clock, OFFICE_LEASE_S)
    backoff = context.backoff()
    while True:
        tick()
        others = [f for f in role_files(store) if f.role != "master" and not f.ended]
        stale = watch.stale({f.path: f.mtime_ms for f in others})
        waiting = [
            f.path
            for f in others
            if f.path not in stale and not gone_from_this_machine(read_role_file(store, f.path) or {})
        ]
        if not waiting:
            break
        backoff.pause()
    for folder in (names.GENERATIONS, TEMPORARY_FOLDER):
        store.delete_tree(folder)
    for _ in range(LAST_LOOKS):
        store.delete_many([e.name for e in store.list() if names.parse_solution(e.name) is not None])
