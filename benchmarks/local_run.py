"""A whole run in one process, without a work folder: exactly what the four jobs do, in their order.

Also a command, for tuning run files:

    python -m benchmarks.local_run jobs/digits.yaml [--seed 3] [--set surgery.learning_rate=0.05 ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.command import run as run_command
from coppice.pruning.contract import Float64s, Measure, Outcome, Scorer
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.scoring.fast import make_scorer
from coppice.pruning.scoring.reference import Reference
from coppice.runfile import RunFile, load_run_file, parse_run_file
from coppice.search import Optimizer, make_optimizer


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What came of it."""

    outcome: Outcome
    rounds: list[Measure]
    searches: int
    evaluations: int
    train_s: float
    """Seconds of this process' own computing, so that a busy machine does not count."""
    search_s: float


Observer = Callable[[TorchPruner, int, list[Float64s]], None]
"""(the pruner as it was searched, the number of the search, all solutions in order)."""
Cut = Callable[[RunFile, TorchPruner, int], tuple[float, int]]
"""(the run, the pruner, the number of the cut from 1): cuts; gives the fitness found (the fraction that
remains; above 1: nothing feasible, nothing cut) and how many solutions were scored."""


def run_locally(
    run: RunFile, say: bool = False, observe: Observer | None = None, cut: Cut | None = None
) -> LocalRun:
    """Reference, rounds of [search, cut,] surgery and a measure, then the test set.

    `observe` is called after each search, before its cut. `cut`: instead of `search_and_cut`.
    """
    cut = cut or partial(search_and_cut, observe=observe)
    began = time.process_time()
    search_s = 0.0
    pruner = TorchPruner(run)
    pruner.train_reference(run.reference.iterations, _tick)
    rounds: list[Measure] = []
    searches = evaluations = 0
    while pruner.iteration < run.rounds.tmax:
        iterations = run.round_of(pruner.iteration)[1] - pruner.iteration
        found = ""
        if pruner.searches():
            searches += 1
            at = time.process_time()
            fitness, told = cut(run, pruner, searches)
            evaluations += told
            search_s += time.process_time() - at
            found = f"search {fitness if fitness > 1 else 1 / fitness:7.2f}"
        pruner.train(iterations, _tick)
        measure = pruner.measure(_tick)
        rounds.append(measure)
        if say:
            print(
                f"{pruner.iteration:6d} {found:14s} {measure.compression:7.2f}x acc {measure.accuracy:.4f} "
                f"{'ok ' if measure.feasible else 'low'} ref {pruner.reference_accuracy:.4f} "
                f"loss {pruner.loss():.4f} "
                f"kept {measure.layer_remaining} crates {np.round(pruner.crates, 2)}",
                file=sys.stderr,
            )
    outcome = pruner.finish(_tick)
    train_s = time.process_time() - began - search_s
    return LocalRun(outcome, rounds, searches, evaluations, train_s, search_s)


def search_and_cut(
    run: RunFile, pruner: TorchPruner, number: int, observe: Observer | None = None
) -> tuple[float, int]:
    """Search number `number` for the crates of the layers; see `Cut`."""
    start = pruner.start_crates()
    searched = pruner.searched_layers(number)
    optimizer = optimizer_for(run, start[searched], run.search.lower, run.search.upper, number)
    scorer = scorer_for(run, pruner)
    asked: list[Float64s] = []
    while not optimizer.done:
        rows = optimizer.ask()
        solutions = np.repeat(start[None, :], len(rows), axis=0)  # (rows, layers)
        solutions[:, searched] = rows
        asked += list(solutions)
        optimizer.tell(np.array([score.fitness for score in scorer.score_many(list(solutions), _tick)]))
    if observe:
        observe(pruner, number, asked)
    best = start.copy()
    best[searched] = optimizer.best_solution
    pruner.apply(best, optimizer.best_fitness)
    return optimizer.best_fitness, optimizer.evaluations


def optimizer_for(run: RunFile, start: Float64s, lower: float, upper: float, number: int) -> Optimizer:
    """The run file's search method for search `number`; start: float64 (dimensions,)."""
    return make_optimizer(
        run.search.method,
        start=start,
        lower=lower,
        upper=upper,
        population=run.search.population,
        evaluations=run.search.evaluations,
        sigma=run.search.sigma,
        seed=(run.seed, number),
    )


def scorer_for(run: RunFile, pruner: TorchPruner) -> Scorer:
    """What an evaluator has of the network as it stands."""
    reference = Reference.build(run, pruner.weights(), *pruner.samples(), pruner.reference_accuracy)
    return make_scorer(reference, run.evaluators.accuracy, run.evaluators.cache_mb * 10**6)


def changed(run: RunFile, settings: list[str]) -> RunFile:
    """`run` with settings such as 'search.sigma=0.2'; the values are YAML."""
    content: dict[str, Any] = run.model_dump()
    for setting in settings:
        key, _, value = setting.partition("=")
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[last] = yaml.safe_load(value)
    return parse_run_file(content, "--set")


def _tick() -> None:
    pass


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Run a run file in one process.")
    parser.add_argument("run_file")
    parser.add_argument("--seed", type=int, nargs="*", default=[])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    base = changed(load_run_file(given.run_file), given.set)
    for seed in given.seed or [base.seed]:
        local = run_locally(base.model_copy(update={"seed": seed}), say=not given.quiet)
        out, best = local.outcome, local.outcome.measure
        print(
            f"seed {seed}: {best.compression:.1f}x ({best.parameters_remaining} of {best.parameters_total}), "
            f"test {out.pruned_accuracy:.4f} (reference {out.reference_accuracy:.4f}), "
            f"held out {best.accuracy:.4f}, train {local.train_s:.0f} s, "
            f"{local.evaluations} evaluations {local.search_s:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    run_command(main)
