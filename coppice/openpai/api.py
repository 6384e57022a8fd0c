"""OpenPAI's two APIs as one: job JSON under /api/v1 (up to 0.14), protocol YAML under /api/v2."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from coppice.errors import printable
from coppice.openpai.client import Client
from coppice.openpai.errors import ClusterError, JobFileError, NoSuchJob
from coppice.openpai.jobs import Generation, JobFile
from coppice.openpai.text import from_json, from_yaml

ENDED = frozenset(("SUCCEEDED", "FAILED", "STOPPED"))
"""States that a job stays in. The others: WAITING, RUNNING, STOPPING, UNKNOWN."""
_LATEST_MS = 1 << 47
"""Some 2,000 years from now: no calendar is asked about times beyond."""
_WANTED_LOGS = ("all", "stderr", "stdout")
"""Best first; roles write to stderr."""


@dataclass(frozen=True, slots=True)
class Task:
    """One container of a job."""

    role: str
    index: int
    state: str
    exit_code: int | None
    node: str
    retries: int
    log: str
    """Address of its log, as the server gave it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the cluster sees it."""

    name: str
    user: str
    state: str
    virtual_cluster: str
    retries: int
    created_s: float | None
    """Seconds since 1970."""
    ended_s: float | None
    exit_code: int | None
    reason: str
    """Why it ended, if the cluster says so."""
    tasks: list[Task] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether its state will not change any more."""
        return self.state in ENDED

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


class Api:
    """What can be asked of a cluster, in one generation of its API."""

    def __init__(self, client: Client, generation: Generation) -> None:
        self.client = client
        self.generation = generation

    def post(self, job: JobFile) -> None:
        """Submit, once. Raises `JobExists`, `Doubtful` or another `ClusterError`."""
        if self.generation == "v1":
            path = f"/api/v1/user/{quote(self.client.cluster.user)}/jobs"
            self.client.call("POST", path, data=job.body())
        else:
            self.client.call("POST", "/api/v2/jobs", data=job.body(), kind="text/yaml")

    def get(self, name: str) -> Job:
        """Raises `NoSuchJob`."""
        path = self._path(name)
        content = self.client.until_answered(lambda: self.client.call("GET", path)).content
        if not isinstance(content, dict) or not isinstance(content.get("jobStatus"), dict):
            raise ClusterError(
                f"{self.client.cluster.rest}: what it says of {name} is no job; check --url, and --v1"
            )
        return _job(content, name)

    def find(self, name: str) -> Job | None:
        """The same, None where there is none."""
        try:
            return self.get(name)
        except NoSuchJob:
            return None

    def config(self, name: str) -> Any:
        """What was submitted; None where the cluster does not know any more, or gives what cannot be read."""
        path = f"{self._path(name)}/config"
        try:
            content = self.client.until_answered(lambda: self.client.call("GET", path)).content
        except NoSuchJob:
            return None
        if not isinstance(content, str):
            return content
        try:
            return from_json(content, name) if self.generation == "v1" else from_yaml(content, name)
        except JobFileError:
            return None

    def list(self) -> list[Job]:
        """The user's jobs, the newest first."""
        user = self.client.cluster.user
        path = (
            f"/api/v1/user/{quote(user)}/jobs"
            if self.generation == "v1"
            else f"/api/v2/jobs?{urlencode({'username': user})}"
        )
        content = self.client.until_answered(lambda: self.client.call("GET", path)).content
        if not isinstance(content, list):
            raise ClusterError(f"{self.client.cluster.rest}: the list of jobs is none; check --url, and --v1")
        jobs = [_job(each, "?") for each in content if isinstance(each, dict)]
        return sorted(jobs, key=lambda job: job.created_s or 0.0, reverse=True)

    def stop(self, name: str) -> None:
        """Ask for the end of a job; to be asked twice does no harm."""
        path, data = f"{self._path(name)}/executionType", json.dumps({"value": "STOP"})
        self.client.until_answered(lambda: self.client.call("PUT", path, data=data))

    def log(self, task: Task, whole: bool = False) -> tuple[str, str]:
        """What a task wrote, its last part unless `whole`, and where; "" where only a browser can show it."""
        if not task.log:
            raise NoSuchJob(f"{task.role} {task.index}: the cluster names no log of it (yet)")
        if not task.log.startswith("/api/"):
            return self.client.text(task.log)
        path = task.log if whole else f"{task.log}?tail-mode=true"
        said = self.client.until_answered(lambda: self.client.call("GET", path)).content
        places = said.get("locations") if isinstance(said, dict) else None
        known = {
            str(each.get("name")): str(each.get("uri"))
            for each in places or []
            if isinstance(each, dict) and each.get("uri")
        }
        for wanted in _WANTED_LOGS:
            if wanted in known:
                return self.client.text(known[wanted])
        raise NoSuchJob(f"{task.role} {task.index}: the cluster has no log of it (yet)")

    def _path(self, name: str) -> str:
        user, tilde, job = name.rpartition("~")
        user = user if tilde else self.client.cluster.user
        if self.generation == "v1":
            return f"/api/v1/user/{quote(user)}/jobs/{quote(job)}"
        return f"/api/v2/jobs/{quote(user)}~{quote(job)}"


def _job(content: Any, name: str) -> Job:
    """From a detail or from an entry of the list; what is missing there is missing here."""
    said: dict[str, Any] = content if isinstance(content, dict) else {}
    status = said.get("jobStatus") if isinstance(said.get("jobStatus"), dict) else said
    assert isinstance(status, dict)
    roles = said.get("taskRoles")
    tasks = [
        _task(str(role), each)
        for role, detail in (roles.items() if isinstance(roles, dict) else ())
        if isinstance(detail, dict)
        for each in _list(detail.get("taskStatuses"))
    ]
    return Job(
        name=str(said.get("name") or name),
        user=str(status.get("username") or ""),
        state=_line(status.get("state") or "UNKNOWN"),
        virtual_cluster=str(status.get("virtualCluster") or ""),
        retries=_number(status.get("retries")) or 0,
        created_s=_seconds(status.get("createdTime")),
        ended_s=_seconds(status.get("completedTime")),
        exit_code=_number(status.get("appExitCode")),
        reason=_reason(status),
        tasks=tasks,
    )


def _task(role: str, said: dict[str, Any]) -> Task:
    return Task(
        role=role,
        index=_number(said.get("taskIndex")) or 0,
        state=_line(said.get("taskState") or "UNKNOWN"),
        exit_code=_number(said.get("containerExitCode")),
        node=str(said.get("containerNodeName") or said.get("containerIp") or ""),
        retries=_number(said.get("retries")) or 0,
        log=str(said.get("containerLog") or ""),
    )


def _list(value: Any) -> list[dict[str, Any]]:
    """v1's page writes one object where there are several."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, dict)]


def _reason(status: dict[str, Any]) -> str:
    for key in ("appExitTriggerMessage", "appExitDiagnostics"):
        if isinstance(status.get(key), str) and status[key].strip():
            return _line(status[key])
    return ""


def _line(value: Any) -> str:
    """Text from outside for a terminal: one line, nothing in it that steers."""
    return printable(" ".join(str(value).split())[:300])


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(value: Any) -> float | None:
    return value / 1000 if isinstance(value, int | float) and 0 < value < _LATEST_MS else None
