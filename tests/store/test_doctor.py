"""The doctor: calls good homes good, finds what is wrong with bad ones, and leaves nothing behind."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import pytest

from coppice.store import TEMPORARY_FOLDER, Store, open_store
from coppice.store.doctor import Finding, Verdict, diagnose
from coppice.store.doctor.peer import Peer
from coppice.store.folder import FolderHome
from coppice.store.memory import MemoryHome
from tests.support.broken_homes import DelayedHome, open_broken
from tests.support.clocks import FakeClock
from tests.support.homes import HomeSpec, over_homes

CHECKS = {
    "can be reached and written to",
    "creates a name only once",
    "renames without overwriting",
    "lets one of two callers win",
    "publishes a folder by one rename",
    "shows whole files while they are replaced",
    "shows new files to others at once",
    "shows others that a file was touched",
}
TIMINGS = {
    "create an empty file",
    "create a file of 200 bytes",
    "list a folder",
    "look at a file",
    "read 200 bytes",
    "touch a file",
    "rename a file",
    "delete a file",
}


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    named = {finding.what: finding for finding in findings}
    assert len(named) == len(findings)
    return named


def open_spec(spec: HomeSpec) -> Store:
    return Store(spec.open())


@over_homes()
def test_good_homes_are_called_good(home_spec: HomeSpec, store: Store) -> None:
    findings = by_name(diagnose(functools.partial(open_spec, home_spec), rounds=6))
    assert findings.keys() == CHECKS | TIMINGS
    # Timings are the machine's affair, promises are ours.
    assert {what: findings[what].verdict for what in CHECKS} == dict.fromkeys(CHECKS, Verdict.OK)
    assert {findings[what].verdict for what in TIMINGS} <= {Verdict.OK, Verdict.SLOW}
    for what in TIMINGS:
        assert 0 < findings[what].figures["median_ms"] <= findings[what].figures["max_ms"]
    races = findings["lets one of two callers win"].figures
    assert (races["races"], races["wrong"]) == (12, 0)
    races = findings["publishes a folder by one rename"].figures
    assert (races["races"], races["wrong"]) == (6, 0)
    assert ("threads" in findings["can be reached and written to"].advice) == (home_spec.kind == "memory")
    assert store.stat("") is None  # the root was not there before


def test_a_url_will_do_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".tmp").mkdir()
    findings = by_name(diagnose(str(tmp_path), rounds=2))
    assert findings.keys() == CHECKS | TIMINGS
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp", "run.json"]
    assert list((tmp_path / ".tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "what", "verdict", "advice"),
    [
        ("overwriting", "renames without overwriting", Verdict.UNSAFE, "not safe: a rename overwrites"),
        ("overwriting", "creates a name only once", Verdict.UNSAFE, "not safe"),
        ("copying", "lets one of two callers win", Verdict.UNSAFE, "both won"),
        ("copying", "publishes a folder by one rename", Verdict.UNSAFE, "both moved theirs"),
        ("merging", "publishes a folder by one rename", Verdict.UNSAFE, "moved over or into"),
        ("tearing", "shows whole files while they are replaced", Verdict.UNSAFE, "parts of files"),
        ("forgetful", "shows new files to others at once", Verdict.SLOW, "late"),
        ("forgetful", "shows others that a file was touched", Verdict.SLOW, "late"),
    ],
)
def test_what_is_wrong_is_found(kind: str, what: str, verdict: Verdict, advice: str, tmp_path: Path) -> None:
    root = tmp_path / "work"
    finding = by_name(diagnose(functools.partial(open_broken, kind, str(root)), rounds=8))[what]
    assert (finding.what, finding.verdict) == (what, verdict)
    assert advice in finding.advice


def test_a_store_that_cannot_be_written_is_one_finding(tmp_path: Path) -> None:
    findings = diagnose(functools.partial(open_broken, "read-only", str(tmp_path)))
    assert [finding.verdict for finding in findings] == [Verdict.ERROR]
    assert "no permission" in findings[0].advice


def test_a_url_that_is_none_is_one_finding() -> None:
    assert [finding.verdict for finding in diagnose("s3://bucket/work")] == [Verdict.ERROR]


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("webhdfs://nn/x", "dfs.client.block.write.locateFollowingBlock.initial.delay.ms=10"),
        ("/mnt/x", "6 of 12 small files took 300 ms and more"),
    ],
)
def test_the_datanodes_delay_is_recognised(url: str, advice: str) -> None:
    clock = FakeClock()
    home = DelayedHome(clock, url)
    findings = by_name(diagnose(lambda: Store(home, clock=clock), clock=clock))
    small = findings["create a file of 200 bytes"]
    assert small.verdict is Verdict.SLOW
    assert advice in small.advice
    assert ("hdfs-site.xml" in small.advice) == url.startswith("webhdfs")
    assert small.figures["max_ms"] == pytest.approx(420)
    assert findings["create an empty file"].verdict is Verdict.OK
    assert findings["create an empty file"].figures["median_ms"] == pytest.approx(20)


def test_a_storage_that_is_far_away_is_slow() -> None:
    clock = FakeClock()

    class FarHome(MemoryHome):
        def touch(self, path: str) -> bool:
            clock.sleep(0.8)
            return super().touch(path)

    home = FarHome("far", clock)
    findings = by_name(diagnose(lambda: Store(home, clock=clock), clock=clock))
    assert findings["touch a file"].verdict is Verdict.SLOW
    assert findings["list a folder"].verdict is Verdict.OK


def test_folders_above_that_were_made_are_removed_too(tmp_path: Path) -> None:
    (tmp_path / "was there").mkdir()
    findings = diagnose(lambda: open_store(str(tmp_path / "was there" / "a" / "b" / "c")), rounds=1)
    assert findings[0].verdict is Verdict.OK
    assert list((tmp_path / "was there").iterdir()) == []


def test_folders_above_that_somebody_has_used_meanwhile_stay(tmp_path: Path) -> None:
    class RivalHome(FolderHome):
        def touch(self, path: str) -> bool:
            (tmp_path / "a" / "thesis.tex").write_text("years of work")
            return super().touch(path)

    diagnose(lambda: Store(RivalHome(tmp_path / "a" / "b" / "c")), rounds=1)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_doctor_that_is_interrupted_leaves_nothing(existed: bool, tmp_path: Path) -> None:
    class InterruptedHome(FolderHome):
        def put(self, path: str, data: bytes, durable: bool = False, parents: bool = True) -> bool:
            super().put(path, data, durable, parents)
            if data == b"second":  # of `creates a name only once`; what was put is not published yet
                raise KeyboardInterrupt
            return True

    root = tmp_path / "work"
    if existed:
        root.mkdir()
    with pytest.raises(KeyboardInterrupt):
        diagnose(lambda: Store(InterruptedHome(root)), rounds=1)
    assert list(tmp_path.rglob("*")) == ([root] if existed else [])


def test_what_a_killed_doctor_leaves_is_in_coppices_own_folder(tmp_path: Path) -> None:
    seen: set[str] = set()

    class WatchedHome(FolderHome):
        def touch(self, path: str) -> bool:
            seen.update(entry.name for entry in self.list(""))
            return super().touch(path)

    diagnose(lambda: Store(WatchedHome(tmp_path)), rounds=1)
    assert seen == {TEMPORARY_FOLDER}


def test_a_run_that_clears_the_folder_meanwhile_does_not_make_it_unsafe() -> None:
    clock = FakeClock()

    class ClearedHome(MemoryHome):
        def touch(self, path: str) -> bool:
            self.delete_tree(TEMPORARY_FOLDER)
            return super().touch(path)

    home = ClearedHome("cleared", clock)
    (finding,) = diagnose(lambda: Store(home, clock=clock), clock=clock, rounds=1)
    assert finding.verdict is Verdict.ERROR
    assert "try again" in finding.advice


def test_the_second_process_is_ended_by_the_first_alone(tmp_path: Path) -> None:
    """Ctrl-C goes to both, and would have it die with a traceback, its files left."""
    opener = functools.partial(open_store, str(tmp_path))
    with Peer(opener, in_thread=False) as peer:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(peer._process.pid, number)
        assert peer.call("create", "a", b"1")

        def interrupted() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            peer.race(interrupted, "create", "b", b"1")
    assert not peer._process.is_alive()
    assert (tmp_path / "b").exists()  # what it had begun it has done
