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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from coppice.roles import simulate as simulation
from coppice.roles.signals import sigterm_as_interrupt
from coppice.roles.simulate import Simulation, Worker
from coppice.runfile import RunFile, load_run_file
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


def _simulating(run_file: Path, work: Path, logs: Path, *flags: str) -> subprocess.Popen[str]:
    """In a session of its own, as on a terminal; also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        return subprocess.Popen(
            coppice("simulate", str(run_file), "--work", str(work), *flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment(), "TMPDIR": str(logs)},
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGHUP, before)


def _roles_of(process: subprocess.Popen[str], work: Path) -> list[int]:
    """Its four roles' process ids, in the middle of a search."""
    while not (work / names.NCS_START).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    roles = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(process.pid)}
    children = [pid for pid, name in roles.items() if name.startswith("coppice ")]
    assert len(children) == 4
    return children


def _interrupt(run_file: Path, work: Path, logs: Path, flags: tuple[str, ...]) -> None:
    process = _simulating(run_file, work, logs, *flags)
    children = _roles_of(process, work)
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


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_role_outlives_a_simulation_whose_terminal_closes_or_that_is_killed(
    number: int, status: int, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as place:
        process = _simulating(DIGITS, tmp_path / "work", Path(place), "--evaluators", "1")
        roles = _roles_of(process, tmp_path / "work")
        time.sleep(1.0)
        assert all(_runs(pid) for pid in roles)
        os.kill(process.pid, number)
        assert process.wait(60) == status
        deadline = time.monotonic() + 30
        while any(_runs(pid) for pid in roles) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in roles if _runs(pid)]
        for log in Path(place).glob("coppice-*/*.log"):
            assert "Traceback" not in log.read_text()


def test_nohup_is_heeded() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with sigterm_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_while_everything_is_loaded_shows_no_stack(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        process = _simulating(_small(tmp_path), tmp_path / "work", Path(place))
        while not any("forkserver" in command for command in descendants(process.pid).values()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(0.5)  # what roles are forked from is importing
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in said
        assert not list(Path(place).glob("coppice-*"))


class Deaf:
    """A process that does not end when it is asked to, until it is killed or has been looked at so often."""

    pid = 1

    def __init__(self, when_asked: Callable[[], None] = lambda: None, looks: float = float("inf")) -> None:
        self.status: int | None = None
        self.terminate = when_asked
        self._looks = looks

    def poll(self) -> int | None:
        self._looks -= 1
        return self.status if self._looks > 0 else 1

    def kill(self) -> None:
        self.status = -signal.SIGKILL

    def wait(self, timeout_s: float | None = None) -> int | None:
        return self.status


def _worker(process: Any, log: Path) -> Worker:
    return Worker("master", ["master"], log, process)


def test_whoever_presses_ctrl_c_twice_has_all_killed_at_once(tmp_path: Path) -> None:
    deaf = Deaf(when_asked=lambda: os.kill(os.getpid(), signal.SIGINT))
    began = time.monotonic()
    simulation._stop([_worker(deaf, tmp_path / "log")])
    assert deaf.status == -signal.SIGKILL
    assert time.monotonic() - began < simulation.GRACE_S / 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_simulation_says_what_its_master_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "SHOW_S", 0.05)
    log = tmp_path / "master.log"
    log.write_text("12:00:00 master: [/host] (process 1) is the master here; waiting to take over\n")
    with open_store(str(tmp_path / "work")) as store:
        master = _worker(Deaf(looks=15), log)
        assert not simulation._opened(store, master, RunFile(name="demo"), Console(width=40))
    said = capsys.readouterr().out
    assert said == "master: [/host] (process 1) is the master here; waiting to take over\n"


def test_a_work_folder_may_be_named_with_square_brackets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=80)
    worker = _worker(Deaf(), tmp_path / "log")
    console.print(simulation.simulation_view(Simulation(RunFile(name="demo"), "x[/y]", [worker], 0.0)))
    simulation._tell(console, "results      w[seed6]/result/")
    said = capsys.readouterr().out
    assert " x[/y] " in said
    assert "w[seed6]/result/" in said


def test_a_run_file_from_a_pipe_reaches_the_master(tmp_path: Path) -> None:
    run_file = _small(tmp_path)
    run = load_run_file(run_file)
    assert simulation._for_the_master(run, run_file, tmp_path) == run_file
    reader, writer = os.pipe()
    os.write(writer, run_file.read_bytes())  # a pipe holds so much
    os.close(writer)
    try:
        piped = Path(f"/dev/fd/{reader}")
        run = load_run_file(piped)
        assert load_run_file(simulation._for_the_master(run, piped, tmp_path)) == run
    finally:
        os.close(reader)


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
