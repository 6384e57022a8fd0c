"""What a training or a validation tells about itself: messages to the platform, and metric logs.

    with open_reporter() as report:                     # the settings file that COPPICE_STATUS names, if any
        for step in range(1, steps + 1):
            loss = train_one()
            report.progress(step, 100 * step / steps)
            report.metrics.add("loss", {"step": step, "training": loss})

The block's end is told by itself: done, or error with a sentence, confirmed by the broker before it is left.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from coppice.errors import CoppiceError
from coppice.status.messages import Message, done_message, error_message, progress_message
from coppice.status.metric_logs import MetricLogs
from coppice.status.sender import Sender
from coppice.status.settings import Kind, StatusSettings, load_status_settings

SETTINGS_VARIABLE = "COPPICE_STATUS"
"""The environment variable that may name the settings file."""
LAST_WORD_S = 10.0
"""How long a process that has ended waits for the broker to confirm that it knows..."""
LEAVE_S = 2.0
"""...and one that only leaves, for what it told last."""
METRICS_S = 10.0
"""How long the end waits for the last lines of the metric logs."""


def say_on_stderr(line: str) -> None:
    """One line for the person who reads this process's output."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def open_reporter(
    path: str | Path | None = None,
    say: Callable[[str], None] = say_on_stderr,
    *,
    about: tuple[Kind, int | str] | None = None,
) -> Reporter:
    """By the settings file `path`, or the one that COPPICE_STATUS names; with neither, one that is silent.

    `about`: which training or validation, where many share the file; see `load_status_settings`.
    Raises `StatusSettingsError` for a file that cannot be used.
    """
    path = path or os.environ.get(SETTINGS_VARIABLE) or None
    return Reporter(load_status_settings(path, about=about) if path else None, say)


class Reporter:
    """Tells how far one training or validation is; without settings it takes everything and does nothing.

    As a context: left in order, it says done; left by an exception, error with a sentence for a person.
    After done or error nothing more is sent. No method waits for the broker or the store of the logs, but
    leaving does, at most `LAST_WORD_S` and `METRICS_S`; and none raises because one of them is out of order:
    `say` is given one line then.
    """

    def __init__(
        self,
        settings: StatusSettings | None,
        say: Callable[[str], None] = say_on_stderr,
        *,
        resume_metrics: bool = True,
    ) -> None:
        self.settings = settings
        self._sender = Sender(settings, say) if settings else None
        url = settings.model_write_path if settings else None
        self.metrics = MetricLogs.open(url, say, resume=resume_metrics)
        """The metric logs, `add` for a line; nothing is written without model_write_path."""
        self._ended = self._closed = False

    def progress(self, step: int, percentage: float) -> None:
        """`..._ing`: this step is at work, so much of it all is done (0 to 100)."""
        if self.settings is not None:
            self._send(progress_message(self.settings, step, percentage))

    def done(self) -> bool:
        """`..._done`, after the metric logs are whole; waits for the broker, and says whether it knows."""
        self._close_metrics()
        if self.settings is not None:
            self._send(done_message(self.settings))
        return self.leave()

    def error(self, reason: str) -> bool:
        """`..._error` with a sentence for a person; waits for the broker, and says whether it knows."""
        self._close_metrics()
        if self.settings is not None:
            self._send(error_message(self.settings, reason))
        return self.leave()

    def leave(self) -> bool:
        """End without a last word where none was given: somebody goes on with this training elsewhere.
        Whether the broker has confirmed all that was told."""
        self._close_metrics()
        return self._sender is None or self._sender.close(LAST_WORD_S if self._ended else LEAVE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.done()
        else:
            self.error(sentence(error))

    def _send(self, message: Message) -> None:
        self._ended = self._ended or message.final
        if self._sender is not None:
            self._sender.send(message)

    def _close_metrics(self) -> None:
        if not self._closed:
            self._closed = True
            self.metrics.close(METRICS_S)


def sentence(error: BaseException) -> str:
    """What an exception means, for somebody who will not read a traceback."""
    if isinstance(error, CoppiceError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "It was stopped before it was done."
    if isinstance(error, MemoryError):
        return "It ran out of memory."
    said = ""
    with suppress(Exception):  # somebody's own exception may fail to say what it is
        said = (str(error).strip().splitlines() or [""])[0].strip()
    return f"It ended by an error in the program: {type(error).__name__}{f': {said}' if said else ''}"
