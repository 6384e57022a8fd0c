"""What the report says of a run is so."""

from __future__ import annotations

import numpy as np
import pytest

from coppice.pruning.contract import Layer, Measure, Outcome
from coppice.roles.result import write_result
from coppice.store import Store
from coppice.store.memory import MemoryHome
from tests.test_report import RUN_ID, Made, words


@pytest.fixture
def made() -> Made:
    return Made(Store(MemoryHome()))


def test_rounds_that_keep_only_what_the_surgery_may_lose_are_no_results(made: Made) -> None:
    made.settings = {
        "surgery": {"pace_until": 2000, "accuracy_drop": 0.2},
        "constraint": {"accuracy_drop": 0.0, "compression": 60},
    }
    made.record()
    made.reference(0.99)
    made.rounds(2)  # at 0.98
    said = words(made.page())
    assert (
        "2 rounds keep surgery.accuracy_drop, but not constraint.accuracy_drop, which a result must" in said
    )
    assert "Every round keeps the constraint" not in said
    made.reference(0.98)
    assert "Every round keeps the constraint." in words(made.page())


@pytest.mark.parametrize("compression", [None, 60])
def test_why_solutions_are_infeasible(made: Made, compression: float | None) -> None:
    made.settings = {"constraint": {"compression": compression}}
    made.finished()
    why = "lose too much accuracy: above 1"
    if compression is not None:
        why = "lose too much accuracy or cut further than is asked for: above 1"
    assert f"Red crosses (14) {why}, the more the worse." in words(made.page())


def test_rounds_are_no_longer_than_the_run(made: Made) -> None:
    made.settings = {"rounds": {"iterations": 100, "tmax": 60}}
    made.record()
    assert "60 iterations each" in words(made.page())


def test_a_network_that_was_not_cut_has_no_crates(made: Made) -> None:
    made.record("over")
    write_result(
        made.store,
        run_id=RUN_ID,
        run=made.run,
        layers=(Layer("fc1", (30, 64)), Layer("fc2", (10, 30))),
        outcome=Outcome(
            Measure(2260, 2260, 2220, 2220, (1920, 300), 0.97, True), 0.97, 0.97, np.zeros(2), b"model", None
        ),
        searches=2,
        seconds=1.0,
    )
    said = words(made.page())
    assert "fc1 30 × 64 1,920 1,920 100.00% fc2 10 × 30 300 300 100.00% all" in said
