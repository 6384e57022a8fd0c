"""Every rendered command line is run, from a clean clone: a job that was submitted would have run.

What a cluster adds is put in here: the folder /coppice of the image is the clone, the mounted storage is a
folder, the variables that OpenPAI and Kubernetes set are set.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from coppice.openpai.jobs import read_jobs
from coppice.openpai.kubernetes import RUN_FILE, RUN_FOLDER, render_kubernetes
from coppice.openpai.plan import CODE, RUN_IN_CONTAINER, make_plan
from coppice.openpai.render import render_v1, render_v2
from coppice.store import open_store
from coppice.work import names
from coppice.work.presence import read_role_file, role_files

REPO = Path(__file__).resolve().parents[2]
TINY = """
name: tiny
model: {name: mlp, arguments: {inputs: 64, hidden: [16], classes: 10}}
data: {name: digits}
reference: {iterations: 60}
rounds: {iterations: 20, tmax: 40}
surgery: {prune_until: 20}
search: {population: 2, evaluations: 4}
constraint: {accuracy_drop: 0.5, samples: 100}
"""
PATIENCE_S = 240.0


@dataclass
class Task:
    """One container: what it runs, in which environment."""

    command: str
    environment: dict[str, str]


@dataclass
class Cluster:
    """Stands for the cluster's machines."""

    clone: Path
    share: Path
    """Mounted at /mnt/share."""
    local: Path
    """What containers have of their own."""

    def mapped(self, text: str) -> str:
        """Paths of containers as paths here."""
        for there, here in (
            (RUN_IN_CONTAINER, self.local / "run.yaml"),
            (RUN_FOLDER, self.local),
            (CODE, self.clone),
            ("/mnt/share", self.share),
        ):
            words = text.replace(f" {there}", f" {here}")
            text = words if not words.startswith(there) else str(here) + words[len(there) :]
        return text

    def run(self, tasks: list[Task]) -> list[int]:
        """All at once, to their end; returns the exit statuses."""
        processes = [self.start(task, self.local / f"{n}.log") for n, task in enumerate(tasks)]
        deadline = time.monotonic() + PATIENCE_S
        try:
            return [process.wait(max(0.0, deadline - time.monotonic())) for process in processes]
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, task: Task, log: Path) -> subprocess.Popen[bytes]:
        """One container, in a session of its own."""
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("PAI_", "COPPICE_", "PYTHONPATH"))
        }
        environment = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            **task.environment,
        }
        with log.open("wb") as out:
            return subprocess.Popen(
                ["bash", "-c", self.mapped(task.command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.local,
                env=environment,
                start_new_session=True,
            )

    def said(self) -> str:
        """What all containers wrote."""
        return "\n".join(log.read_text() for log in sorted(self.local.glob("*.log")))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is committed, and nothing else."""
    folder = tmp_path_factory.mktemp("image") / "coppice"
    subprocess.run(["git", "clone", "-q", "--no-local", "--depth", "1", f"file://{REPO}", folder], check=True)
    return folder


@pytest.fixture
def cluster(clone: Path, tmp_path: Path) -> Cluster:
    for name in ("share", "local"):
        (tmp_path / name).mkdir()
    (tmp_path / "tiny.yaml").write_text(TINY)
    return Cluster(clone, tmp_path / "share", tmp_path / "local")


def run_file(cluster: Cluster) -> Path:
    return cluster.share.parent / "tiny.yaml"


def check_ran(cluster: Cluster, work: Path, tasks: list[Task], containers: set[str]) -> None:
    """All roles end with 0, the result is there, and every heartbeat says which container it was."""
    statuses = cluster.run(tasks)
    assert statuses == [0] * len(tasks), cluster.said()
    result = json.loads((work / names.RESULT_JSON).read_text())
    assert result["name"] == "tiny"
    assert result["compression"] > 1
    with open_store(str(work)) as store:
        files = {file.path: read_role_file(store, file.path) for file in role_files(store)}
        assert {(content or {})["container"] for content in files.values()} == containers
        workers = {str((content or {})["worker"]) for content in files.values()}
    assert len(workers) == len(tasks)


def pai_environment(job: str, role: str, index: int) -> dict[str, str]:
    """What OpenPAI sets, of what there is room for."""
    return {
        "PAI_JOB_NAME": f"anna~{job}",
        "PAI_USER_NAME": "anna",
        "PAI_DEFAULT_FS_URI": "",
        "PAI_CURRENT_TASK_ROLE_NAME": role,
        "PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX": str(index),
        "PAI_TASK_INDEX": str(index),
    }


def test_job_json(cluster: Cluster) -> None:
    """First, since its one evaluator compiles for all that follow."""
    jobs = [
        json.loads(text)
        for text in render_v1(
            make_plan(run_file(cluster), work=str(cluster.share / "work"), evaluators=1)
        ).values()
    ]
    tasks = [
        Task(role["command"], pai_environment(job["jobName"], role["name"], index))
        for job in jobs
        for role in job["taskRoles"]
        for index in range(role["taskNumber"])
    ]
    containers = {f"anna~{job['jobName']} {job['taskRoles'][0]['name']} 0" for job in jobs}
    check_ran(cluster, cluster.share / "work", tasks, containers)


def as_openpai_joins(role: dict[str, Any], secrets: dict[str, str]) -> str:
    """Entries of `commands` trimmed, joined by &&, and templates filled in."""
    command = " && ".join(each.strip() for each in role["commands"])
    return re.sub(r"<%\s*\$secrets\.(\w+)\s*%>", lambda match: secrets[match[1]], command)


def test_protocol_v2(cluster: Cluster) -> None:
    plan = make_plan(run_file(cluster), storage="share", evaluators=2, secrets=("COPPICE_HDFS_TOKEN",))
    job = yaml.safe_load(render_v2(plan))
    tasks = [
        Task(as_openpai_joins(role, {"COPPICE_HDFS_TOKEN": "abc"}), pai_environment(job["name"], name, index))
        for name, role in job["taskRoles"].items()
        for index in range(role["instances"])
    ]
    assert all("export COPPICE_HDFS_TOKEN='abc' && " in task.command for task in tasks)
    containers = {
        f"anna~{job['name']} {role}"
        for role in ("master 0", "outer 0", "ncs 0", "evaluator 0", "evaluator 1")
    }
    check_ran(cluster, cluster.share / "coppice" / "tiny", tasks, containers)


def test_kubernetes(cluster: Cluster) -> None:
    """The run file comes from the ConfigMap that the master mounts; commands run in their workingDir."""
    files = {
        name: yaml.safe_load(text)
        for name, text in render_kubernetes(
            make_plan(run_file(cluster), storage="share", evaluators=1)
        ).items()
    }
    (volume,) = (v for v in pod(files["main1.yaml"])["volumes"] if "configMap" in v)
    assert volume["configMap"]["name"] == files[RUN_FILE]["metadata"]["name"]
    for name, text in files.pop(RUN_FILE)["data"].items():
        (cluster.local / name).write_text(text)
    tasks = []
    for job in files.values():
        (container,) = pod(job)["containers"]
        environment = {}
        for each in container["env"]:
            assert each["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            environment[each["name"]] = f"{job['metadata']['name']}-x7k2p"
        command = f"cd {container['workingDir']} && exec {shlex.join(container['command'])}"
        tasks += [Task(command, environment)] * job["spec"].get("completions", 1)
    containers = {task.environment["COPPICE_CONTAINER"] for task in tasks}
    check_ran(cluster, cluster.share / "coppice" / "tiny", tasks, containers)


def pod(job: dict[str, Any]) -> dict[str, Any]:
    """The pod of a Job's manifest."""
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def shipped() -> list[tuple[str, str]]:
    """The commands in openpai/, by task role."""
    commands = []
    for job in read_jobs(sorted((REPO / "openpai").iterdir())):
        if job.generation == "v1":
            commands += [(role["name"], role["command"]) for role in job.content["taskRoles"]]
        else:
            roles = job.content["taskRoles"].items()
            commands += [(name, as_openpai_joins(role, {})) for name, role in roles]
    return commands


@pytest.mark.parametrize(("role", "command"), [pair for pair in shipped() if pair[0] in ("master", "ncs")])
def test_shipped_commands_begin_as_they_should(role: str, command: str, cluster: Cluster) -> None:
    """Those that need neither GPU nor torch: up to where they wait for others."""
    work = cluster.share / "work"
    here = re.sub(r"--work \S+", f"--work {work}", command)
    process = cluster.start(Task(here, {}), cluster.local / "0.log")
    try:
        wanted = "round 1: 500 iterations" if role == "master" else "no run yet; waiting for the master"
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in cluster.said() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        assert wanted in cluster.said()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) in (143, -signal.SIGTERM)  # the role's, or the shell's around it
    if role == "master":
        assert json.loads((work / names.RUN).read_text())["run_file"]["name"] == "lenet300-mnist"


def test_shipped_commands_of_the_others_are_those_that_were_tried(cluster: Cluster) -> None:
    tried = yaml.safe_load(render_v2(make_plan(run_file(cluster), storage="share")))["taskRoles"]
    for role, command in shipped():
        if role in ("outer", "evaluator"):
            same = re.sub(r"--work \S+", "--work /mnt/share/coppice/tiny", command)
            assert same == as_openpai_joins(tried[role], {})
