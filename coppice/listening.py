"""`coppice listen`: shows what is in the queue, and may end with the state of what was heard."""

from __future__ import annotations

import contextlib
import itertools
import sys

from rich.console import Console
from rich.live import Live

from coppice.show import messages_view, plain
from coppice.status.listener import Board, listen
from coppice.status.messages import BadMessage
from coppice.status.settings import StatusSettings

INTERRUPTED_STATUS = 130


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
        return INTERRUPTED_STATUS if exit_with_state else 0
    except BrokenPipeError:  # whoever read our lines has gone
        sys.stderr.close()
        return 0
    last = board.last
    if last is not None and last.state == "error":
        say(f"{last.kind} {last.id}: {last.message}")
        return 1
    return 0
