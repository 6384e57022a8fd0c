"""`coppice status` and the live view of a simulation: how a run stands, for the terminal."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coppice.roles.status import RoleStatus, Status, read_status
from coppice.show import facts_table, plain, times_smaller
from coppice.store import Store
from coppice.work import names


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
        plain(title, style="bold"),
        plain(status.url, style="dim"),
        facts_table(status_rows(status)),
        _roles_table(status.roles),
    )


def watch_status(store: Store, console: Console) -> None:
    """Show the status until the run ends; Ctrl-C leaves."""
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


def _bar(done: int, total: int, text: str) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row(ProgressBar(total=max(1, total), completed=min(done, total), width=24), text)
    return table


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
