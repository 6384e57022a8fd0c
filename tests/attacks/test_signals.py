"""Real processes on a real HDFS that are put to sleep, woken, and asked to end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coppice.roles.history import read_histories
from coppice.store import Store, open_store
from coppice.work import names
from tests.attacks.processes import PATIENCE_S, Actor, Cast
from tests.hdfs.cluster import HdfsCluster
from tests.hdfs.service import until

pytestmark = pytest.mark.hdfs

ALL = ("master", "outer", "ncs", "evaluator", "evaluator")


@pytest.fixture
def options() -> str:
    """What the URL of the work folder ends with."""
    return ""


@pytest.fixture
def cast(frail: HdfsCluster, work: str, options: str, digits_file: Path, tmp_path: Path) -> Iterator[Cast]:
    """Nobody yet, on a folder of the real HDFS."""
    url = frail.webhdfs_url + work + options
    with Cast(digits_file, url, open_store(url), tmp_path) as everybody:
        yield everybody


def _stop_with_a_claim(cast: Cast, sleeper: Actor) -> str:
    """Put an evaluator to sleep just while it holds a claim; the claim's path."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        cast.check_alive()
        if sleeper.process.pid in cast.claims():
            sleeper.send(signal.SIGSTOP)
            time.sleep(0.2)  # what it has just asked of the NameNode comes to its end
            claim = cast.claims().get(sleeper.process.pid)
            if claim is not None:
                return claim
            sleeper.send(signal.SIGCONT)
    raise AssertionError("it was never caught with a claim")


def test_an_evaluator_that_sleeps_longer_than_its_lease_loses_its_claim_and_its_score_does_not_count(
    cast: Cast, digits: Store
) -> None:
    *_, sleeper, other = everybody = cast.start(*ALL)
    cast.wait_for_claims([sleeper, other])
    claim = _stop_with_a_claim(cast, sleeper)
    other.says("did not beat for 3 s; taking it back")
    head, tries = claim.partition("_claimed_by_")[0].rsplit("_t", 1)
    taken_back = f"{head}_t{int(tries) + 1}_waiting"
    until(
        lambda: cast.store.stat(claim) is None and cast.store.stat(taken_back) is None,
        PATIENCE_S,
        "the other one did not take it",
    )
    sleeper.send(signal.SIGCONT)
    cast.finish(everybody, digits)
    generation, token = claim.split("/")[1:]
    _, search, number = generation.split("_")
    history = read_histories(cast.store)[int(search[1:]) - 1]
    index = history.generation.index(int(number[1:])) + int(token[1:3])
    assert str(other.process.pid) in str(history.workers[index])


def test_holders_of_an_office_that_sleep_too_long_are_succeeded_and_end_when_they_wake(
    cast: Cast, digits: Store
) -> None:
    offices = ("master", "outer", "ncs")
    *first, evaluator, other = cast.start(*ALL)
    cast.wait_for_claims([evaluator, other])
    for actor in first:  # caught in the act, and they cannot go on before the others are ready
        actor.send(signal.SIGSTOP)
    second = cast.start(*offices)
    for actor in second:
        actor.says("waiting to take over should it fall silent")
    for role in offices:
        path = f"{names.ROLES}/{role}_0002.json"
        until(lambda path=path: cast.store.stat(path) is not None, PATIENCE_S, f"no second {role}")  # type: ignore[misc]
    for actor in first:
        actor.send(signal.SIGCONT)
    for actor in first:
        assert actor.ends() == 1, actor.said()
        last = actor.said().splitlines()[-1]
        assert f"{actor.role}: ends: {actor.role}: another process has taken over" in last
        assert "Traceback" not in actor.said()
    cast.finish([*second, evaluator, other], digits)


def test_all_are_asked_to_end_give_back_what_they_hold_and_the_same_commands_go_on(
    cast: Cast, digits: Store
) -> None:
    everybody = cast.start(*ALL)
    cast.wait_for_claims(everybody[-2:])
    cast.terminate(everybody)
    assert cast.claims() == {}
    roles = [entry.name for entry in cast.store.list(names.ROLES) if not entry.is_folder]
    assert len(roles) == len(ALL)
    assert all(name.endswith(".ended.json") for name in roles), roles
    cast.finish(cast.start(*ALL), digits)
    aside = [entry.name for entry in cast.store.list(names.ASIDE)]
    assert aside == [], "being asked to end costs no try"


@pytest.mark.parametrize("options", ["?timeout_s=2"])
def test_all_are_asked_to_end_while_the_namenode_hangs_and_the_same_commands_go_on(
    cast: Cast, frail: HdfsCluster, digits: Store
) -> None:
    """A request under way is waited for as long as `timeout_s` says (60 by default): so long it may take."""
    everybody = cast.start(*ALL)
    cast.wait_for_claims(everybody[-2:])
    frail.namenode.signal(signal.SIGSTOP)
    try:
        for actor in everybody:
            actor.misses_the_store()
        cast.terminate(everybody)
    finally:
        frail.namenode.signal(signal.SIGCONT)
    cast.finish(cast.start(*ALL), digits)
