"""An OpenPAI of the tests' own: both APIs as documented, over real HTTP, with their limits and errors.

What the documents say it does; where they are silent, what the published REST server does: one name space a
user, names that are never free again, secrets masked in what it shows.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.openpai.schema import faults
from tests.support.http_server import FakeServer, Reply, Request, cuts, fake_server, says

V1_JOBS = re.compile(r"/api/v1/user/(?P<user>[^/]+)/jobs(?:/(?P<job>[^/]+)(?P<more>/.*)?)?")
V2_JOBS = re.compile(r"/api/v2/jobs(?:/(?P<user>[^/~]+)~(?P<job>[^/]+)(?P<more>/.*)?)?")


def token_of(user: str) -> str:
    """A JSON web token as OpenPAI makes them."""
    parts = (
        json.dumps(each).encode() for each in ({"alg": "HS256"}, {"username": user, "application": True})
    )
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "signature"])


@dataclass
class PaiJob:
    """A job that the server has."""

    user: str
    name: str
    config: dict[str, Any]
    text: str
    """As it came, secrets masked."""
    roles: dict[str, int]
    virtual_cluster: str
    states: list[str] = field(default_factory=lambda: ["WAITING"])
    """The first is the one at the next look; the last stays."""

    def look(self) -> str:
        """The state, which goes on."""
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@dataclass
class Pai:
    """What the server knows, and how it behaves."""

    tokens: dict[str, str] = field(default_factory=lambda: {token_of("anna"): "anna", token_of("ben"): "ben"})
    virtual_clusters: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"default": ("anna", "ben"), "gpu": ("ben",)}
    )
    storages: tuple[str, ...] = ("nfs",)
    jobs: dict[tuple[str, str], PaiJob] = field(default_factory=dict)
    logs: dict[tuple[str, str, int], str] = field(default_factory=dict)
    """By job, role and index: what a container wrote."""
    calls_a_minute: int = 600
    submissions_an_hour: int = 60
    retry_after: str | None = "7"
    upcoming: list[str] = field(default_factory=list)
    """What befalls the next submissions: 500, 404, cut (all after the job was taken), or lost-... before."""
    troubles: list[Reply] = field(default_factory=list)
    """Answers to the next requests of any other kind."""
    _calls: list[float] = field(default_factory=list)
    _submissions: dict[str, list[float]] = field(default_factory=dict)

    def respond(self, request: Request) -> Reply:
        """Answer one request."""
        if request.path.startswith("/log-manager/"):
            return self._log(request)
        path = request.path.removeprefix("/rest-server")
        if path == request.path:
            return Reply(200, b"<html>the portal</html>", {"Content-Type": "text/html; charset=utf-8"})
        now = time.monotonic()
        self._calls = [each for each in self._calls if each > now - 60] + [now]
        if len(self._calls) > self.calls_a_minute:
            return self._too_many()
        user = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if user is None:
            return error(401, "UnauthorizedUserError", "Guest is not allowed to do this operation.")
        for generation, pattern in (("v1", V1_JOBS), ("v2", V2_JOBS)):
            match = pattern.fullmatch(path)
            if match is not None:
                if request.method == "POST" and match["job"] is None:
                    return self._submit(request, generation, user)
                if self.troubles:
                    return self.troubles.pop(0)
                if match["job"] is None:
                    return self._list(match.groupdict().get("user") or request.query.get("username"))
                return self._one(request, generation, user, match)
        return error(404, "NoApiError", f"API {path} is not found.")

    def _too_many(self) -> Reply:
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        return Reply(
            429, b"Too many requests, please try again later.", {"Content-Type": "text/html", **headers}
        )

    # Submitting

    def _submit(self, request: Request, generation: str, user: str) -> Reply:
        now = time.monotonic()
        mine = [each for each in self._submissions.get(user, []) if each > now - 3600] + [now]
        self._submissions[user] = mine
        if len(mine) > self.submissions_an_hour:
            return self._too_many()
        fate = self.upcoming.pop(0) if self.upcoming else ""
        if fate.startswith("lost"):
            return cuts() if fate == "lost-cut" else error(500, "UnknownError", "socket hang up")
        wanted = "application/json" if generation == "v1" else "text/yaml"
        if request.headers.get("content-type", "").partition(";")[0] != wanted:
            return error(400, "InvalidParametersError", f"expected {wanted}")
        taken = self._take_v1(request, user) if generation == "v1" else self._take_v2(request, user)
        if isinstance(taken, Reply):
            return taken
        self.jobs[user, taken.name] = taken
        if fate == "cut":
            return cuts()
        if fate == "500":
            return error(500, "UnknownError", "upstream timed out")
        if fate == "404":
            return error(404, "NoJobError", f"Job {user}~{taken.name} is not found.")
        return says({"message": f"update job {taken.name} successfully"}, 202)

    def _take_v1(self, request: Request, user: str) -> PaiJob | Reply:
        job = json.loads(request.body)
        wrong = _v1_faults(job)
        if wrong:
            return error(400, "InvalidParametersError", wrong)
        refused = self._refusal(user, job["jobName"], job.get("virtualCluster", "default"))
        roles = {role["name"]: role.get("taskNumber", 1) for role in job["taskRoles"]}
        text = request.body.decode()
        return refused or PaiJob(user, job["jobName"], job, text, roles, job.get("virtualCluster", "default"))

    def _take_v2(self, request: Request, user: str) -> PaiJob | Reply:
        job = yaml.safe_load(request.body)
        wrong = faults(job)
        if wrong:
            return error(400, "InvalidProtocolError", "; ".join(wrong))
        cluster = job.get("defaults", {}).get("virtualCluster", "default")
        refused = self._refusal(user, job["name"], cluster)
        if refused is not None:
            return refused
        for storage in job.get("extras", {}).get("storages", []):
            if storage["name"] not in self.storages:
                return error(404, "NoStorageError", f"Storage {storage['name']} is not found.")
        shown = {**job, **({"secrets": "******"} if "secrets" in job else {})}
        roles = {name: role.get("instances", 1) for name, role in job["taskRoles"].items()}
        return PaiJob(user, job["name"], job, yaml.safe_dump(shown), roles, cluster)

    def _refusal(self, user: str, name: str, cluster: str) -> Reply | None:
        if cluster not in self.virtual_clusters:
            return error(400, "NoVirtualClusterError", f"Virtual cluster {cluster} is not found.")
        if user not in self.virtual_clusters[cluster]:
            return error(
                403, "ForbiddenUserError", f"User {user} is not allowed to do operation in {cluster}"
            )
        if (user, name) in self.jobs:
            return error(409, "ConflictJobError", f"Job {user}~{name} already exists.")
        return None

    # Asking

    def _list(self, user: str | None) -> Reply:
        return says([self._summary(job) for job in self.jobs.values() if user in (None, job.user)])

    def _one(self, request: Request, generation: str, user: str, match: re.Match[str]) -> Reply:
        job = self.jobs.get((match["user"], match["job"]))
        if job is None:
            return error(404, "NoJobError", f"Job {match['user']}~{match['job']} is not found.")
        more = match["more"] or ""
        if request.method == "PUT" and more == "/executionType":
            if job.user != user:
                return error(
                    403, "ForbiddenUserError", f"User {user} is not allowed to execute job {job.name}."
                )
            assert json.loads(request.body) == {"value": "STOP"}
            job.states = ["STOPPING", "STOPPED"]
            return says(
                {"message": f"execute job {job.name} successfully"}, 200 if generation == "v1" else 202
            )
        if more == "/config":
            kind = "text/plain" if generation == "v1" else "text/yaml"
            return Reply(200, job.text.encode(), {"Content-Type": kind})
        if more.endswith("/logs"):
            return self._locations(job, more, request.query.get("tail-mode") == "true")
        return says(self._detail(job, generation)) if not more else error(404, "NoApiError", "no such API")

    def _summary(self, job: PaiJob) -> dict[str, Any]:
        return {
            "name": job.name, "username": job.user, "state": job.states[0], "subState": "AttemptRunning",
            "executionType": "START", "retries": 0, "retryDetails": {"user": 0, "platform": 0, "resource": 0},
            "createdTime": 1_700_000_000_000, "completedTime": None, "appExitCode": None,
            "virtualCluster": job.virtual_cluster,
        }  # fmt: skip

    def _detail(self, job: PaiJob, generation: str) -> dict[str, Any]:
        state = job.look()
        status = {**self._summary(job), "state": state}
        if state == "FAILED":
            message = "FailedTaskCount 1 has reached MinFailedTaskCount 1 in the TaskRole [outer]"
            status |= {
                "appExitTriggerMessage": message,
                "appExitCode": 137,
                "completedTime": 1_700_000_100_000,
            }
        return {
            "name": job.name,
            "jobStatus": status,
            "taskRoles": {
                role: {
                    "taskRoleStatus": {"name": role},
                    "taskStatuses": [self._task(job, generation, role, i, state) for i in range(count)],
                }
                for role, count in job.roles.items()
            },
        }

    def _task(self, job: PaiJob, generation: str, role: str, index: int, state: str) -> dict[str, Any]:
        place = f"attempts/0/taskRoles/{role}/taskIndex/{index}/attempts/0/logs"
        log = f"/api/v2/jobs/{job.user}~{job.name}/{place}"
        if generation == "v1":
            log = f"/log-manager/page/{job.name}/{role}/{index}"
        return {
            "taskIndex": index, "taskState": state, "containerId": "c0ffee", "containerIp": "10.0.0.7",
            "containerExitCode": 137 if state == "FAILED" else None, "containerLog": log, "retries": 0,
        }  # fmt: skip

    def _locations(self, job: PaiJob, more: str, tail: bool) -> Reply:
        match = re.fullmatch(r"/attempts/0/taskRoles/(\w+)/taskIndex/(\d+)/attempts/0/logs", more)
        assert match is not None
        if (job.name, match[1], int(match[2])) not in self.logs:
            return error(404, "NoTaskLogError", "Log of task is not found.")
        end = "&tail-mode=true" if tail else ""
        place = f"/log-manager/10.0.0.7:9103/{job.name}/{match[1]}/{match[2]}"
        return says(
            {"locations": [{"name": n, "uri": f"{place}/{n}?token=x{end}"} for n in ("stdout", "all")]}
        )

    def _log(self, request: Request) -> Reply:
        parts = request.path.split("/")
        if parts[2] == "page":
            return Reply(200, b"<html>a page</html>", {"Content-Type": "text/html"})
        text = self.logs[parts[3], parts[4], int(parts[5])]
        text = text[-20:] if request.query.get("tail-mode") == "true" else text
        return Reply(200, text.encode(), {"Content-Type": "text/plain"})


def error(status: int, code: str, message: str) -> Reply:
    """As OpenPAI says no."""
    return says({"code": code, "message": message}, status)


def _v1_faults(job: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9\-._]+", str(job.get("jobName", ""))) or not job.get("image"):
        return "jobName and image are required"
    for role in job.get("taskRoles") or [{}]:
        if not re.fullmatch(r"[A-Za-z0-9._~]+", str(role.get("name", ""))) or not role.get("command"):
            return "a task role needs name and command"
        for key in ("taskNumber", "cpuNumber", "memoryMB", "gpuNumber"):
            if not isinstance(role.get(key, 1), int):
                return f"{key} must be an integer"
    known = {
        "jobName", "image", "authFile", "dataDir", "outputDir", "codeDir", "virtualCluster", "gpuType",
        "retryCount", "jobEnvs", "extras", "taskRoles",
    }  # fmt: skip
    unknown = set(job) - known
    return f"{min(unknown)} is not allowed" if unknown else ""


@contextmanager
def running(pai: Pai) -> Iterator[FakeServer]:
    """The server, on a port of its own."""
    with fake_server(pai.respond) as server:
        yield server
