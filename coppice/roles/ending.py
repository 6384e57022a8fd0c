"""How a process that goes on until it is asked to end turns that into words and an exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from coppice.errors import CoppiceError
from coppice.roles.context import Context, RunOver, Stopped

STOPPED_STATUS = 143
"""Exit status of a process that was asked to end before it was done (128 + SIGTERM)."""


@contextmanager
def ending(context: Context, when_stopped: str) -> Iterator[None]:
    """Say how the work inside ended; raises `typer.Exit` unless it ended well."""
    try:
        yield
    except RunOver:
        context.say("the run is over")
    except Stopped:
        context.say(when_stopped)
        raise typer.Exit(STOPPED_STATUS) from None
    except CoppiceError as error:
        context.say(f"ends: {error}")
        raise typer.Exit(1) from None
