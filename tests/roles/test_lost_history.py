"""The record of a search that is lost or damaged costs its own rows, and no result."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.roles.history import read_histories
from coppice.roles.master import read_result
from coppice.show import result_lines
from coppice.store import Store
from coppice.work import names
from tests.roles.threads import history_of, result_of, run_all, small_run
from tests.support.standins import CheapScorer

FIRST = names.history(1)


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_search_that_is_lost_is_named_and_the_others_are_kept(
    opened: Callable[[], Store], how: str
) -> None:
    class Loses(CheapScorer):
        """In the second search, when the record of the first is there."""

        def score(self, crates: Float64s, tick: Tick) -> Score:
            store = opened()
            if store.stat(FIRST) is not None:
                store.delete(FIRST)
                if how == "damaged":
                    store.replace(FIRST, b"PK")
            return super().score(crates, tick)

    crew = run_all(opened, small_run(), make_scorer=Loses)
    said = f"outer: {FIRST}: missing or damaged; history.csv and the evaluations are without it"
    assert [line for line in crew.said if "missing or damaged" in line] == [said]
    assert [line for line in crew.said if "truncated or damaged" in line] == [
        line for line in crew.said if line.startswith(f"outer: {FIRST}: truncated") and how == "damaged"
    ]
    result = read_result(opened())
    assert (result["searches"], result["evaluations"], result["left_out"]) == (2, 11, (FIRST,))
    assert [row[0] for row in history_of(opened())[1:]] == ["2"] * 11
    told = f"left out     {FIRST}: missing or damaged; history.csv is without it"
    assert told in result_lines(result, "work")
    assert result_of(opened())["round_history"][-1]["searches"] == 2


def test_what_follows_the_last_one_listed_is_asked_for_by_name(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(opened, small_run())
    store = opened()
    list_all = Store.list

    def out_of_date(self: Store, folder: str = "") -> list[object]:
        return [entry for entry in list_all(self, folder) if entry.name != "search_0002.zip"]

    monkeypatch.setattr(Store, "list", out_of_date)
    assert [history.search for history in read_histories(store)] == [1, 2]
