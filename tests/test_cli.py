"""The command line: help with examples that work, one line for a user's mistake, exit statuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from coppice import __version__
from coppice.__main__ import main as program
from coppice.cli import app, main, script, work_of
from coppice.errors import CoppiceError
from coppice.runfile import RunFile
from coppice.store import open_store
from coppice.work import names
from coppice.work.sentinels import NewItr, RunRecord

ROOT = Path(__file__).parent.parent
GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)
RUN_ID = "0123abcd"


@dataclass
class Ended:
    """How a call of the command line ended."""

    status: int
    out: str
    err: str

    def complaint(self, status: int = 1) -> str:
        """The one line of a user's mistake."""
        assert self.status == status
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = self.err.splitlines()
        return line


Coppice = Callable[..., Ended]


@pytest.fixture
def coppice(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Coppice]:
    """`coppice ARGUMENTS...` in this process; what it does to signals is undone."""
    for variable in ("COPPICE_WORK", "COPPICE_RUN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            main([str(each) for each in arguments])
        said = capsys.readouterr()
        code = raised.value.code
        return Ended(code if isinstance(code, int) else 0 if code is None else 1, said.out, said.err)

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def put_run(work: Path, state: str = "running", name: str = "demo") -> None:
    """A work folder as a master leaves it that has only just opened a run."""
    record = RunRecord(RUN_ID, state, RunFile(name=name).model_dump(mode="json"), __version__)
    work.mkdir(exist_ok=True)
    (work / names.RUN).write_bytes(record.to_bytes())
    (work / names.NEW_ITR).write_bytes(NewItr(RUN_ID, 1, 500).to_bytes())


def put_run_file(folder: Path, name: str = "demo", **more: str) -> Path:
    path = folder / "run.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {"name": name, **more}.items()))
    return path


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Help


def test_every_promised_command_is_there() -> None:
    promised = {"simulate", "master", "outer", "ncs", "evaluator", "status", "report", "clean", "doctor"}
    assert promised <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does_with_an_example(name: str, coppice: Coppice) -> None:
    ended = coppice(name, "--help")
    assert ended.status == 0
    assert "Usage: coppice " + name in ended.out
    assert f"Example: coppice {name}" in " ".join(ended.out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_is_one_that_the_command_takes(name: str) -> None:
    command = GROUP.commands[name]
    examples = re.findall(r"Example: `([^`]+)`", command.help)
    assert examples
    for example in examples:
        program, called, *arguments = shlex.split(example)
        assert (program, called) == ("coppice", name)
        command.make_context(name, arguments)  # raises for an unknown option or a missing argument
        for argument in arguments:
            if argument.endswith(".yaml"):
                assert (ROOT / argument).is_file()


def test_help_of_the_program_names_every_command(coppice: Coppice) -> None:
    ended = coppice("--help")
    assert ended.status == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", ended.out)


def test_without_a_command_the_help_is_shown(coppice: Coppice) -> None:
    ended = coppice()
    assert "simulate" in ended.out + ended.err


def test_version(coppice: Coppice) -> None:
    ended = coppice("version")
    assert (ended.status, ended.out) == (0, f"{__version__}\n")


# Mistakes


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune",),
        ("status",),
        ("status", "--wach", "x"),
        ("simulate",),
        ("simulate", "x.yaml", "--evaluators", "0"),
        ("simulate", "x.yaml", "--evaluators", "two"),
        ("master", "x.yaml", "--seed", "-1"),
        ("simulate", "x.yaml", "--seed", str(2**63)),
        ("evaluator", "--threads", "0"),
    ],
)
def test_a_wrong_call_is_answered_with_usage_and_status_2(
    arguments: tuple[str, ...], coppice: Coppice
) -> None:
    ended = coppice(*arguments)
    assert ended.status == 2
    assert ended.out == ""
    assert "Usage: coppice" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize("exists", [False, True])
def test_no_run_in_the_folder(command: str, exists: bool, tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    if exists:
        work.mkdir()
    line = coppice(command, work).complaint()
    assert line == f"coppice: {work}: no run here (no run.json); the master creates it"
    assert files_of(tmp_path) == (["work"] if exists else [])  # looking leaves nothing behind


def test_a_doctor_that_is_stopped_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coppice: Coppice
) -> None:
    tidied: list[str] = []

    def diagnose(work: str) -> list[Any]:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):  # `timeout` sends it twice, people do too
                signal.raise_signal(number)
            tidied.append(work)
        return []

    def survived(number: int, frame: object) -> None:
        """The fixture sets the test's own handlers again."""

    signal.signal(signal.SIGTERM, survived)
    signal.signal(signal.SIGINT, survived)
    monkeypatch.setattr("coppice.store.doctor.diagnose", diagnose)
    assert coppice("doctor", tmp_path).status == 130
    assert tidied == [str(tmp_path)]
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGINT) is survived


def test_status_as_json_of_nothing(tmp_path: Path, coppice: Coppice) -> None:
    assert "no run here" in coppice("status", tmp_path, "--json").complaint()


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_to_clean(exists: bool, tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    if exists:
        work.mkdir()
        (work / "thesis.tex").write_text("years of work")
    line = coppice("clean", work).complaint()
    assert line.endswith(f"clean: ends: {work}: no run here")
    assert files_of(tmp_path) == (["work", "work/thesis.tex"] if exists else [])


@pytest.mark.parametrize("command", ["master", "simulate"])
def test_an_unknown_run_file(command: str, tmp_path: Path, coppice: Coppice) -> None:
    line = coppice(command, tmp_path / "no.yaml", "--work", tmp_path / "work").complaint()
    assert line.startswith(f"coppice: {tmp_path}/no.yaml: cannot be read (No such file or directory)")
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("command", ["master", "simulate"])
def test_a_mistake_in_the_run_file(command: str, tmp_path: Path, coppice: Coppice) -> None:
    run_file = put_run_file(tmp_path, seed="many")
    line = coppice(command, run_file, "--work", tmp_path / "work").complaint()
    assert line.startswith(f"coppice: {run_file}: seed: ")
    assert files_of(tmp_path) == ["run.yaml"]


@pytest.mark.parametrize(
    "arguments", [("master", "RUN"), ("simulate", "RUN"), ("outer",), ("ncs",), ("evaluator",)]
)
def test_no_work_folder_named(arguments: tuple[str, ...], tmp_path: Path, coppice: Coppice) -> None:
    run_file = put_run_file(tmp_path)
    line = coppice(*(run_file if a == "RUN" else a for a in arguments)).complaint()
    assert line.startswith("coppice: no work folder: give --work URL, set COPPICE_WORK, or write 'work:'")


def test_no_role_starts_on_a_store_that_no_other_could_see() -> None:
    with pytest.raises(CoppiceError, match=r"^memory:mine: no work folder that another"):
        work_of("memory:mine")


def test_status_is_watched_or_json(tmp_path: Path, coppice: Coppice) -> None:
    put_run(tmp_path)
    line = coppice("status", tmp_path, "--watch", "--json").complaint()
    assert line == "coppice: give --watch or --json, not both"


BAD_URLS = [
    "hdfs://namenode:9000/work",
    "http://namenode:9870/work",
    "s3://bucket/work",
    "memory:",
    "webhdfs://",
    "file://there/work",
]


@pytest.mark.parametrize("url", BAD_URLS)
@pytest.mark.parametrize("command", [("status",), ("report",), ("clean",), ("evaluator", "--work")])
def test_a_bad_url(command: tuple[str, ...], url: str, coppice: Coppice) -> None:
    line = coppice(*command, url).complaint()
    assert line.startswith("coppice: ")
    assert url.rstrip(":/") in line


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_damaged_run_json(command: str, tmp_path: Path, coppice: Coppice) -> None:
    put_run(tmp_path)
    (tmp_path / names.RUN).write_bytes(b'{"run_id": "0123ab')
    line = coppice(command, tmp_path).complaint()
    assert line.startswith(f"coppice: {tmp_path}/run.json: not whole JSON")


def test_a_work_folder_that_is_a_file(tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    work.write_text("not a folder")
    run_file = put_run_file(tmp_path)
    for arguments in (
        ("status", work),
        ("report", work),
        ("clean", work),
        ("master", run_file, "--work", work),
    ):
        line = coppice(*arguments).complaint()
        assert str(work) in line
    assert work.read_text() == "not a folder"


def test_a_master_leaves_a_folder_alone_that_holds_something_else(tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.tex").write_text("years of work")
    line = coppice("master", put_run_file(tmp_path), "--work", work).complaint()
    assert "not empty and no run of Coppice's (it holds 'thesis.tex')" in line
    assert files_of(work) == ["thesis.tex"]


def test_a_master_leaves_another_run_alone(tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    put_run(work, name="other")
    before = files_of(work)
    line = coppice("master", put_run_file(tmp_path), "--work", work).complaint()
    assert "holds run 0123abcd (other, running) with other settings (name)" in line
    assert "--fresh" in line
    assert files_of(work) == before


def put_living_role(work: Path) -> str:
    """This process as a role; how it is named."""
    from coppice.work.presence import Identity

    me = Identity.of_this_process()
    (work / names.ROLES).mkdir()
    content = {
        "role": "ncs",
        "worker": me.worker,
        "host": me.host,
        "pid": me.pid,
        "machine": me.machine,
        "birth": me.birth,
    }
    (work / names.ROLES / "ncs_0001.json").write_text(json.dumps(content))
    return f"ncs (process {me.pid} on {me.host})"


def test_a_living_run_is_not_cleaned(tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    put_run(work)
    role = put_living_role(work)
    before = files_of(work)
    line = coppice("clean", work).complaint()
    assert f"a run is alive here: {role}; stop it first" in line
    assert files_of(work) == before


def test_a_simulation_that_is_refused_leaves_no_folder_of_logs(
    tmp_path: Path, coppice: Coppice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("coppice.roles.simulate.start_server", lambda: None)
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    put_run(work)
    role = put_living_role(work)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    run_file = put_run_file(tmp_path)
    assert "no kind of store" in coppice("simulate", run_file, "--work", "http://x").complaint()
    line = coppice("simulate", run_file, "--work", work, "--fresh").complaint()
    assert f"a run is alive here: {role}" in line
    assert files_of(temporary) == []


# What goes well


def test_status_of_a_run_for_people_and_for_machines(tmp_path: Path, coppice: Coppice) -> None:
    put_run(tmp_path)
    before = files_of(tmp_path)
    ended = coppice("status", tmp_path)
    assert ended.status == 0
    assert "run 0123abcd is running" in ended.out
    ended = coppice("status", tmp_path, "--json")
    assert ended.status == 0
    status = json.loads(ended.out)
    assert (status["run_id"], status["name"], status["state"], status["round"]) == (
        RUN_ID,
        "demo",
        "running",
        1,
    )
    assert files_of(tmp_path) == before


def test_the_environment_names_the_work_folder(
    tmp_path: Path, coppice: Coppice, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run(tmp_path)
    monkeypatch.setenv("COPPICE_WORK", str(tmp_path))
    assert coppice("status").status == 0
    assert coppice("status", tmp_path / "other").status == 1


def test_which_work_folder_goes_first() -> None:
    run = RunFile(name="demo", work="from/the/run/file")
    assert work_of("from/the/option", run) == "from/the/option"
    assert work_of(None, run) == "from/the/run/file"
    with pytest.raises(CoppiceError, match="no work folder"):
        work_of(None, None)


def put_result(work: Path) -> dict[str, Any]:
    """As at the end of a run."""
    result = {
        "run_id": RUN_ID, "name": "demo", "seed": 1, "parameters_total": 100, "parameters_remaining": 4,
        "compression": 25.0, "weights_total": 90, "weights_remaining": 3, "layers": [],
        "reference_accuracy": 0.9, "pruned_accuracy": 0.91, "validation_accuracy": 0.92, "rounds": 0,
        "searches": 0, "evaluations": 0, "evaluators": 0, "seconds": 1.0,
        "export": None,
    }  # fmt: skip
    (work / names.RESULT).mkdir()
    (work / names.RESULT_JSON).write_text(json.dumps(result))
    return result


def test_a_finished_run_is_stated_again_reported_and_cleaned(tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    put_run(work, state="over")
    result = put_result(work)
    run_file = put_run_file(tmp_path)
    ended = coppice("master", run_file, "--work", work, "--json")
    assert ended.status == 0
    assert json.loads(ended.out) == {**result, "left_out": []}
    ended = coppice("master", run_file, "--work", work)
    assert ended.status == 0
    assert "25.0x smaller" in ended.out
    ended = coppice("report", work)
    assert (ended.status, ended.out.strip()) == (0, f"{work}/result/report.html")
    assert "<!DOCTYPE html>" in (work / "result/report.html").read_text()
    (work / "notes.txt").write_text("mine")
    ended = coppice("clean", work)
    assert (ended.status, ended.out.strip()) == (0, f"{work}: left notes.txt, which are not Coppice's")
    assert files_of(work) == ["notes.txt"]


def test_foreign_names_are_shown_as_plain_text(tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    put_run(work, state="over")
    (work / "a\x1b[31m\nb").touch()
    ended = coppice("clean", work)
    assert (ended.status, ended.out) == (0, f"{work}: left a?[31m?b, which are not Coppice's\n")


def test_a_finished_run_cleaned_leaves_no_folder(tmp_path: Path, coppice: Coppice) -> None:
    work = tmp_path / "work"
    put_run(work, state="over")
    ended = coppice("clean", work)
    assert (ended.status, ended.out.strip()) == (0, f"{work}: removed")
    assert not work.exists()


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_that_cannot_go_is_said_to_be_empty(linked: bool, tmp_path: Path, coppice: Coppice) -> None:
    """A link in it is somebody else's; a work folder that is a link itself, too."""
    work, target = tmp_path / "work", tmp_path / "target"
    target.mkdir()
    if linked:
        work.symlink_to(target)
    else:
        work.mkdir()
        (work / "mine").symlink_to(target)
    (work / "history").mkdir()
    (work / "history/search_0001.zip").write_bytes(b"some")
    ended = coppice("clean", str(work))
    assert (ended.status, ended.out.strip()) == (0, f"{work}: emptied of the run; the folder itself stays")
    assert [path.name for path in work.iterdir()] == ([] if linked else ["mine"])


def test_a_store_in_memory_is_a_home_too(coppice: Coppice) -> None:
    record = RunRecord(RUN_ID, "over", RunFile(name="demo").model_dump(mode="json"), __version__)
    with open_store("memory:test-cli") as store:
        store.create(names.RUN, record.to_bytes())
    assert coppice("report", "memory:test-cli").out == "memory:test-cli/result/report.html\n"
    assert coppice("clean", "memory:test-cli").status == 0


# As processes


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_a_mistake_as_a_process(tmp_path: Path) -> None:
    ended = python("-m", "coppice", "status", "nowhere", cwd=tmp_path)
    assert (
        Ended(ended.returncode, ended.stdout, ended.stderr).complaint().startswith("coppice: nowhere: no run")
    )


def test_names_that_are_no_text_end_no_command(tmp_path: Path) -> None:
    work = tmp_path / os.fsdecode(b"w\xff")
    put_run(work, state="over")
    (work / os.fsdecode(b"caf\xe9")).touch()
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    for command in ("status", "clean"):
        ended = python("-m", "coppice", command, work.name, cwd=tmp_path, **strict)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "w\\udcff: left caf?, which are not Coppice's\n"


def test_a_full_disk_under_its_output_ends_no_role(tmp_path: Path) -> None:
    put_run(tmp_path / "work", state="over")
    put_result(tmp_path / "work")
    command = [sys.executable, "-m", "coppice", "master", str(put_run_file(tmp_path)), "--work", "work"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=full, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
    assert ended.returncode == 0
    assert "25.0x smaller" in ended.stdout


def test_ctrl_c_while_the_program_is_loaded_shows_no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coppice.cli.main", interrupted)
    with pytest.raises(SystemExit) as raised:
        program()
    assert raised.value.code == 130


def test_what_needs_no_torch_starts_without_it(tmp_path: Path) -> None:
    """A master, an ncs job, a look at a run: none of them may want the heavy packages."""
    put_run(tmp_path / "work", state="over")
    program = (
        "import sys\n"
        "for heavy in ('torch', 'sklearn', 'matplotlib', 'scipy'): sys.modules[heavy] = None\n"
        "import coppice.roles.master, coppice.roles.searcher, coppice.roles.simulate\n"
        "from coppice.cli import main\n"
        "main(['status', 'work'])\n"
    )
    ended = python("-c", program, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "is over" in ended.stdout


@pytest.mark.parametrize("name", ["main1", "loop_outer", "loop_ncs", "evaluator"])
def test_the_scripts_that_openpai_starts(
    name: str, monkeypatch: pytest.MonkeyPatch, coppice: Coppice
) -> None:
    role = {"main1": "master", "loop_outer": "outer", "loop_ncs": "ncs"}.get(name, name)
    text = (ROOT / f"{name}.py").read_text()
    assert f'script("{role}")' in text or f"script('{role}')" in text
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as raised:
        script(role)()
    assert raised.value.code == 0


def test_main1_takes_the_run_file_from_the_environment(
    tmp_path: Path, coppice: Coppice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COPPICE_RUN", str(tmp_path / "named.yaml"))
    monkeypatch.setattr(sys, "argv", ["main1.py", "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit) as raised:
        script("master")()
    assert raised.value.code == 1
    assert f"{tmp_path}/named.yaml: cannot be read" in capsys.readouterr().err
