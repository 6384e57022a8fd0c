"""What a person sees in the terminal: the result, an export, the doctor's findings; and words for figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from coppice.errors import printable
from coppice.work import names

if TYPE_CHECKING:
    from coppice.pruning.contract import ExportReport
    from coppice.store.doctor import Finding


def plain(text: str, style: str = "") -> Text:
    """Text from outside, as it is: no markup in it counts, and nothing that steers a terminal."""
    return Text(printable(text), style=style)


def times_smaller(fitness: float) -> str:
    """What a feasible fitness means; one that was given by hand may be 0."""
    return f"{1 / fitness:.1f}x" if fitness > 0 else "everything cut"


def facts_table(rows: list[tuple[str, RenderableType]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def result_table(result: dict[str, Any]) -> Table:
    """The layers of a finished run."""
    table = Table(title=plain(f"{result['name']}: {result['compression']:.1f}x"), box=box.SIMPLE_HEAD)
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
        f"search       {_count(result['searches'], 'search', 'searches')}, "
        f"{_count(result['evaluations'], 'evaluation', 'evaluations')} by "
        f"{_count(result['evaluators'], 'evaluator', 'evaluators')}, {result['seconds']:.0f} s",
    ]
    lost = [plain(each).plain for each in result.get("left_out", ())]
    lines += [f"left out     {each}: missing or damaged; history.csv is without it" for each in lost]
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


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


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
        table.add_row(plain(finding.what), verdict, figures, plain(finding.advice))
    return table


def _figure(name: str, value: float) -> str:
    """'median_ms', 3.2 is shown as 'median 3.2 ms'."""
    words = name.split("_")
    unit = words.pop() if words[-1] in ("ms", "s") else ""
    return f"{' '.join(words)} {value:.4g} {unit}".strip()
