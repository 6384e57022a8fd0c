"""`coppice registry ...`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.registry.orders import KINDS, Kind
from coppice.registry.queue import LEASE_S, TRIES
from coppice.registry.registry import Registry, SetKind
from coppice.registry.workflows import EVERY_S, Workflow
from coppice.roles.context import Context
from coppice.roles.ending import ending
from coppice.store import open_store, tell_trouble

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Tasks, data sets, architectures, models and scores, worked on by work orders; see docs/registry.md."
    "\n\nExample: `coppice registry demo digits --at work/registry`",
)

At = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="URL",
        envvar="COPPICE_REGISTRY",
        help="The registry: a folder, or webhdfs://host:9870/path.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
TaskArgument = Annotated[str, typer.Argument(metavar="TSK000001", help="The task.")]
Script = Annotated[
    Path | None, typer.Option(metavar="FILE.py", help="A script; see docs/registry.md, Scripts.")
]


@contextmanager
def _registry(at: str) -> Iterator[Registry]:
    with open_store(at, on_trouble=tell_trouble) as store:
        yield Registry.open(store)


def _say(as_json: bool, content: dict[str, Any], *lines: str) -> None:
    print(json.dumps(content) if as_json else "\n".join(lines))


def _show(as_json: bool, found: dict[str, Any]) -> None:
    from coppice.registry.views import shown

    if as_json:
        print(json.dumps(found))
    else:
        Console().print(shown(found))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RegistryError(f"{path}: cannot be read ({error.strerror})") from error


def _scripts(train: Path | None, test: Path | None, predict: Path | None) -> dict[SetKind, bytes]:
    given: dict[SetKind, Path | None] = {"train": train, "test": test, "predict": predict}
    return {kind: _read(path) for kind, path in given.items() if path is not None}


def _one_of(names: list[str] | None, wanted: Any, what: str) -> list[Any]:
    for name in names or []:
        if name not in wanted:
            raise RegistryError(f"{what} {name!r}: there is none; expected one of {', '.join(wanted)}")
    return list(names or wanted)


@app.command()
def init(at: At, as_json: AsJson = False) -> None:
    """Begin a registry. One that is there already is left as it is.

    Example: `coppice registry init --at work/registry`
    """
    with open_store(at, on_trouble=tell_trouble) as store:
        registry = Registry.init(store)
        _say(as_json, {"registry": store.url, "uid": registry.uid}, f"{store.url}: ready")


@app.command("add-task")
def add_task(
    name: Annotated[str, typer.Argument(help="For people.")],
    at: At,
    train: Script = None,
    test: Script = None,
    predict: Script = None,
    better: Annotated[str, typer.Option(help="Which score wins: higher or lower.")] = "higher",
    tolerance: Annotated[float, typer.Option(min=0, help="Scores so close are a tie.")] = 0.0,
    limit_s: Annotated[float, typer.Option(min=0.001, help="Seconds for one script.")] = 3600.0,
    prune: Annotated[
        Path | None, typer.Option(metavar="RUN.yaml", help="Prune each trained model so; see prune.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a task, with the scripts that make its train, test and predict sets.

    Example: `coppice registry add-task digits --train gen_train.py --test gen_test.py --at work/registry`
    """
    from pydantic import ValidationError

    from coppice.registry.tasks import TaskSettings
    from coppice.runfile import load_run_file
    from coppice.yamlfile import first_mistake

    settings = None if prune is None else load_run_file(prune).model_dump(mode="json", exclude_unset=True)
    try:
        wanted = TaskSettings.model_validate(
            {
                "name": name,
                "better": better,
                "tolerance": tolerance,
                "limit_s": limit_s,
                "prune": settings,
            }
        )
    except ValidationError as error:
        raise RegistryError(first_mistake(error, TaskSettings)) from error
    with _registry(at) as registry:
        task = registry.add_task(wanted, _scripts(train, test, predict))
        path = layout.settings_file(task)
        _say(as_json, {"task": task}, f"{task}: added; its settings are in {registry.store.url}/{path}")


@app.command("add-arch")
def add_arch(
    task: TaskArgument,
    at: At,
    train: Annotated[Path, typer.Option(metavar="FILE.py", help="The script that trains.")],
    test: Script = None,
    predict: Script = None,
    name: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add an architecture to a task: the scripts that train, test and predict.

    Example: `coppice registry add-arch TSK000001 --train t.py --test s.py --predict p.py --at work/registry`
    """
    with _registry(at) as registry:
        arch = registry.add_arch(task, _scripts(train, test, predict), name)
        _say(as_json, {"arch": arch}, f"{arch}: added to {task}")


XArray = Annotated[Path | None, typer.Option("--x", metavar="X.npy", help="Given samples, instead.")]
YArray = Annotated[Path | None, typer.Option("--y", metavar="Y.npy", help="Their labels.")]


def _add_set(at: str, task: str, kind: SetKind, given: list[Path | None], as_json: bool) -> None:
    paths = [path for path in given if path is not None]
    if paths and len(paths) < len(given):
        raise RegistryError("give both --x and --y, or neither")
    with _registry(at) as registry:
        if paths:
            name = registry.add_set(task, kind, tuple(_read(path) for path in paths))
            _say(as_json, {"set": name}, f"{name}: added to {task}")
        else:
            name = registry.order_set(task, kind)
            _say(as_json, {"set": name}, f"{name}: ordered; a worker for {kind}gen makes it")


@app.command("add-train")
def add_train(
    task: TaskArgument, at: At, x: XArray = None, y: YArray = None, as_json: AsJson = False
) -> None:
    """Add a train set: an order for the task's own script, or given arrays.

    Example: `coppice registry add-train TSK000001 --at work/registry`
    """
    _add_set(at, task, "train", [x, y], as_json)


@app.command("add-test")
def add_test(task: TaskArgument, at: At, x: XArray = None, y: YArray = None, as_json: AsJson = False) -> None:
    """Add a test set: an order for the task's own script, or given arrays.

    Example: `coppice registry add-test TSK000001 --x test_x.npy --y test_y.npy --at work/registry`
    """
    _add_set(at, task, "test", [x, y], as_json)


@app.command("add-predict")
def add_predict(task: TaskArgument, at: At, x: XArray = None, as_json: AsJson = False) -> None:
    """Add a predict set: an order for the task's own script, or a given array.

    Example: `coppice registry add-predict TSK000001 --x new_x.npy --at work/registry`
    """
    _add_set(at, task, "predict", [x], as_json)


@app.command()
def worker(
    at: At,
    kinds: Annotated[
        list[str] | None, typer.Argument(metavar="KIND...", help=f"Of {', '.join(KINDS)}; default: all.")
    ] = None,
    lease: Annotated[
        float,
        typer.Option(
            min=1, help="Seconds after which a silent worker's order is taken back; for all the same."
        ),
    ] = LEASE_S,
    tries: Annotated[int, typer.Option(min=1, max=1000, help="After so many it fails.")] = TRIES,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when nothing is left to do.")
    ] = False,
    openpai: Annotated[
        str | None,
        typer.Option(
            metavar="OPTIONS",
            help="Submit pruning runs to OpenPAI instead of running them here: options of coppice openpai "
            "render, such as '--storage nfs --image registry/coppice:1'. For a registry on that storage.",
        ),
    ] = None,
) -> None:
    """Carry out work orders. Start as many as you like, on any machines; they may come and go.

    Example: `coppice registry worker train test --at webhdfs://namenode:9870/registry`
    """
    from coppice.registry.reporting import check_settings
    from coppice.registry.worker import Conduct, work

    check_settings()
    wanted: list[Kind] = _one_of(kinds, KINDS, "kind")
    with _process(f"worker {' '.join(kinds or ['of all kinds'])}", at) as (context, registry):
        done = work(
            context, registry, wanted, Conduct(lease, tries, until_empty, tuple(shlex.split(openpai or "")))
        )
        context.say(f"nothing is left; {done} orders worked on")


@app.command()
def wf(
    at: At,
    workflows: Annotated[list[str], typer.Argument(metavar="WORKFLOW...", help=f"Of {', '.join(EVERY_S)}.")],
    every: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between two looks; default: see docs/registry.md.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
) -> None:
    """Order what is missing: models to train, scores to take, predictions, prunings. Any number at a time.

    Example: `coppice registry wf train test --at work/registry`
    """
    from coppice.registry.workflows import run_pass
    from coppice.work.waiting import Every

    wanted: list[Workflow] = _one_of(workflows, EVERY_S, "workflow")
    with _process(f"wf {' '.join(workflows)}", at) as (context, registry):
        due = {each: Every(context.clock, every or EVERY_S[each], at_once=True) for each in wanted}
        said: set[str] = set()

        def complain(line: str) -> None:
            if line not in said:
                said.add(line)
                context.say(line)

        while True:
            for workflow in wanted:
                if due[workflow].due():
                    for order in run_pass(registry, workflow, complain):
                        context.say(f"ordered {order.name}")
            if once:
                return
            context.clock.sleep(min(1.0, every or 1.0))


@contextmanager
def _process(name: str, at: str) -> Iterator[tuple[Context, Registry]]:
    """A process that goes on until it is asked to end."""
    context = Context.for_process(name, at)
    with context.store, ending(context, "stopped"):
        yield context, Registry.open(context.store, context.clock)


@app.command()
def prune(
    task: TaskArgument,
    model: Annotated[str, typer.Argument(metavar="MDL000001", help="The model to cut.")],
    at: At,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN.yaml", help="How; default: the task's own settings, or a run file's defaults."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Order the pruning of a model. What the run file says of name, work, model and data does not count.

    Example: `coppice registry prune TSK000001 MDL000001 --run jobs/digits.yaml --at work/registry`
    """
    from coppice.runfile import load_run_file

    with _registry(at) as registry:
        settings = registry.settings(task).prune or {}
        if run is not None:
            settings = load_run_file(run).model_dump(mode="json", exclude_unset=True)
        order = registry.pruning_of(task, registry.model(task, model), settings)
        failed = any(ticket.order == order for ticket in registry.queues["prune"].tickets("fail"))
        before = "had failed; coppice registry retry puts it back" if failed else "had been ordered"
        new = "ordered" if registry.order(order) else before
        _say(as_json, {"order": order.name, "model": order.makes}, f"{order.makes}: {new}, {order.name}")


@app.command()
def ls(at: At, as_json: AsJson = False) -> None:
    """Show the tasks, and the queues with counts and ages.

    Example: `coppice registry ls --at work/registry`
    """
    from coppice.registry.views import overview, overview_tables

    with _registry(at) as registry:
        found = overview(registry)
        if as_json:
            print(json.dumps(found))
        else:
            console = Console()
            for table in overview_tables(found):
                console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="A task, set, architecture, model or score.")],
    at: At,
    as_json: AsJson = False,
) -> None:
    """Show one thing: what it is, where it stands, what belongs to it.

    Example: `coppice registry show TSK000001 --at work/registry`
    """
    from coppice.registry.views import describe

    with _registry(at) as registry:
        _show(as_json, describe(registry, name))


@app.command()
def best(
    task: TaskArgument,
    at: At,
    test: Annotated[str | None, typer.Option(metavar="TST000001", help="Default: the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the models by their scores on a test set; of those that tie, the smaller first.

    Example: `coppice registry best TSK000001 --at work/registry`
    """
    from coppice.registry.views import best_view

    with _registry(at) as registry:
        registry.settings(task)
        chosen = test or registry.newest_test(task)
        if chosen is None:
            raise RegistryError(f"{task}: has no test set yet; coppice registry add-test {task}")
        known = registry.sets(task, "test")
        if chosen not in known:
            raise RegistryError(f"{chosen}: no test set of {task}; it has {', '.join(known) or 'none'}")
        ranked = registry.ranking(task, chosen)
        if ranked or as_json:
            _show(as_json, {"test": chosen, "models": [best_view(each) for each in ranked]})
        else:
            print(f"{task}: nothing has been tested on {chosen} yet")


@app.command()
def lineage(
    model: Annotated[str, typer.Argument(metavar="MDL000001", help="The model.")],
    at: At,
    as_json: AsJson = False,
) -> None:
    """Print how a model came to be: from script and data set to the pruned network, with scores.

    Example: `coppice registry lineage MDL000003 --at work/registry`
    """
    from coppice.registry.views import lineage_lines

    with _registry(at) as registry:
        lines = lineage_lines(registry, model)
        _say(as_json, {"model": model, "lineage": lines}, *lines)


@app.command()
def retry(
    at: At,
    orders: Annotated[
        list[str] | None,
        typer.Argument(metavar="ORDER...", help="Names, or kinds; default: all that failed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put failed orders back.

    Example: `coppice registry retry train --at work/registry`
    """
    with _registry(at) as registry:
        failed = [ticket for queue in registry.queues.values() for ticket in queue.tickets("fail")]
        wanted = {order.removesuffix(".wo") for order in orders or []}
        known = {ticket.order.name for ticket in failed} | set(get_args(Kind))
        for name in sorted(wanted - known):
            raise RegistryError(f"{name}: no such order has failed; see: coppice registry ls")
        chosen = [t for t in failed if not wanted or t.order.name in wanted or t.order.kind in wanted]
        moved = [t.order.name for t in chosen if registry.queues[t.order.kind].retry(t)]
        _say(as_json, {"retried": moved}, *[f"{name}: put back" for name in moved] or ["nothing had failed"])


@app.command()
def demo(
    at: At,
    example: Annotated[str, typer.Argument(metavar="digits|mnist", help="Which.")] = "digits",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    as_json: AsJson = False,
) -> None:
    """From nothing to a network that was trained, tested, pruned, tested again and used, by work orders.

    Example: `coppice registry demo digits --at work/registry`
    """
    from coppice.registry.demo import demo as play
    from coppice.registry.examples.install import EXAMPLES
    from coppice.registry.views import describe, lineage_lines
    from coppice.roles.signals import sigterm_as_interrupt

    (chosen,) = _one_of([example], EXAMPLES, "example")
    with open_store(at, on_trouble=tell_trouble) as store:
        registry = Registry.init(store)
        with sigterm_as_interrupt():
            task = play(registry, chosen, workers, (lambda line: None) if as_json else print)
        _show(as_json, describe(registry, task))
        if not as_json:
            for record in registry.models(task).read()[0]:
                if record.parent is not None:
                    print("\n".join(lineage_lines(registry, record.model)))
