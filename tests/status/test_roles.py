"""What a pruning run tells: messages field for field, and metric logs, through crashes and failures."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from coppice.errors import CoppiceError
from coppice.pruning.contract import Tick
from coppice.roles import simulate as simulation
from coppice.roles.context import declare_failure
from coppice.roles.evaluator import evaluator
from coppice.roles.master import master
from coppice.roles.outer import outer
from coppice.roles.searcher import ncs
from coppice.roles.telling import SUPERVISED_VARIABLE, read_told, tell_failure
from coppice.runfile import RunFile, load_run_file
from coppice.status import StatusSettings, load_status_settings
from coppice.status.metrics import Curves, log_path, read_curves
from coppice.status.settings import parse_status_settings
from coppice.store import Store, open_store
from coppice.store.memory import shared_memory_home
from coppice.work import names
from coppice.work.errors import RunFailed
from coppice.work.presence import read_role_file, role_files
from tests.hdfs.service import until
from tests.roles.processes import DIGITS, REPO, coppice, environment
from tests.roles.threads import Crew, history_of, result_of, run_all, small_run
from tests.status.conftest import MakeSettings, bodies, settings_of
from tests.status.rabbitmq import RabbitMQ
from tests.support.failing_home import FailingHome, Fault, Killed, at_total
from tests.support.standins import CheapPruner, CheapScorer

LOGS = ("loss", "accuracy", "compression", "fitness")
SCORING_S = 60.0


def memory(name: str) -> Store:
    return open_store(f"memory:{name}")


def logs_of(place: str) -> dict[str, str]:
    with open_store(place) as store:
        return {name: (store.read(log_path(name)) or b"").decode() for name in LOGS}


def curves_of(place: str) -> dict[str, Curves]:
    return {name: read_curves(text.encode(), name) for name, text in logs_of(place).items()}


def ings(messages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Step and percentage of each."""
    return [(m["step"], m["percentage"]) for m in messages if m["status"] == "training_ing"]


class Told:
    """A run of stand-ins that is told of."""

    def __init__(self, name: str, settings: StatusSettings) -> None:
        self.name = name
        self.settings = settings
        self.crew = Crew(lambda: memory(name))

    @property
    def place(self) -> str:
        assert self.settings.model_write_path is not None
        return self.settings.model_write_path

    def start(
        self, run: RunFile, roles: str = "master outer ncs evaluator", make_pruner: Any = CheapPruner
    ) -> None:
        serve = {
            "master": lambda c: master(c, run),
            "outer": lambda c: outer(c, make_pruner, self.settings),
            "ncs": lambda c: ncs(c, self.settings),
            "evaluator": lambda c: evaluator(c, CheapScorer),
        }
        self.crew.stopping.clear()
        for role in roles.split():
            self.crew.start(role, serve[role])

    def await_end_of(self, role: str) -> BaseException:
        """Of the role's last start, which must have failed."""
        thread = [each for each in self.crew.threads if each.name == role][-1]
        thread.join(60)
        assert not thread.is_alive(), f"{role} hangs: {self.crew.said[-5:]}"
        return self.crew.errors.pop(role)


@pytest.fixture
def told(make_settings: MakeSettings) -> Told:
    settings = make_settings()
    name = settings.queue_name
    return Told(name, settings.model_copy(update={"model_write_path": f"memory:{name}-model"}))


@pytest.fixture(scope="module")
def undisturbed() -> Store:
    """A run of the same settings of which nothing is told."""
    run_all(lambda: memory("told-of-nothing"), small_run())
    return memory("told-of-nothing")


def fitness_lines(history: str) -> list[list[float]]:
    """What fitness.log must say, by a run's history.csv."""
    rows = list(csv.DictReader(io.StringIO(history)))
    lines, best, search = [], 9.0, "0"
    for end, row in enumerate(rows, 1):
        fitness = float(row["fitness"])
        best = min(fitness, best if row["search"] == search else 9.0)
        search, generation = row["search"], row["generation"]
        if end == len(rows) or (rows[end]["search"], rows[end]["generation"]) != (search, generation):
            same = [r for r in rows if (r["search"], r["generation"]) == (search, generation)]
            lines.append([end, best, sum(float(r["fitness"]) for r in same) / len(same)])
    return lines


# A run of stand-ins


def test_a_run_tells_what_it_does(rabbitmq: RabbitMQ, told: Told, undisturbed: Store) -> None:
    told.start(small_run())
    told.crew.join(60)
    messages = bodies(rabbitmq, told.name)
    # 60 iterations of reference, then rounds of 40, 40 and 30; a message at the start and after at most 50.
    assert ings(messages) == [(0, 0), (50, 29), (60, 35), (100, 58), (140, 82), (170, 100)]
    about = {"cmd": "training_status", "project_key": "4f1c", "model_id": "m-17"}
    assert messages[1] == {**about, "status": "training_ing", "percentage": 29, "step": 50}
    assert messages[-1] == {**about, "status": "training_done"}
    curves = curves_of(told.place)
    assert curves["loss"].values[:, 0].tolist() == [50, 60, 100, 140, 170]
    rounds = result_of(memory(told.name))["round_history"]
    for name in ("accuracy", "compression"):
        assert curves[name].values[1:, 0].tolist() == [60 + r["iteration"] for r in rounds]
        assert curves[name].values[1:, 1].tolist() == pytest.approx([r[name] for r in rounds], rel=1e-5)
    assert curves["accuracy"].values[0].tolist() == [60, 0.95, 0.95]
    assert curves["compression"].values[0].tolist() == [60, 1, 1]
    assert curves["loss"].values[2:, 1].tolist() == pytest.approx([r["loss"] for r in rounds], rel=1e-5)
    # Telling changes nothing.
    assert result_of(memory(told.name)) == result_of(undisturbed)
    assert history_of(memory(told.name)) == history_of(undisturbed)


def test_the_search_logs_best_and_mean_of_each_generation(told: Told) -> None:
    told.start(small_run())
    told.crew.join(60)
    history = (memory(told.name).read(names.RESULT_HISTORY) or b"").decode()
    expected = fitness_lines(history)
    fitness = curves_of(told.place)["fitness"]
    assert fitness.names == ("evaluation", "best", "mean")
    assert len(expected) == 6
    assert fitness.values.tolist() == [pytest.approx(line, rel=1e-5) for line in expected]


def test_without_settings_nothing_is_told_and_nothing_written(undisturbed: Store) -> None:
    assert undisturbed.read(names.TOLD) is None
    assert undisturbed.list("save") == []


class Mortal(CheapPruner):
    """Dies at one of its calls of training, the first time that it comes there."""

    at = 0
    deaths = 0

    def _die(self) -> None:
        cls = type(self)
        cls.at -= 1
        if cls.at == 0:
            cls.deaths += 1
            raise Killed("as by SIGKILL")

    def train_reference(self, iterations: int, tick: Tick) -> None:
        super().train_reference(iterations, tick)
        self._die()

    def train(self, iterations: int, tick: Tick) -> None:
        super().train(iterations, tick)
        self._die()


@pytest.fixture(scope="module")
def whole_logs(rabbitmq: RabbitMQ) -> dict[str, str]:
    """Of a run without crashes."""
    content = settings_of(rabbitmq, "whole", model_write_path="memory:whole-model")
    logs = Told("whole", parse_status_settings(content, "settings"))
    logs.start(small_run())
    logs.crew.join()
    return logs_of("memory:whole-model")


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_an_outer_loop_that_dies_goes_on_telling(
    rabbitmq: RabbitMQ, told: Told, whole_logs: dict[str, str], at: int
) -> None:
    class Pruner(Mortal):
        pass

    Pruner.at = at
    run = small_run()
    told.start(run, make_pruner=Pruner)
    assert isinstance(told.await_end_of("outer"), Killed)
    told.start(run, "outer", make_pruner=Pruner)
    told.crew.join(60)
    assert Pruner.deaths == 1
    messages = bodies(rabbitmq, told.name)
    assert {m["status"] for m in messages[:-1]} == {"training_ing"}
    assert messages[-1]["status"] == "training_done"
    assert {step for step, _ in ings(messages)} >= {0, 50, 60, 100, 140, 170}
    assert logs_of(told.place) == whole_logs


@pytest.mark.parametrize("at", [25, 45, 60])
def test_a_search_that_dies_loses_and_repeats_no_line(
    told: Told, whole_logs: dict[str, str], at: int
) -> None:
    run = small_run()
    told.start(run, "master outer evaluator")
    home = FailingHome(shared_memory_home(told.name), at_total(Fault.KILL_AFTER, at))

    def mortal_ncs(context: Any) -> None:
        context.store = Store(home)
        ncs(context, told.settings)

    told.crew.start("ncs", mortal_ncs)
    assert isinstance(told.await_end_of("ncs"), Killed)
    told.start(run, "ncs")
    told.crew.join(60)
    assert logs_of(told.place) == whole_logs


def test_a_run_that_fails_says_so_in_a_sentence_before_the_others_hear_of_it(
    rabbitmq: RabbitMQ, told: Told
) -> None:
    class Failing(CheapPruner):
        def train(self, iterations: int, tick: Tick) -> None:
            raise CoppiceError("training diverged: the loss is nan; lower surgery.learning_rate")

    told.start(small_run(), make_pruner=Failing)
    assert isinstance(told.await_end_of("outer"), CoppiceError)
    assert isinstance(told.await_end_of("master"), RunFailed)
    messages = bodies(rabbitmq, told.name)
    assert messages[-1] == {
        "cmd": "training_status", "project_key": "4f1c", "model_id": "m-17", "status": "training_error",
        "message": "training diverged: the loss is nan; lower surgery.learning_rate",
    }  # fmt: skip
    told.crew.join_failed()
    # Started again, it tells nothing: the platform takes nothing after an error.
    told.start(small_run())
    told.crew.join(60)
    assert bodies(rabbitmq, told.name) == []
    assert any("an error was sent for m-17 before" in line for line in told.crew.said)


class Breaking(CheapPruner):
    """Has a bug, or a machine that has."""

    def train(self, iterations: int, tick: Tick) -> None:
        """Never does."""
        raise RuntimeError("no kernel image is available\nfor execution")


@pytest.mark.parametrize("supervised", [False, True])
def test_an_outer_loop_that_dies_by_an_exception_says_so_unless_somebody_starts_it_again(
    rabbitmq: RabbitMQ, told: Told, supervised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if supervised:
        monkeypatch.setenv(SUPERVISED_VARIABLE, "1")
    told.start(small_run(), make_pruner=Breaking)
    assert isinstance(told.await_end_of("outer"), RuntimeError)
    last = bodies(rabbitmq, told.name)[-1]
    if supervised:
        assert last["status"] == "training_ing"
    else:
        assert last["status"] == "training_error"
        assert last["message"] == (
            "It ended by an error in the program: RuntimeError: no kernel image is available"
        )
    told.start(small_run(), "outer")
    told.crew.join(60)
    rest = bodies(rabbitmq, told.name)
    assert rest[-1]["status"] == "training_done" if supervised else rest == []


def test_a_failure_that_another_role_declares_is_told_by_the_outer_loop(
    rabbitmq: RabbitMQ, told: Told
) -> None:
    told.start(small_run(), "master outer")  # it waits for a search that nobody makes
    until(lambda: memory(told.name).stat(names.NCS_START) is not None, 60, "no search was ordered")
    declare_failure(memory(told.name), "ncs", "died 6 times; last: no memory")
    assert isinstance(told.await_end_of("outer"), RunFailed)
    assert isinstance(told.await_end_of("master"), RunFailed)
    assert bodies(rabbitmq, told.name)[-1]["message"] == "ncs: died 6 times; last: no memory"


def test_a_run_needs_no_broker(
    told: Told, undisturbed: Store, whole_logs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coppice.status.reporter.LAST_WORD_S", 1.0)
    told.settings = told.settings.model_copy(update={"message_port": 1})
    told.start(small_run())
    told.crew.join(60)
    assert result_of(memory(told.name)) == result_of(undisturbed)
    assert logs_of(told.place) == whole_logs
    (line,) = [line for line in told.crew.said if "status messages" in line]
    assert "refuses the connection; trying again, the work goes on without them" in line


def test_one_that_is_stopped_says_no_last_word(rabbitmq: RabbitMQ, told: Told) -> None:
    told.start(small_run(), "master outer")
    until(lambda: memory(told.name).stat(names.NCS_START) is not None, 60, "no search was ordered")
    told.crew.stopping.set()
    for thread in told.crew.threads:
        thread.join(60)
    assert [m["status"] for m in bodies(rabbitmq, told.name)] == ["training_ing"] * 3


def test_an_end_that_nobody_told_is_told_by_the_next_outer_loop(rabbitmq: RabbitMQ, told: Told) -> None:
    """It died between writing the result and saying so; meanwhile the master has closed the run."""
    told.start(small_run())
    told.crew.join(60)
    store = memory(told.name)
    store.replace(names.TOLD, (store.read(names.TOLD) or b"").replace(b'"done"', b'"ing"'))
    bodies(rabbitmq, told.name)
    told.start(small_run(), "outer")
    told.crew.join(60)
    assert [m["status"] for m in bodies(rabbitmq, told.name)] == ["training_done"]
    told.start(small_run(), "outer")
    told.crew.join(60)
    assert bodies(rabbitmq, told.name) == []


def test_an_end_that_the_broker_never_heard_of_is_told_by_the_next_outer_loop(
    rabbitmq: RabbitMQ, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coppice.status.reporter.LAST_WORD_S", 1.0)
    settings = told.settings
    told.settings = settings.model_copy(update={"message_port": 1})
    told.start(small_run())
    told.crew.join(60)
    told.settings = settings
    told.start(small_run(), "outer")
    told.crew.join(60)
    assert [m["status"] for m in bodies(rabbitmq, told.name)] == ["training_done"]


def test_a_finished_run_of_somebody_else_is_not_told(rabbitmq: RabbitMQ, told: Told) -> None:
    run_all(lambda: memory(told.name), small_run())
    told.start(small_run(), "outer")
    told.crew.join(60)
    assert bodies(rabbitmq, told.name) == []


def test_a_failed_run_that_was_never_told_of_is_not_told(rabbitmq: RabbitMQ, told: Told) -> None:
    """The ids may be those under which it is to be tried again: an error would be the end of them."""
    told.crew.start("master", lambda c: master(c, small_run()))
    until(lambda: memory(told.name).stat(names.RUN) is not None, 60, "no run was opened")
    declare_failure(memory(told.name), "ncs", "no memory")
    assert isinstance(told.await_end_of("master"), RunFailed)
    told.start(small_run(), "outer")
    assert isinstance(told.await_end_of("outer"), RunFailed)
    assert bodies(rabbitmq, told.name) == []


def test_whoever_outlives_the_outer_loop_tells_its_failure_once(rabbitmq: RabbitMQ, told: Told) -> None:
    run_all(lambda: memory(told.name), small_run())
    store = memory(told.name)
    for _ in range(2):
        tell_failure(store, told.settings, lambda line: None, "outer: died 6 times")
    assert [m["message"] for m in bodies(rabbitmq, told.name)] == ["outer: died 6 times"]


# Real processes


def tiny_digits(folder: Path, **model: Any) -> Path:
    """The file of a digits run of two short searches."""
    run: dict[str, Any] = yaml.safe_load(DIGITS.read_text())
    run.update(name="tiny", reference={"iterations": 150}, evaluators={"count": 1})
    run["rounds"] = {"iterations": 100, "tmax": 300}
    run["surgery"]["prune_until"] = 200
    run["search"].update(evaluations=20, population=5)
    run["model"].update(model)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def start_simulation(run_file: Path, work: Path, settings_file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        coppice("simulate", str(run_file), "--work", str(work), "--json", "--status", str(settings_file)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
        env=environment(),
    )


def pids_of(work: Path, *roles: str) -> Iterator[int]:
    """Process ids of those roles that are in office."""
    with open_store(str(work)) as store:
        for file in role_files(store):
            if file.role in roles and not file.ended:
                yield int((read_role_file(store, file.path) or {})["pid"])


def test_a_simulated_run_tells_everything_though_both_roles_that_tell_are_killed(
    rabbitmq: RabbitMQ, queue: str, settings_file: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    process = start_simulation(tiny_digits(tmp_path), work, settings_file)
    first = work / "history/search_0001.zip"
    until(first.exists, SCORING_S, "no search was over")
    victims = list(pids_of(work, "outer", "ncs"))
    assert len(victims) == 2
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")

    *progress, last = bodies(rabbitmq, queue)
    about = {"cmd": "training_status", "project_key": "4f1c", "model_id": "m-17"}
    assert last == {**about, "status": "training_done"}
    for message in progress:
        step = message["step"]
        percentage = int(step * 100 / 450)
        assert message == {**about, "status": "training_ing", "percentage": percentage, "step": step}
    assert sorted(dict(ings(progress))) == [0, 50, 100, 150, 200, 250, 300, 350, 400, 450]

    curves = curves_of(str(tmp_path / "model"))
    # The network counts its losses anew when the reference is done, at 150: it has none there.
    assert curves["loss"].values[:, 0].tolist() == [50, 100, 200, 250, 300, 350, 400, 450]
    rounds = json.loads(out)["round_history"]
    assert [r["iteration"] for r in rounds] == [100, 200, 300]
    assert curves["loss"].values[3::2, 1].tolist() == pytest.approx([r["loss"] for r in rounds], rel=1e-5)
    for name in ("accuracy", "compression"):
        assert curves[name].values[:, 0].tolist() == [150, 250, 350, 450]
        assert curves[name].values[1:, 1].tolist() == pytest.approx([r[name] for r in rounds], rel=1e-5)
    expected = fitness_lines((work / names.RESULT_HISTORY).read_text())
    assert curves["fitness"].values.tolist() == [pytest.approx(line, rel=1e-5) for line in expected]
    assert len(expected) == 2 * 4


def test_what_the_roles_said_of_telling_is_shown_once(tmp_path: Path) -> None:
    log = tmp_path / "outer.log"
    line = "10:00:00 outer: status messages: amqp://x:1 refuses the connection"
    log.write_text(f"10:00:00 outer: training\n{line}\n{line}\n10:00:00 outer: metric logs: no\n")
    out = io.StringIO()
    worker = simulation.Worker("outer", [], log)
    unborn = simulation.Worker("ncs", [], tmp_path / "none.log")
    simulation._show_reporting(Console(file=out, width=40), [worker, unborn])
    assert out.getvalue() == "status messages: amqp://x:1 refuses the connection\nmetric logs: no\n"


def fragile(**arguments: Any) -> Any:
    """A network whose program has a mistake in it."""
    raise ZeroDivisionError("somebody's mistake")


def test_an_outer_loop_that_dies_for_good_is_told_by_the_simulation(
    rabbitmq: RabbitMQ, queue: str, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "RESTARTS", 0)
    run_file = tiny_digits(tmp_path, name=f"{fragile.__module__}:fragile")
    said = io.StringIO()
    status = simulation.simulate(
        load_run_file(run_file),
        run_file,
        str(tmp_path / "work"),
        1,
        fresh=False,
        as_json=True,
        console=Console(file=said, width=200),
        reporting=simulation.Reporting(settings_file, load_status_settings(settings_file)),
    )
    assert status == 1
    (message,) = bodies(rabbitmq, queue)
    assert message["status"] == "training_error"
    assert "somebody's mistake" in message["message"]
    with open_store(str(tmp_path / "work")) as store:
        record = json.loads(store.read(names.RUN) or b"{}")
        assert read_told(store, load_status_settings(settings_file), record["run_id"]) == "error"
