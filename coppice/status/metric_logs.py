"""Writes metric logs to any store, from a thread of its own: whoever trains never waits for them either.

A store has no append, so a log is written whole each time. What that costs is bounded: a log is thinned
(`MAX_LINES`), and written again only after 20 times as long as it took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from coppice.status.metrics import MAX_LOG_BYTES, BadMetricLog, MetricLog, log_path, read_curves
from coppice.store import TEMPORARY_FOLDER, Retry, Store, StoreError, TransientStoreError, open_store

PAUSE_S = 1.0
"""Between two times that one log is written..."""
PATIENCE = 20.0
"""...and at least so many times longer than it took."""
RETRY = Retry(patience_s=120.0)
TRY_AGAIN_S = 60.0
"""A store that did not answer for all this patience is asked again after so long."""


class MetricLogs:
    """The logs of one training below its model_write_path; without a store it takes them and does nothing.

    A reader sees whole lines at any moment: a log is replaced as a whole. What stands there from before a
    restart stays until more is known than it says. With `resume` the lines before the first new one are kept
    (a training that went back to its last checkpoint goes on in the same log); without it, the log is what
    was added here and nothing else. Threads: all methods from anywhere.
    """

    def __init__(
        self,
        store: Store | None,
        say: Callable[[str], None],
        *,
        resume: bool = True,
        background: bool = True,
    ) -> None:
        self._store = store
        self._url = store.url if store else ""
        self._say = say
        self._resume = resume
        self._background = background
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._logs: dict[str, MetricLog] = {}
        self._dirty: set[str] = set()
        self._standing: dict[str, bytes] = {}
        """What stands in the store."""
        self._due: dict[str, float] = {}
        self._closing = False
        self._complained = False
        self._thread: threading.Thread | None = None

    @classmethod
    def open(cls, url: str | None, say: Callable[[str], None], *, resume: bool = True) -> MetricLogs:
        """Below `url`, a folder or webhdfs://; None: nothing is written. Raises `StoreError` for no store."""
        return cls(open_store(url, retry=RETRY) if url else None, say, resume=resume)

    def add(self, name: str, values: Mapping[str, float]) -> None:
        """One line of the log `name`; the first of `values` is x, and the names are the log's header.

        Raises `BadMetricLog` for names that no log can have, or others than the log has.
        """
        path = log_path(name)
        with self._changed:
            log = self._logs.get(path)
            if log is None:
                log = self._logs[path] = MetricLog(tuple(values))
            if tuple(values) != log.names:
                raise BadMetricLog(f"metric log {name!r}: its columns are {', '.join(log.names)}")
            log.add(tuple(values.values()))
        self._touch(path)

    def put(self, name: str, log: MetricLog) -> None:
        """Have the log `name` say what this one says now; for who keeps it, after each change."""
        path = log_path(name)
        with self._changed:
            self._logs[path] = log.copy()
        self._touch(path)

    def flush(self) -> None:
        """Write what is not written, now: before a checkpoint, so that a crash after it loses no line."""
        with self._writing:
            for path in sorted(self._take_due(at_once=True)):
                self._write(path)

    def close(self, wait_s: float) -> None:
        """Write the rest, waiting at most so long for it, and let go of the store."""
        if self._store is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(wait_s)
            if self._thread.is_alive():
                self._say(f"metric logs: {self._url} took more than {wait_s:g} s; the last lines are missing")
                return
        if self._store is not None:
            if not self._complained:
                with suppress(StoreError):  # others write there, too: only an empty folder goes
                    self._store.delete(TEMPORARY_FOLDER)
            self._store.close()

    # Inside

    def _touch(self, path: str) -> None:
        if self._store is None:
            return
        with self._changed:
            self._dirty.add(path)
            if self._background and self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="metric logs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if not self._background:
            self.flush()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closing:
                    break
                now = time.monotonic()
                waits = [self._due.get(path, now) - now for path in self._dirty]
                if not waits or min(waits) > 0:
                    self._changed.wait(min(waits) if waits else None)
                    continue
            with self._writing:
                for path in sorted(self._take_due(at_once=False)):
                    self._write(path)
        self.flush()

    def _take_due(self, at_once: bool) -> set[str]:
        with self._changed:
            now = time.monotonic()
            due = {path for path in self._dirty if at_once or self._due.get(path, now) <= now}
            self._dirty -= due
            return due

    def _write(self, path: str) -> None:
        store = self._store
        if store is None:
            return
        began = time.monotonic()
        try:
            if path not in self._standing:
                self._standing[path] = self._look(store, path)
            with self._changed:
                log = self._logs[path].copy()  # whoever adds a line does not wait while this is written out
            data = log.to_bytes()
            # After a restart less may be known for a moment than a reader has seen already.
            if not self._standing[path].startswith(data):
                store.replace(path, data)
                self._standing[path] = data
            self._complained = False
        except TransientStoreError as error:
            if not self._complained:
                self._complained = True
                self._say(f"metric logs: {error}; lines wait until it is")
            with self._changed:
                self._dirty.add(path)
                self._due[path] = time.monotonic() + TRY_AGAIN_S
            return
        except StoreError as error:
            self._store = None
            self._say(f"metric logs: none are written any more: {error}")
        with self._changed:
            now = time.monotonic()
            self._due[path] = now + max(PAUSE_S, PATIENCE * (now - began))

    def _look(self, store: Store, path: str) -> bytes:
        """What stands there, taken over into the log if it is gone on with."""
        data = store.read(path, MAX_LOG_BYTES) or b""
        if not (self._resume and data):
            return data
        try:
            before = read_curves(data, path)
            older = MetricLog(before.names)
            for row in before.values.tolist():
                older.add(row)
        except BadMetricLog:  # damaged: it is replaced
            return b""
        with self._changed:
            log = self._logs[path]
            if before.names == log.names and log.lines:
                for line in log.lines:
                    older.add(line)
                self._logs[path] = older
        return data
