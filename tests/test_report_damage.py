"""The report where somebody has changed numbers or removed files: one line, or a page that says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coppice.report import write_report
from coppice.report_facts import read_facts
from coppice.roles.history import SearchHistory
from coppice.show import result_lines
from coppice.store import Store
from coppice.store.memory import MemoryHome
from coppice.work import names
from coppice.work.errors import BadContent
from tests.test_report import Made, words


@pytest.fixture
def made() -> Made:
    return Made(Store(MemoryHome()))


def narrow(search: int) -> bytes:
    """The record of a search over two layers, where there should be three."""
    history = SearchHistory(search, 2)
    history.add(1, np.ones(2), 0.5, 0.9, "gpu-1-11-aaaa")
    return history.to_bytes()


# Numbers


@pytest.mark.parametrize("accuracy", [1e308, -1e308, -0.01, 1.01])
def test_a_reference_accuracy_that_is_none_is_named(made: Made, accuracy: float) -> None:
    made.finished()
    made.reference(accuracy)
    with pytest.raises(BadContent, match=r"^accuracy\.npy: expected an accuracy from 0 to 1, found "):
        write_report(made.store)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("compression", -1e308),
        ("compression", 1e308),
        ("compression", 0.5),
        ("best_compression", 5e-324),
        ("best_compression", 1e308),
        ("accuracy", -1e308),
        ("accuracy", 1.5),
    ],
)
def test_a_round_whose_numbers_cannot_be_is_named(made: Made, key: str, value: float) -> None:
    made.record()
    made.rounds(2)
    record = json.loads(made.store.read(names.round_record(2)) or b"")
    made.store.replace(names.round_record(2), json.dumps({**record, key: value}).encode())
    with pytest.raises(BadContent, match=rf"rounds/round_0002\.json: {key}: expected a number from [01] to "):
        write_report(made.store)


def test_searches_of_different_networks_are_named(made: Made) -> None:
    made.finished()
    made.store.replace(names.history(2), narrow(2))
    with pytest.raises(
        BadContent, match=r"^history/search_0002\.zip: expected solutions of 3 layers, found 2"
    ):
        write_report(made.store)


def test_a_search_under_way_over_another_network_is_named(made: Made) -> None:
    made.record()
    made.store.replace(names.history(1), narrow(1))
    made.under_way(2, 20)
    with pytest.raises(BadContent, match=r"^ncs: expected solutions of 2 layers, found 3"):
        write_report(made.store)


# Records that are gone


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_search_whose_record_is_gone_is_named_and_the_others_are_there(made: Made, lost: int) -> None:
    made.record()
    made.rounds(3)
    made.searches(3)
    made.store.delete(names.history(lost))
    facts = read_facts(made.store)
    assert [history.search for history in facts.histories] == [n for n in (1, 2, 3) if n != lost]
    said = words(made.page())
    assert f"Missing: history/search_000{lost}.zip. What was scored in those searches is in no" in said
    assert "evaluations 40" in said


def test_whatever_is_missing_before_a_search_under_way_is_named(made: Made) -> None:
    made.record()
    made.searches(5)
    for search in (1, 3, 4, 5):
        made.store.delete(names.history(search))
    made.under_way(6, 20)
    facts = read_facts(made.store)
    assert facts.left_out == ["history/search_0001.zip", "history/search_0003.zip to history/search_0005.zip"]
    assert facts.under_way == 6


def test_where_nothing_is_missing_nothing_is_said_of_it(made: Made) -> None:
    made.finished()
    assert "Missing:" not in words(made.page())
    result = json.loads(made.store.read(names.RESULT_JSON) or b"")
    assert result["left_out"] == []
    assert not [line for line in result_lines(result, "work") if line.startswith("left out")]


def test_a_failure_without_words_is_told_in_words(made: Made) -> None:
    made.record()
    made.store.replace(names.FAILED, b"")
    assert "This run failed: failed.txt is empty (0 of " in words(made.page())
    made.store.delete(names.FAILED)
    made.record("failed")
    assert "This run failed: nothing says why (0 of " in words(made.page())
