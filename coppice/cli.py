"""`coppice ...`: the command line. Roles that need no torch do not import it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from coppice import __version__
from coppice.container import work_folder
from coppice.errors import CoppiceError
from coppice.openpai.command import app as openpai_app
from coppice.registry.cli import app as registry_app
from coppice.roles.context import Context
from coppice.roles.ending import ending
from coppice.roles.signals import interrupted_once
from coppice.runfile import RunFile, load_run_file

if TYPE_CHECKING:
    from coppice.status import StatusSettings

app = typer.Typer(
    name="coppice",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Prunes neural networks by evolution, spread over a cluster by files in one shared folder.",
)

app.add_typer(openpai_app, name="openpai")
app.add_typer(registry_app, name="registry")

WorkOption = Annotated[
    str | None,
    typer.Option(
        "--work",
        metavar="URL",
        envvar="COPPICE_WORK",
        help="The work folder: a path, or webhdfs://host:9870/path.",
    ),
]
WorkArgument = Annotated[
    str,
    typer.Argument(metavar="WORK", envvar="COPPICE_WORK", help="The work folder: a path or webhdfs:// URL."),
]
RunFileArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN.yaml", envvar="COPPICE_RUN", help="The run file; see jobs/digits.yaml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Throw away the run that stands in the work folder and begin anew.")
]
MasterFreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Throw away a finished run, or one of other settings, and begin anew. An unfinished run of "
        "these settings is gone on with: a cluster may have started this command again.",
    ),
]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Instead of the run file's seed.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:0 or auto; default: evaluators.device of the run file.")
]
StatusOption = Annotated[
    Path | None,
    typer.Option(
        "--status",
        metavar="SETTINGS",
        envvar="COPPICE_STATUS",
        help="The settings file of status messages and metric logs; without one there are none.",
    ),
]
SettingsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SETTINGS",
        envvar="COPPICE_STATUS",
        help="The settings file, YAML or JSON; see docs/status.md.",
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        min=1, help="CPU threads of this role; with 1, results are the same on all machines of one kind."
    ),
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one line and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a file's name need be no text
    try:
        app(args=arguments, prog_name="coppice")
    except CoppiceError as error:
        print(f"coppice: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        _drop_what_nobody_takes()


def _drop_what_nobody_takes() -> None:
    """What a full disk did not take of stderr would be written at the very end, and fail there: then the exit
    status would no longer say how the work ended."""
    try:
        sys.stderr.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def work_of(work: str | None, run: RunFile | None = None) -> str:
    """The work folder from --work, COPPICE_WORK, the run file or the cluster, in this order."""
    chosen = work or work_folder(run.work if run else None)
    if not chosen:
        raise CoppiceError(
            "no work folder: give --work URL, set COPPICE_WORK, or write 'work:' into the run file"
        )
    if chosen.startswith("memory:"):
        raise CoppiceError(
            f"{chosen}: no work folder that another process can see; give a folder or webhdfs://host:9870/path"
        )
    return chosen


@contextmanager
def _role(name: str, work: str) -> Iterator[Context]:
    """Run one role and turn how it ended into an exit status."""
    context = Context.for_process(name, work)
    with ending(context, "stopped; start again with the same command to go on"):
        yield context


def _load(run_file: Path, seed: int | None) -> RunFile:
    run = load_run_file(run_file)
    return run if seed is None else run.model_copy(update={"seed": seed})


def _settings(path: Path | None) -> StatusSettings | None:
    from coppice.status import load_status_settings

    return None if path is None else load_status_settings(path)


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


@app.command()
def master(
    run_file: RunFileArgument,
    work: WorkOption = None,
    seed: SeedOption = None,
    fresh: MasterFreshOption = False,
    as_json: JsonOption = False,
) -> None:
    """main1: open a run, order its rounds, close it.

    Started again with the same command it goes on where it was.

    Example: `coppice master jobs/digits.yaml --work webhdfs://namenode:9870/shared/work`
    """
    from coppice.roles.master import master as serve
    from coppice.show import result_lines

    run = _load(run_file, seed)
    with _role("master", work_of(work, run)) as context:
        result = serve(context, run, fresh)
        print(json.dumps(result) if as_json else "\n".join(result_lines(result, context.store.url)))


@app.command()
def outer(
    work: WorkOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = 1,
    status: StatusOption = None,
) -> None:
    """loop_outer: train the reference, ask for searches, cut, repair, write the result.

    Waits for the master's run.json and takes the settings from it.

    Example: `coppice outer --work /mnt/shared/work --device cuda:0`
    """
    from coppice.roles.outer import outer as serve

    settings = _settings(status)
    with _role("outer", work_of(work)) as context:
        _use_threads(threads)

        def make_pruner(run: RunFile) -> Any:
            from coppice.pruning.pruner import TorchPruner

            return TorchPruner(run, device or run.evaluators.device)

        serve(context, make_pruner, settings)


@app.command()
def ncs(work: WorkOption = None, status: StatusOption = None) -> None:
    """loop_ncs: search the layers' crates. Needs no GPU and no torch.

    Example: `coppice ncs --work /mnt/shared/work`
    """
    from coppice.roles.searcher import ncs as serve

    settings = _settings(status)
    with _role("ncs", work_of(work)) as context:
        serve(context, settings)


@app.command()
def evaluator(work: WorkOption = None, device: DeviceOption = None, threads: ThreadsOption = 1) -> None:
    """evaluator: score solutions. Start as many as you have machines; they may come and go.

    Example: `coppice evaluator --work /mnt/shared/work --device cuda:0`
    """
    from coppice.roles.evaluator import evaluator as serve

    with _role("evaluator", work_of(work)) as context:
        _use_threads(threads)

        def scorer(run: RunFile, weights: bytes, x: Any, y: Any, reference_accuracy: float) -> Any:
            from coppice.pruning.scoring.fast import make_scorer
            from coppice.pruning.scoring.reference import Reference

            place = device or run.evaluators.device
            reference = Reference.build(run, weights, x, y, reference_accuracy, place)
            return make_scorer(reference, run.evaluators.accuracy, run.evaluators.cache_mb * 10**6)

        serve(context, scorer)


@app.command()
def simulate(
    run_file: RunFileArgument,
    work: WorkOption = None,
    evaluators: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many; default: evaluators.count of the run file.")
    ] = None,
    seed: SeedOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    status: StatusOption = None,
) -> None:
    """Prune on this machine: all four roles as local processes, over any work folder.

    Ends with status 0 only when the run is over. Ctrl-C stops all processes; the same command goes on.

    Example: `coppice simulate jobs/digits.yaml --evaluators 2`
    """
    from coppice.roles.simulate import Reporting
    from coppice.roles.simulate import simulate as serve

    run = _load(run_file, seed)
    ended = serve(
        run,
        run_file,
        work_of(work, run),
        evaluators or run.evaluators.count,
        fresh=fresh,
        as_json=as_json,
        console=Console(stderr=as_json),
        reporting=Reporting(status, settings) if status and (settings := _settings(status)) else None,
    )
    raise typer.Exit(ended)


@app.command()
def status(
    work: WorkArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until the run ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how a run stands. Only reads.

    Example: `coppice status work/digits --watch`
    """
    from coppice.roles.status import read_status
    from coppice.roles.status_view import status_view, watch_status
    from coppice.store import open_store, tell_trouble

    if watch and as_json:
        raise CoppiceError("give --watch or --json, not both")
    with _closing(open_store(work, on_trouble=tell_trouble)) as store:
        if watch:
            watch_status(store, Console())
        elif as_json:
            print(json.dumps(read_status(store).to_json()))
        else:
            Console().print(status_view(read_status(store)))


@app.command()
def report(work: WorkArgument) -> None:
    """Write result/report.html into the work folder: one self-contained page with plots.

    Example: `coppice report work/digits`
    """
    from coppice.report import write_report
    from coppice.store import open_store, tell_trouble

    with _closing(open_store(work, on_trouble=tell_trouble)) as store:
        print(write_report(store))


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(metavar="WORK_OR_MODEL", help="A finished run's work folder, or .safetensors."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Where the files go; made on demand.")],
    run_file: Annotated[
        Path | None, typer.Option("--run", metavar="RUN.yaml", help="Of a .safetensors file: its run file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Or its network, as in a run file: lenet-5, module:callable.")
    ] = None,
    arguments: Annotated[
        str | None, typer.Option(metavar="JSON", help="What that is called with, e.g. '{\"inputs\": 64}'.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--input", metavar="SIZES", help="Sizes of one sample, e.g. 1,28,28.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--float16", help="Values as float16 in the .safetensors files.")
    ] = False,
    onnx: Annotated[
        bool | None, typer.Option("--onnx/--no-onnx", help="model.onnx; default: if the extra is installed.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a pruned network as files that are smaller and faster and load without Coppice.

    model.safetensors holds the kept weights alone; narrow.safetensors the network without its dead units;
    model.onnx the same for other programs; export.json says what that saves, measured on this machine.
    A run that is over has all this in its result/export/ already.

    Example: `coppice export work/digits --to digits-small`
    """
    from coppice import exporting
    from coppice.pruning.export.bundle import Wanted
    from coppice.runfile import parse_run_file
    from coppice.show import export_lines, export_table

    if not to:
        raise CoppiceError("--to: name a folder; . is this one")
    if model and run_file:
        raise CoppiceError("give --run or --model, not both")
    if arguments and not model:
        raise CoppiceError("--arguments: they are for --model NAME")
    section = {"name": model, "arguments": exporting.parse_arguments(arguments or "{}")}
    report = exporting.export(
        source,
        Path(to),
        Wanted(half=half, onnx=onnx),
        run=load_run_file(run_file) if run_file else None,
        model=parse_run_file({"name": "export", "model": section}, "--model").model if model else None,
        shape=exporting.parse_shape(shape) if shape else None,
    )
    if as_json:
        print(json.dumps(exporting.export_to_json(report)))
    else:
        console = Console()
        console.print(export_table(report))
        console.print("\n".join(export_lines(report)), markup=False, highlight=False, soft_wrap=True)
        print(f"written into {Path(to)}/")


@app.command()
def listen(
    settings: SettingsArgument,
    exit_with_state: Annotated[
        bool,
        typer.Option(
            "--exit-with-state",
            help="End when all that was heard of has ended: 0 if the last of it was done, 1 for an error.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Each message as a line on stdout.")] = False,
) -> None:
    """Show the status messages of a queue live, a progress bar for each model. Ctrl-C ends it.

    It stands in the platform's place: what it shows is off the queue then. Do not run it beside a platform
    that reads the same queue.

    Example: `coppice listen status.yaml --exit-with-state`
    """
    from coppice.listening import listen_to
    from coppice.status import load_status_settings

    reading = load_status_settings(settings, about=("training", "all"))  # the file need name none
    raise typer.Exit(listen_to(reading, exit_with_state, as_json))


@app.command()
def plot(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Metric logs, or folders of them; also on webhdfs://."),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="The picture (.png) or page (.html) to write.")
    ] = Path("metrics.png"),
) -> None:
    """Draw metric logs: a plot for each file, a curve for each of its columns.

    Example: `coppice plot models/m-17/save/metrics --to metrics.html`
    """
    from coppice.metric_plots import draw, read_logs

    draw(read_logs(files), to)
    print(f"written into {to}")


@app.command()
def clean(work: WorkArgument) -> None:
    """Remove a run's folder, finished or not; refuses while a role lives there.

    Only Coppice's own files and folders are removed, those with all that was put into them; the work folder
    itself goes if nothing else is in it.

    Example: `coppice clean work/digits`
    """
    from coppice.roles.clearing import clean as remove
    from coppice.show import plain

    with _role("clean", work) as context:
        left = remove(context)
        if left:
            names = plain(", ".join(left)).plain
            print(f"{context.store.url}: left {names}, which are not Coppice's")
        elif context.store.stat("") is not None:
            print(f"{context.store.url}: emptied of the run; the folder itself stays")
        else:
            print(f"{context.store.url}: removed")


@app.command()
def doctor(work: WorkArgument, as_json: JsonOption = False) -> None:
    """Does this place keep what Coppice needs? Try its promises in a scratch folder, and measure.

    Leaves nothing behind. Exit status 1 if the place is not safe to use.

    Example: `coppice doctor webhdfs://namenode:9870/shared/work`
    """
    from coppice.show import findings_table
    from coppice.store.doctor import Verdict, diagnose

    with interrupted_once():
        findings = diagnose(work)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        Console().print(findings_table(findings))
    bad = {Verdict.UNSAFE, Verdict.ERROR}
    raise typer.Exit(1 if any(finding.verdict in bad for finding in findings) else 0)


@app.command()
def version() -> None:
    """Print the version. Example: `coppice version`"""
    print(__version__)


@contextmanager
def _closing(store: Any) -> Iterator[Any]:
    try:
        yield store
    finally:
        store.close()


def script(role: str) -> Callable[[], None]:
    """What main1.py, loop_outer.py, loop_ncs.py and evaluator.py run: one role, with its options.

    A container may name everything by its environment: COPPICE_RUN and COPPICE_WORK.
    """
    return lambda: main([role, *sys.argv[1:]])


if __name__ == "__main__":
    main()
