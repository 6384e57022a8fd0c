"""What a cluster tells a process about itself: read from the environment that OpenPAI or Kubernetes sets.

OpenPAI sets PAI_JOB_NAME (since 1.0 as user~job), PAI_USER_NAME, PAI_CURRENT_TASK_ROLE_NAME and the index of
the task; where it has an HDFS (up to 0.14) also PAI_DEFAULT_FS_URI. The Kubernetes manifests that
`coppice openpai render` writes set COPPICE_CONTAINER to the name of the pod.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from coppice.store.urls import is_relative

POD_VARIABLE = "COPPICE_CONTAINER"
FILES_VARIABLE = "PAI_DEFAULT_FS_URI"
PAI_WEBHDFS_PORT = 5070
"""Where the HDFS of OpenPAI up to 0.14 answers on the web; its URI names the port of the RPC."""
PAI_FOLDER = "/shared/work"
"""The work folder of the original four jobs."""

_JOB = "PAI_JOB_NAME"
_ROLE = "PAI_CURRENT_TASK_ROLE_NAME"
_INDICES = ("PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX", "PAI_TASK_INDEX")
_HDFS = re.compile(r"hdfs://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d+)?/?")


@dataclass(frozen=True, slots=True)
class Container:
    """One task of a cluster's job."""

    job: str
    role: str = ""
    """Task role, as OpenPAI calls it; "" where the cluster has none."""
    index: str = ""
    """Which of the role's tasks, from 0."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.job, self.role, self.index) if part)

    @property
    def short(self) -> str:
        """Role and index alone."""
        return "-".join(part for part in (self.role, self.index) if part)


def this_container(environ: Mapping[str, str] | None = None) -> Container | None:
    """The container that this process runs in; None outside of a cluster's."""
    environ = os.environ if environ is None else environ
    if environ.get(_JOB):
        index = next((environ[name] for name in _INDICES if environ.get(name)), "")
        return Container(environ[_JOB], environ.get(_ROLE, ""), index)
    return Container(environ[POD_VARIABLE]) if environ.get(POD_VARIABLE) else None


def work_folder(written: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """The work folder where neither --work nor COPPICE_WORK names one; `written`: what the run file says.

    In a container of an OpenPAI that has an HDFS that is /shared/work there, unless the run file names a
    place that all machines see: a relative path would be a folder of this one container.
    """
    environ = os.environ if environ is None else environ
    hdfs = _HDFS.fullmatch(environ.get(FILES_VARIABLE, ""))
    if hdfs is None or (written and not is_relative(written)):
        return written
    return f"webhdfs://{hdfs['host']}:{PAI_WEBHDFS_PORT}{PAI_FOLDER}"
