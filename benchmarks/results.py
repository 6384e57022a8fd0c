"""Compression on MNIST: the run files as shipped, what each idea in them gives, and rivals, over some seeds.

    python -m benchmarks.results                 # everything; hours
    python -m benchmarks.results --network lenet300 --rows shipped random --seeds 1 2
    python -m benchmarks.results --tables        # what there is, as Markdown; --write: into docs/results.md

Every run is written to benchmarks/results/compression/ as it ends, with the commit and the processor that it
is of (another kind rounds otherwise, and that is another run); one that is there is not made again unless its
settings have changed, so the command can be stopped and started at will. Runs are whole runs in one process
(`benchmarks.local_run`), single-threaded, `--at-once` of them at a time. Seconds: of the processor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch

from benchmarks.local_run import Cut, changed, run_locally, search_and_cut
from benchmarks.rivals import GradualMagnitude, one_threshold
from coppice.errors import CoppiceError
from coppice.runfile import RunFile, load_run_file

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "compression"
DOCUMENT = REPOSITORY / "docs" / "results.md"
TABLES = ("shipped", "ideas", "rivals")
NETWORKS = {"lenet300": "lenet300-mnist", "lenet5": "lenet5-mnist"}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table."""

    name: str
    title: str
    table: Literal["shipped", "ideas", "rivals"]
    changes: tuple[str, ...] = ()
    """Of the run file."""
    cut: Literal["search", "one threshold", "gradual"] = "search"
    """gradual: to the compression that the shipped run of the same seed has reached."""
    paced: bool = False
    """Of run files with a pace alone."""


_UNPACED = ("surgery.pace_until=null", "surgery.accuracy_drop=null", "constraint.compression=null")
_FREE = (*_UNPACED, "constraint.accuracy_drop=1.0", "constraint.search_drop=null")
"""A schedule asks no constraint."""
_ANNEALED = ("polish.schedule=null", "polish.average=null")
_STILL = ("augment.shift=0", "augment.rotate=0", "augment.scale=0", "augment.shear=0")

ROWS = (
    Row("shipped", "as shipped", "shipped"),
    Row("still", "images are not moved", "ideas", _STILL),
    Row("light", "weight decay of the polish in surgery, too", "ideas", ("surgery.weight_decay={polish}",)),
    Row(
        "unpolished",
        "no polish of its own: one schedule, one weight decay",
        "ideas",
        (*_ANNEALED, "polish.learning_rate=null", "polish.weight_decay=null"),
    ),
    Row("annealed", "the polish's learning rate falls, its rounds are judged", "ideas", _ANNEALED),
    Row("moved", "the polish moves images as far as the surgery", "ideas", ("polish.augment=1.0",)),
    Row("unpaced", "every search cuts as far as it may, what fails is taken back", "ideas", _UNPACED),
    Row("unaveraged", "weights are judged as the last step left them", "ideas", ("surgery.average=0",)),
    Row("averaged", "the mean of each round's last half is judged", "ideas", ("surgery.average=0.5",)),
    Row("fading", "what is cut decays faster", "ideas", ("surgery.cut_decay=0.02", "surgery.average=0")),
    Row("taught", "the reference teaches", "ideas", ("distill.weight=0.5",)),
    Row("untaught", "the reference does not teach", "ideas", ("distill.weight=0.0",)),
    Row("cycle", "the learning rate falls anew in every round", "ideas", ("surgery.schedule=cycle",)),
    Row(
        "seldom", "a fourth of the searches, rounds four times as long", "ideas", ("rounds.iterations=2000",)
    ),
    Row("timid", "a search must keep the constraint at once", "ideas", ("constraint.search_drop=null",)),
    Row("long", "search: twice the evaluations", "ideas", ("search.evaluations={twice}",)),
    Row("wide", "search: a population of 10", "ideas", ("search.population=10",)),
    Row("strides", "search: first steps five times as long", "ideas", ("search.sigma=1.0",)),
    Row("biased", "biases stay with their units", "ideas", ("surgery.biases=false",)),
    Row("cmaes", "CMA-ES", "rivals", ("search.method=cmaes",)),
    Row("random", "random search", "rivals", ("search.method=random",)),
    Row("one", "one threshold for all layers, NCS", "rivals", (), "one threshold"),
    Row(
        "start",
        "no search: what each would begin with, one threshold at the pace",
        "rivals",
        ("search.method=random", "search.population=1", "search.evaluations=1"),
        paced=True,
    ),
    Row("gradual", "gradual magnitude schedule, the same training", "rivals", _FREE, "gradual"),
    Row(
        "plain",
        "gradual magnitude schedule, images are not moved, one weight decay",
        "rivals",
        (*_FREE, *_STILL, "surgery.weight_decay={polish}"),
        "gradual",
    ),
)


def settings(network: str, row: Row, seed: int) -> RunFile:
    """The run file of one run."""
    base = load_run_file(REPOSITORY / "jobs" / f"{NETWORKS[network]}.yaml")
    values = {"{polish}": base.polish.weight_decay, "{twice}": 2 * base.search.evaluations}
    changes = list(row.changes)
    for mark, value in values.items():
        changes = [change.replace(mark, str(value)) for change in changes]
    return changed(base, changes).model_copy(update={"seed": seed})


def differs(network: str, row: Row) -> bool:
    """Whether it is a run of its own: not all run files have in them what a row leaves out, or asks for."""
    shipped = ROWS[0]
    if row.paced and settings(network, shipped, 1).surgery.pace_until is None:
        return False
    return row is shipped or _fingerprint(settings(network, row, 1), row) != _fingerprint(
        settings(network, shipped, 1), shipped
    )


def path_of(network: str, row: Row, seed: int) -> Path:
    """Where its result is kept."""
    return RESULTS / network / f"{row.name}_{seed}.json"


def kept(network: str, row: Row, seed: int) -> dict[str, Any] | None:
    """The result, if there is one of these very settings."""
    try:
        found: dict[str, Any] = json.loads(path_of(network, row, seed).read_text())
    except FileNotFoundError:
        return None
    return found if found["settings"] == _fingerprint(settings(network, row, seed), row) else None


def _fingerprint(run: RunFile, row: Row) -> str:
    # Without defaults, so that a key which is new, and which this run does not use, changes nothing.
    set_by_it = run.model_dump(mode="json", exclude={"name", "work", "evaluators"}, exclude_defaults=True)
    content = [set_by_it, row.cut]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def make(network: str, row: Row, seed: int) -> str:
    """Run it and keep what came of it; gives a line about it."""
    torch.set_num_threads(1)
    run = settings(network, row, seed)
    cut: Cut = search_and_cut
    if row.cut == "one threshold":
        cut = one_threshold
    elif row.cut == "gradual":
        shipped = kept(network, ROWS[0], seed)
        assert shipped is not None
        cut = GradualMagnitude(shipped["compression"])
    local = run_locally(run, cut=cut)
    out, best = local.outcome, local.outcome.measure
    result = {
        "settings": _fingerprint(run, row),
        "compression": round(best.compression, 2),
        "parameters": best.parameters_remaining,
        "layers": best.layer_remaining,
        "held_out_accuracy": round(best.accuracy, 5),
        "test_error": round(100 * (1 - out.pruned_accuracy), 3),
        "dense_test_error": round(100 * (1 - out.reference_accuracy), 3),
        "evaluations": local.evaluations,
        "seconds": round(local.train_s + local.search_s),
        "seconds_searching": round(local.search_s, 1),
        "commit": _commit(),
        "processor": local.outcome.export.report.processor if local.outcome.export else "",
        "torch": torch.__version__,
    }
    path = path_of(network, row, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(path)
    found = f"{result['compression']}x, {result['test_error']} %, {result['seconds']} s"
    return f"{network} {row.name} {seed}: {found}"


def _commit() -> str:
    """That of the code, with a + where files were changed since; empty outside of a clone."""
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--short", "--", "coppice", "jobs"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.strip() + ("+" if changes else "")


def table(kind: str, networks: list[str], seeds: list[int]) -> str:
    """One of the tables as Markdown, of the results that there are."""
    lines = ["| network | run | seeds | compression | test error, % | evaluations | seconds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for network in networks:
        for row in ROWS:
            if not (row.table == kind or row is ROWS[0]) or not differs(network, row):
                continue
            found = [result for seed in seeds if (result := kept(network, row, seed))]
            if found:
                cells = [network, row.title, str(len(found)), _spread(found, "compression", 0)]
                cells += [_spread(found, "test_error", 2)]
                cells += [
                    f"{mean(result[key] for result in found):,.0f}" for key in ("evaluations", "seconds")
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_tables(networks: list[str], seeds: list[int]) -> None:
    """Put them where docs/results.md wants them."""
    page = DOCUMENT.read_text()
    for kind in TABLES:
        begin, end = f"<!-- table: {kind} -->\n", "<!-- end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}{table(kind, networks, seeds)}{end}{after}"
    DOCUMENT.write_text(page)


def _spread(found: list[dict[str, Any]], key: str, digits: int) -> str:
    values = [result[key] for result in found]
    text = f"{mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {stdev(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, nargs="*", default=list(NETWORKS))
    parser.add_argument("--rows", choices=[row.name for row in ROWS], nargs="*")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--at-once", type=int, default=os.cpu_count())
    parser.add_argument("--tables", action="store_true", help="run nothing, print what there is")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md, too")
    given = parser.parse_args()
    failed = False
    if not given.tables:
        rows = [row for row in ROWS if row.name in (given.rows or [each.name for each in ROWS])]
        # The others compare themselves with the shipped runs, so these come first.
        for group in ([row for row in rows if row.cut != "gradual"], [r for r in rows if r.cut == "gradual"]):
            wanted = [
                (network, row, seed)
                for network in given.network
                for row in group
                if differs(network, row)
                for seed in given.seeds
                if kept(network, row, seed) is None
            ]
            missing = [
                each for each in wanted if each[1].cut == "gradual" and not kept(each[0], ROWS[0], each[2])
            ]
            if missing:
                print(f"{missing[0][1].name}: wants the shipped runs first: --rows shipped", file=sys.stderr)
                return 1
            fresh = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(given.at_once, fresh) as pool:
                runs = {pool.submit(make, *each): each for each in wanted}
                for done in as_completed(runs):
                    failure = done.exception()
                    if isinstance(failure, CoppiceError):  # the others may well come to their ends
                        network, row, seed = runs[done]
                        print(f"{network} {row.name} {seed}: {failure}", file=sys.stderr, flush=True)
                        failed = True
                    else:
                        print(done.result(), flush=True)
    for kind in TABLES:
        print(f"{kind}\n\n{table(kind, given.network, given.seeds)}")
    if given.write:
        write_tables(given.network, given.seeds)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
