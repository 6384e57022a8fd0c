"""The one root of every error that Coppice raises on purpose, and what its commands end with."""

from __future__ import annotations

INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it: 128 and the number of SIGINT."""


class CoppiceError(Exception):
    """Something a user can act on.

    The message is one line: what happened, where (file, key or role), what to do. The command line
    prints it without a traceback and exits with status 1.
    """


def printable(text: str, other: str = "?") -> str:
    """Text from outside, with `other` for whatever steers a terminal or ends a line."""
    return "".join(char if char.isprintable() else other for char in text)


def first_line(error: Exception) -> str:
    """What an error of somebody else's says, short enough for a message or a note."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
