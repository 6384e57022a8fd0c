"""`coppice listen`: shows what is in the queue, and may end with the state of what was heard."""

from __future__ import annotations

import contextlib
import itertools
import sys

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coppice.errors import INTERRUPTED
from coppice.show import plain
from coppice.status.listener import Board, listen
from coppice.status.messages import BadMessage
from coppice.status.settings import StatusSettings


def listen_to(settings: StatusSettings, exit_with_state: bool, as_json: bool) -> int:
    """Show the queue until Ctrl-C, or with `exit_with_state` until all has ended; returns the exit status."""
    board = Board()
    console = Console(stderr=as_json)
    live = None if as_json else Live(messages_view(board), console=console, refresh_per_second=8)

    def say(line: str) -> None:
        console.print(plain(line), highlight=False, soft_wrap=True)

    messages = listen(settings, say)
    try:
        first = next(messages)  # a broker that cannot be used is one line, and no view before it
        with live or contextlib.nullcontext():
            for message in itertools.chain([first], messages):
                # Nothing came, so the last one is acknowledged: only now may this process end.
                if message is None and exit_with_state and board.settled:
                    break
                if isinstance(message, BadMessage):
                    say(f"a message that cannot be read: {message}")
                elif message is not None:
                    board.take(message)
                    if as_json:
                        print(message.to_bytes().decode(), flush=True)  # what is no text is a ? in it
                if live is not None:
                    live.update(messages_view(board))
    except KeyboardInterrupt:
        return INTERRUPTED if exit_with_state else 0
    except BrokenPipeError:  # whoever read our lines has gone
        sys.stderr.close()
        return 0
    last = board.last
    if last is not None and last.state == "error":
        say(f"{last.kind} {last.id}: {last.message}")
        return 1
    return 0


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
