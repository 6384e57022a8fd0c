"""What a solution costs to score: the plain scorer against the fast one, over a search as a run made it.

    python -m benchmarks.scoring                             replay the traces that are shipped
    python -m benchmarks.scoring lenet300 --device cuda:0    one of them, elsewhere
    python -m benchmarks.scoring --record jobs/lenet300-mnist.yaml --search 8     make a trace, minutes

A trace (benchmarks/traces/*.npz) is one search of a run: the network as published to the evaluators and all
solutions in order. It was recorded with 10,000 samples held out, on which it is replayed; they are taken from
MNIST anew (COPPICE_MNIST, or downloaded). Both scorers judge the same solutions in one process, in turns, and
must say the same; the fast one begins with nothing known and empty caches. Prints a table and writes
benchmarks/results/scoring.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command import run as run_command
from benchmarks.local_run import run_locally
from coppice.data import load_data
from coppice.data.dataset import stratified_split
from coppice.pruning.contract import Float64s, Score
from coppice.pruning.pruner import TorchPruner
from coppice.pruning.randomness import Purpose
from coppice.pruning.scoring.fast import FastScorer
from coppice.pruning.scoring.plain import PlainScorer
from coppice.pruning.scoring.reference import Reference
from coppice.runfile import RunFile, load_run_file, parse_run_file

HERE = Path(__file__).parent
TRACES = HERE / "traces"
RESULTS = HERE / "results" / "scoring.json"
SAMPLES = 10_000
TURNS = 2


class _Recorded(Exception):
    """The search asked for is over."""


def record(run_file: str, number: int) -> Path:
    """Run until search `number` is over and keep it; gives the file."""
    run = load_run_file(run_file)
    constraint = run.constraint.model_copy(update={"samples": SAMPLES})
    run = run.model_copy(update={"constraint": constraint})
    path = TRACES / f"{run.name.split('-')[0]}.npz"

    def observe(pruner: TorchPruner, search: int, solutions: list[Float64s]) -> None:
        if search != number:
            return
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            run=np.array(json.dumps(run.model_dump(mode="json"))),
            search=np.array(search),
            reference_accuracy=np.array(pruner.reference_accuracy),
            weights=np.frombuffer(pruner.weights(), np.uint8),
            solutions=np.array(solutions),
        )
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed.getvalue())
        raise _Recorded

    try:
        run_locally(run, say=True, observe=observe)
    except _Recorded:
        return path
    raise SystemExit(f"{run_file}: there is no search {number}")


def samples_of(run: RunFile) -> tuple[Any, Any]:
    """Those that a run holds out, as `TorchPruner` does."""
    data = load_data(run.data)
    _, held = stratified_split(data.train_y, run.constraint.samples, (run.seed, int(Purpose.HELD_OUT)))
    return data.train_x[held], data.train_y[held]


def replay(name: str, device: str) -> dict[str, Any]:
    """Both scorers over one trace."""
    with np.load(TRACES / f"{name}.npz", allow_pickle=False) as trace:
        parts = {key: trace[key] for key in trace.files}
    run = parse_run_file(json.loads(str(parts["run"])), name)
    x, y = samples_of(run)

    def reference() -> Reference:
        weights = parts["weights"].tobytes()
        return Reference.build(run, weights, x, y, float(parts["reference_accuracy"]), device)

    solutions = list(parts["solutions"])
    seconds: dict[str, list[float]] = {"plain": [], "fast": []}
    scores: dict[str, list[Score]] = {}
    FastScorer(reference()).score_many(solutions[:2], _tick)  # compiles the kernels, where that is yet to do
    for _ in range(TURNS):
        for kind in seconds:
            scorer = PlainScorer(reference()) if kind == "plain" else FastScorer(reference())
            begin = time.perf_counter()
            scores[kind] = []
            size = max(scorer.batch, run.search.population)
            for at in range(0, len(solutions), size):
                scores[kind] += scorer.score_many(solutions[at : at + size], _tick)
            seconds[kind].append(time.perf_counter() - begin)
    differ = sum(
        (p.fitness, p.feasible) != (f.fitness, f.feasible) for p, f in zip(*scores.values(), strict=True)
    )
    feasible = [score.fitness for score in scores["plain"] if score.feasible]
    found: dict[str, Any] = {
        "trace": name,
        "search": int(parts["search"]),
        "device": device,
        "threads": torch.get_num_threads(),
        "samples": len(y),
        "solutions": len(solutions),
        "feasible": len(feasible),
        "remaining": float(np.median(feasible)) if feasible else None,
        "verdicts_that_differ": differ,
    }
    for kind, taken in seconds.items():
        found[f"{kind}_ms"] = min(taken) / len(solutions) * 1000
    found["times_faster"] = found["plain_ms"] / found["fast_ms"]
    found["memory_mb"] = (
        torch.cuda.max_memory_allocated() / 1e6
        if torch.device(device).type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    )
    return found


def _tick() -> None:
    pass


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("traces", nargs="*", help="names of traces; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of both scorers; an evaluator has one")
    parser.add_argument("--record", metavar="RUN.yaml")
    parser.add_argument("--search", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", module="torch")
    if given.record:
        path = record(given.record, given.search)
        print(f"{path}: {os.path.getsize(path):,} bytes")
        return
    names = given.traces or sorted(path.stem for path in TRACES.glob("*.npz"))
    found = [replay(name, given.device) for name in names]
    table = Table(
        title=f"one solution on {SAMPLES:,} samples, {given.device}, {given.threads} thread(s)", box=None
    )
    for column in ("trace", "search", "feasible", "remaining", "plain", "fast", "times faster", "a second"):
        table.add_column(column, justify="left" if column == "trace" else "right")
    for each in found:
        assert not each["verdicts_that_differ"], f"{each['trace']}: the scorers differ"
        table.add_row(
            each["trace"],
            str(each["search"]),
            f"{each['feasible']} of {each['solutions']}",
            f"{each['remaining']:.4f}" if each["remaining"] else "",
            f"{each['plain_ms']:.1f} ms",
            f"{each['fast_ms']:.2f} ms",
            f"{each['times_faster']:.1f}",
            f"{1000 / each['fast_ms']:.0f}",
        )
    Console(width=110).print(table)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
