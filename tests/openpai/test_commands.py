"""`coppice openpai ...` as a user types it: help, files, exit statuses, one line for a mistake."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from coppice.cli import app, main
from tests.openpai.schema import faults
from tests.openpai.server import Pai, token_of
from tests.openpai.test_convert import SEED_JOBS
from tests.support.http_server import FakeServer

REPO = Path(__file__).resolve().parents[2]
GROUP: Any = typer.main.get_command(app).commands["openpai"]  # type: ignore[attr-defined]
COMMANDS = sorted(GROUP.commands)
HDFS = "webhdfs://namenode:5070/shared/work"
SECRET = "s3cr3t-delegation-token"
Coppice = Callable[..., tuple[int, str, str]]


@pytest.fixture
def coppice(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Coppice:
    """`coppice openpai ARGUMENTS...` in the repository: exit status, stdout, stderr."""
    monkeypatch.chdir(REPO)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            main(["openpai", *map(str, arguments)])
        said = capsys.readouterr()
        code = raised.value.code
        return code if isinstance(code, int) else 0, said.out, said.err

    return call


@pytest.fixture
def there(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of anna."""
    monkeypatch.setenv("COPPICE_OPENPAI_URL", f"http://{server.host}")
    monkeypatch.setenv("COPPICE_OPENPAI_TOKEN", token_of("anna"))


def complaint(ended: tuple[int, str, str]) -> str:
    status, out, err = ended
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    return line


# Help


def test_every_promised_command_is_there() -> None:
    promised = {"render", "submit", "list", "show", "logs", "stop", "wait", "convert"}
    assert promised == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_works(name: str, coppice: Coppice) -> None:
    status, out, _ = coppice(name, "--help")
    assert status == 0
    assert f"Usage: coppice openpai {name}" in out
    examples = re.findall(r"Example: `([^`]+)`", GROUP.commands[name].help)
    assert examples
    for example in examples:
        program, group, called, *arguments = shlex.split(example)
        assert (program, group, called) == ("coppice", "openpai", name)
        GROUP.commands[name].make_context(name, arguments)
        for argument in arguments:
            if re.search(r"\.(yaml|json)$", argument):
                assert (REPO / argument).is_file()


def test_roles_start_without_what_only_this_needs() -> None:
    program = (
        "import sys, coppice.cli\n"
        "late = {'requests', 'coppice.openpai.client', 'coppice.openpai.plan'} & set(sys.modules)\n"
        "sys.exit(f'imported too early: {late}' if late else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPO)


# Files


def test_render_writes_one_yaml(coppice: Coppice, tmp_path: Path) -> None:
    args = (
        "render",
        "jobs/digits.yaml",
        "--storage",
        "nfs",
        "--evaluators",
        "3",
        "--vc",
        "gpu",
        "--gpu",
        "2",
    )
    status, out, err = coppice(*args, "--image", "registry/coppice:1", "--to", tmp_path / "new")
    assert (status, err) == (0, "")
    assert out == f"{tmp_path}/new/coppice.yaml\n"
    job = yaml.safe_load((tmp_path / "new/coppice.yaml").read_text())
    assert faults(job) == []
    assert job["defaults"] == {"virtualCluster": "gpu"}
    assert job["taskRoles"]["evaluator"]["instances"] == 3
    assert job["taskRoles"]["outer"]["resourcePerInstance"]["gpu"] == 2
    assert job["prerequisites"][0]["uri"] == "registry/coppice:1"
    _, again, _ = coppice(*args, "--image", "registry/coppice:1")
    assert yaml.safe_load(again) == job


def test_render_v1(coppice: Coppice, tmp_path: Path) -> None:
    args = ("render", "jobs/digits.yaml", "--v1", "--work", HDFS, "--image", "coppice:1")
    status, out, _ = coppice(*args)
    assert status == 0
    assert [job["taskRoles"][0]["name"] for job in json.loads(out)] == ["master", "outer", "ncs", "evaluator"]
    status, out, _ = coppice(*args, "--to", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "evaluator.json", "loop_ncs.json", "loop_outer.json", "main1.json",
    ]  # fmt: skip


def test_render_for_kubernetes(coppice: Coppice) -> None:
    status, out, _ = coppice("render", "jobs/digits.yaml", "--kubernetes", "--storage", "claim")
    assert status == 0
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(out)]
    assert kinds == ["ConfigMap", "Job", "Job", "Job", "Job"]


def test_render_says_what_containers_must_find(coppice: Coppice, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("name: mine\nmodel: {name: 'net.py:build'}\ndata: {name: mnist, folder: /data/mnist}\n")
    status, _, err = coppice("render", run, "--storage", "nfs")
    assert status == 0
    assert err.splitlines() == [
        "coppice: note: image: coppice:0.1.0; the cluster must be able to pull it (--image)",
        "coppice: note: model.name: net.py:build: must be in the image or on the storage",
        "coppice: note: data.folder: /data/mnist: must be in the image or on the storage",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("render", "no.yaml", "--storage", "nfs"), "no.yaml: cannot be read"),
        (("render", "jobs/digits.yaml"), "no work folder that all containers see"),
        (("render", "jobs/digits.yaml", "--v1", "--kubernetes"), "give --v1 or --kubernetes, not both"),
        (
            ("render", "jobs/digits.yaml", "--kubernetes", "--vc", "x"),
            "--vc: Kubernetes has no virtual clusters",
        ),
        (
            ("render", "jobs/digits.yaml", "--storage", "nfs", "--to", "README.md"),
            "--to README.md: cannot be written",
        ),
        (("convert", "jobs/digits.yaml"), "jobs/digits.yaml, line 1: not valid JSON"),
        (("submit", "jobs/digits.yaml"), "no job of OpenPAI's"),
        (("list",), "no cluster: give --url"),
        (("wait", "digits"), "no cluster: give --url"),
        (
            ("show", "no/such.yaml", "--url", "http://h", "--token", token_of("anna")),
            "no such file, and no name",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments: tuple[str, ...], said: str, coppice: Coppice) -> None:
    status, _, err = coppice(*arguments)
    assert status == 1
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_convert(coppice: Coppice, tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(SEED_JOBS))
    status, out, err = coppice("convert", path)
    assert (status, err) == (0, "")
    jobs = list(yaml.safe_load_all(out))
    assert len(jobs) == 4
    assert [faults(job) for job in jobs] == [[]] * 4
    status, out, _ = coppice("convert", "openpai/evaluator.json", "--to", tmp_path)
    (written,) = tmp_path.glob("*.yaml")
    assert out == f"{written}\n"
    path.write_text(json.dumps({**SEED_JOBS[0], "gpuType": "K80"}))
    assert "note: " in coppice("convert", path)[2]


# A whole life


@pytest.mark.usefixtures("there")
def test_from_submission_to_the_end(coppice: Coppice, pai: Pai) -> None:
    job = "openpai/coppice.yaml"
    name = yaml.safe_load((REPO / job).read_text())["name"]
    status, out, err = coppice("submit", job)
    assert (status, err) == (0, "")
    assert out.startswith(f"{name}: submitted; http://")
    assert f"there already, {'WAITING'}" in coppice("submit", job)[1]
    assert json.loads(coppice("submit", job, "--json")[1])["new"] is False
    pai.jobs["anna", name].states = ["RUNNING"]

    assert name in coppice("list")[1]
    assert [each["state"] for each in json.loads(coppice("list", "--json")[1])] == ["RUNNING"]

    for given in (job, name, f"anna~{name}"):
        status, out, _ = coppice("show", given)
        assert status == 0
        assert len(re.findall(r"evaluator +\d +RUNNING", out)) == 8
    assert len(json.loads(coppice("show", name, "--json")[1])["tasks"]) == 11

    pai.logs[name, "master", 0] = "x" * 100 + "\nround 1: 500\n"
    pai.logs[name, "evaluator", 3] = "scored\n"
    assert coppice("logs", job)[1] == "x" * 6 + "\nround 1: 500\n"
    assert coppice("logs", job, "--all")[1] == "x" * 100 + "\nround 1: 500\n"
    assert coppice("logs", name, "--role", "evaluator", "--index", "3")[1] == "scored\n"
    assert "has no evaluator 99; there are master 0, outer 0" in complaint(
        coppice("logs", name, "--role", "evaluator", "--index", "99")
    )
    assert "NoTaskLogError" in complaint(coppice("logs", name, "--role", "ncs"))

    assert coppice("stop", job) == (0, f"{name}: told to stop\n", "")
    pai.jobs["anna", name].states = ["STOPPED"]
    assert coppice("stop", job) == (0, f"{name}: has ended already (STOPPED)\n", "")
    status, out, _ = coppice("wait", job)
    assert status == 1
    assert f"{name}: STOPPED" in out

    assert "submit --again" in complaint(coppice("submit", job))
    assert coppice("submit", job, "--again")[1].startswith(f"{name}-2: submitted")
    pai.jobs["anna", f"{name}-2"].states = ["SUCCEEDED"]
    status, out, _ = coppice("wait", job)  # the file stands for what was made of it last
    assert status == 0
    assert f"{name}-2: SUCCEEDED" in out


@pytest.mark.usefixtures("there")
def test_job_json(coppice: Coppice, pai: Pai, tmp_path: Path) -> None:
    coppice("render", "jobs/digits.yaml", "--v1", "--work", HDFS, "--to", tmp_path)
    status, out, _ = coppice("submit", tmp_path)
    assert (status, len(out.splitlines()), len(pai.jobs)) == (0, 4, 4)
    names = [name for _, name in pai.jobs]
    assert names[0] in coppice("list", "--v1")[1]
    assert "evaluator" in coppice("show", names[0], "--v1")[1]
    status, out, _ = coppice("logs", tmp_path / "main1.json")
    assert re.search(r"-main1-\w{8} master 0: open http://.*/log-manager/page/", out)  # a page, not a text
    for job in pai.jobs.values():
        job.states = ["RUNNING", "SUCCEEDED"]
    status, out, _ = coppice("wait", tmp_path, "--every", "1")
    assert (status, len(out.splitlines())) == (0, 8)
    pai.jobs["anna", names[1]].states = ["RUNNING"]
    assert coppice("stop", tmp_path)[0] == 0
    assert pai.jobs["anna", names[1]].states == ["STOPPING", "STOPPED"]


@pytest.mark.usefixtures("there")
def test_a_secret_travels_but_is_never_seen(
    coppice: Coppice, pai: Pai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("render", "jobs/digits.yaml", "--work", HDFS, "--secret", "COPPICE_HDFS_TOKEN", "--to", tmp_path)
    assert coppice(*args)[0] == 0
    assert "secrets.COPPICE_HDFS_TOKEN: COPPICE_HDFS_TOKEN is not set" in complaint(
        coppice("submit", tmp_path)
    )
    monkeypatch.setenv("COPPICE_HDFS_TOKEN", SECRET)
    assert coppice(*args)[0] == 0
    text = (tmp_path / "coppice.yaml").read_text()
    status, out, err = coppice("submit", tmp_path)
    assert status == 0
    (job,) = pai.jobs.values()
    assert job.config["secrets"] == {"COPPICE_HDFS_TOKEN": SECRET}
    shown = "".join(part for each in ("show", "logs") for part in coppice(each, tmp_path)[1:])
    assert SECRET not in text + out + err + shown
    assert token_of("anna") not in text + out + err + shown


def test_a_config_that_others_can_read(coppice: Coppice, tmp_path: Path) -> None:
    config = tmp_path / "pai.yaml"
    config.write_text(f"url: https://pai.example.org\ntoken: {token_of('anna')}\n")
    config.chmod(0o644)
    line = complaint(coppice("list", "--config", config))
    assert line == f"coppice: {config}: others can read it, and it is for a token: chmod 600 {config}"


@pytest.mark.usefixtures("there")
def test_ctrl_c_leaves_the_job_running(coppice: Coppice, pai: Pai, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, seconds: float) -> None:
        signal.raise_signal(signal.SIGINT)

    coppice("submit", "openpai/coppice.yaml")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("coppice.clock.SystemClock.sleep", interrupted)
    try:
        assert coppice("wait", "openpai/coppice.yaml")[0] == 130
    finally:
        signal.signal(signal.SIGINT, before)
    (job,) = pai.jobs.values()
    assert job.states == ["WAITING"]


@pytest.mark.usefixtures("there")
def test_a_name_longer_than_a_path_can_be(coppice: Coppice) -> None:
    assert "NoJobError" in complaint(coppice("show", f"anna~{'a' * 255}"))


def test_no_job_is_lost_in_converting(coppice: Coppice, tmp_path: Path) -> None:
    """v2 has no '.', so that two names of v1 may become one."""
    jobs = [{**SEED_JOBS[0], "jobName": name} for name in ("a.b", "a-b")]
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(jobs))
    line = complaint(coppice("convert", path, "--to", tmp_path / "out"))
    assert line.endswith("two jobs would have the name a-b; change a jobName")
    assert not (tmp_path / "out").exists()
    path.write_text("[]")
    assert complaint(coppice("convert", path)).endswith("a list without a job in it")


@pytest.mark.parametrize("options", [["--kubernetes"], []])
def test_a_work_folder_that_nobody_mounts_is_told(options: list[str], coppice: Coppice) -> None:
    told = "note: work folder /data/x: all containers must share it; --storage NAME mounts one"
    status, _, err = coppice("render", "jobs/digits.yaml", "--work", "/data/x", *options)
    assert status == 0
    assert told in err
    for place in (["--work", HDFS], ["--storage", "nfs"]):
        assert "note: work folder" not in coppice("render", "jobs/digits.yaml", *place, *options)[2]
