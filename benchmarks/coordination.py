"""What the folder costs: generations of 10 solutions that cost nothing to score, 4 evaluators.

    python -m benchmarks.coordination            all homes and Optuna, some two minutes
    python -m benchmarks.coordination folder hdfs-tuned

Real roles in real processes (`ncs` and four evaluators, scoring replaced by a constant), over a folder, over
a real HDFS whose DataNode is set as docs/deploy.md says (hdfs-tuned) and over one as it comes out of the box
(hdfs-untouched), and, on the same disk and in the same run, Optuna's JournalFileBackend with four processes
and trials that cost nothing. Prints a table and writes benchmarks/results/coordination.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coppice.pruning.contract import Float64s, Score, Tick
from coppice.runfile import RunFile, parse_run_file
from coppice.store import Store, open_store
from coppice.work import names
from coppice.work.contents import array_to_bytes
from coppice.work.sentinels import NcsOver, NcsStart, RunRecord

EVALUATORS = 4
POPULATION = 10
LAYERS = 4
RESULTS = Path(__file__).parent / "results" / "coordination.json"
KINDS = ("folder", "hdfs-tuned", "hdfs-untouched", "optuna")


class FreeScorer:
    """Costs nothing."""

    layers = LAYERS
    batch = 1

    def __init__(self, *reference: Any) -> None: ...

    def score_many(self, solutions: Sequence[Float64s], tick: Tick) -> list[Score]:
        """Feasible scores that depend on the crates."""
        return [Score(float(np.exp(-crates.mean())), True, 0.9) for crates in solutions]


def serve(role: str, work: str, counts: Path) -> None:
    """One role in this process; leaves its count of HDFS calls behind."""
    from coppice.roles.context import Context, RunOver, Stopped
    from coppice.roles.evaluator import evaluator
    from coppice.roles.searcher import ncs

    context = Context.for_process(role, work)
    try:
        if role == "ncs":
            ncs(context)
        else:
            evaluator(context, FreeScorer)
    except (RunOver, Stopped):
        pass
    finally:
        counts.write_text(json.dumps(dict(getattr(context.store.home, "calls", Counter()))))


@dataclass
class Measured:
    """One home."""

    ms_per_generation: float
    evaluations_per_s: float
    calls_per_evaluation: dict[str, float] | None = None


def _run_file(generations: int) -> RunFile:
    search = {"population": POPULATION, "evaluations": POPULATION * generations}
    return parse_run_file({"name": "coordination", "search": search}, "benchmark")


def measure(work: str, generations: int) -> Measured:
    """Two searches: one to warm up, one to time. This process plays master and outer."""
    with tempfile.TemporaryDirectory() as scratch, open_store(work) as store:
        record = RunRecord("0badcafe", "running", _run_file(generations).model_dump(mode="json"), "benchmark")
        store.make_folder()
        store.create(names.RUN, record.to_bytes())
        for name, array in (
            (names.DATA, np.zeros((4, 2), np.float32)),
            (names.LABELS, np.zeros(4, np.int64)),
            (names.ACCURACY, np.array([0.9])),
        ):
            store.create(name, array_to_bytes(array))
        roles = ["ncs", *["evaluator"] * EVALUATORS]
        counts = [Path(scratch) / f"{i}.json" for i in range(len(roles))]
        command = [sys.executable, "-m", "benchmarks.coordination", "--work", work]
        processes = [
            subprocess.Popen([*command, "--role", role, "--counts", str(path)], stderr=subprocess.DEVNULL)
            for role, path in zip(roles, counts, strict=True)
        ]
        try:
            _search(store, record, 1)
            seconds = _search(store, record, 2)
            over = RunRecord(record.run_id, "over", record.run_file, record.version)
            store.replace(names.RUN, over.to_bytes())
            for process in processes:
                process.wait(60)
        finally:
            for process in processes:
                process.kill()
        calls: Counter[str] = Counter()
        for path in counts:
            calls.update(json.loads(path.read_text()))
    evaluations = 2 * generations * POPULATION
    calls.pop("datanode", 0)  # the NameNode has nothing to do with those
    per_evaluation = {operation: round(n / evaluations, 2) for operation, n in calls.most_common()}
    return Measured(
        ms_per_generation=1000 * seconds / generations,
        evaluations_per_s=generations * POPULATION / seconds,
        calls_per_evaluation={"NameNode": round(calls.total() / evaluations, 2), **per_evaluation}
        if calls
        else None,
    )


def _search(store: Store, record: RunRecord, number: int) -> float:
    """Order a search and wait for its end; the seconds from its first generation to its last."""
    store.create(names.weights(number), b"none")
    start = NcsStart(record.run_id, number, (1.0,) * LAYERS, (True,) * LAYERS)
    store.replace(names.NCS_START, start.to_bytes())
    first = names.GenerationId(record.run_id, number, 1).folder
    while store.stat(first) is None:
        time.sleep(0.002)
    began = time.monotonic()
    while True:
        data = store.read(names.NCS_OVER)
        if data is not None and NcsOver.from_bytes(data, names.NCS_OVER).search == number:
            return time.monotonic() - began
        time.sleep(0.05)


def measure_optuna(folder: Path, trials: int) -> Measured:
    """Four processes, one journal file, a sampler that costs next to nothing."""
    journal = folder / "journal.log"
    _optuna_study(journal)
    go = folder / "go"
    command = [sys.executable, "-m", "benchmarks.coordination", "--optuna", str(journal), "--go", str(go)]
    processes = [
        subprocess.Popen([*command, "--trials", str(trials // EVALUATORS)], stdout=subprocess.PIPE)
        for _ in range(EVALUATORS)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # "ready": its imports are done
    began = time.monotonic()
    go.touch()
    for process in processes:
        process.wait()
    seconds = time.monotonic() - began
    return Measured(1000 * seconds * POPULATION / trials, trials / seconds)


def _optuna_study(journal: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name="free",
        storage=JournalStorage(JournalFileBackend(str(journal))),
        sampler=optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )


def serve_optuna(journal: Path, go: Path, trials: int) -> None:
    """One Optuna worker."""
    study = _optuna_study(journal)
    print("ready", flush=True)
    while not go.exists():
        time.sleep(0.001)

    def free(trial: Any) -> float:
        return float(sum(trial.suggest_float(f"x{i}", 0, 10) for i in range(LAYERS)))

    study.optimize(free, n_trials=trials)


def _home(kind: str, scratch: Path) -> tuple[AbstractContextManager[Any], str]:
    if kind == "folder":
        return nullcontext(), str(scratch / "work")
    from tests.hdfs.cluster import HdfsCluster

    cluster = HdfsCluster(tuned=kind == "hdfs-tuned")
    return cluster, ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(KINDS)}; default: all")
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--disk", type=Path, help="where the folder and the journal go; default: temporary")
    for internal in ("--role", "--work", "--counts", "--optuna", "--go", "--trials"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        serve(given.role, given.work, Path(given.counts))
        return
    if given.optuna:
        serve_optuna(Path(given.optuna), Path(given.go), int(given.trials))
        return
    unknown = set(given.kinds) - set(KINDS)
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(KINDS)}")
    found: dict[str, Measured] = {}
    for kind in given.kinds or KINDS:
        with tempfile.TemporaryDirectory(dir=given.disk) as folder:
            scratch = Path(folder)
            if kind == "optuna":
                found[kind] = measure_optuna(scratch, given.generations * POPULATION)
            else:
                manager, url = _home(kind, scratch)
                with manager as cluster:
                    found[kind] = measure(url or f"{cluster.webhdfs_url}/shared/work", given.generations)
        _print(kind, found)
    RESULTS.parent.mkdir(exist_ok=True)
    content = {
        "command": "python -m benchmarks.coordination",
        "cores": os.cpu_count(),
        "evaluators": EVALUATORS,
        "population": POPULATION,
        "generations": given.generations,
        "homes": {kind: measured.__dict__ for kind, measured in found.items()},
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")


def _print(kind: str, found: dict[str, Measured]) -> None:
    measured = found[kind]
    speed = f"{measured.ms_per_generation:7.1f} ms a generation, {measured.evaluations_per_s:6.1f} a second"
    line = f"{kind:15} {speed}"
    if kind == "optuna" and "folder" in found:
        line += (
            f"   (folder: {found['folder'].evaluations_per_s / measured.evaluations_per_s:.1f} times this)"
        )
    if measured.calls_per_evaluation:
        line += f"   calls an evaluation: {measured.calls_per_evaluation}"
    print(line, flush=True)


if __name__ == "__main__":
    main()
