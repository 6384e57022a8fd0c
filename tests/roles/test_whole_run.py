"""Whole runs of the real role code, with stand-ins for training and scoring."""

from __future__ import annotations

import time

import pytest

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.roles.status import read_status
from coppice.store import Store, open_store
from coppice.work import names
from tests.roles.threads import HASTE, history_of, result_of, run_all, small_run
from tests.support.homes import HomeSpec, over_homes
from tests.support.standins import REFERENCE_ACCURACY, CheapPruner, CheapScorer


def _memory(name: str) -> Store:
    return open_store(f"memory:{name}")


def test_a_run_prunes_and_says_so(undisturbed: Store) -> None:
    result = result_of(undisturbed)
    assert result["rounds"] == 3
    assert result["searches"] == 2
    assert result["evaluations"] == 22
    assert result["compression"] > 1.5
    assert [r["iterations"] for r in result["round_history"]] == [40, 40, 30]
    assert undisturbed.read(names.NEW_ITR, 100) is not None
    first_line = (undisturbed.read(names.NEW_ITR) or b"").decode().splitlines()[0]
    assert first_line == "over"
    assert (undisturbed.read(names.NCS_START) or b"").decode().splitlines()[0] == "exit"
    status = read_status(undisturbed)
    assert status.state == "over"
    assert {role.state for role in status.roles} == {"ended"}


def test_nothing_but_the_result_is_left_of_the_search(undisturbed: Store) -> None:
    top = [entry.name for entry in undisturbed.list()]
    assert not [name for name in top if name.startswith(("solution_", "fit_solution_"))]
    assert all(names.is_own(name) for name in top)
    assert undisturbed.list(names.GENERATIONS) == undisturbed.list(".tmp") == []


@pytest.mark.parametrize("evaluators", [1, 5])
def test_the_history_does_not_depend_on_who_scores(undisturbed: Store, evaluators: int) -> None:
    class Uneven(CheapScorer):
        """Takes longer for some solutions, so that scores arrive out of order."""

        def score(self, crates: Float64s, tick: Tick) -> Score:
            time.sleep(0.02 * (int(crates.sum() * 1000) % 3))
            return super().score(crates, tick)

    name = f"uneven{evaluators}"
    run_all(lambda: _memory(name), small_run(), evaluators=evaluators, make_scorer=Uneven)
    assert history_of(_memory(name)) == history_of(undisturbed)
    assert result_of(_memory(name)) == result_of(undisturbed)


def test_another_seed_searches_elsewhere(undisturbed: Store) -> None:
    run_all(lambda: _memory("seed8"), small_run(seed=8))
    assert history_of(_memory("seed8"))[2:] != history_of(undisturbed)[2:]


def test_the_status_counts_a_search_as_soon_as_it_is_over() -> None:
    seen: set[tuple[int, int, int | None]] = set()

    class Looks(CheapPruner):
        def train(self, iterations: int, tick: Tick) -> None:
            status = read_status(_memory("looked-at"))
            seen.add((status.round, status.searches, status.search))
            super().train(iterations, tick)

    run_all(lambda: _memory("looked-at"), small_run(), make_pruner=Looks)
    assert seen == {(1, 1, None), (2, 2, None), (3, 2, None)}


def test_the_refinement_has_rounds_of_its_own_and_searches() -> None:
    refine = {"begin": 90, "until": 106, "iterations": 10}
    run_all(lambda: _memory("refined"), small_run(refine=refine))
    result = result_of(_memory("refined"))
    assert [r["iterations"] for r in result["round_history"]] == [40, 40, 10, 10, 6, 4]
    assert result["searches"] == 4
    assert result["evaluations"] == 44


def test_best_so_far_keeps_what_is_asked_of_the_result() -> None:
    """The first round may lose more; what it reaches is no result yet."""
    run = small_run(
        rounds={"iterations": 2, "tmax": 60},
        surgery={"prune_until": 2, "accuracy_drop": 0.03},
        refine={"begin": 2, "iterations": 58},
        search={"population": 4, "evaluations": 11, "sigma": 1.0},
        constraint={"accuracy_drop": 0.0},
    )
    run_all(lambda: _memory("lossy"), run)
    first, last = result_of(_memory("lossy"))["round_history"]
    assert first["feasible"]
    assert first["compression"] > 1.0
    assert first["accuracy"] < REFERENCE_ACCURACY
    assert first["best_compression"] == 1.0
    assert last["best_compression"] in (1.0, last["compression"])


@pytest.mark.parametrize("method", ["cmaes", "random"])
def test_other_methods_fit_in(method: str) -> None:
    name = f"method-{method}"
    run_all(lambda: _memory(name), small_run(search={"method": method, "population": 4, "evaluations": 9}))
    assert result_of(_memory(name))["evaluations"] == 18


@over_homes()
def test_every_home_gives_the_same_run(undisturbed: Store, home_spec: HomeSpec) -> None:
    # HttpFS replaces a file in two steps: a long moment on a busy machine, to whoever is in haste.
    haste = 4 if home_spec.kind == "httpfs" else HASTE
    run_all(lambda: Store(home_spec.open()), small_run(), haste, evaluators=2)
    store = Store(home_spec.open())
    assert history_of(store) == history_of(undisturbed)
    assert result_of(store) == result_of(undisturbed)
