"""Jobs as files: what `coppice openpai render` wrote, or anybody else, read for submission."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from coppice.openpai import names
from coppice.openpai.convert import parse_v1
from coppice.openpai.errors import JobFileError
from coppice.openpai.text import MAX_JOB_BYTES, from_json, from_yaml
from coppice.yamlfile import to_yaml

Generation = Literal["v1", "v2"]

_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class JobFile:
    """One job that can be submitted."""

    origin: str
    """Path, for messages."""
    generation: Generation
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name on the cluster."""
        return str(self.content["jobName" if self.generation == "v1" else "name"])

    def renamed(self, name: str) -> JobFile:
        """The same job under another name."""
        key = "jobName" if self.generation == "v1" else "name"
        return replace(self, content={**self.content, key: name})

    def secrets(self) -> list[str]:
        """Values that nobody should see."""
        secrets = self.content.get("secrets")
        return [str(value) for value in secrets.values()] if isinstance(secrets, dict) else []

    def body(self) -> str:
        """As the REST server takes it; raises `JobFileError`."""
        try:
            return json.dumps(self.content) if self.generation == "v1" else to_yaml(self.content)
        except RecursionError as error:
            raise JobFileError(f"{self.origin}: an alias (*name) stands in what it names") from error

    def with_secrets(self, environ: Mapping[str, str] | None = None) -> JobFile:
        """Secrets that the file only names (`${NAME}`) come from the environment; raises `JobFileError`."""
        environ = os.environ if environ is None else environ
        secrets = self.content.get("secrets")
        if self.generation == "v1" or not isinstance(secrets, dict):
            return self
        filled = dict(secrets)
        for key, value in secrets.items():
            match = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
            if match is None:
                continue
            secret = environ.get(match[1], "")
            if not secret or re.search(r"[\s'\"\\<>]", secret):
                wrong = "holds spaces, quotes or <>" if secret else "is not set"
                raise JobFileError(
                    f"{self.origin}: secrets.{key}: {match[1]} {wrong} in this environment; the job needs it"
                )
            filled[key] = secret
        return replace(self, content={**self.content, "secrets": filled})


def read_jobs(paths: list[Path]) -> list[JobFile]:
    """All jobs of these files and folders; raises `JobFileError` if there is none or one is damaged."""
    jobs = [job for path in paths for job in _read_all(path)]
    doubled = {job.name for job in jobs if [each.name for each in jobs].count(job.name) > 1}
    if doubled:
        raise JobFileError(f"two jobs have the name {min(doubled)}; a cluster takes one")
    return jobs


def _read_all(path: Path) -> list[JobFile]:
    jobs = [job for file in _files(path) for job in _read(file)]
    if path.is_dir() and len({job.generation for job in jobs}) > 1:
        raise JobFileError(
            f"{path}: holds job JSON (v1) and protocol YAML (v2); name the files that are meant"
        )
    return jobs


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.iterdir() if each.suffix in (".json", ".yaml", ".yml"))
    if not files:
        raise JobFileError(
            f"{path}: no job in this folder; write some: coppice openpai render RUN.yaml --to DIR"
        )
    return files


def read_text(path: Path) -> str:
    """A job's file; raises `JobFileError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOB_BYTES + 1)
    except OSError as error:
        raise JobFileError(
            f"{path}: cannot be read ({error.strerror}); give the path of a job's file"
        ) from error
    if len(data) > MAX_JOB_BYTES:
        raise JobFileError(f"{path}: larger than {MAX_JOB_BYTES:,} bytes; this is no job")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise JobFileError(f"{path}: not readable as text") from error


def _read(path: Path) -> Iterator[JobFile]:
    text, origin = read_text(path), str(path)
    content = from_json(text, origin) if path.suffix == ".json" else from_yaml(text, origin)
    for each in content if isinstance(content, list) and content else [content]:
        yield _job(each, origin)


def _job(content: Any, origin: str) -> JobFile:
    if isinstance(content, dict) and "jobName" in content:
        parse_v1(content, origin)
        return JobFile(origin, "v1", content)
    if isinstance(content, dict) and "protocolVersion" in content:
        if str(content["protocolVersion"]) != "2" or not isinstance(content.get("taskRoles"), dict):
            raise JobFileError(f"{origin}: not a job of protocol version 2 with taskRoles")
        if not names.V2_NAME.fullmatch(str(content.get("name", ""))):
            raise JobFileError(
                f"{origin}: name: {content.get('name')!r}; letters, digits, '_' and '-' only, at most 255"
            )
        return JobFile(origin, "v2", content)
    if isinstance(content, dict) and "apiVersion" in content:
        raise JobFileError(f"{origin}: this is for Kubernetes: kubectl apply -f {origin}")
    raise JobFileError(f"{origin}: no job of OpenPAI's; a run file becomes one by: coppice openpai render")
