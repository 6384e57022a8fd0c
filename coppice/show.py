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
    from coppice.pruning.contract import ExportReport
    from coppice.roles.status import RoleStatus, Status
    from coppice.status.listener import Board
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


def messages_view(board: Board, most: int = 40) -> RenderableType:
    """`coppice listen`: a progress bar for each training or validation, who was heard of last below."""
    table = Table.grid(padding=(0, 2))
    standings = list(board.standings.values())
    for message in standings[-most:]:
        name = plain(f"{message.kind} {message.id}")
        if message.state == "error":
            table.add_row(name, Text("error", style="bold red"), plain(message.message or "", style="red"))
        elif message.state == "done":
            table.add_row(name, ProgressBar(total=100, completed=100, width=24), Text("done", style="green"))
        else:
            bar = ProgressBar(total=100, completed=message.percentage or 0, width=24)
            table.add_row(name, bar, f"{message.percentage:g} %, step {message.step:,}")
    if not standings:
        return Text("nothing heard yet", style="dim")
    more = len(standings) - most
    return Group(Text(f"... and {more} more", style="dim"), table) if more > 0 else table


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
    lines = [
        f"parameters   {result['parameters_remaining']:,} of {result['parameters_total']:,} remain: "
        f"{result['compression']:.1f}x smaller",
        f"test set     {result['pruned_accuracy']:.2%} accuracy, "
        f"the dense network {result['reference_accuracy']:.2%}",
        f"search       {result['searches']} searches, {result['evaluations']:,} evaluations by "
        f"{result['evaluators']} evaluators, {result['seconds']:.0f} s",
    ]
    export = result.get("export") or {}
    sizes, notes = export.get("size_bytes", {}), [plain(note).plain for note in export.get("notes", ())]
    if "model.safetensors" in sizes and "dense" in sizes:
        small, dense = sizes["model.safetensors"], sizes["dense"]
        lines.append(
            f"file         {size_text(small)}, {smaller_text(dense, small)} than the dense network's "
            f"{size_text(dense)}; it loads without Coppice"
        )
        lines += [f"slower       {note}" for note in notes if "SLOWER" in note]
    else:
        lines += [f"file         {note}" for note in notes]
    return [*lines, f"results      {url}/{names.RESULT}/"]


def size_text(size: float) -> str:
    """1,066,824 -> '1.07 MB'."""
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"


def export_columns(report: ExportReport) -> list[tuple[int, int]]:
    """(batch, threads) of all that was measured."""
    return sorted({(timing.batch, timing.threads) for timing in report.timings})


def export_rows(report: ExportReport) -> list[list[tuple[str, str]]]:
    """A row for the dense network and one for each file: its name, its size, its milliseconds by
    `export_columns`; each with how much better that is than the dense network's, "" where it is not."""
    dense_bytes = report.size_bytes.get("dense", 0)
    ms = {(t.form, t.batch, t.threads): t.ms for t in report.timings}
    rows = []
    for form, size in report.size_bytes.items():
        first = form == "dense"
        row = [(form, ""), (size_text(size), "" if first else smaller_text(dense_bytes, size))]
        for place in export_columns(report):
            mine, dense = ms.get((form, *place)), ms.get(("dense", *place))
            if mine is None or dense is None:
                row.append(("", ""))
            else:
                row.append((f"{_three_digits(mine)} ms", "" if first else speed_text(dense, mine)))
        rows.append(row)
    return rows


def smaller_text(dense_bytes: float, size_bytes: float) -> str:
    """'75.2x smaller', or '1.01x larger'."""
    if size_bytes > dense_bytes:
        return f"{_times(size_bytes, dense_bytes)} larger"
    return f"{_times(dense_bytes, size_bytes)} smaller"


def speed_text(dense_ms: float, ms: float) -> str:
    """'6.21x faster', '1.03x SLOWER', or 'as fast'."""
    if abs(ms - dense_ms) < 0.005 * dense_ms:
        return "as fast"
    if ms > dense_ms:
        return f"{_times(ms, dense_ms)} SLOWER"
    return f"{_times(dense_ms, ms)} faster"


def _times(more: float, less: float) -> str:
    return f"{_three_digits(more / max(1e-9, less))}x"


def _three_digits(value: float) -> str:
    """Or all of a whole number that has more."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def export_titles(report: ExportReport) -> list[str]:
    """Of the columns of `export_rows`."""
    places = [
        f"batch {batch}, {threads} {'thread' if threads == 1 else 'threads'}"
        for batch, threads in export_columns(report)
    ]
    return ["file", "size", *places]


def export_table(report: ExportReport) -> Table:
    """`coppice export`: a column for each file, so that it fits a terminal of 80 columns."""
    rows = export_rows(report)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("")
    for row in rows:
        table.add_column(row[0][0], justify="right", overflow="fold")
    for at, title in enumerate(export_titles(report)[1:], start=1):
        cells = (
            plain(value) + Text(f"\n{better}", style="dim") for value, better in (row[at] for row in rows)
        )
        table.add_row(title.replace(", ", "\n"), *cells)
    if report.outputs_apart:
        apart = [report.outputs_apart.get(form) for form in report.size_bytes]
        table.add_row("outputs\napart by", *("" if each is None else f"{each:.2g}" for each in apart))
    return table


def export_lines(report: ExportReport) -> list[str]:
    """What the table cannot say."""
    return [plain(note).plain for note in report.notes]


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
