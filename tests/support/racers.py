"""What racing processes do; importable by a process that was spawned."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any

from coppice.store import Store
from tests.support.homes import HomeSpec

PATIENCE_S = 120.0
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Racer:
    """One of several callers that start each round together."""

    number: int
    rounds: int
    wait: Callable[[], object]
    """Waits for all the others."""


Race = Callable[[Store, Racer], list[Any]]
"""What one racer does, round for round; what it returns is sent to the test."""


def create_race(store: Store, racer: Racer) -> list[Any]:
    """All create one name; whether it was this racer, for each round."""
    won = []
    for each in range(racer.rounds):
        racer.wait()
        won.append(store.create(f"created/{each}", f"{racer.number}".encode() * 1000))
    return won


def claim_race(store: Store, racer: Racer) -> list[Any]:
    """All move one file to names of their own; whether it was this racer, for each round."""
    won = []
    for each in range(racer.rounds):
        if racer.number == 0:
            store.create(f"source-{each}", b"solution")
        racer.wait()
        won.append(store.rename(f"source-{each}", f"claims/{each}-{racer.number}"))
    return won


def target_race(store: Store, racer: Racer) -> list[Any]:
    """All move files of their own to one name; whether it was this racer, for each round."""
    won = []
    for each in range(racer.rounds):
        store.create(f"own-{each}-{racer.number}", str(racer.number).encode())
        racer.wait()
        won.append(store.rename(f"own-{each}-{racer.number}", f"target-{each}"))
    return won


def publish_race(store: Store, racer: Racer) -> list[Any]:
    """All publish folders of their own under one name; whether it was this racer, for each round."""
    won = []
    for each in range(racer.rounds):
        mine = {f"{racer.number}-{index}": b"" for index in range(3)}
        staging = store.stage(mine)
        racer.wait()
        won.append(staging.publish(f"published/{each}", {"who": str(racer.number).encode()}))
    return won


def move_folder_race(store: Store, racer: Racer) -> list[Any]:
    """All move folders of their own to one name; whether it was this racer, for each round."""
    won = []
    for each in range(racer.rounds):
        mine = f"own-{each}-{racer.number}"
        store.create(f"{mine}/{racer.number}", b"")
        racer.wait()
        won.append(store.home.rename_folder(mine, f"target-{each}"))
    return won


def claim_folder_race(store: Store, racer: Racer) -> list[Any]:
    """All move one folder to names of their own; whether it was this racer, for each round."""
    won = []
    for each in range(racer.rounds):
        if racer.number == 0:
            store.create(f"source-{each}/file", b"")
        racer.wait()
        won.append(store.home.rename_folder(f"source-{each}", f"claim-{each}-{racer.number}"))
    return won


def page(version: int) -> bytes:
    """A content that shows whether it is whole: one byte, many times, of a length that goes with it."""
    return bytes([version % 251]) * (50_000 + 1000 * (version % 7))


def is_whole(data: bytes) -> bool:
    """Whether `data` is some `page`."""
    return bool(data) and any(data == page(data[0] + 251 * each) for each in range(7))


def replace_and_read_race(store: Store, racer: Racer) -> list[Any]:
    """Racer 0 replaces one file again and again, the others read it; what each read, as it judged it."""
    seen = []
    if racer.number == 0:
        store.replace("page", page(0))
    racer.wait()
    for each in range(racer.rounds):
        if racer.number == 0:
            store.replace("page", page(each))
        else:
            data = store.read("page")
            seen.append("missing" if data is None else "whole" if is_whole(data) else "torn")
    return seen


def create_and_read_race(store: Store, racer: Racer) -> list[Any]:
    """Racer 0 creates files, the others read whatever a list shows."""
    seen = []
    for each in range(racer.rounds):
        racer.wait()
        if racer.number == 0:
            store.create(f"pages/{each:03}", page(each))
        else:
            for entry in store.list("pages"):
                data = store.read(f"pages/{entry.name}")
                whole = data == page(int(entry.name)) and entry.size == len(page(int(entry.name)))
                seen.append("whole" if whole else "torn")
    return seen


def race_threads(spec: HomeSpec, race: Race, racers: int, rounds: int) -> list[list[Any]]:
    """Run `race` in threads that share one store; what each racer returned."""
    barrier = threading.Barrier(racers)
    results: list[list[Any]] = [[] for _ in range(racers)]

    def run(number: int) -> None:
        try:
            results[number] = race(store, Racer(number, rounds, lambda: barrier.wait(PATIENCE_S)))
        except BaseException:
            barrier.abort()
            raise

    with Store(spec.open()) as store:
        threads = [threading.Thread(target=run, args=(number,)) for number in range(racers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    return results


def race_processes(spec: HomeSpec, race: Race, racers: int, rounds: int) -> list[list[Any]]:
    """Run `race` in processes of their own; what each racer returned."""
    barrier = _spawn.Barrier(racers)
    queue: Queue[tuple[int, list[Any] | str]] = _spawn.Queue()
    processes: list[BaseProcess] = [
        _spawn.Process(target=_run, args=(spec, race, number, rounds, barrier, queue))
        for number in range(racers)
    ]
    for process in processes:
        process.start()
    try:
        answers = dict(queue.get(timeout=PATIENCE_S) for _ in processes)
    finally:
        for process in processes:
            process.kill() if process.exitcode is None and queue.empty() else None
            process.join(PATIENCE_S)
    failures = [answer for answer in answers.values() if isinstance(answer, str)]
    if failures:
        raise RuntimeError(f"a racer failed: {failures[0]}")
    return [list(answers[number]) for number in range(racers)]


def _run(
    spec: HomeSpec,
    race: Race,
    number: int,
    rounds: int,
    barrier: Barrier,
    queue: Queue[tuple[int, list[Any] | str]],
) -> None:
    try:
        with Store(spec.open()) as store:
            queue.put((number, race(store, Racer(number, rounds, lambda: barrier.wait(PATIENCE_S)))))
    except BaseException as error:
        barrier.abort()
        queue.put((number, repr(error)))
