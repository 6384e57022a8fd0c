"""The run files that we ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.local_run import run_locally
from coppice.models import build_model
from coppice.runfile import load_run_file

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize(
    ("name", "parameters"), [("digits", 50_610), ("lenet300-mnist", 266_610), ("lenet5-mnist", 431_080)]
)
def test_every_run_file_is_valid_and_names_no_machine(name: str, parameters: int) -> None:
    run = load_run_file(JOBS / f"{name}.yaml")
    assert run.name == name
    assert run.work is not None
    assert not Path(run.work).is_absolute()
    assert run.data.folder is None
    assert sum(p.numel() for p in build_model(run.model, run.seed).parameters()) == parameters
    # Something is left to train after the last search, and rounds come out even.
    assert run.surgery.prune_until < run.rounds.tmax
    assert run.surgery.prune_until % run.rounds.iterations == 0


def test_the_digits_are_pruned_fifteenfold() -> None:
    outcome = run_locally(load_run_file(JOBS / "digits.yaml")).outcome
    assert outcome.measure.feasible
    assert outcome.measure.compression >= 15
    # The run as shipped loses nothing here, but on another kind of processor it is another run, and a
    # test set of 360 samples says no more than this about a network.
    assert outcome.pruned_accuracy > outcome.reference_accuracy - 0.02
