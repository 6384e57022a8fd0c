"""`coppice openpai ...`: write jobs, submit them, look at them, stop them.

Kept apart from the roles' command line, and importing what it needs only when it is called: a role starts as
quickly as without it.
"""

from __future__ import annotations

import typer

from coppice.openpai import asking, writing

app = typer.Typer(
    name="openpai",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="A run as jobs of OpenPAI (or of Kubernetes): written, submitted, watched, stopped.\n\n"
    "Example: `coppice openpai render jobs/digits.yaml --image registry/coppice:1 --storage nfs --to pai`",
)
app.command()(writing.render)
app.command()(writing.convert)
app.command()(asking.submit)
app.command("list")(asking.list_jobs)
app.command()(asking.show)
app.command()(asking.logs)
app.command()(asking.stop)
app.command()(asking.wait)
