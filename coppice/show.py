"""What a person sees in the terminal: the live view, the status, the result, the doctor's findings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coppice.store import Store
from coppice.work import names

if TYPE_CHECKING:
    from coppice.roles.status import RoleStatus, Status
    from coppice.store.doctor import Finding


def plain(text: str, style: str = "") -> Text:
    """Text from outside, as it is: no markup in it counts, and nothing that steers a terminal."""
    return Text("".join(char if char.isprintable() else "?" for char in text), style=style)


def times_smaller(fitness: float) -> str:
    """What a feasible fitness means; one that was given by hand may be 0."""
    return f"{1 / fitness:.1f}x" if fitness > 0 else "everything cut"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def facts_table(rows: list[tuple[str, RenderableType]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def _bar(done: int, total: int, text: str) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row(ProgressBar(total=max(1, total), completed=min(done, total), width=24), text)
    return table


def status_rows(status: Status, rate: float | None = None) -> list[tuple[str, RenderableType]]:
    """The run's numbers, a row each."""
    rows: list[tuple[str, RenderableType]] = []
    iterations = f"{status.round}, {status.iterations_done} of {status.iterations_total} iterations done"
    rows.append(("round", _bar(status.iterations_done, status.iterations_total, iterations)))
    if status.search is not None:
        generation = min(status.generation + 1, status.generations)
        text = f"{status.search}, generation {generation} of {status.generations}"
        if status.search_fitness is not None:
            fitness = status.search_fitness
            text += f", best {times_smaller(fitness)}" if fitness <= 1 else ", nothing feasible yet"
        rows.append(("search", _bar(status.generation, status.generations, text)))
        rows.append(
            ("solutions", f"{status.waiting} waiting, {status.claimed} claimed, {status.scored} scored")
        )
    else:
        doing = "; the network is in training" if status.state == "running" else ""
        rows.append(("search", f"{status.searches} done{doing}"))
    rate_text = "" if rate is None else f", {rate:.1f} a second"
    rows.append(("evaluations", f"{status.evaluations_all}{rate_text}"))
    if status.accuracy is not None:
        rows.append(("last round", f"{status.compression:.1f}x, accuracy {status.accuracy:.4f}"))
        rows.append(
            ("best so far", Text(f"{status.best_compression:.1f}x within the constraint", style="bold green"))
        )
    if status.aside:
        rows.append(("set aside", Text(f"{status.aside}, see {names.ASIDE}/", style="yellow")))
    if status.last_error:
        rows.append(("last error", plain(status.last_error, style="yellow")))
    if status.foreign:
        rows.append(("not ours", plain(", ".join(status.foreign[:5]))))
    if status.reason:
        rows.append(("failed", plain(status.reason, style="bold red")))
    return rows


def _roles_table(roles: list[RoleStatus]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for title in ("role", "host", "process", "state", "last beat", "scored", "holds"):
        table.add_column(title)
    for role in roles:
        style = {"lost": "red", "ended": "dim"}.get(role.state, "")
        holds = ", ".join(role.holds) + (f" ({_age(role.holds_since_s)})" if role.holds else "")
        host = role.host if role.container is None else f"{role.host} ({role.container})"
        scored = str(role.scored) if role.role == "evaluator" else ""
        beat = _age(role.beat_age_s)
        table.add_row(role.role, plain(host), str(role.pid), role.state, beat, scored, holds, style=style)
    return table


def status_view(status: Status) -> RenderableType:
    """`coppice status`."""
    title = f"{status.name}, seed {status.seed}: run {status.run_id} is {status.state}"
    return Group(
        Text(title, style="bold"),
        Text(status.url, style="dim"),
        facts_table(status_rows(status)),
        _roles_table(status.roles),
    )


def watch_status(store: Store, console: Console) -> None:
    """Show the status until the run ends; Ctrl-C leaves."""
    from coppice.roles.status import read_status

    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                status = read_status(store)
                live.update(status_view(status), refresh=True)
                if status.state != "running":
                    return
                time.sleep(1.0)
    except KeyboardInterrupt:
        return


def result_table(result: dict[str, Any]) -> Table:
    """The layers of a finished run."""
    table = Table(title=f"{result['name']}: {result['compression']:.1f}x", box=box.SIMPLE_HEAD)
    table.add_column("layer")
    for title in ("weights", "kept", "fraction", "crate"):
        table.add_column(title, justify="right")
    for layer in result["layers"]:
        total = 1
        for n in layer["shape"]:
            total *= n
        fraction = layer["remaining"] / max(1, total)
        kept, crate = f"{layer['remaining']:,}", f"{layer['crate']:.3f}"
        table.add_row(plain(layer["name"]), f"{total:,}", kept, f"{fraction:.2%}", crate)
    return table


def result_lines(result: dict[str, Any], url: str) -> list[str]:
    """A finished run in a few lines."""
    return [
        f"parameters   {result['parameters_remaining']:,} of {result['parameters_total']:,} remain: "
        f"{result['compression']:.1f}x smaller",
        f"test set     {result['pruned_accuracy']:.2%} accuracy, "
        f"the dense network {result['reference_accuracy']:.2%}",
        f"search       {result['searches']} searches, {result['evaluations']:,} evaluations by "
        f"{result['evaluators']} evaluators, {result['seconds']:.0f} s",
        f"results      {url}/{names.RESULT}/",
    ]


_VERDICT_STYLES = {"ok": "green", "slow": "yellow", "unsafe": "bold red", "error": "bold red"}


def findings_table(findings: list[Finding]) -> Table:
    """`coppice doctor`."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for title in ("looked at", "verdict", "measured", "what to do"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, style=_VERDICT_STYLES[finding.verdict.value])
        figures = ", ".join(f"{_figure(name, value)}" for name, value in finding.figures.items())
        table.add_row(finding.what, verdict, figures, finding.advice)
    return table


def _figure(name: str, value: float) -> str:
    """'median_ms', 3.2 is shown as 'median 3.2 ms'."""
    words = name.split("_")
    unit = words.pop() if words[-1] in ("ms", "s") else ""
    return f"{' '.join(words)} {value:.4g} {unit}".strip()
