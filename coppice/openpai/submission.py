"""Submitting so that doing it twice does no harm, and waiting for the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coppice.openpai.api import Api, Job
from coppice.openpai.errors import ClusterError, Doubtful, JobExists, NoSuchJob
from coppice.openpai.jobs import JobFile
from coppice.openpai.names import nth_name

LOOKS, LOOK_PAUSE_S = 3, 2.0
"""After a doubtful answer the job is looked for so often before it is submitted again."""
TRIES = 5
MOST_TIMES = 1000
"""Submissions of one job under names of their own."""
UNSEEN_S = 60.0
"""A job that was just submitted may be unknown for so long."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that the cluster has."""

    name: str
    state: str
    new: bool
    """Whether this call submitted it."""


def submit(api: Api, job: JobFile, again: bool = False) -> Submitted:
    """Have the cluster run a job, once; secrets are in it already.

    A job of its name that is there counts as submitted, unless it holds something else or has failed. `again`
    submits a job that has failed or was stopped under its name with -2, -3, ... Raises `ClusterError`.
    """
    api.client.hide(job.secrets())
    for number in range(1, MOST_TIMES):
        each = job.renamed(nth_name(job.name, number))
        known = api.find(each.name)
        if known is None:
            return _post(api, each)
        _check_same(api, each)
        if known.state not in ("FAILED", "STOPPED", "STOPPING"):
            return Submitted(each.name, known.state, new=False)
        if not again:
            raise ClusterError(
                f"{each.name} is there and {known.state}, and no name can be used twice; to go on with the "
                f"run: submit --again"
            )
    raise ClusterError(f"{job.name}: submitted {MOST_TIMES} times; look why it fails: coppice openpai show")


def _post(api: Api, job: JobFile) -> Submitted:
    clock, say = api.client.clock, api.client.say
    for tries in range(1, TRIES + 1):
        try:
            api.post(job)
        except JobExists:  # an earlier try was heard after all, or somebody did the same at this moment
            _check_same(api, job)
            return Submitted(job.name, _state(api, job.name), new=tries > 1)
        except Doubtful as error:
            say(f"{error}; looking whether {job.name} is there")
            for look in range(LOOKS):
                if look or tries > 1:
                    clock.sleep(LOOK_PAUSE_S * tries)
                known = api.find(job.name)
                if known is not None:
                    return Submitted(job.name, known.state, new=True)
            if tries == TRIES:
                raise ClusterError(
                    f"{error}, and {job.name} is not there after {TRIES} tries; submit again later: that "
                    "does no harm"
                ) from error
        else:
            return Submitted(job.name, "WAITING", new=True)
    raise AssertionError("unreachable")


def newest(api: Api, name: str) -> str:
    """The name under which a job was submitted last; its own where it never was."""
    number = 1
    while number < MOST_TIMES and api.find(nth_name(name, number + 1)) is not None:
        number += 1
    return nth_name(name, number)


def _state(api: Api, name: str) -> str:
    known = api.find(name)
    return known.state if known is not None else "UNKNOWN"


def _check_same(api: Api, job: JobFile) -> None:
    """Raises `ClusterError` if the job of this name is another one."""
    there = api.config(job.name)
    if there is not None and not _contains(there, job.content):
        raise ClusterError(
            f"{api.client.cluster.user} has another job of the name {job.name}; give {job.origin} a name of "
            "its own, or render it again"
        )


def _contains(there: Any, ours: Any) -> bool:
    """Whether the cluster keeps what we sent, perhaps with defaults beside it; it shows no secrets."""
    if isinstance(ours, dict):
        return isinstance(there, dict) and all(
            key == "secrets" or (key in there and _contains(there[key], value)) for key, value in ours.items()
        )
    if isinstance(ours, list):
        same_length = isinstance(there, list) and len(there) == len(ours)
        return same_length and all(_contains(a, b) for a, b in zip(there, ours, strict=True))
    return str(there) == str(ours)


def wait(jobs: Sequence[tuple[Api, str]], show: Callable[[str], None], every_s: float = 10.0) -> int:
    """Show each job's states until all have ended, or one has not succeeded; returns the exit status.

    0: all succeeded. 1: one failed or was stopped, and the run cannot end well without it.
    """
    clock = jobs[0][0].client.clock
    began = clock.monotonic()
    last: dict[str, str] = {}
    while True:
        seen = []
        for api, name in jobs:
            try:
                job = api.get(name)
            except NoSuchJob:
                if name in last or clock.monotonic() - began >= UNSEEN_S:
                    raise
                continue
            line = describe(job)
            if last.get(name) != line:
                last[name] = line
                show(f"{name}: {line}")
            seen.append(job)
        if any(job.state in ("FAILED", "STOPPED") for job in seen):
            return 1
        if len(seen) == len(jobs) and all(job.ended for job in seen):
            return 0
        clock.sleep(every_s)


def describe(job: Job) -> str:
    """State, and what its tasks are at: RUNNING (master RUNNING, evaluator 6 RUNNING 2 WAITING)."""
    roles: dict[str, Counter[str]] = {}
    for task in job.tasks:
        roles.setdefault(task.role, Counter())[task.state] += 1
    parts = []
    for role, states in roles.items():
        several = sum(states.values()) > 1
        parts.append(
            f"{role} " + " ".join(f"{n} {state}" if several else state for state, n in states.items())
        )
    line = f"{job.state} ({', '.join(parts)})" if parts else job.state
    return f"{line}: {job.reason}" if job.state == "FAILED" and job.reason else line
