"""solution_<id>.npy and fit_solution_<id>.npy: what stands in a generation's folder, for people.

They show, as files of their own with the names that the four jobs always used, which solutions are being
scored and what came out, and they let an evaluator of any other make take part. Coppice's own evaluators go
by the generation's folder. On an untouched HDFS a file with content may cost 400 ms, so views are written on
a thread of their own, a moment later, and not at all once their generation is over: nobody could see them.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from types import TracebackType
from typing import Self

from coppice.roles.context import Context, RunOver, Stopped
from coppice.store import StoreError
from coppice.work.names import GenerationId

DELAY_S = 0.02
"""So long a generation must stand to get its views."""
DEAR_DELAY_S = 0.3
"""The same on a home where a file with content is dear..."""
PATIENCE = 3.0
"""...and so many times longer than the last view took: where that is 400 ms, views are in the way of the next
generation's solutions."""


REMEMBERED = 200
"""Views that a writer removes itself when the run is over."""


class Views:
    """Writes the views of the generation under way; as a context, removes the last ones when the run is over.

    By name: whoever tidies up goes by a listing, which may be older than they are.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._delay_s = DEAR_DELAY_S if context.store.home.parallel > 1 else DELAY_S
        self._took_s = 0.0
        self._queue: queue.SimpleQueue[tuple[float, GenerationId, str, bytes]] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._given_up = False
        self._newest: GenerationId | None = None
        self._over = False
        self._written: deque[str] = deque(maxlen=REMEMBERED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, RunOver):
            return  # they are still wanted, or there is no writing any more
        self.settle()
        try:
            self._store.delete_many(list(self._written))
        except StoreError as problem:
            self._context.say(f"files for onlookers are left behind: {problem}")

    def advance(self, generation: GenerationId) -> None:
        """Views of older generations are no longer wanted."""
        if self._newest is None or generation > self._newest:
            self._newest = generation
        self._over = False

    def put(self, generation: GenerationId, name: str, data: bytes) -> None:
        """Have one written soon."""
        if self._given_up:
            return
        if not self._context.background:
            self._write(generation, name, data)
            return
        due = self._context.clock.monotonic() + self._delay_s + PATIENCE * self._took_s
        self._queue.put((due, generation, name, data))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="views", daemon=True)
            self._thread.start()

    def settle(self) -> None:
        """No more views for now: when this returns, none is being written any more."""
        self._over = True
        with self._writing:
            pass

    def _wanted(self, generation: GenerationId) -> bool:
        return not self._over and (self._newest is None or generation >= self._newest)

    def _run(self) -> None:
        clock = self._context.clock
        try:
            while not self._given_up:
                due, generation, name, data = self._queue.get()
                if self._wanted(generation):
                    clock.sleep(max(0.0, due - clock.monotonic()))
                    self._write(generation, name, data)
        except Stopped:
            return

    def _write(self, generation: GenerationId, name: str, data: bytes) -> None:
        try:
            with self._writing:
                if self._wanted(generation):
                    began = self._context.clock.monotonic()
                    self._written.append(name)
                    self._store.create(name, data)
                    self._took_s = self._context.clock.monotonic() - began
        except StoreError as error:
            # No reason to end: what counts stands in the generation's folder.
            self._given_up = True
            self._context.say(f"files for onlookers ({name}) are no longer written: {error}")
