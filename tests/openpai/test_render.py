"""What is rendered is valid, means what it should, hides secrets, and is the same every time."""

from __future__ import annotations

import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from coppice import __version__
from coppice.cli import app
from coppice.openpai.errors import JobFileError
from coppice.openpai.jobs import read_jobs
from coppice.openpai.kubernetes import RUN_FILE, render_kubernetes
from coppice.openpai.names import V1_NAME, V2_NAME, kubernetes_name
from coppice.openpai.plan import ROLES, Plan, make_plan
from coppice.openpai.render import V2_FILE, render_v1, render_v2
from coppice.runfile import load_run_file
from tests.openpai.schema import faults

REPO = Path(__file__).resolve().parents[2]
DIGITS = REPO / "jobs/digits.yaml"
HDFS = "webhdfs://namenode:5070/shared/work"
SHIPPED_V1 = sorted((REPO / "openpai").glob("*.json"))
SECRET = "s3cr3t-delegation-token"


def v2(**options: Any) -> dict[str, Any]:
    """A v2 job as a server reads it."""
    job: dict[str, Any] = yaml.safe_load(render_v2(make_plan(DIGITS, **{"storage": "nfs", **options})))
    return job


def put_run(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def carried(command: str) -> str:
    """The run file that a master's command carries."""
    match = re.search(r"echo (\S+) \| base64 -d > (\S+)", command)
    assert match is not None
    assert f"main1.py {match[2]} " in command
    return base64.b64decode(match[1]).decode()


# v2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"evaluators": 1},
        {"evaluators": 100, "gpus": 0, "virtual_cluster": "gpu", "image": "registry/coppice:1"},
        {"storage": None, "work": HDFS},
        {"work": "/mnt/nfs/elsewhere"},
        {"secrets": ("COPPICE_HDFS_TOKEN",)},
        {"status": "/mnt/nfs/status.yaml", "secrets": ("COPPICE_MESSAGE_PW",)},
    ],
)
def test_the_published_schema_takes_it(options: dict[str, Any]) -> None:
    assert faults(v2(**options)) == []


def test_the_schema_would_find_mistakes() -> None:
    job = v2()
    assert faults({**job, "name": "a.b"})
    assert faults({key: value for key, value in job.items() if key != "prerequisites"})
    assert faults({**job, "taskRoles": {"master": {"dockerImage": "coppice", "commands": []}}})
    assert faults({**job, "retries": 3}) == ["unknown key retries"]
    master = {**job["taskRoles"]["master"], "completion": {"minFailed": 1}}
    assert faults({**job, "taskRoles": {"master": master}}) == ["unknown key minFailed"]


def test_the_run_ends_when_the_master_does_and_one_evaluator_is_missed_by_nobody() -> None:
    roles = v2(evaluators=8)["taskRoles"]
    assert list(roles) == ["master", "outer", "ncs", "evaluator"]
    assert {name: role["instances"] for name, role in roles.items()} == {
        "master": 1, "outer": 1, "ncs": 1, "evaluator": 8,
    }  # fmt: skip
    assert roles["master"]["completion"] == {"minFailedInstances": 1, "minSucceededInstances": 1}
    for name in ("outer", "ncs"):
        assert roles[name]["completion"] == {"minFailedInstances": 1, "minSucceededInstances": -1}
    assert roles["evaluator"]["completion"] == {"minFailedInstances": 8, "minSucceededInstances": -1}


def outcome(job: dict[str, Any], failed: dict[str, int], succeeded: dict[str, int]) -> str:
    """A job's state after so many tasks have ended, by the documented completion policies."""
    roles = job["taskRoles"]
    for name, role in roles.items():
        if 0 < role["completion"]["minFailedInstances"] <= failed.get(name, 0):
            return "FAILED"
    for name, role in roles.items():
        if 0 < role["completion"]["minSucceededInstances"] <= succeeded.get(name, 0):
            return "SUCCEEDED"
    ended = sum(failed.values()) + sum(succeeded.values())
    return "SUCCEEDED" if ended == sum(role["instances"] for role in roles.values()) else "RUNNING"


@pytest.mark.parametrize(
    ("failed", "succeeded", "state"),
    [
        ({"evaluator": 1}, {}, "RUNNING"),
        ({"evaluator": 7}, {"ncs": 1}, "RUNNING"),
        ({"evaluator": 8}, {}, "FAILED"),  # nobody is left who scores
        ({"outer": 1}, {}, "FAILED"),
        ({"ncs": 1}, {}, "FAILED"),
        ({"master": 1}, {}, "FAILED"),
        ({}, {"outer": 1, "ncs": 1, "evaluator": 8}, "RUNNING"),  # the master closes the run
        ({}, {"master": 1}, "SUCCEEDED"),
        ({"evaluator": 3}, {"master": 1}, "SUCCEEDED"),
    ],
)
def test_how_a_job_ends(failed: dict[str, int], succeeded: dict[str, int], state: str) -> None:
    assert outcome(v2(evaluators=8), failed, succeeded) == state


def test_retries_count_because_nothing_is_allocated_as_a_gang() -> None:
    job = v2()
    assert job["extras"]["gangAllocation"] is False
    assert all(role["taskRetryCount"] > 0 for role in job["taskRoles"].values())


def test_gpus_go_to_those_who_train() -> None:
    def gpus(job: dict[str, Any]) -> dict[str, int]:
        return {name: role["resourcePerInstance"]["gpu"] for name, role in job["taskRoles"].items()}

    assert gpus(v2()) == {"master": 0, "outer": 1, "ncs": 0, "evaluator": 1}
    assert set(gpus(v2(gpus=0)).values()) == {0}


def test_the_storage_is_mounted_and_holds_the_work_folder() -> None:
    job = v2(storage="nfs")
    assert job["extras"]["storages"] == [{"name": "nfs", "mountPath": "/mnt/nfs"}]
    for role in job["taskRoles"].values():
        assert "--work /mnt/nfs/coppice/digits" in role["commands"][-1]


def test_hdfs_needs_no_storage() -> None:
    job = v2(storage=None, work=HDFS)
    assert "storages" not in job["extras"]
    for role in job["taskRoles"].values():
        assert f"--work {HDFS}" in role["commands"][-1]


def test_the_master_carries_the_run_file(tmp_path: Path) -> None:
    odd = "name: odd\nmodel: {name: 'mine:net', arguments: {text: \"a' $HOME <% $secrets.x %> \\\" ü\"}}\n"
    path = put_run(tmp_path, odd)
    plan = make_plan(path, storage="nfs")
    command = " && ".join(yaml.safe_load(render_v2(plan))["taskRoles"]["master"]["commands"])
    assert "<%" not in command
    (tmp_path / "there.yaml").write_text(carried(command))
    assert load_run_file(tmp_path / "there.yaml") == load_run_file(path)


def test_or_the_image_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    plan = make_plan(Path("jobs/digits.yaml"), storage="nfs", in_image=True)
    commands = yaml.safe_load(render_v2(plan))["taskRoles"]["master"]["commands"]
    assert commands == ["cd /coppice", "python main1.py jobs/digits.yaml --work /mnt/nfs/coppice/digits"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_command_is_one_that_its_script_takes(role: Any) -> None:
    plan = make_plan(DIGITS, storage="nfs")
    python, script, *arguments = plan.command(role)
    assert python == "python"
    assert f'script("{role.name}")' in (REPO / script).read_text()
    command = typer.main.get_command(app).commands[role.name]  # type: ignore[attr-defined]
    command.make_context(role.name, arguments)


# v1


def test_job_json_is_four_jobs_as_the_original_ones_are() -> None:
    files = render_v1(make_plan(DIGITS, work=HDFS, evaluators=8))
    jobs = {name: json.loads(text) for name, text in files.items()}
    assert list(jobs) == ["main1.json", "loop_outer.json", "loop_ncs.json", "evaluator.json"]
    for job in jobs.values():
        assert V1_NAME.fullmatch(job["jobName"])
        assert {"jobName", "image", "virtualCluster", "taskRoles"} <= set(job)
        (role,) = job["taskRoles"]
        assert {"name", "taskNumber", "cpuNumber", "memoryMB", "gpuNumber", "command"} <= set(role)
        assert f"--work {HDFS}" in role["command"]
    (evaluator,) = jobs["evaluator.json"]["taskRoles"]
    assert (evaluator["taskNumber"], evaluator["minFailedTaskCount"]) == (8, 8)
    assert len({job["jobName"] for job in jobs.values()}) == 4


@pytest.mark.parametrize("options", [{"storage": "nfs"}, {"work": HDFS, "secrets": ("COPPICE_HDFS_TOKEN",)}])
def test_what_job_json_has_no_words_for(options: dict[str, Any]) -> None:
    with pytest.raises(JobFileError, match=r"job JSON \(v1\)"):
        render_v1(make_plan(DIGITS, **options))


# Kubernetes


def kubernetes(**options: Any) -> dict[str, dict[str, Any]]:
    files = render_kubernetes(make_plan(DIGITS, **{"storage": "claim", "evaluators": 4, **options}))
    return {name: yaml.safe_load(text) for name, text in files.items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gpus": 0},
        {"storage": None, "work": HDFS},
        {"secrets": ("COPPICE_HDFS_TOKEN",)},
        {"evaluators": 1},
    ],
)
@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_kubernetes_takes_the_manifests(options: dict[str, Any], version: str) -> None:
    for manifest in kubernetes(**options).values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_that_validation_would_find_mistakes() -> None:
    job = kubernetes()["evaluator.yaml"]
    job["spec"]["completionMod"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("claim", ["NFS", "a_b", "a.-b", "a-"])
def test_a_name_that_no_claim_can_have(claim: str) -> None:
    with pytest.raises(JobFileError, match="is no name of a volume claim"):
        kubernetes(storage=claim)


def test_a_job_for_each_role_and_the_evaluators_indexed() -> None:
    manifests = kubernetes()
    jobs = {name: each for name, each in manifests.items() if each["kind"] == "Job"}
    assert list(jobs) == ["main1.yaml", "loop_outer.yaml", "loop_ncs.yaml", "evaluator.yaml"]
    spec = jobs["evaluator.yaml"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert spec["backoffLimitPerIndex"] > 0  # of one evaluator, not of all
    assert all(job["spec"]["backoffLimit"] > 0 for name, job in jobs.items() if name != "evaluator.yaml")
    for job in jobs.values():  # an eviction is no failure, and that can only be said of pods that stay
        assert job["spec"]["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    for manifest in manifests.values():
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", manifest["metadata"]["name"])


def test_the_config_map_holds_the_run_file(tmp_path: Path) -> None:
    manifests = kubernetes()
    (tmp_path / "run.yaml").write_text(manifests[RUN_FILE]["data"]["run.yaml"])
    assert load_run_file(tmp_path / "run.yaml") == load_run_file(DIGITS)
    pod = manifests["main1.yaml"]["spec"]["template"]["spec"]
    assert {"name": "run", "configMap": {"name": manifests[RUN_FILE]["metadata"]["name"]}} in pod["volumes"]


@pytest.mark.parametrize("run", ["digits", "Über_all.9", "x" * 100, "a-" * 50, "-", "0"])
def test_names_of_kubernetes(run: str) -> None:
    for role in ("", "master", "evaluator"):
        name = kubernetes_name(run, role, "1a2b3c4d")
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
        assert len(f"{name}-999") <= 63


# Names


def rendered(plan: Plan) -> list[str]:
    return [render_v2(plan), *render_kubernetes(plan).values()]


def test_the_same_plan_always_gets_the_same_text() -> None:
    assert rendered(make_plan(DIGITS, storage="nfs")) == rendered(make_plan(DIGITS, storage="nfs"))


def test_another_plan_gets_another_name(tmp_path: Path) -> None:
    other = put_run(tmp_path, re.sub(r"(?m)^seed: \d+", "seed: 77", DIGITS.read_text()))
    plans = [
        make_plan(DIGITS, storage="nfs"),
        make_plan(other, storage="nfs"),
        make_plan(DIGITS, storage="nfs", evaluators=9),
        make_plan(DIGITS, storage="other"),
        make_plan(DIGITS, work=HDFS),
        make_plan(DIGITS, storage="nfs", image="registry/coppice:2"),
    ]
    assert len({yaml.safe_load(render_v2(plan))["name"] for plan in plans}) == len(plans)
    first = [yaml.safe_load(render_kubernetes(plan)["main1.yaml"])["metadata"]["name"] for plan in plans]
    assert len(set(first)) == len(plans)


@pytest.mark.parametrize("name", ["digits", "a.b.c", "x" * 100, "9-lives_2.0"])
def test_names_are_valid(name: str, tmp_path: Path) -> None:
    path = put_run(tmp_path, f"name: {name}\n")
    job = yaml.safe_load(render_v2(make_plan(path, storage="nfs")))
    assert V2_NAME.fullmatch(job["name"])
    assert faults(job) == []
    for text in render_v1(make_plan(path, work=HDFS)).values():
        assert V1_NAME.fullmatch(json.loads(text)["jobName"])


# Secrets


def test_a_secret_is_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_HDFS_TOKEN", SECRET)
    plan = make_plan(DIGITS, work=HDFS, secrets=("COPPICE_HDFS_TOKEN",))
    for text in rendered(plan):
        assert SECRET not in text
    job = yaml.safe_load(render_v2(plan))
    assert job["secrets"] == {"COPPICE_HDFS_TOKEN": "${COPPICE_HDFS_TOKEN}"}
    for role in job["taskRoles"].values():
        assert role["commands"][0] == "export COPPICE_HDFS_TOKEN='<% $secrets.COPPICE_HDFS_TOKEN %>'"
    (container,) = yaml.safe_load(render_kubernetes(plan)["main1.yaml"])["spec"]["template"]["spec"][
        "containers"
    ]
    assert {
        "name": "COPPICE_HDFS_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "coppice", "key": "COPPICE_HDFS_TOKEN"}},
    } in container["env"]


def test_the_two_roles_that_tell_get_the_settings_of_status_messages() -> None:
    plan = make_plan(DIGITS, work=HDFS, status="/coppice/status.yaml")
    told = {"outer", "ncs"}
    for job in map(json.loads, render_v1(plan).values()):
        (role,) = job["taskRoles"]
        assert ("--status /coppice/status.yaml" in role["command"]) == (role["name"] in told)
    for name, role in yaml.safe_load(render_v2(plan))["taskRoles"].items():
        assert ("--status /coppice/status.yaml" in role["commands"][-1]) == (name in told)
    for text in render_kubernetes(plan).values():
        manifest = yaml.safe_load(text)
        if manifest["kind"] == "Job":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            tells = container["command"][-2:] == ["--status", "/coppice/status.yaml"]
            assert tells == (container["name"] in told)
    assert "--status" not in render_v2(make_plan(DIGITS, work=HDFS))


def test_where_the_settings_of_status_messages_must_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["openpai", "render", str(DIGITS), "--work", HDFS, "--status", "/coppice/status.yaml"]
    typer.main.get_command(app)(arguments, standalone_mode=False)
    assert "note: --status: /coppice/status.yaml: must be in the image or on the storage" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "secret", [SECRET, 'it\'s "quoted" \\ once', "schlüssel\tx", "two words: " * 20, "line\nline\u2028"]
)
@pytest.mark.parametrize("variable", ["COPPICE_HDFS_TOKEN", "COPPICE_OPENPAI_TOKEN", "COPPICE_MESSAGE_PW"])
def test_a_secret_in_the_run_file_is_refused(
    variable: str, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, secret)
    key = json.dumps(f"-{secret}-")
    path = put_run(tmp_path, f"name: demo\nmodel: {{name: 'mine:net', arguments: {{key: {key}}}}}\n")
    with pytest.raises(JobFileError, match=f"would show the value of {variable}") as raised:
        render_v2(make_plan(path, storage="nfs"))
    assert secret not in str(raised.value)
    with pytest.raises(JobFileError):
        render_v1(make_plan(path, work=HDFS))
    with pytest.raises(JobFileError):
        render_kubernetes(make_plan(path, storage="nfs"))


# Mistakes


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "no work folder that all containers see ('work/digits' is not one)"),
        ({"work": "work/here"}, "no work folder that all containers see"),
        ({"work": "hdfs://namenode:9000/work"}, "no work folder that all containers see"),
        ({"work": "memory:demo"}, "no work folder that all containers see"),
        ({"work": "webhdfs://anna:secret@nn:9870/work"}, "no password belongs into a URL"),
        ({"work": "/mnt/a b"}, "neither spaces nor <% in it"),
        ({"storage": "nfs", "work": HDFS}, "with --storage nfs it must lie in /mnt/nfs"),
        ({"storage": "nfs", "work": "/mnt/nfs2/work"}, "with --storage nfs it must lie in /mnt/nfs"),
        ({"storage": "nfs", "work": "/mnt/nfs/../etc"}, "with --storage nfs it must lie in /mnt/nfs"),
        ({"storage": "../etc"}, "--storage: '../etc' is no name of a storage"),
        ({"storage": "nfs", "secrets": ("A=b",)}, "--secret: 'A=b' is no name of an environment variable"),
        ({"storage": "nfs", "status": "status.yaml"}, "--status 'status.yaml': give the path at which"),
        ({"storage": "nfs", "status": "/a b"}, "neither spaces nor <"),
        ({"storage": "nfs", "image": "two words"}, "--image: 'two words' is no name of an image"),
        ({"storage": "nfs", "in_image": True}, "--in-image: "),
    ],
)
def test_what_cannot_be_rendered(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(JobFileError) as raised:
        make_plan(DIGITS, **options)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "secret@" not in str(raised.value)


# What is shipped


def test_shipped_jobs_are_what_the_commands_in_the_docs_write() -> None:
    """docs/deploy.md has the two commands."""
    page = (REPO / "docs/deploy.md").read_text()
    run = "jobs/lenet300-mnist.yaml"
    for line in (
        f"coppice openpai render {run} --in-image --v1 --work {HDFS} --evaluators 8 --to openpai",
        f"coppice openpai render {run} --in-image --storage nfs --evaluators 8 --to openpai",
    ):
        assert f"    {line}" in page
        typer.main.get_command(app).make_context("coppice", shlex.split(line)[1:])


def test_shipped_jobs_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    run = Path("jobs/lenet300-mnist.yaml")
    expected = render_v1(make_plan(run, in_image=True, work=HDFS, evaluators=8))
    expected[V2_FILE] = render_v2(make_plan(run, in_image=True, storage="nfs", evaluators=8))
    there = {path.name: path.read_text() for path in (REPO / "openpai").iterdir()}
    assert there == expected


@pytest.mark.parametrize("path", [*SHIPPED_V1, REPO / "openpai" / V2_FILE], ids=lambda path: path.name)
def test_shipped_jobs_can_be_submitted(path: Path) -> None:
    (job,) = read_jobs([path])
    assert __version__ in path.read_text()
    if job.generation == "v2":
        assert faults(job.content) == []
