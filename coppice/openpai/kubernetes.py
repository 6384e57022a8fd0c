"""A plan for Kubernetes: a ConfigMap with the run file and a Job for each role, the evaluators' indexed."""

from __future__ import annotations

from typing import Any

from coppice.container import POD_VARIABLE
from coppice.openpai import names
from coppice.openpai.errors import JobFileError
from coppice.openpai.plan import CODE, EVALUATOR, MASTER, RETRIES, ROLES, Plan, RoleSpec, refuse_secrets
from coppice.yamlfile import to_yaml

RUN_FOLDER = "/etc/coppice"
RUN_NAME = "run.yaml"
RUN_FILE = "run-file.yaml"
"""The ConfigMap's manifest."""
_LOST = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
"""A pod that the cluster took away has not failed: it comes back, however often that happens."""


def render_kubernetes(plan: Plan) -> dict[str, str]:
    """Manifests by file name; `kubectl apply -f` takes the folder, or all of them as one stream.

    Raises `JobFileError` for a storage that Kubernetes cannot have.
    """
    if plan.storage is not None and not names.VOLUME_CLAIM.fullmatch(plan.storage):
        raise JobFileError(
            f"--storage: {plan.storage!r} is no name of a volume claim; small letters, digits, '-', '.'"
        )
    digest = plan.digest([_job(plan, role, "") for role in ROLES])
    manifests: dict[str, dict[str, Any]] = {}
    if plan.path_in_image is None:
        manifests[RUN_FILE] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(plan, "", digest),
            "data": {RUN_NAME: plan.run_text()},
        }
    manifests |= {f"{role.script}.yaml": _job(plan, role, digest) for role in ROLES}
    refuse_secrets(plan, manifests)
    return {name: to_yaml(manifest) for name, manifest in manifests.items()}


def _metadata(plan: Plan, role: str, digest: str) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": "coppice",
        "app.kubernetes.io/instance": names.kubernetes_name(plan.run.name, "", digest),
    }
    if role:
        labels["app.kubernetes.io/component"] = role
    return {"name": names.kubernetes_name(plan.run.name, role, digest), "labels": labels}


def _job(plan: Plan, role: RoleSpec, digest: str) -> dict[str, Any]:
    metadata = _metadata(plan, role.name, digest)
    spec: dict[str, Any] = {"backoffLimit": RETRIES}
    if role is EVALUATOR:
        # Each index has retries of its own, so that one evaluator that always fails stops no other.
        spec = {
            "completionMode": "Indexed",
            "completions": plan.evaluators,
            "parallelism": plan.evaluators,
            "backoffLimitPerIndex": RETRIES,
        }
    spec["podFailurePolicy"] = {"rules": [_LOST]}
    spec["template"] = {"metadata": {"labels": metadata["labels"]}, "spec": _pod(plan, role, digest)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _pod(plan: Plan, role: RoleSpec, digest: str) -> dict[str, Any]:
    carried = role is MASTER and plan.path_in_image is None
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if carried:
        run = names.kubernetes_name(plan.run.name, "", digest)
        volumes.append({"name": "run", "configMap": {"name": run}})
        mounts.append({"name": "run", "mountPath": RUN_FOLDER, "readOnly": True})
    if plan.storage is not None:
        volumes.append({"name": "work", "persistentVolumeClaim": {"claimName": plan.storage}})
        mounts.append({"name": "work", "mountPath": f"/mnt/{plan.storage}"})
    container: dict[str, Any] = {
        "name": role.name,
        "image": plan.image,
        "workingDir": CODE,
        "command": plan.command(role, f"{RUN_FOLDER}/{RUN_NAME}" if carried else None),
        "env": [
            {"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *(_secret(name) for name in plan.secrets),
        ],
        "resources": {"requests": _resources(plan, role), "limits": _resources(plan, role)},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    if mounts:
        container["volumeMounts"], pod["volumes"] = mounts, volumes
    return pod


def _resources(plan: Plan, role: RoleSpec) -> dict[str, str]:
    resources = {"cpu": str(role.cpu), "memory": f"{role.memory_mb}Mi"}
    if gpus := plan.gpus_of(role):
        resources["nvidia.com/gpu"] = str(gpus)
    return resources


def _secret(name: str) -> dict[str, Any]:
    """From a Secret that is made once, by kubectl create secret generic coppice."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": "coppice", "key": name}}}
