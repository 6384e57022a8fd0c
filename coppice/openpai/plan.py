"""What a run needs of a cluster: its roles, their commands, the work folder and the secrets.

Everything that is rendered is made from a `Plan`, so that v1, v2 and Kubernetes start the same commands.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coppice import __version__
from coppice.openpai.errors import JobFileError
from coppice.runfile import RunFile, load_run_file
from coppice.store import StoreError
from coppice.store.urls import is_relative, open_home
from coppice.yamlfile import to_yaml

CODE = "/coppice"
"""Where the image has the repository (see Dockerfile)."""
RUN_IN_CONTAINER = "/tmp/coppice-run.yaml"
"""Where the master's command puts the run file that it carries."""
RETRIES = 20
"""How often a cluster starts a task again that failed; each goes on where it was."""
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRETIVE = re.compile(r"COPPICE_\w*(TOKEN|PASSWORD|_PW|SECRET)", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Anything shorter would be found in innocent text."""


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """One role as a task of a cluster; the figures are those of the original jobs."""

    name: str
    script: str
    cpu: int
    memory_mb: int
    trains: bool
    """Whether it computes with the network, on a GPU if it has one."""
    tells: bool
    """Whether it sends status messages or writes metric logs, given a settings file."""


MASTER = RoleSpec("master", "main1", 2, 8192, trains=False, tells=False)
OUTER = RoleSpec("outer", "loop_outer", 4, 8192, trains=True, tells=True)
NCS = RoleSpec("ncs", "loop_ncs", 4, 8192, trains=False, tells=True)
EVALUATOR = RoleSpec("evaluator", "evaluator", 4, 8192, trains=True, tells=False)
ROLES = (MASTER, OUTER, NCS, EVALUATOR)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run on a cluster."""

    run: RunFile
    work: str
    """The work folder, as all containers see it."""
    image: str
    virtual_cluster: str
    evaluators: int
    gpus: int
    """Of each role that trains."""
    storage: str | None = None
    """A storage of the cluster (on Kubernetes a volume claim) that is mounted at /mnt/<storage>."""
    secrets: tuple[str, ...] = ()
    """Environment variables whose values the cluster keeps for the roles."""
    status: str | None = None
    """The settings file of status messages, where containers see it."""
    path_in_image: str | None = None
    """The run file's path below /coppice in the image; None: the master's command carries the run file."""

    def instances(self, role: RoleSpec) -> int:
        """How many tasks."""
        return self.evaluators if role is EVALUATOR else 1

    def gpus_of(self, role: RoleSpec) -> int:
        """GPUs of one task."""
        return self.gpus if role.trains else 0

    def run_text(self) -> str:
        """The run file as it travels: what was written into it, without comments."""
        return to_yaml(self.run.model_dump(mode="json", exclude_unset=True))

    def command(self, role: RoleSpec, run_path: str | None = None) -> list[str]:
        """What starts a role, in the folder /coppice; `run_path`: where the master finds the run file."""
        words = ["python", f"{role.script}.py"]
        if role is MASTER:
            words.append(run_path or self.path_in_image or RUN_IN_CONTAINER)
        words += ["--work", self.work]
        if role.trains:
            words += ["--device", "auto"]
        if role.tells and self.status is not None:
            words += ["--status", self.status]
        return words

    def shell_lines(self, role: RoleSpec) -> list[str]:
        """The same as lines for a shell, each to be run if the one before it did well."""
        lines = [f"cd {CODE}"]
        if role is MASTER and self.path_in_image is None:
            # In base 64: neither a shell nor OpenPAI's own templates (<% %>) can read anything into it.
            carried = base64.b64encode(self.run_text().encode()).decode()
            lines.append(f"echo {carried} | base64 -d > {RUN_IN_CONTAINER}")
        return [*lines, shlex.join(self.command(role))]

    def digest(self, rendered: Any) -> str:
        """Eight digits that tell this job from any other: the same plan always gets the same name."""
        carried = None if self.path_in_image else self.run_text()
        text = json.dumps([self.run.name, carried, rendered], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def make_plan(
    run_file: Path,
    *,
    image: str | None = None,
    virtual_cluster: str | None = None,
    evaluators: int | None = None,
    gpus: int = 1,
    storage: str | None = None,
    work: str | None = None,
    secrets: tuple[str, ...] = (),
    status: str | None = None,
    in_image: bool = False,
) -> Plan:
    """Check what was asked for; raises `JobFileError` or `RunFileError`, each in one line."""
    run = load_run_file(run_file)
    if storage is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", storage):
        raise JobFileError(f"--storage: {storage!r} is no name of a storage; give it as the cluster lists it")
    if in_image and (run_file.is_absolute() or ".." in run_file.parts):
        raise JobFileError(
            f"--in-image: {run_file}: give the path that the file has below {CODE} in the image"
        )
    for name in secrets:
        if not _SECRET_NAME.fullmatch(name):
            raise JobFileError(f"--secret: {name!r} is no name of an environment variable; never the value")
    if status is not None and not re.fullmatch(r"/[^\s<]+", status):
        raise JobFileError(
            f"--status {status!r}: give the path at which containers see the settings file, such as "
            f"{CODE}/status.yaml or /mnt/STORAGE/status.yaml; neither spaces nor < in it"
        )
    if image is not None and (not image.strip() or re.search(r"\s", image)):
        raise JobFileError(f"--image: {image!r} is no name of an image; give repository:tag")
    return Plan(
        run=run,
        work=_work(run, storage, work),
        image=image or f"coppice:{__version__}",
        virtual_cluster=virtual_cluster or "default",
        evaluators=evaluators or run.evaluators.count,
        gpus=gpus,
        storage=storage,
        secrets=tuple(sorted(set(secrets))),
        status=status,
        path_in_image=posixpath.normpath(run_file.as_posix()) if in_image else None,
    )


def _work(run: RunFile, storage: str | None, work: str | None) -> str:
    mount = None if storage is None else f"/mnt/{storage}"
    chosen = work or (f"{mount}/coppice/{run.name}" if mount else run.work)
    if chosen is None or is_relative(chosen):
        raise JobFileError(
            f"no work folder that all containers see{f' ({chosen!r} is not one)' if chosen else ''}: "
            "give --storage NAME, or --work with webhdfs://host:9870/path"
        )
    if mount and not f"{posixpath.normpath(chosen.removeprefix('file://'))}/".startswith(f"{mount}/"):
        raise JobFileError(f"--work {chosen}: with --storage {storage} it must lie in {mount}")
    if "<%" in chosen or re.search(r"\s", chosen):
        raise JobFileError(f"--work {chosen!r}: neither spaces nor <% in it")
    try:
        open_home(chosen).close()  # only looks at the words; a password in them is refused
    except StoreError as error:
        raise JobFileError(f"--work: {error}") from error
    return chosen


def refuse_secrets(plan: Plan, rendered: Any, environ: Mapping[str, str] | None = None) -> None:
    """Raises `JobFileError` if the run file, a command or anything else of what is `rendered`, about to be
    written, shows a secret of this environment. Looks at values, which files may write with escapes."""
    environ = os.environ if environ is None else environ
    run = plan.run.model_dump(mode="json", exclude_unset=True)
    shown = list(_leaves([run, [plan.command(role) for role in ROLES], rendered]))
    for name, value in environ.items():
        secret = _SECRETIVE.fullmatch(name) and len(value) >= _SHORTEST_SECRET
        if secret and any(value in text for text in shown):
            raise JobFileError(
                f"the job would show the value of {name} to all who can read it; take it out of the run file "
                f"and the options (--secret {name} hands it over unseen)"
            )


def _leaves(content: Any) -> Iterator[str]:
    if isinstance(content, Mapping):
        content = [*content.keys(), *content.values()]
    if isinstance(content, list | tuple):
        for part in content:
            yield from _leaves(part)
    else:
        yield str(content)


def local_files(plan: Plan) -> list[str]:
    """What names files, which containers must find, too."""
    run = plan.run
    named = {
        "model.name": run.model.name if ".py:" in run.model.name else None,
        "data.folder": run.data.folder,
        "data.train": run.data.train,
        "data.test": run.data.test,
        "reference.weights": run.reference.weights,
        "--status": plan.status,
    }
    return [f"{key}: {value}" for key, value in named.items() if value]
