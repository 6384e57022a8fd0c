"""What a person sees of jobs in the terminal."""

from __future__ import annotations

import time

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coppice.openpai.api import Job, Task
from coppice.openpai.errors import ClusterError
from coppice.show import plain

_STYLES = {"RUNNING": "green", "FAILED": "bold red", "STOPPED": "yellow", "SUCCEEDED": "bold green"}


def _state(state: str) -> Text:
    return plain(state, style=_STYLES.get(state, ""))


def _when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def jobs_table(jobs: list[Job]) -> Table:
    """`coppice openpai list`."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for title in ("job", "state", "virtual cluster", "retries", "submitted", "ended"):
        table.add_column(title, overflow="fold")
    for job in jobs:
        row = (plain(job.name), _state(job.state), plain(job.virtual_cluster), str(job.retries))
        table.add_row(*row, _when(job.created_s), _when(job.ended_s))
    return table


def job_view(job: Job, page: str) -> RenderableType:
    """`coppice openpai show`."""
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", justify="right")
    head.add_column(overflow="fold")
    head.add_row("job", plain(job.name))
    head.add_row("state", _state(job.state))
    if job.reason:
        head.add_row("because", plain(job.reason))
    head.add_row("virtual cluster", plain(job.virtual_cluster))
    head.add_row("submitted", _when(job.created_s))
    if job.ended_s is not None:
        head.add_row("ended", _when(job.ended_s))
    head.add_row("page", plain(page))
    tasks = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for title in ("role", "index", "state", "exit status", "node", "retries"):
        tasks.add_column(title)
    for task in job.tasks:
        code = "" if task.exit_code is None else str(task.exit_code)
        row = (plain(task.role), str(task.index), _state(task.state), code, plain(task.node))
        tasks.add_row(*row, str(task.retries))
    return Group(head, Text(), tasks)


def one_task(job: Job, role: str | None, index: int) -> Task:
    """The container that is meant; raises `ClusterError`, naming those that are there."""
    if not job.tasks:
        raise ClusterError(f"{job.name}: {job.state}, and has no containers yet")
    wanted = role or job.tasks[0].role
    for task in job.tasks:
        if (task.role, task.index) == (wanted, index):
            return task
    there = ", ".join(f"{task.role} {task.index}" for task in job.tasks[:12])
    raise ClusterError(f"{job.name}: has no {wanted} {index}; there are {there}")
