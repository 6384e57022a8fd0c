"""From job JSON (v1) to protocol YAML (v2): what it can say is said, what it cannot is told."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from coppice.openpai import names
from coppice.openpai.errors import JobFileError

_IMAGE = "image"
_FOR_EVER = 1000
"""Retries where v1 says without end (-1)."""
_FOLDERS = {
    "dataDir": ("data", "PAI_DATA_DIR", "<% $data.uri[0] %>"),
    "outputDir": ("output", "PAI_OUTPUT_DIR", "<% $output.uri %>"),
    "codeDir": ("script", "PAI_CODE_DIR", "<% $script.uri %>"),
}
"""By v1's key: the kind of prerequisite, the variable that v1 sets, and what v2 writes for its value."""


class _Loose(BaseModel):
    """v1's server turns "2" into 2 and knows a default for nearly everything."""

    model_config = ConfigDict(extra="allow", frozen=True)


class PortV1(_Loose):
    """A port that the cluster chooses."""

    label: str
    beginAt: int = 0
    portNumber: int = Field(default=1, ge=1)


class TaskRoleV1(_Loose):
    """One of a v1 job's task roles."""

    name: str = Field(pattern=r"^[A-Za-z0-9._~-]+$")
    taskNumber: int = Field(default=1, ge=1)
    cpuNumber: int = Field(default=1, ge=1)
    memoryMB: int = Field(default=100, ge=1)
    shmMB: int | None = Field(default=None, ge=1)
    gpuNumber: int = Field(default=0, ge=0)
    portList: list[PortV1] = []
    command: str = Field(min_length=1)
    minFailedTaskCount: int | None = 1
    minSucceededTaskCount: int | None = None


class JobV1(_Loose):
    """A v1 job, as OpenPAI up to 0.14 takes it."""

    jobName: str = Field(pattern=r"^[A-Za-z0-9\-._~]+$")
    image: str = Field(min_length=1)
    authFile: str = ""
    dataDir: str = ""
    outputDir: str = ""
    codeDir: str = ""
    virtualCluster: str = "default"
    gpuType: str = ""
    retryCount: int = Field(default=0, ge=-2)
    jobEnvs: dict[str, str | int | float | bool | None] = {}
    extras: dict[str, Any] = {}
    taskRoles: list[TaskRoleV1] = Field(min_length=1)

    @field_validator("taskRoles", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


def parse_v1(content: Any, origin: str) -> JobV1:
    """Raises `JobFileError`: one line with the key and what is wrong."""
    if not isinstance(content, dict):
        raise JobFileError(f"{origin}: expected one job with jobName, image and taskRoles")
    try:
        return JobV1.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise JobFileError(f"{origin}: {key}: {first['msg']}; this is no job JSON (v1)") from error


@dataclass(slots=True)
class Converted:
    """A v2 job, and what its owner should know of it."""

    job: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def convert(job: JobV1) -> Converted:
    """The same job in protocol v2."""
    done = Converted({"protocolVersion": 2, "name": names.as_v2(job.jobName), "type": "job"})
    if done.job["name"] != job.jobName:
        done.notes.append(f"jobName: now {done.job['name']}; v2 knows letters, digits, '_' and '-' only")
    prerequisites: list[dict[str, Any]] = [{"name": _IMAGE, "type": "dockerimage", "uri": job.image}]
    for key, (kind, _, _) in _FOLDERS.items():
        place = getattr(job, key)
        if place:
            prerequisites.append({"name": kind, "type": kind, "uri": [place] if kind == "data" else place})
    done.job["prerequisites"] = prerequisites
    if job.retryCount:
        retries = {-1: _FOR_EVER, -2: 0}.get(job.retryCount, job.retryCount)
        done.job["jobRetryCount"] = retries
        if retries != job.retryCount:
            done.notes.append(f"retryCount: v2 has no {job.retryCount}; now jobRetryCount: {retries}")
    done.job["taskRoles"] = {}
    for role in job.taskRoles:
        done.job["taskRoles"][_role_name(role, done)] = _role(job, role, done)
    if job.virtualCluster:
        done.job["defaults"] = {"virtualCluster": job.virtualCluster}
    if job.extras:
        done.job["extras"] = dict(job.extras)
    done.notes += _left_out(job)
    return done


def _role_name(role: TaskRoleV1, done: Converted) -> str:
    name = _free(names.as_v2_role(role.name), done.job["taskRoles"])
    if name != role.name:
        done.notes.append(
            f"taskRoles: {role.name} is now {name}, also in variables such as PAI_HOST_IP_{name}_0"
        )
    return name


def _free(wanted: str, taken: Collection[str]) -> str:
    """A name that is not taken: the wanted one, or with _2, _3, ..."""
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _role(job: JobV1, role: TaskRoleV1, done: Converted) -> dict[str, Any]:
    ports: dict[str, int] = {}
    for port in role.portList:
        label = _free(names.as_v2_role(port.label), ports)
        ports[label] = port.portNumber
        if label != port.label:
            done.notes.append(f"portList: {port.label} is now {label}, also in variables with its name")
        if port.beginAt:
            done.notes.append(f"portList: {port.label}: v2 chooses ports itself; beginAt is left out")
    converted: dict[str, Any] = {
        "instances": role.taskNumber,
        "completion": {
            # In v1 no number means never; in v2 it would mean 1 and all.
            "minFailedInstances": role.minFailedTaskCount or -1,
            "minSucceededInstances": role.minSucceededTaskCount or -1,
        },
        "dockerImage": _IMAGE,
    }
    for key, (kind, _, _) in _FOLDERS.items():
        if getattr(job, key):
            converted[kind] = kind
    if role.shmMB:
        converted["extraContainerOptions"] = {"shmMB": role.shmMB}
    converted["resourcePerInstance"] = {
        "cpu": role.cpuNumber,
        "memoryMB": role.memoryMB,
        "gpu": role.gpuNumber,
        **({"ports": ports} if ports else {}),
    }
    converted["commands"] = [_command(job, role, done)]
    return converted


def _command(job: JobV1, role: TaskRoleV1, done: Converted) -> str:
    """One entry of several lines: entries are joined by &&, which a command with & or # would not survive."""
    exports = [
        f'export {variable}="{value}"' for key, (_, variable, value) in _FOLDERS.items() if getattr(job, key)
    ]
    for name, value in job.jobEnvs.items():
        if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
            exports.append(_unread(f"export {name}={shlex.quote(text)}"))
        else:
            done.notes.append(f"jobEnvs: {name!r} is no name of a variable; left out")
    return "\n".join([*exports, _unread(role.command.strip())])


def _unread(command: str) -> str:
    """A command that holds what v2 takes for a template of its own, hidden from it."""
    if "<%" not in command:
        return command
    return f'eval "$(echo {base64.b64encode(command.encode()).decode()} | base64 -d)"'


def _left_out(job: JobV1) -> list[str]:
    notes = []
    if job.authFile:
        notes.append(
            f"authFile: {job.authFile} cannot be read from here; put its registry, user and password into "
            f"prerequisites (auth) and secrets by hand"
        )
    if job.gpuType:
        notes.append(
            f"gpuType: {job.gpuType} is left out; where the scheduler is HiveD, name a skuType in "
            "extras.hivedScheduler"
        )
    if job.codeDir:
        notes.append("codeDir: v2 does not copy it into the container; fetch it in commands")
    if any(place.startswith("$PAI_DEFAULT_FS_URI") for place in (job.dataDir, job.outputDir, job.codeDir)):
        notes.append("$PAI_DEFAULT_FS_URI is empty since OpenPAI 1.0, which has no HDFS; mount a storage")
    unknown = [*(job.model_extra or {}), *(key for role in job.taskRoles for key in role.model_extra or {})]
    notes += [f"{key}: not known to v1; left out" for key in dict.fromkeys(unknown)]
    return notes
