"""The commands that only write files: render and convert."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

RunFileArgument = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run file.")]
ToOption = Annotated[
    Path | None, typer.Option("--to", metavar="DIR", help="Where the files go; default: to stdout.")
]


def _tell(line: str) -> None:
    print(f"coppice: {line}", file=sys.stderr, flush=True)


def render(
    run_file: RunFileArgument,
    image: Annotated[
        str | None, typer.Option(metavar="NAME", help="The image of all roles; default: coppice:VERSION.")
    ] = None,
    vc: Annotated[
        str | None, typer.Option("--vc", metavar="NAME", help="Virtual cluster; default: 'default'.")
    ] = None,
    evaluators: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many; default: evaluators.count of the run file.")
    ] = None,
    gpu: Annotated[
        int, typer.Option(min=0, max=64, help="GPUs of each evaluator and of outer; either uses one.")
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Mount this storage of the cluster (Kubernetes: volume claim) at /mnt/NAME; the work folder "
            "is /mnt/NAME/coppice/RUN unless --work says another one in it.",
        ),
    ] = None,
    work: Annotated[
        str | None,
        typer.Option(
            "--work", metavar="URL", help="The work folder as containers see it: webhdfs://... or a path."
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An environment variable that roles shall have, such as COPPICE_HDFS_TOKEN; its value is "
            "read when the job is submitted, and stands in no file.",
        ),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The settings file of status messages (docs/status.md), as containers see it: a path in the "
            "image or on the storage. Its password: --secret COPPICE_MESSAGE_PW.",
        ),
    ] = None,
    in_image: Annotated[
        bool,
        typer.Option("--in-image", help="The image has the run file, at this path; else the job carries it."),
    ] = False,
    v1: Annotated[bool, typer.Option("--v1", help="Four jobs as JSON, for OpenPAI up to 0.14.")] = False,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Manifests for plain Kubernetes: kubectl apply -f DIR.")
    ] = False,
    to: ToOption = None,
) -> None:
    """Write a run as a job: one protocol-v2 YAML, or job JSON (--v1), or manifests (--kubernetes).

    The same run file and options always give the same text and the same names of jobs.

    Example: `coppice openpai render jobs/digits.yaml --image registry/coppice:1 --storage nfs --to pai`
    """
    from coppice.errors import CoppiceError
    from coppice.openpai.plan import local_files, make_plan
    from coppice.openpai.render import V2_FILE, render_v1, render_v2

    if v1 and kubernetes:
        raise CoppiceError("give --v1 or --kubernetes, not both")
    if kubernetes and vc is not None:
        raise CoppiceError("--vc: Kubernetes has no virtual clusters; kubectl apply --namespace NAME chooses")
    plan = make_plan(
        run_file,
        image=image,
        virtual_cluster=vc,
        evaluators=evaluators,
        gpus=gpu,
        storage=storage,
        work=work,
        secrets=tuple(secret or ()),
        status=status,
        in_image=in_image,
    )
    if kubernetes:
        from coppice.openpai.kubernetes import render_kubernetes

        files, stream = render_kubernetes(plan), "---\n"
    elif v1:
        files, stream = render_v1(plan), ""
    else:
        files, stream = {V2_FILE: render_v2(plan)}, ""
    if image is None:
        _tell(f"note: image: {plan.image}; the cluster must be able to pull it (--image)")
    for named in local_files(plan):
        _tell(f"note: {named}: must be in the image or on the storage")
    if storage is None and plan.work.startswith(("/", "file:")):
        _tell(f"note: work folder {plan.work}: all containers must share it; --storage NAME mounts one")
    if to is not None:
        _write(to, files)
    elif v1:
        print(json.dumps([json.loads(text) for text in files.values()], indent=2))
    else:
        print(stream.join(files.values()), end="")


def _write(to: Path, files: dict[str, str]) -> None:
    from coppice.openpai.errors import JobFileError

    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (to / name).write_text(text)
            print(to / name)
    except OSError as error:
        raise JobFileError(f"--to {to}: cannot be written ({error.strerror})") from error


def convert(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.json", help="One v1 job, or a list of them.")],
    to: ToOption = None,
) -> None:
    """Turn job JSON (v1) into protocol-v2 YAML. What v2 cannot say is told on stderr.

    Example: `coppice openpai convert openpai/evaluator.json`
    """
    from coppice.openpai.convert import convert as turn
    from coppice.openpai.convert import parse_v1
    from coppice.openpai.errors import JobFileError
    from coppice.openpai.jobs import read_text
    from coppice.openpai.text import from_json
    from coppice.yamlfile import to_yaml

    content = from_json(read_text(job_file), str(job_file))
    several = isinstance(content, list)
    if several and not content:
        raise JobFileError(f"{job_file}: a list without a job in it")
    jobs = [turn(parse_v1(each, str(job_file))) for each in (content if several else [content])]
    called = [job.job["name"] for job in jobs]
    for name in called:
        if called.count(name) > 1:
            raise JobFileError(f"{job_file}: two jobs would have the name {name}; change a jobName")
    for job in jobs:
        for note in job.notes:
            _tell(f"note: {job_file}: {note}")
    texts = {f"{job.job['name']}.yaml": to_yaml(job.job) for job in jobs}
    if to is not None:
        _write(to, texts)
    else:
        print("---\n".join(texts.values()), end="")
