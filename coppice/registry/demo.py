"""A whole task from nothing, by worker processes: made, trained, tested, pruned, tested again, predicted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coppice.registry.errors import RegistryError
from coppice.registry.examples.install import Example, install
from coppice.registry.orders import KINDS
from coppice.registry.queue import Ticket
from coppice.registry.registry import Registry
from coppice.registry.workflows import EVERY_S

_LOOK_S = 0.5
_GRACE_S = 40.0
_TAIL_BYTES = 8192


def demo(registry: Registry, example: Example, workers: int, say: Callable[[str], None]) -> str:
    """Run it to its end and give the task's id; `say` tells each step.

    Raises `RegistryError` if one of them fails.
    """
    task = install(registry, example)
    say(f"{task}: {registry.settings(task).name}, in {registry.store.url}")
    with _processes(registry.store.url, workers) as (processes, said):
        seen: set[tuple[str, str]] = set()
        predict = None
        while True:
            predicted = predict is not None and registry.predictions(task).find(predict) is not None
            tickets = _tickets(registry, task)
            for ticket in tickets:
                mark = (ticket.order.name, ticket.state)
                if mark in seen:
                    continue
                seen.add(mark)
                say(f"{ticket.order.name}: {ticket.state}")
                if ticket.state == "fail":
                    log = (registry.store.read(ticket.log) or b"").decode("utf-8", "replace").strip()
                    raise RegistryError(f"{ticket.order.name} failed: {log.splitlines()[-1] if log else '?'}")
            # A record is written before its order moves on: a worker stopped in between puts the order back.
            if predicted and all(ticket.state == "success" for ticket in tickets):
                return task
            if predict is None and _all_is_tested(registry, task):
                predict = registry.order_set(task, "predict")
            dead = next((process for process in processes if process.poll() is not None), None)
            if dead is not None:
                raise RegistryError(
                    f"a process of the demo ended with status {dead.returncode}; last was said: {said()}"
                )
            time.sleep(_LOOK_S)


def _tickets(registry: Registry, task: str) -> list[Ticket]:
    tickets = (ticket for queue in registry.queues.values() for ticket in queue.all())
    return [ticket for ticket in tickets if ticket.order.task == task]


def _all_is_tested(registry: Registry, task: str) -> bool:
    """Whether each architecture has its model, each of these its pruned one, and each of all a score."""
    settings = registry.settings(task)
    models, _ = registry.models(task).read()
    scored = {record.model for record in registry.scores(task).read()[0]}
    wanted = len(registry.archs(task)) * (1 if settings.prune is None else 2)
    return len(models) == wanted and all(record.model in scored for record in models)


@contextmanager
def _processes(url: str, workers: int) -> Iterator[tuple[list[subprocess.Popen[bytes]], Callable[[], str]]]:
    """Workers for all kinds, and all workflows, quicker than usual; and what tells their last line."""
    commands = [["worker", *KINDS]] * workers + [["wf", *EVERY_S, "--every", "1"]]
    with tempfile.TemporaryFile(prefix="coppice-demo-") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "coppice", "registry", *command, "--at", url],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in commands
        ]

        def said() -> str:
            end = os.fstat(log.fileno()).st_size
            text = os.pread(log.fileno(), _TAIL_BYTES, max(0, end - _TAIL_BYTES))
            return text.decode("utf-8", "replace").strip().rpartition("\n")[2]

        try:
            yield processes, said
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
