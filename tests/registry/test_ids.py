"""Numbers without gaps or doubles."""

from __future__ import annotations

from typing import Any

import pytest

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.registry.ids import Ids
from coppice.store import Store
from tests.support import homes, racers
from tests.support.homes import HomeSpec, over_homes

RACERS, ROUNDS = 3, 5


@pytest.mark.parametrize("text", ["TSK000001", "MDL999999", "PRD000010"])
def test_ids_are_read(text: str) -> None:
    parsed = layout.parse_id(text)
    assert parsed is not None
    assert layout.make_id(*parsed) == text


@pytest.mark.parametrize(
    "text", ["TSK1", "TSK000000", "XXX000001", "TSK0000001", "tsk000001", "TSK00000１", ""]
)
def test_nothing_else_is_an_id(text: str) -> None:
    assert layout.parse_id(text) is None


@over_homes()
def test_numbers_are_given_one_after_the_other(store: Store) -> None:
    ids = Ids(store)
    assert [ids.new("TRD", {"task": "TSK000001"}) for _ in range(3)] == [
        "TRD000001",
        "TRD000002",
        "TRD000003",
    ]
    given = Ids(store).all("TRD")
    assert list(given) == ["TRD000001", "TRD000002", "TRD000003"]
    assert all(purpose == {"task": "TSK000001"} for purpose in given.values())
    assert Ids(store).all("TST") == {}


def test_one_number_for_one_purpose(store: Store) -> None:
    ids, others = Ids(store), Ids(store)
    first = ids.the("MDL", {"arch": "ARC000001"})
    assert others.the("MDL", {"arch": "ARC000002"}) != first
    assert others.the("MDL", {"arch": "ARC000001"}) == first
    assert ids.purpose("MDL000002") == {"arch": "ARC000002"}


def test_what_stands_there_already_is_not_given(store: Store) -> None:
    store.create("train/TRD000007_x.npy", b"")
    store.create("train/TRD_notes.txt", b"")
    assert Ids(store).new("TRD", {}) == "TRD000008"


def test_a_damaged_number_is_given_still(store: Store) -> None:
    store.create("ids/MDL/MDL000001.json", b"{")
    store.create("ids/MDL/notes", b"")
    ids = Ids(store)
    assert ids.all("MDL") == {"MDL000001": {}}
    assert ids.the("MDL", {"arch": "ARC000001"}) == "MDL000002"


def test_numbers_end(store: Store) -> None:
    store.create(f"model/MDL{layout.HIGHEST}.safetensors", b"")
    with pytest.raises(RegistryError, match="MDL999999, the last number, is taken in ids/MDL or model"):
        Ids(store).new("MDL", {})


def test_an_unknown_id_is_named(store: Store) -> None:
    for name in ("MDL000001", "nonsense"):
        with pytest.raises(RegistryError, match=f"{name}: there is none in"):
            Ids(store).purpose(name)


def id_race(store: Store, racer: racers.Racer) -> list[Any]:
    """In each round a number of its own and the one for what all want."""
    ids, got = Ids(store), []
    for each in range(racer.rounds):
        racer.wait()
        got.append((ids.new("TRD", {"task": "TSK000001"}), ids.the("MDL", {"round": str(each)})))
    return got


@over_homes(*homes.SHARED)
def test_racing_processes_get_numbers_without_gaps_or_doubles(home_spec: HomeSpec) -> None:
    results = racers.race_processes(home_spec, id_race, RACERS, ROUNDS)
    own = sorted(pair[0] for result in results for pair in result)
    assert own == [layout.make_id("TRD", number + 1) for number in range(RACERS * ROUNDS)]
    common = [{result[each][1] for result in results} for each in range(ROUNDS)]
    assert all(len(names) == 1 for names in common)
    assert sorted(name for names in common for name in names) == [
        layout.make_id("MDL", number + 1) for number in range(ROUNDS)
    ]
