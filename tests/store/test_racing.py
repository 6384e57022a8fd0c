"""Callers that really race, as threads and as processes, on every home that they can share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coppice.store import Store
from tests.support import homes, racers
from tests.support.homes import HomeSpec, over_homes

RACERS = 3
ROUNDS = 12

Runner = Callable[[HomeSpec, racers.Race, int, int], list[list[Any]]]

by_threads = over_homes()
by_processes = over_homes(*homes.SHARED)


def check_one_winner(run: Runner, spec: HomeSpec, race: racers.Race) -> None:
    results = run(spec, race, RACERS, ROUNDS)
    assert [sum(won) for won in zip(*results, strict=True)] == [1] * ROUNDS


def check_creating(run: Runner, spec: HomeSpec) -> None:
    results = run(spec, racers.create_race, RACERS, ROUNDS)
    winners = [won.index(True) for won in zip(*results, strict=True)]
    assert sum(map(sum, results)) == ROUNDS
    with Store(spec.open()) as store:
        contents = [store.read(f"created/{each}") for each in range(ROUNDS)]
        assert contents == [f"{winner}".encode() * 1000 for winner in winners]
        assert store.list(".tmp") == []


def check_claiming(run: Runner, spec: HomeSpec) -> None:
    results = run(spec, racers.claim_race, RACERS, ROUNDS)
    winners = [won.index(True) for won in zip(*results, strict=True)]
    assert sum(map(sum, results)) == ROUNDS
    with Store(spec.open()) as store:
        claims = sorted(entry.name for entry in store.list("claims"))
        assert claims == sorted(f"{each}-{winner}" for each, winner in enumerate(winners))
        assert [entry.name for entry in store.list() if entry.name.startswith("source")] == []


def check_publishing(run: Runner, spec: HomeSpec) -> None:
    results = run(spec, racers.publish_race, RACERS, ROUNDS)
    winners = [won.index(True) for won in zip(*results, strict=True)]
    assert sum(map(sum, results)) == ROUNDS
    with Store(spec.open()) as store:
        for each, winner in enumerate(winners):
            found = [entry.name for entry in store.list(f"published/{each}")]
            assert found == [*(f"{winner}-{index}" for index in range(3)), "who"]
            assert store.read(f"published/{each}/who") == str(winner).encode()
        assert store.list(".tmp") == []


def check_moving_folders(run: Runner, spec: HomeSpec) -> None:
    results = run(spec, racers.move_folder_race, RACERS, ROUNDS)
    assert [sum(won) for won in zip(*results, strict=True)] == [1] * ROUNDS
    with Store(spec.open()) as store:
        for each, won in enumerate(zip(*results, strict=True)):
            for number in range(RACERS):  # what lost is where it was
                folder = f"target-{each}" if won[number] else f"own-{each}-{number}"
                assert [entry.name for entry in store.list(folder)] == [str(number)]


def check_claiming_folders(run: Runner, spec: HomeSpec) -> None:
    results = run(spec, racers.claim_folder_race, RACERS, ROUNDS)
    winners = [won.index(True) for won in zip(*results, strict=True)]
    assert sum(map(sum, results)) == ROUNDS
    with Store(spec.open()) as store:
        found = sorted(entry.name for entry in store.list() if entry.name != ".tmp")
        assert found == sorted(f"claim-{each}-{winner}" for each, winner in enumerate(winners))


def check_reading(run: Runner, spec: HomeSpec, race: racers.Race, may_miss: bool = False) -> None:
    results = run(spec, race, RACERS, ROUNDS)
    seen = {each for result in results for each in result}
    assert "whole" in seen
    assert seen <= ({"whole", "missing"} if may_miss else {"whole"})


@by_threads
def test_threads_creating_one_name(home_spec: HomeSpec) -> None:
    check_creating(racers.race_threads, home_spec)


@by_processes
def test_processes_creating_one_name(home_spec: HomeSpec) -> None:
    check_creating(racers.race_processes, home_spec)


@by_threads
def test_threads_claiming_one_file(home_spec: HomeSpec) -> None:
    check_claiming(racers.race_threads, home_spec)


@by_processes
def test_processes_claiming_one_file(home_spec: HomeSpec) -> None:
    check_claiming(racers.race_processes, home_spec)


@by_threads
def test_threads_moving_to_one_name(home_spec: HomeSpec) -> None:
    check_one_winner(racers.race_threads, home_spec, racers.target_race)


@by_processes
def test_processes_moving_to_one_name(home_spec: HomeSpec) -> None:
    check_one_winner(racers.race_processes, home_spec, racers.target_race)


@by_threads
def test_threads_publishing_folders_of_one_name(home_spec: HomeSpec) -> None:
    check_publishing(racers.race_threads, home_spec)


@by_processes
def test_processes_publishing_folders_of_one_name(home_spec: HomeSpec) -> None:
    check_publishing(racers.race_processes, home_spec)


@by_threads
def test_threads_moving_folders_to_one_name(home_spec: HomeSpec) -> None:
    check_moving_folders(racers.race_threads, home_spec)


@by_processes
def test_processes_moving_folders_to_one_name(home_spec: HomeSpec) -> None:
    check_moving_folders(racers.race_processes, home_spec)


@by_threads
def test_threads_claiming_one_folder(home_spec: HomeSpec) -> None:
    check_claiming_folders(racers.race_threads, home_spec)


@by_processes
def test_processes_claiming_one_folder(home_spec: HomeSpec) -> None:
    check_claiming_folders(racers.race_processes, home_spec)


@by_processes
def test_whoever_reads_a_replaced_file_reads_a_whole_one(home_spec: HomeSpec) -> None:
    # HttpFS cannot replace in one step: there, and only there, a reader may see no file for a moment.
    may_miss = home_spec.kind == "httpfs"
    check_reading(racers.race_processes, home_spec, racers.replace_and_read_race, may_miss)


@by_threads
def test_whoever_reads_a_new_file_reads_a_whole_one(home_spec: HomeSpec) -> None:
    check_reading(racers.race_threads, home_spec, racers.create_and_read_race)


@pytest.mark.parametrize("data", [b"", b"\x05" * 10, b"\x05\x06", racers.page(5)[:-1]])
def test_the_judge_of_whole_pages_can_say_no(data: bytes) -> None:
    assert not racers.is_whole(data)
    assert racers.is_whole(racers.page(5))
