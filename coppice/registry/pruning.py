"""The command prune.py: a whole pruning run on a model, with all roles as processes of this machine, or as a
job of OpenPAI."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coppice.errors import CoppiceError
from coppice.registry import layout
from coppice.registry.errors import OrderFailed
from coppice.registry.job import Job
from coppice.registry.models import ModelInfo, read_info, with_info
from coppice.registry.orders import Command
from coppice.registry.reporting import settings_for
from coppice.runfile import MAX_RUN_FILE_BYTES
from coppice.store.urls import absolute, below, open_store
from coppice.work import names
from coppice.work.contents import json_from_bytes
from coppice.work.limits import MAX_RESULT_BYTES
from coppice.yamlfile import parse_yaml, to_yaml


def prune(job: Job, command: Command) -> None:
    """Make a model out of another: the run has a work folder of its own, where a later try goes on."""
    settings, parent, x, y, path = command.arguments
    if job.is_there(path):
        return
    weights, info = job.fetch_model(parent)
    url = absolute(job.registry.store.url)
    work = below(url, layout.run_folder(job.order.makes))
    folder = job.folder / "prune"
    folder.mkdir()
    if job.openpai:
        if not url.startswith("/"):
            raise OrderFailed(
                "--openpai: containers read the arrays from a mounted share, so it is for a registry on one"
            )
        places = Places(f"{url}/train/", f"{url}/{parent}", f"{url}/arch/")
    else:
        # The roles run in a folder of this order, and find all by names in it: so the run's settings are the
        # same whoever goes on with it, on whatever machine.
        for each in (job.fetch(x), job.fetch(y), weights, *([job.fetch(info.script)] if info.script else [])):
            shutil.copy(each, folder)
        places = Places("", weights.name, "")
    run = _run_file(job, settings, places, info)
    (folder / "run.yaml").write_text(to_yaml(run))
    told = settings_for(job.order, folder)
    if job.openpai:
        render = ("render", "run.yaml", "--work", work, "--to", "job", *job.openpai)
        for arguments in (render, ("submit", "job", "--again"), ("wait", "job")):
            job.run_coppice(folder, "openpai", *arguments, environment=told)
    else:
        job.run_coppice(folder, "simulate", "run.yaml", "--work", work, "--json", environment=told)
    job.publish(path, _result(work, weights.stem, info, path))


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run's roles find what the registry has."""

    train: str
    """What comes before the train set's id."""
    weights: str
    arch: str
    """What comes before the name of an architecture's script."""


def _run_file(job: Job, path: str, places: Places, info: ModelInfo) -> dict[str, Any]:
    """The order's run file with what the registry knows: network, weights, data."""
    content = job.registry.store.read(path, MAX_RUN_FILE_BYTES)
    if content is None:
        raise OrderFailed(f"{path} is not there; order it again: coppice registry prune")
    try:
        run = parse_yaml(content, path, OrderFailed)
        reference = {**run.get("reference", {}), "iterations": 0, "weights": places.weights}
    except (CoppiceError, AttributeError, TypeError) as error:
        raise OrderFailed(f"{path}: damaged; order it again: coppice registry prune") from error
    return {
        **run,
        "name": job.order.makes,
        "model": {"name": _network(info, places), "arguments": info.arguments},
        "data": {"name": "arrays", "train": f"{places.train}{job.order.ids[2]}"},
        "reference": reference,
    }


def _network(info: ModelInfo, places: Places) -> str:
    name = info.architecture
    return name if info.script is None else f"{places.arch}{name.removeprefix('arch/')}"


def _result(work: str, parent: str, info: ModelInfo, path: str) -> bytes:
    """The pruned network as a model of the registry; raises `OrderFailed` if nothing could be cut."""
    with open_store(work) as run:
        result = run.read(names.RESULT_JSON, MAX_RESULT_BYTES)
        weights = run.read(names.RESULT_MODEL)
    if result is None or weights is None:
        raise OrderFailed(f"{work}: the run is over, and yet its result is not there")
    pruned = pruned_info(info, parent, json_from_bytes(result, f"{work}/{names.RESULT_JSON}"))
    content = with_info(weights, pruned, path)
    read_info(content, path)
    return content


def pruned_info(info: ModelInfo, parent: str, result: Mapping[str, Any]) -> ModelInfo:
    """What a pruned model is, by its parent's info and the run's result; raises `OrderFailed` if it has no
    fewer parameters than its parent."""
    remaining = int(result["parameters_remaining"])
    # The run counts from the dense network, of which a parent that was pruned itself has only a part.
    before = int(result["parameters_total"]) if info.parent is None else info.parameters
    if not remaining < before:
        raise OrderFailed("nothing could be cut within the constraint; give it a larger accuracy_drop")
    return ModelInfo(
        info.architecture,
        info.arguments,
        parameters=remaining,
        parent=parent,
        compression=before / max(1, remaining),
        run=str(result["run_id"]),
    )
