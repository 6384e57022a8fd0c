"""A plan as OpenPAI takes it: four jobs in JSON (v1), or one job in YAML (protocol v2)."""

from __future__ import annotations

import json
from typing import Any

from coppice.openpai import names
from coppice.openpai.errors import JobFileError
from coppice.openpai.plan import EVALUATOR, MASTER, RETRIES, ROLES, Plan, RoleSpec, refuse_secrets
from coppice.yamlfile import to_yaml

V2_FILE = "coppice.yaml"
IMAGE = "coppice"
"""The image's name within a v2 job."""
NEVER = -1
"""Of a completion policy: no number of tasks does it."""


def render_v1(plan: Plan) -> dict[str, str]:
    """Job JSON by file name: main1.json, loop_outer.json, loop_ncs.json, evaluator.json."""
    if plan.storage is not None:
        raise JobFileError(
            "--storage: clusters that take job JSON (v1) have no storages; give --work webhdfs://..."
        )
    if plan.secrets:
        raise JobFileError("--secret: job JSON (v1) has no place that hides a value; render v2 instead")
    digest = plan.digest([_v1_job(plan, role, "") for role in ROLES])
    jobs = {
        f"{role.script}.json": _v1_job(plan, role, names.v1_name(plan.run.name, role.script, digest))
        for role in ROLES
    }
    refuse_secrets(plan, jobs)
    return {name: json.dumps(job, indent=2) + "\n" for name, job in jobs.items()}


def _v1_job(plan: Plan, role: RoleSpec, name: str) -> dict[str, Any]:
    task: dict[str, Any] = {
        "name": role.name,
        "taskNumber": plan.instances(role),
        "cpuNumber": role.cpu,
        "memoryMB": role.memory_mb,
        "gpuNumber": plan.gpus_of(role),
        "command": " && ".join(plan.shell_lines(role)),
    }
    if role is EVALUATOR:  # one that failed is missed by nobody
        task["minFailedTaskCount"] = plan.instances(role)
    return {
        "jobName": name,
        "image": plan.image,
        "virtualCluster": plan.virtual_cluster,
        "retryCount": RETRIES,
        "taskRoles": [task],
    }


def render_v2(plan: Plan) -> str:
    """One job whose four task roles are the roles.

    It succeeds when the master does, whatever the others are at. It fails when the master, outer or ncs
    failed more often than is retried, or when no evaluator is left; one failed evaluator is missed by nobody.
    """
    job = _v2_job(plan)
    job["name"] = names.v2_name(plan.run.name, plan.digest(job))
    refuse_secrets(plan, job)
    return to_yaml(job)


def _v2_job(plan: Plan) -> dict[str, Any]:
    job: dict[str, Any] = {
        "protocolVersion": 2,
        "name": "",
        "type": "job",
        "description": f"Coppice prunes {plan.run.name} in {plan.work}",
        "prerequisites": [{"name": IMAGE, "type": "dockerimage", "uri": plan.image}],
    }
    if plan.secrets:  # the values come from the environment of whoever submits, and only then
        job["secrets"] = {name: placeholder(name) for name in plan.secrets}
    job["taskRoles"] = {role.name: _v2_role(plan, role) for role in ROLES}
    job["defaults"] = {"virtualCluster": plan.virtual_cluster}
    # Without gang allocation roles start as there is room for them, and failed tasks are retried one by one.
    job["extras"] = {"submitFrom": "coppice", "gangAllocation": False}
    if plan.storage is not None:
        job["extras"]["storages"] = [{"name": plan.storage, "mountPath": f"/mnt/{plan.storage}"}]
    return job


def _v2_role(plan: Plan, role: RoleSpec) -> dict[str, Any]:
    instances = plan.instances(role)
    return {
        "instances": instances,
        "completion": {
            "minFailedInstances": instances,  # of the others there is one
            "minSucceededInstances": 1 if role is MASTER else NEVER,
        },
        "taskRetryCount": RETRIES,
        "dockerImage": IMAGE,
        "resourcePerInstance": {
            "cpu": role.cpu,
            "memoryMB": role.memory_mb,
            "gpu": plan.gpus_of(role),
        },
        "commands": [
            *(f"export {name}='<% $secrets.{name} %>'" for name in plan.secrets),
            *plan.shell_lines(role),
        ],
    }


def placeholder(name: str) -> str:
    """What stands for a secret until the job is submitted."""
    return f"${{{name}}}"
