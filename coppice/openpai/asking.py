"""The commands that speak to a cluster: submit, list, show, logs, stop, wait."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coppice.errors import INTERRUPTED

if TYPE_CHECKING:
    from coppice.openpai.api import Api
    from coppice.openpai.client import Client

FilesArgument = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Job files (.json, .yaml), or folders of them, as rendered."),
]
JobsArgument = Annotated[
    list[str],
    typer.Argument(metavar="JOB...", help="Names, or the files or folders that were submitted."),
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Its name (or user~name), or the file that was submitted.")
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The cluster's portal, or COPPICE_OPENPAI_URL, or in the config."
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", help="Or COPPICE_OPENPAI_USER, or config; default: the token's."),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Others on this machine can see it here: rather set COPPICE_OPENPAI_TOKEN, or use the config.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Lines 'url: ...', 'user: ...', 'token: ...', readable by you alone; default: "
        "COPPICE_OPENPAI_CONFIG, then ~/.config/coppice/openpai.yaml.",
    ),
]
V1Option = Annotated[
    bool, typer.Option("--v1", help="Names are of jobs that were submitted as job JSON (OpenPAI up to 0.14).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def _tell(line: str) -> None:
    print(f"coppice: {line}", file=sys.stderr, flush=True)


@contextmanager
def _client(
    url: str | None, user: str | None, token: str | None, config: Path | None, patience_s: float = 60.0
) -> Iterator[Client]:
    from coppice.clock import SystemClock
    from coppice.openpai.client import Client
    from coppice.openpai.settings import find_cluster

    client = Client(find_cluster(url, user, token, config), SystemClock(), _tell, patience_s=patience_s)
    try:
        yield client
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        client.close()


def _named(client: Client, jobs: list[str], v1: bool) -> list[tuple[Api, str]]:
    """What a user calls a job; a file stands for the last job that was made of it."""
    from coppice.openpai.api import Api
    from coppice.openpai.errors import JobFileError
    from coppice.openpai.jobs import read_jobs
    from coppice.openpai.submission import newest

    found = []
    for each in jobs:
        if os.path.exists(each):  # a name may be longer than a path can be, which Path would raise about
            for job in read_jobs([Path(each)]):
                api = Api(client, job.generation)
                found.append((api, newest(api, job.name)))
        elif re.fullmatch(r"[\w.~-]+", each, re.ASCII):
            found.append((Api(client, "v1" if v1 else "v2"), each))
        else:
            raise JobFileError(f"{each}: no such file, and no name of a job")
    return found


def submit(
    files: FilesArgument,
    again: Annotated[
        bool,
        typer.Option("--again", help="Submit what has failed or was stopped anew, as NAME-2, NAME-3, ..."),
    ] = False,
    url: UrlOption = None,
    user: UserOption = None,
    token: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit jobs. To do it twice is harmless: a job that is there is not submitted again.

    Example: `coppice openpai submit openpai/coppice.yaml`
    """
    from coppice.openpai.api import Api
    from coppice.openpai.jobs import read_jobs
    from coppice.openpai.submission import submit as hand_in

    jobs = [job.with_secrets() for job in read_jobs(files)]
    with _client(url, user, token, config) as client:
        for job in jobs:
            done = hand_in(Api(client, job.generation), job, again)
            page = client.cluster.page(done.name)
            if as_json:
                print(json.dumps({"name": done.name, "state": done.state, "new": done.new, "page": page}))
            else:
                print(f"{done.name}: {'submitted' if done.new else f'there already, {done.state}'}; {page}")


def list_jobs(
    v1: Annotated[bool, typer.Option("--v1", help="Ask the API of OpenPAI up to 0.14.")] = False,
    url: UrlOption = None,
    user: UserOption = None,
    token: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs, the newest first.

    Example: `coppice openpai list --url https://pai.example.org`
    """
    from rich.console import Console

    from coppice.openpai.api import Api
    from coppice.openpai.show import jobs_table

    with _client(url, user, token, config) as client:
        jobs = Api(client, "v1" if v1 else "v2").list()
    if as_json:
        print(json.dumps([job.to_json() for job in jobs]))
    else:
        Console().print(jobs_table(jobs))


def show(
    job: JobArgument,
    v1: V1Option = False,
    url: UrlOption = None,
    user: UserOption = None,
    token: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job and each of its containers. Only reads.

    Example: `coppice openpai show openpai/coppice.yaml`
    """
    from rich.console import Console

    from coppice.openpai.show import job_view

    with _client(url, user, token, config) as client:
        for api, name in _named(client, [job], v1):
            found = api.get(name)
            if as_json:
                print(json.dumps(found.to_json()))
            else:
                Console().print(job_view(found, client.cluster.page(name)))


def logs(
    job: JobArgument,
    role: Annotated[
        str | None, typer.Option(help="Task role: master, outer, ncs or evaluator; default: the first.")
    ] = None,
    index: Annotated[int, typer.Option(min=0, help="Which of its tasks.")] = 0,
    whole: Annotated[
        bool, typer.Option("--all", help="The whole log (64 MiB at most) instead of its end.")
    ] = False,
    v1: V1Option = False,
    url: UrlOption = None,
    user: UserOption = None,
    token: TokenOption = None,
    config: ConfigOption = None,
) -> None:
    """Print what a container wrote; where only a browser can show it, the address.

    Example: `coppice openpai logs openpai/coppice.yaml --role evaluator --index 3`
    """
    from coppice.openpai.errors import ClusterError
    from coppice.openpai.show import one_task

    with _client(url, user, token, config) as client:
        for api, name in _named(client, [job], v1):
            task = one_task(api.get(name), role, index)
            text, place = api.log(task, whole)
            if not text and not place:
                raise ClusterError(f"{name}: the cluster names no log of {task.role} {task.index} (yet)")
            print(
                text if text else f"{name} {task.role} {task.index}: open {place}", end="" if text else "\n"
            )


def stop(
    jobs: JobsArgument,
    v1: V1Option = False,
    url: UrlOption = None,
    user: UserOption = None,
    token: TokenOption = None,
    config: ConfigOption = None,
) -> None:
    """Stop jobs. The run stays in its work folder; `submit --again` goes on with it.

    Example: `coppice openpai stop openpai/coppice.yaml`
    """
    with _client(url, user, token, config) as client:
        for api, name in _named(client, jobs, v1):
            found = api.get(name)
            if found.ended:
                print(f"{name}: has ended already ({found.state})")
            else:
                api.stop(name)
                print(f"{name}: told to stop")


def wait(
    jobs: JobsArgument,
    every: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds between two looks.")] = 10.0,
    v1: V1Option = False,
    url: UrlOption = None,
    user: UserOption = None,
    token: TokenOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the states of jobs until the run ends. Exit status 0 if all succeeded, else 1.

    Ctrl-C leaves the jobs running (exit status 130).

    Example: `coppice openpai wait openpai/coppice.yaml`
    """
    from coppice.openpai.submission import wait as watch

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    with _client(url, user, token, config, patience_s=600.0) as client:
        raise typer.Exit(watch(_named(client, jobs, v1), say, every))
