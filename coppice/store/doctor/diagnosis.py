"""Tries a store in a scratch folder under its root, with a second process on the same store."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from coppice.clock import Clock, SystemClock
from coppice.store.doctor.checks import CHECKS
from coppice.store.doctor.finding import Finding, Verdict, Ward
from coppice.store.doctor.peer import Peer
from coppice.store.doctor.timing import measure
from coppice.store.drafts import TEMPORARY_FOLDER
from coppice.store.effort import Retry
from coppice.store.errors import StoreError
from coppice.store.home import Home
from coppice.store.store import Store
from coppice.store.urls import open_store

_REACHED = "can be reached and written to"
_URL_PATIENCE_S = 30.0
_MARK = "mark"


def diagnose(
    open_it: Callable[[], Store] | str, *, clock: Clock | None = None, rounds: int = 12
) -> list[Finding]:
    """Try everything on the store that `open_it` opens (a URL, or a function that can be sent to a process).

    `rounds` is how often each race and each timing is repeated. What was created is removed again, the
    root too if it was not there before. Never raises `StoreError`: that is a finding. The second caller is a
    process; for memory, and for functions that cannot be sent, it is a thread, and the first finding says so.
    """
    opener = functools.partial(_open_url, open_it) if isinstance(open_it, str) else open_it
    try:
        with opener() as store, _scratch(store) as folder:
            in_thread = store.url.startswith("memory:")
            with Peer(opener, in_thread) as peer:
                ward = Ward(store, peer, folder, clock or SystemClock(), rounds)
                checked = [_examined(what, check, ward) for what, check in CHECKS.items()]
                advice = "" if peer.is_process else "tried with two threads, as no second process can open it"
                findings = [Finding(_REACHED, Verdict.OK, advice=advice), *checked, *measure(ward)]
            if store.stat(f"{folder}/{_MARK}") is None:
                raise StoreError(
                    f"{store.url}: a run that began or ended here removed the doctor's files; try again"
                )
            return findings
    except StoreError as error:
        return [Finding(_REACHED, Verdict.ERROR, advice=str(error))]


def _open_url(url: str) -> Store:
    return open_store(url, retry=Retry(patience_s=_URL_PATIENCE_S))


@contextmanager
def _scratch(store: Store) -> Iterator[str]:
    """A folder of our own, where Coppice removes what was left behind; afterwards the store is as it was."""
    before = None if store.stat("") is None else {entry.name for entry in store.list()}
    above = _missing_above(store) if before is None else []
    folder = f"{TEMPORARY_FOLDER}/doctor-{secrets.token_hex(4)}"
    try:
        store.make_folder(folder)
        store.replace(f"{folder}/{_MARK}", b"")
        yield folder
    finally:
        store.delete_tree(folder)
        store.discard_drafts()
        if before is None or TEMPORARY_FOLDER not in before:
            _remove_if_empty(store, TEMPORARY_FOLDER)
        if before is None and not store.list():
            store.delete_tree("")
            for each in above:
                with suppress(StoreError):  # no reason to call the store bad
                    each.remove_root()


def _missing_above(store: Store) -> list[Home]:
    """The folders above the root that are not there yet, the nearest first."""
    missing = []
    above = store.home.above()
    while above is not None and above.stat("") is None:
        missing.append(above)
        above = above.above()
    return missing


def _remove_if_empty(store: Store, folder: str) -> None:
    try:
        store.delete(folder)
    except StoreError:  # another role has begun to use the store
        pass


def _examined(what: str, check: Callable[[Ward], Finding], ward: Ward) -> Finding:
    try:
        return check(ward)
    except StoreError as error:
        return Finding(what, Verdict.ERROR, advice=str(error))
