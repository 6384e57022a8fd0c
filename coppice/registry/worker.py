"""A worker: claims orders, carries them out, moves them on; takes back those of workers that are dead."""

from __future__ import annotations

import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from coppice.errors import CoppiceError
from coppice.registry.errors import OrderFailed, OrderLost
from coppice.registry.job import Job
from coppice.registry.orders import Kind, check
from coppice.registry.queue import LEASE_S, TRIES, Patrol, Queue, Ticket
from coppice.registry.registry import Registry
from coppice.registry.reporting import reporting
from coppice.registry.verbs import do
from coppice.roles.context import Context, Stopped
from coppice.store import StoreError, TooLarge, TransientStoreError
from coppice.work.waiting import Every

_CHOICE = 8
"""A worker takes one of so many that wait longest, so that many workers do not all reach for the same."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a worker goes about it."""

    lease_s: float = LEASE_S
    tries: int = TRIES
    until_empty: bool = False
    """End when nothing waits or runs, instead of waiting for more."""
    openpai: tuple[str, ...] = ()
    """See `Job.openpai`."""


def work(context: Context, registry: Registry, kinds: Sequence[Kind], conduct: Conduct) -> int:
    """Work until asked to end (raises `Stopped`), or nothing is left; gives how many orders were done."""
    queues = [registry.queues[kind] for kind in kinds]
    patrol = Patrol(queues, context.clock, conduct.lease_s, conduct.tries)
    look = Every(context.clock, conduct.lease_s / 10, at_once=True)
    backoff = context.backoff()
    done = 0
    while True:
        context.check()
        if look.due():
            for line in patrol.look():
                context.say(line)
        claimed = _claim(context, queues)
        if claimed is not None:
            _carry_out(context, registry, *claimed, conduct)
            done += 1
            backoff.reset()
            continue
        if conduct.until_empty and not any(queue.tickets(s) for queue in queues for s in ("wait", "running")):
            return done
        backoff.pause()


def _claim(context: Context, queues: Sequence[Queue]) -> tuple[Queue, Ticket] | None:
    """The oldest order, or one of the oldest, of the first kind that has one."""
    for queue in queues:
        waiting = sorted(queue.tickets("wait"), key=lambda ticket: (ticket.mtime_ms, ticket.order.name))
        while waiting:
            ticket = waiting.pop(context.rng.randrange(min(len(waiting), _CHOICE)))
            taken = queue.claim(ticket, context.me.worker)
            if taken is not None:
                return queue, taken
            context.check()
    return None


def _carry_out(context: Context, registry: Registry, queue: Queue, ticket: Ticket, conduct: Conduct) -> None:
    name = ticket.order.name
    if queue.drop_if_done(ticket):
        context.say(f"{name}: is done already")
        return
    context.say(f"{name}: begun" + (f", try {ticket.turn}" if ticket.turn > 1 else ""))
    log: list[str] = []
    reason: str | None = None
    try:
        with Beating(context, queue, ticket, conduct.lease_s / 10) as tick:
            _do_all(context, registry, queue, ticket, tick, conduct, log)
    except Stopped:
        queue.give_back(ticket)
        context.say(f"{name}: put back")
        raise
    except OrderLost:
        context.say(f"{name}: was taken from this worker, which had been silent; left alone")
        return
    except TransientStoreError:  # nobody can work here; others take the order over
        raise
    except CoppiceError as error:
        reason = str(error)
    except Exception as error:
        log.append(traceback.format_exc())
        reason = f"an error in Coppice itself, {type(error).__name__}: {error}"
    text = "\n".join([*log, *([reason] if reason else [])])
    if queue.finish(ticket, reason is None, (text + "\n").encode("utf-8", "replace")):
        context.say(f"{name}: {'done' if reason is None else f'failed: {reason}'}")
    else:
        context.say(f"{name}: was taken from this worker meanwhile; left alone")


def _do_all(
    context: Context,
    registry: Registry,
    queue: Queue,
    ticket: Ticket,
    tick: Beating,
    conduct: Conduct,
    log: list[str],
) -> None:
    try:
        content = queue.read(ticket)
    except TooLarge as error:
        raise OrderFailed(f"{ticket.path}: too large for a work order") from error
    if content is None:
        raise OrderLost
    with (
        reporting(ticket.order, context.say) as report,
        tempfile.TemporaryDirectory(prefix="coppice-order-", ignore_cleanup_errors=True) as folder,
    ):
        commands = check(ticket.order, content)
        registry.check_purpose(ticket.order)
        settings = registry.settings(ticket.order.task)
        job = Job(registry, ticket.order, settings, Path(folder), tick, report, conduct.openpai, log)
        for command in commands:
            tick()
            do(job, command)


class Beating(AbstractContextManager["Beating"]):
    """Touches a running order's file on a thread of its own; called, it raises if the work is to end."""

    def __init__(self, context: Context, queue: Queue, ticket: Ticket, every_s: float) -> None:
        self._context = context
        self._queue = queue
        self._ticket = ticket
        self._every_s = every_s
        self._end = threading.Event()
        self._lost = threading.Event()
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __call__(self) -> None:
        """Raises `Stopped` if this process was asked to end, `OrderLost` if the order was taken back, and
        `PermanentStoreError` if it can no longer be said that it is being worked on."""
        self._context.check()
        if self._error is not None:
            raise self._error
        if self._lost.is_set():
            raise OrderLost

    def __enter__(self) -> Beating:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                if not self._queue.beat(self._ticket):
                    self._lost.set()
                    return
            except TransientStoreError:
                continue
            except StoreError as error:
                self._error = error
                return
            except Stopped:  # while it waited for the store; the work hears of it, too
                return
