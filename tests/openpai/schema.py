"""OpenPAI's published schema of protocol v2 (from github.com/microsoft/openpai-protocol), as tests use it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FILE = Path(__file__).with_name("protocol-v2-schema.yaml")


@cache
def _document() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator({**_document(), "$ref": "#/components/schemas/JobProtocol"})


def faults(job: Any) -> list[str]:
    """What is wrong with a job; none: it is valid."""
    found = [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in _validator().iter_errors(job)]
    if not found:
        found = [f"unknown key {key}" for key in sorted(_unknown(job))]
    return found


def _unknown(job: dict[str, Any]) -> set[str]:
    """Keys that the schema does not name where it names any; it takes them, and a server ignores them."""
    schemas = _document()["components"]["schemas"]
    body = schemas["JobProtocol"]["allOf"][1]["properties"]
    head = schemas["PrerequisiteInfo"]["properties"]
    role = body["taskRoles"]["additionalProperties"]["properties"]
    unknown = set(job) - set(body) - set(head)
    for each in job["taskRoles"].values():
        unknown |= set(each) - set(role)
        for part in ("completion", "resourcePerInstance", "extraContainerOptions"):
            unknown |= set(each.get(part, {})) - set(role[part]["properties"])
    unknown |= set(job.get("defaults", {})) - set(body["defaults"]["properties"])
    return unknown
