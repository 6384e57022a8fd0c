"""The digits run as shipped, in real processes: on a folder, on a real HDFS, interrupted and killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from coppice.store import Store, open_store
from coppice.work import names
from tests.hdfs.cluster import HdfsCluster
from tests.roles.processes import DIGITS, Harried, coppice, environment, simulate
from tests.roles.threads import history_of, result_of
from tests.support.leftovers import descendants

KILLS = 20


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The work folder of an undisturbed `coppice simulate jobs/digits.yaml`."""
    work = tmp_path_factory.mktemp("digits") / "work"
    done = simulate(DIGITS, str(work))
    assert done.returncode == 0, done.stderr
    return open_store(str(work))


def _same(store: Store, undisturbed: Store) -> None:
    assert history_of(store) == history_of(undisturbed)
    assert result_of(store) == result_of(undisturbed)
    assert store.read(names.RESULT_MODEL) == undisturbed.read(names.RESULT_MODEL)


def test_the_demo_compresses_at_no_loss(digits: Store) -> None:
    result = json.loads(digits.read(names.RESULT_JSON) or b"")
    assert result["compression"] >= 15
    assert result["pruned_accuracy"] >= result["reference_accuracy"]
    assert result["evaluators"] == 2


@pytest.mark.hdfs
def test_the_demo_runs_on_hdfs_and_hadoops_own_client_can_follow_it(
    digits: Store, hdfs_cluster: HdfsCluster
) -> None:
    path = f"/shared/work-{uuid.uuid4().hex[:8]}"
    process = subprocess.Popen(
        coppice("simulate", str(DIGITS), "--work", hdfs_cluster.webhdfs_url + path, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    store = open_store(hdfs_cluster.webhdfs_url + path)
    while store.stat(names.NCS_START) is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    first = hdfs_cluster.fs("-cat", f"{path}/new_itr.txt").splitlines()[0]
    listing = hdfs_cluster.fs("-ls", path)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert first == str(yaml.safe_load(DIGITS.read_text())["rounds"]["iterations"])
    assert re.search(rf"{path}/weights_s\d+.safetensors", listing)
    assert f"{path}/data.npy" in listing
    _same(store, digits)
    store.delete_tree("")


@pytest.mark.parametrize(
    "home_kind", ["folder", pytest.param("webhdfs", marks=pytest.mark.hdfs)], indirect=True
)
def test_twenty_kills_change_nothing(digits: Store, store_url: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    harried = Harried(DIGITS, store_url, logs)
    ended = harried.run(KILLS, seed=11, timeout_s=540)
    said = {path.name: path.read_text()[-600:] for path in logs.iterdir()}
    assert ended, said
    assert sum(harried.kills.values()) == KILLS, "the run was over before all kills were done"
    assert min(harried.kills[role] for role in ("master", "outer", "ncs", "evaluator")) >= 3
    _same(open_store(store_url), digits)


def _small(folder: Path) -> Path:
    """A digits run of a few seconds."""
    run: dict[str, Any] = yaml.safe_load(DIGITS.read_text())
    run.update(name="small", reference={"iterations": 200})
    run["rounds"] = {"iterations": 200, "tmax": 800}
    run["surgery"]["prune_until"] = 400
    run["search"].update(evaluations=40)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def test_ctrl_c_stops_all_processes_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run_file, work = _small(tmp_path), tmp_path / "work of mine"
    flags = ("--seed", "3", "--evaluators", "1")
    with tempfile.TemporaryDirectory() as place:  # short: a socket's path must fit into 107 bytes
        _interrupt(run_file, work, Path(place), flags)
    before = json.loads((work / names.RUN).read_text())

    done = simulate(run_file, str(work), *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run_id"] == before["run_id"]


def _interrupt(run_file: Path, work: Path, logs: Path, flags: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        coppice("simulate", str(run_file), "--work", str(work), *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), "TMPDIR": str(logs)},
        start_new_session=True,
    )
    while not (work / names.NCS_START).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    roles = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(process.pid)}
    children = [pid for pid, name in roles.items() if name.startswith("coppice ")]
    assert len(children) == 4
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (again,) = [
        line.partition("goes on with: coppice simulate ")[2] for line in said.splitlines() if "goes" in line
    ]
    assert shlex.split(again) == [str(run_file), "--work", str(work), *flags]
    assert "Traceback" not in said
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not list(logs.glob("coppice-*")), "what the roles said is of no more use"


def test_processes_come_to_what_one_process_comes_to(tmp_path: Path) -> None:
    """In a surgery to a schedule, where the outer loop says what a search shall do."""
    run: dict[str, Any] = yaml.safe_load(_small(tmp_path).read_text())
    run["rounds"]["iterations"] = 50
    run["surgery"].update(pace_until=300, accuracy_drop=0.3)
    run["constraint"].update(accuracy_drop=0.2, search_drop=0.3, compression=12.0)
    paced = tmp_path / "paced.yaml"
    paced.write_text(yaml.safe_dump(run))
    done = simulate(paced, str(tmp_path / "work"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["compression"] == pytest.approx(12.5, abs=2.5)
    assert 1 < result["searches"] <= 8
    command = [sys.executable, "-m", "benchmarks.local_run", str(paced), "--quiet"]
    alone = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert f"({result['parameters_remaining']} of {result['parameters_total']})" in alone.stdout
    assert f"test {result['pruned_accuracy']:.4f}" in alone.stdout
    assert f" {result['evaluations']} evaluations" in alone.stdout


def test_a_run_that_cannot_be_ends_with_one_line(tmp_path: Path) -> None:
    run = yaml.safe_load(_small(tmp_path).read_text())
    run["model"]["arguments"]["classes"] = 3  # digits has ten
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(run))
    done = simulate(broken, str(tmp_path / "work"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    first, last = done.stderr.strip().splitlines()
    assert first.startswith("the run failed: outer: ")
    assert "10 or more" in first
    assert last.startswith("what all roles said is in ")
    assert done.stdout == ""

    run["model"]["arguments"]["classes"] = 10  # mended, but another run
    broken.write_text(yaml.safe_dump(run))
    done = simulate(broken, str(tmp_path / "work"))
    assert done.returncode == 1
    assert "with other settings (model); take another --work, or --fresh" in done.stderr
    assert "10 or more" not in done.stderr, "that was the run before"


def test_a_temp_folder_too_long_for_sockets_ends_with_one_line(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    command = coppice("simulate", str(_small(tmp_path)), "--work", str(tmp_path / "work"))
    told = {**environment(), "TMPDIR": str(deep)}
    done = subprocess.run(command, capture_output=True, text=True, env=told, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"coppice: TMPDIR: {deep} is too long")
    assert not list(deep.glob("coppice-*"))
