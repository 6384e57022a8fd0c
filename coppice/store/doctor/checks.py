"""Whether a store keeps what the roles rely on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from coppice.store.doctor.finding import Finding, Verdict, Ward
from coppice.store.doctor.peer import is_whole, page
from coppice.store.errors import StoreError
from coppice.store.home import Entry

_STALE_PATIENCE_S = 90.0


def _creates_once(ward: Ward) -> Finding:
    """Creates a name only once."""
    path = ward.at("created")
    first, second = ward.store.create(path, b"first"), ward.store.create(path, b"second")
    if (first, second, ward.store.read(path)) == (True, False, b"first"):
        return Finding("creates a name only once", Verdict.OK)
    return Finding(
        "creates a name only once",
        Verdict.UNSAFE,
        advice="not safe: a file that was there was created once more; use another share or mount",
    )


def _never_overwrites(ward: Ward) -> Finding:
    """Renames without overwriting."""
    store, home = ward.store, ward.store.home
    source, target, folder = ward.at("source"), ward.at("target"), ward.at("folder")
    store.replace(source, b"source")
    store.replace(target, b"target")
    store.make_folder(folder)
    answers = [
        home.rename(source, target),
        home.rename(source, folder),
        home.rename(ward.at("none"), ward.at("x")),
    ]
    kept = store.read(source) == b"source" and store.read(target) == b"target" and store.list(folder) == []
    if not any(answers) and kept:
        return Finding("renames without overwriting", Verdict.OK)
    return Finding(
        "renames without overwriting",
        Verdict.UNSAFE,
        advice="not safe: a rename overwrites what is there, so two evaluators could claim one solution; "
        "use another share or mount",
    )


def _one_winner(ward: Ward) -> Finding:
    """Lets one of two callers win."""
    store, peer = ward.store, ward.peer
    wrong = ours = 0
    for each in range(ward.rounds):
        source, mine, theirs = (ward.at(f"race-{each}-{name}") for name in ("source", "mine", "theirs"))
        store.replace(source, b"solution")
        claimed = peer.race(functools.partial(store.rename, source, mine), "rename", source, theirs)
        left = [store.stat(path) is not None for path in (source, mine, theirs)]
        name = ward.at(f"race-{each}-name")
        created = peer.race(functools.partial(store.create, name, b"mine"), "create", name, b"theirs")
        content = store.read(name)
        wrong += sum(claimed) != 1 or left != [False, *claimed]
        wrong += sum(created) != 1 or content != (b"mine" if created[0] else b"theirs")
        ours += claimed[0] + created[0]
    what = "lets one of two callers win"
    figures = {"races": 2.0 * ward.rounds, "won_by_first": float(ours), "wrong": float(wrong)}
    if wrong == 0:
        return Finding(what, Verdict.OK, figures)
    return Finding(
        what,
        Verdict.UNSAFE,
        figures,
        "not safe: two callers both won, or none did, so solutions would be scored twice or get lost; "
        "use another share or mount",
    )


def _publishes_folders(ward: Ward) -> Finding:
    """Publishes a folder by one rename."""
    store, peer, move = ward.store, ward.peer, ward.store.home.rename_folder
    wrong = ours = 0
    for each in range(ward.rounds):
        mine, theirs, target = (ward.at(f"folder-{each}-{name}") for name in ("mine", "theirs", "target"))
        store.create(f"{mine}/my file", b"")
        store.create(f"{theirs}/their file", b"")
        moved = peer.race(functools.partial(move, mine, target), "rename_folder", theirs, target)
        wrong += sum(moved) != 1 or _names(store.list(target)) != {"my file" if moved[0] else "their file"}
        ours += moved[0]
    late, taken, file = ward.at("folder-late"), ward.at("folder-taken"), ward.at("folder-file")
    for path in (f"{late}/file", f"{taken}/other", file):
        store.create(path, b"")
    overwrote = move(late, taken) or move(late, file)
    kept = [_names(store.list(folder)) for folder in (late, taken)] == [{"file"}, {"other"}]
    what = "publishes a folder by one rename"
    figures = {"races": float(ward.rounds), "won_by_first": float(ours), "wrong": float(wrong)}
    if wrong == 0 and kept and not overwrote:
        return Finding(what, Verdict.OK, figures)
    return Finding(
        what,
        Verdict.UNSAFE,
        figures,
        "not safe: a folder was moved over or into one that was there, or two callers both moved theirs to "
        "one name, so solutions of two searches would be mixed up; use another share or mount",
    )


def _whole_reads(ward: Ward) -> Finding:
    """Shows whole files while they are replaced."""
    store, peer, path = ward.store, ward.peer, ward.at("page")
    store.replace(path, page(0))
    peer.begin("replace_again_and_again", path, 2 * ward.rounds)
    reads = torn = missing = 0
    while not peer.is_done() or reads == 0:
        data = store.read(path)
        reads += 1
        missing += data is None
        torn += data is not None and not is_whole(data)
    peer.end()
    what = "shows whole files while they are replaced"
    figures = {"reads": float(reads), "torn": float(torn), "missing": float(missing)}
    if torn:
        advice = "not safe: readers see parts of files; use another share or mount"
        return Finding(what, Verdict.UNSAFE, figures, advice)
    advice = ""
    if missing:
        advice = (
            "for moments readers saw no file: this storage cannot replace in one step (HttpFS); "
            "the NameNode's own port (9870) can"
        )
    return Finding(what, Verdict.OK, figures, advice)


def _lists_at_once(ward: Ward) -> Finding:
    """Shows new files to others at once."""
    store, peer = ward.store, ward.peer
    slowest_s = 0.0
    for each in range(ward.rounds):
        folder, here, there = ward.at("seen"), f"here-{each}", f"there-{each}"
        store.list(folder), peer.call("list", folder)  # so that a share that remembers lists has one
        peer.call("create", f"{folder}/{there}", b"x")
        slowest_s = max(slowest_s, _until(ward, lambda: there in _names(store.list(folder))))  # noqa: B023
        store.create(f"{folder}/{here}", b"x")
        slowest_s = max(slowest_s, _until(ward, lambda: here in _names(peer.call("list", folder))))  # noqa: B023
    return _freshness("shows new files to others at once", "new files are", slowest_s)


def _touch_shows(ward: Ward) -> Finding:
    """Shows others that a file was touched."""
    store, peer, path = ward.store, ward.peer, ward.at("touched")
    store.replace(path, b"beat")
    slowest_s = 0.0
    for _ in range(ward.rounds):
        before = peer.call("stat", path)
        if not store.touch(path):
            raise StoreError(f"{store.url}: {path} vanished while it was touched")
        slowest_s = max(slowest_s, _until(ward, lambda: peer.call("stat", path) != before))  # noqa: B023
    return _freshness("shows others that a file was touched", "heartbeats are", slowest_s)


def _until(ward: Ward, seen: Callable[[], bool]) -> float:
    """How long it took until `seen`, seconds; 0.0 if it was at once."""
    began, wait_s = ward.clock.monotonic(), 0.01
    if seen():
        return 0.0
    while ward.clock.monotonic() - began < _STALE_PATIENCE_S:
        ward.clock.sleep(wait_s)
        wait_s = min(1.0, 2 * wait_s)
        if seen():
            return ward.clock.monotonic() - began
    raise StoreError(
        f"{ward.store.url}: another caller saw no change for {_STALE_PATIENCE_S:g} s; not usable"
    )


def _freshness(what: str, subject: str, slowest_s: float) -> Finding:
    if slowest_s == 0.0:
        return Finding(what, Verdict.OK)
    return Finding(
        what,
        Verdict.SLOW,
        {"slowest_ms": 1000 * slowest_s},
        f"{subject} seen up to {slowest_s:.1f} s late: the mount keeps old answers; an NFS mount with "
        "lookupcache=none,actimeo=1 is quicker, or raise the run's stale_after_s well above this",
    )


CHECKS: dict[str, Callable[[Ward], Finding]] = {
    "creates a name only once": _creates_once,
    "renames without overwriting": _never_overwrites,
    "lets one of two callers win": _one_winner,
    "publishes a folder by one rename": _publishes_folders,
    "shows whole files while they are replaced": _whole_reads,
    "shows new files to others at once": _lists_at_once,
    "shows others that a file was touched": _touch_shows,
}
"""What each check finds out, and how; each may raise `StoreError`. Its finding carries the same name."""


def _names(entries: Sequence[Entry]) -> set[str]:
    return {entry.name for entry in entries}
