"""Lines that are added once, and tables that have them all."""

from __future__ import annotations

from typing import Any

import pytest

from coppice.registry.errors import RegistryError
from coppice.registry.records import ModelRecord, PredictRecord, ScoreRecord, Table
from coppice.store import Store
from tests.support import homes, racers
from tests.support.homes import HomeSpec, over_homes

WHEN = "2026-12-06 19:37:43.802650"
TASK = "TSK000001"
RACERS, ROUNDS = 3, 5


def score(number: int, value: float = 0.5) -> ScoreRecord:
    return ScoreRecord(WHEN, "MDL000001", "TST000001", f"score/SCR{number:06d}.txt", value)


@over_homes()
def test_lines_are_added_once(store: Store) -> None:
    table = Table(store, TASK, ScoreRecord)
    assert table.read() == ([], [])
    assert table.add(score(1, 0.1005))
    assert table.add(score(2))
    assert not table.add(score(1, 0.9))
    assert table.read() == ([score(1, 0.1005), score(2)], [])
    assert (store.read("task/TSK000001_score.csv") or b"").decode() == (
        "time, model, test, file, score\n"
        f"{WHEN}, MDL000001, TST000001, score/SCR000001.txt, 0.1005\n"
        f"{WHEN}, MDL000001, TST000001, score/SCR000002.txt, 0.5\n"
    )


@pytest.mark.parametrize(
    "record",
    [
        ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000001"),
        ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000001", 44426),
        ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000002", 1310, "MDL000001", 33.91, "5c0e12ab"),
        score(3, -1e-300),
        PredictRecord(WHEN, "MDL000001", "out/PRD000001_yhat.npy", '[[0.1, 0.2],  [0.3, "x"]]'),
    ],
)
def test_lines_are_read_as_they_were_written(store: Store, record: Any) -> None:
    table = Table(store, TASK, type(record))
    assert table.add(record)
    assert table.read() == ([record], [])
    assert table.find(record.key) == record
    store.delete(f"task/{TASK}_{record.TABLE}/{record.key}.csv")
    assert table.read() == ([record], [])


def test_a_trained_models_line_is_what_it_always_was(store: Store) -> None:
    Table(store, TASK, ModelRecord).add(ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000001"))
    lines = (store.read("task/TSK000001_model.csv") or b"").decode().splitlines()
    assert lines[1] == f"{WHEN}, ARC000001, TRD000001, MDL000001"


@pytest.mark.parametrize(
    "broken",
    [
        b"nonsense",
        b"\xff\xfe\x00",
        f"{WHEN}, MDL000001, TST000001".encode(),
        f"{WHEN}, MDL000001, TST000001, score/SCR000001.txt, nan".encode(),
        f"{WHEN}, MDL000001, TST000001, score/SCR000001.txt, many".encode(),
        f"{WHEN}, MDL1, TST000001, score/SCR000001.txt, 0.5".encode(),
        f"{WHEN}, MDL000001, TST000001, ../SCR000001.txt, 0.5".encode(),
        f"{WHEN}, MDL000001, TST000001, score/SCR000001.txt, 0.5, 7".encode(),
        b'"' * 5,
        b", , , , ",
    ],
)
@over_homes("folder", "webhdfs")
def test_a_broken_line_is_named_and_left_out(store: Store, broken: bytes) -> None:
    table = Table(store, TASK, ScoreRecord)
    table.add(score(1))
    text = store.read("task/TSK000001_score.csv") or b""
    store.replace("task/TSK000001_score.csv", text.replace(text.splitlines()[1], broken))
    table.add(score(2))
    records, complaints = table.read()
    assert sorted(record.key for record in records) == ["SCR000001", "SCR000002"]
    assert len(complaints) == 1
    assert complaints[0].startswith(
        "task/TSK000001_score.csv, line 2: left out, for it is no line of time, model"
    )
    assert broken in (store.read("task/TSK000001_score.csv") or b"")  # it is not ours to throw away


def test_a_line_by_hand_is_kept(store: Store) -> None:
    by_hand = f"{WHEN}, MDL000009, TST000001, score/SCR000009.txt, 0.25"  # without a last newline
    store.create("task/TSK000001_score.csv", f"time, model, test, file, score\n{by_hand}".encode())
    table = Table(store, TASK, ScoreRecord)
    table.add(score(1))
    assert [record.key for record in table.read()[0]] == ["SCR000009", "SCR000001"]
    assert by_hand in (store.read("task/TSK000001_score.csv") or b"").decode()


def test_a_writer_that_died_before_the_table_was_written(store: Store) -> None:
    table = Table(store, TASK, ScoreRecord)
    table.add(score(1))
    store.delete("task/TSK000001_score.csv")
    assert table.read()[0] == [score(1)]
    table.complete()
    assert (store.read("task/TSK000001_score.csv") or b"").count(b"SCR000001") == 1


def test_a_damaged_file_of_a_line_is_named(store: Store) -> None:
    store.create("task/TSK000001_score/SCR000001.csv", b"x")
    table = Table(store, TASK, ScoreRecord)
    table.add(score(2))
    records, complaints = table.read()
    assert records == [score(2)]
    assert complaints[0].startswith("task/TSK000001_score/SCR000001.csv: left out")


def record_race(store: Store, racer: racers.Racer) -> list[Any]:
    """Each adds a line of its own and one that all add."""
    table, added = Table(store, TASK, ScoreRecord), []
    for each in range(racer.rounds):
        racer.wait()
        own = table.add(score(1000 * (racer.number + 1) + each))
        added.append((own, table.add(score(1 + each, float(racer.number)))))
    return added


@over_homes(*homes.SHARED)
def test_racing_writers_lose_no_line(home_spec: HomeSpec) -> None:
    results = racers.race_processes(home_spec, record_race, RACERS, ROUNDS)
    assert all(own for result in results for own, _ in result)
    assert [sum(result[each][1] for result in results) for each in range(ROUNDS)] == [1] * ROUNDS
    with Store(home_spec.open()) as store:
        text = (store.read("task/TSK000001_score.csv") or b"").decode().splitlines()
        assert len(text) == len(set(text)) == 1 + RACERS * ROUNDS + ROUNDS
        assert len(Table(store, TASK, ScoreRecord).read()[0]) == RACERS * ROUNDS + ROUNDS


def test_a_line_under_another_name_is_left_out(store: Store) -> None:
    table = Table(store, TASK, ScoreRecord)
    table.add(score(1))
    line = store.read("task/TSK000001_score/SCR000001.csv") or b""
    store.create("task/TSK000001_score/SCR000001-copy.csv", line)
    store.create("task/TSK000001_score/SCR000005.csv", line)
    table.add(score(2))
    records, complaints = table.read()
    assert [record.key for record in records] == ["SCR000001", "SCR000002"]
    assert len(complaints) == 2
    assert "SCR000005.csv: left out, for its line is that of SCR000001" in complaints[1]
    assert (store.read("task/TSK000001_score.csv") or b"").count(b"SCR000001.txt") == 1


@pytest.mark.parametrize(
    "record",
    [
        ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000001", -5),
        ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000001", 5, "MDL000002", float("nan"), ""),
        ModelRecord(WHEN, "ARC000001", "TRD000001", "MDL000001", 5, "MDL000002", 2.0, "two\nlines"),
        ScoreRecord(WHEN, "MDL000001", "TST000001", "score/SCR000001.txt", float("inf")),
    ],
)
def test_what_could_not_be_read_again_is_not_added(store: Store, record: Any) -> None:
    table = Table(store, TASK, type(record))
    with pytest.raises(RegistryError, match="is no line for it"):
        table.add(record)
    assert table.read() == ([], [])
