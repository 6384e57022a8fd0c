"""All four roles as processes of this machine, over any work folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from coppice.clock import SystemClock
from coppice.errors import INTERRUPTED, CoppiceError
from coppice.roles.clearing import discard
from coppice.roles.context import Context, declare_failure, read_failure, read_record
from coppice.roles.master import read_result
from coppice.roles.processes import RoleProcess, start_server
from coppice.roles.signals import asked_to_end, sigterm_as_interrupt
from coppice.roles.status import Status, read_status
from coppice.roles.status_view import status_rows
from coppice.roles.telling import SUPERVISED_VARIABLE, tell_failure
from coppice.runfile import RunFile
from coppice.show import facts_table, plain, result_lines, result_table
from coppice.status import StatusSettings
from coppice.store import Store, open_store
from coppice.work.presence import Identity, read_role_file, role_files
from coppice.work.waiting import Every

RESTARTS = 5
"""How often one role that dies is started again; reaching a new round forgives it everything."""
GRACE_S = 15.0
"""A process that was asked to end and does not is killed after so long."""
LOOK_S = 0.25
SHOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Reporting:
    """Where status messages and metric logs go."""

    path: Path
    """The settings file, for the roles."""
    settings: StatusSettings


@dataclass(slots=True)
class Worker:
    """One role as a process, through its restarts."""

    name: str
    arguments: list[str]
    log: Path
    process: RoleProcess | None = None
    died: int = 0
    status: int | None = None
    """Exit status of its last process, once it has ended for good."""

    def start(self) -> None:
        """Start it, or start it again."""
        self.status = None
        self.process = RoleProcess(self.arguments, self.log, {SUPERVISED_VARIABLE: "1"})

    def has_ended(self) -> bool:
        """Whether its process is gone; sets `status`."""
        if self.process is not None and self.status is None:
            self.status = self.process.poll()
        return self.status is not None

    def said(self, lines: int = 5) -> list[str]:
        """The last lines it wrote."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 8192))
                return log.read().decode("utf-8", "replace").strip().splitlines()[-lines:]
        except OSError:
            return []

    def doing(self) -> str:
        """The last of them, without when and who."""
        return (self.said(1) or [""])[-1].partition(": ")[2]


@dataclass(slots=True)
class Simulation:
    """What the live view shows besides the work folder's status."""

    run: RunFile
    url: str
    workers: list[Worker]
    began: float
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=6))
    status: Status | None = None
    rate: float | None = None
    """Evaluations a second."""
    _counts: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=12))

    def update(self, status: Status) -> None:
        """Take in a new look at the folder."""
        self.status = status
        self._counts.append((time.monotonic(), status.evaluations_all))
        (t0, n0), (t1, n1) = self._counts[0], self._counts[-1]
        self.rate = (n1 - n0) / (t1 - t0) if t1 > t0 else None


def simulate(
    run: RunFile,
    run_file: Path,
    work: str,
    evaluators: int,
    *,
    fresh: bool,
    as_json: bool,
    console: Console,
    reporting: Reporting | None = None,
) -> int:
    """Run to the end; returns the exit status: 0 only when the run is over, 130 after Ctrl-C."""
    if os.environ.get("OMP_NUM_THREADS") is None:
        # One thread a role: they share the machine, and one thread's sums are the same on all like it.
        os.environ["OMP_NUM_THREADS"] = "1"
    start_server()  # first, since it may fail: then nothing has been made yet
    flags = ["--seed", str(run.seed)]
    status = INTERRUPTED
    with contextlib.closing(open_store(work)) as store, sigterm_as_interrupt():
        if fresh:
            discard(_own_context(store, console))
        logs = Path(tempfile.mkdtemp(prefix=f"coppice-{run.name}-"))
        try:
            command = ["master", str(_for_the_master(run, run_file, logs)), "--work", work, *flags]
            master = Worker("master", command, logs / "master.log")
            others = _other_workers(work, evaluators, logs, reporting)
            simulation = Simulation(run, store.url, [master], time.monotonic())
            try:
                master.start()
                if _opened(store, master, run, console):
                    simulation.workers.extend(others)
                    for worker in others:
                        worker.start()
                    status = _serve(simulation, store, None if as_json else console)
                else:
                    status = master.status or 0
            except KeyboardInterrupt:
                again = ["coppice", "simulate", str(run_file), "--work", work, *flags]
                again += ["--evaluators", str(evaluators)] if evaluators != run.evaluators.count else []
                again += ["--status", str(reporting.path)] if reporting else []
                with contextlib.suppress(OSError):  # the terminal may be what has gone
                    _tell(console, f"stopped; goes on with: {shlex.join(again)}")
                return INTERRUPTED
            finally:
                _stop(simulation.workers)
            if reporting:
                _show_reporting(console, others)
            if status != 0:
                _show_reasons(console, store, simulation.workers, logs)
                if reporting and len(simulation.workers) > 1:  # else the run in the folder is not this one
                    _report_failure(console, store, reporting.settings)
                return status
        finally:
            if status in (0, INTERRUPTED):  # else somebody was told where they are
                shutil.rmtree(logs, ignore_errors=True)
        result = read_result(store)
        if as_json:
            print(json.dumps(result))
        else:
            console.print(result_table(result))
            _tell(console, "\n".join(result_lines(result, store.url)))
        return 0


def _for_the_master(run: RunFile, run_file: Path, logs: Path) -> Path:
    """The run file as another process can read it: a pipe is empty by now, /dev/stdin another one there."""
    if run_file.is_file() and not str(run_file.absolute()).startswith(("/dev/", "/proc/")):
        return run_file
    copy = logs / "run.json"
    copy.write_text(run.model_dump_json(exclude_unset=True), encoding="utf-8")
    return copy


def _other_workers(work: str, evaluators: int, logs: Path, reporting: Reporting | None) -> list[Worker]:
    """All but the master."""
    told = ["--status", str(reporting.path.absolute())] if reporting else []
    others = [Worker(role, [role, "--work", work, *told], logs / f"{role}.log") for role in ("outer", "ncs")]
    for number in range(1, evaluators + 1):
        others.append(
            Worker(f"evaluator {number}", ["evaluator", "--work", work], logs / f"eval{number}.log")
        )
    return others


def _tell(console: Console, text: str | Text) -> None:
    """Lines as they are, however wide the terminal is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _show_reporting(console: Console, workers: list[Worker]) -> None:
    """What the roles said about status messages and metric logs, once each: nobody reads their own output."""
    said: dict[str, None] = {}
    for worker in workers:
        with contextlib.suppress(OSError), worker.log.open(encoding="utf-8", errors="replace") as log:
            for line in log:
                text = line.rstrip().partition(": ")[2]
                if text.startswith(("status messages: ", "metric logs: ")):
                    said[text] = None
    for text in said:
        _tell(console, text)


def _report_failure(console: Console, store: Store, settings: StatusSettings) -> None:
    """Say that the run has failed where the outer loop could not: it may be what has died."""

    def say(line: str) -> None:
        _tell(console, line)

    with contextlib.suppress(CoppiceError):  # the store may be what is broken
        reason = read_failure(store)
        record = read_record(store)
        if record is not None and record.state == "failed":
            reason = record.reason
        if reason is not None:
            tell_failure(store, settings, say, reason)


def _own_context(store: Store, console: Console) -> Context:
    """For what the simulation itself does in the work folder."""

    def say(line: str) -> None:
        _tell(console, plain(line))

    return Context(store, SystemClock(), Identity.of_this_process(), random.Random(), say)


def _opened(store: Store, master: Worker, run: RunFile, console: Console) -> bool:
    """Wait until this very master has its run open, as the others shall read it; False: it ended first
    (refused, or over already). Shows what it waits for."""
    settings = run.model_dump(mode="json")
    look = Every(SystemClock(), SHOW_S)
    before = told = ""
    while not master.has_ended():
        if any(_held_by(store, file.path, master) for file in role_files(store) if file.role == "master"):
            record = read_record(store)
            if record is not None and record.state == "running" and record.run_file == settings:
                return True
        if look.due():
            said = master.doing()
            if said == before != told:  # it stands there: no line of its start or end
                told = said
                _tell(console, plain(f"master: {said}"))
            before = said
        time.sleep(0.05)
    return False


def _held_by(store: Store, path: str, worker: Worker) -> bool:
    content = read_role_file(store, path)
    return content is not None and worker.process is not None and content.get("pid") == worker.process.pid


def _serve(simulation: Simulation, store: Store, console: Console | None) -> int:
    """Watch the processes to the end of the run; returns the exit status."""
    master = simulation.workers[0]
    show = Every(SystemClock(), SHOW_S, at_once=True)
    rounds = 0
    live = (
        contextlib.nullcontext()
        if console is None
        else Live(simulation_view(simulation), console=console, auto_refresh=False, transient=True)
    )
    with live as screen:
        while True:
            for worker in simulation.workers:
                if worker.has_ended() and worker.status != 0:
                    if worker is master and _failed(store):
                        return 1
                    if worker.died >= RESTARTS:
                        _give_up(simulation, store, worker)
                        return 1
                    worker.died += 1
                    said = (worker.said(1) or [f"exit status {worker.status}"])[-1]
                    simulation.messages.append(f"{worker.name} died, starting it again: {said}")
                    worker.start()
            if all(worker.has_ended() for worker in simulation.workers):
                return 0
            if show.due():
                with contextlib.suppress(
                    CoppiceError
                ):  # between two states of the folder; the next look will do
                    simulation.update(read_status(store))
                if simulation.status is not None and simulation.status.round > rounds:
                    rounds = simulation.status.round
                    for worker in simulation.workers:
                        worker.died = 0
                if screen is not None:
                    screen.update(simulation_view(simulation), refresh=True)
            time.sleep(LOOK_S)


def simulation_view(simulation: Simulation) -> RenderableType:
    """The live view of `coppice simulate`."""
    seconds = time.monotonic() - simulation.began
    status = simulation.status
    rows = status_rows(status, simulation.rate) if status else []
    workers = Table.grid(padding=(0, 2))
    by_pid = {role.pid: role for role in status.roles} if status else {}
    for worker in simulation.workers:
        role = by_pid.get(worker.process.pid) if worker.process else None
        if role is not None and role.role == "evaluator" and role.state == "alive":
            doing = f"scoring {role.holds[0].partition('_')[2]}" if role.holds else "between solutions"
            doing += f", {role.scored} scored in this search"
        else:
            doing = worker.doing() or "starting"
        workers.add_row(Text(worker.name, style="dim"), Text(doing, no_wrap=True, overflow="ellipsis"))
    messages = [Text(message, style="yellow") for message in simulation.messages]
    title = plain(f"{simulation.run.name}, seed {simulation.run.seed}, {seconds:.0f} s")
    shown = Group(facts_table(rows), Text(), workers, *messages)
    return Panel(shown, title=title, subtitle=plain(simulation.url))


def _failed(store: Store) -> bool:
    record = read_record(store)
    return record is not None and record.state == "failed"


def _give_up(simulation: Simulation, store: Store, worker: Worker) -> None:
    said = (worker.said(1) or [f"exit status {worker.status}"])[-1]
    with contextlib.suppress(CoppiceError):  # the store may be what is broken
        declare_failure(store, worker.name, f"died {worker.died + 1} times; last: {said}")


def _stop(workers: list[Worker]) -> None:
    """Ask all to end; kill what does not within the grace period, or at once when asked to end once more."""
    deadline = time.monotonic() + GRACE_S

    def hurry(number: int, frame: FrameType | None) -> None:
        nonlocal deadline
        deadline = 0.0

    with asked_to_end(hurry):
        running = [w.process for w in workers if w.process is not None and w.process.poll() is None]
        for process in running:
            process.terminate()
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in running:
            process.kill()
            process.wait()


def _show_reasons(console: Console, store: Store, workers: list[Worker], logs: Path) -> None:
    """Why it did not work: in one line where the run itself failed, else what the dead said last."""
    reason = None
    if len(workers) > 1:  # else the run in the folder is not this one
        with contextlib.suppress(CoppiceError):
            record = read_record(store)
            reason = record.reason if record and record.state == "failed" else read_failure(store)
    dead = [w for w in workers if w.process is not None and w.status not in (0, None)]
    lines = [f"the run failed: {reason}"] if reason else [line for w in dead[:1] for line in w.said(3)]
    for line in [*lines, f"what all roles said is in {logs}"]:
        _tell(console, line)
