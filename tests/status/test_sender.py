"""Messages to a real RabbitMQ: in order, confirmed, through outages, and never in the way of the training."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coppice.status import Reporter, StatusSettings, open_reporter
from coppice.status.broker import Broker
from coppice.status.messages import done_message, progress_message
from coppice.status.sender import Sender
from tests.hdfs.service import until
from tests.roles.processes import REPO
from tests.status.conftest import MakeSettings, bodies
from tests.status.rabbitmq import RabbitMQ
from tests.support.ports import Ports

WAIT_S = 60.0


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port at which nobody listens."""
    ports = Ports(("dead",))
    yield ports.numbers["dead"]
    ports.give_back()


def tell(settings: StatusSettings, steps: int, buffer: int = 1000) -> tuple[list[str], bool]:
    """So many steps and done; what was said, and whether all was confirmed."""
    said: list[str] = []
    sender = Sender(settings, said.append, buffer=buffer, first_wait_s=0.05)
    for step in range(1, steps + 1):
        sender.send(progress_message(settings, step, 100 * step / steps))
    sender.send(done_message(settings))
    return said, sender.close(WAIT_S)


def steps_of(messages: list[dict[str, Any]]) -> list[int]:
    return [message["step"] for message in messages if "step" in message]


# In order, confirmed


def test_all_arrive_in_order_and_are_confirmed(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings()
    said, confirmed = tell(settings, 300)
    assert (said, confirmed) == ([], True)
    # Read at once after close: what was confirmed is in the queue.
    found = bodies(rabbitmq, settings.queue_name)
    assert steps_of(found) == list(range(1, 301))
    assert found[0] == {
        "cmd": "training_status", "project_key": "4f1c", "model_id": "m-17", "status": "training_ing",
        "percentage": 0, "step": 1,
    }  # fmt: skip
    assert found[-1] == {
        "cmd": "training_status", "project_key": "4f1c", "model_id": "m-17", "status": "training_done",
    }  # fmt: skip


def test_messages_survive_a_restart_of_the_broker_and_say_what_they_are(
    rabbitmq: RabbitMQ, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    tell(settings, 0)
    ((_, properties),) = rabbitmq.take(settings.queue_name)
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")


def test_after_the_last_word_nothing_is_sent(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings()
    with Reporter(settings, lambda line: None) as report:
        report.progress(1, 10)
        report.error("The images are too small.")
        report.progress(2, 20)
        report.done()
    assert [message["status"] for message in bodies(rabbitmq, settings.queue_name)] == [
        "training_ing",
        "training_error",
    ]


def test_validation(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings(model_id=None, validation_id=77)
    with Reporter(settings, lambda line: None) as report:
        report.progress(3, 50.5)
    assert bodies(rabbitmq, settings.queue_name) == [
        {"cmd": "validation_status", "project_key": "4f1c", "validation_id": 77, "status": "validation_ing",
         "percentage": 50, "step": 3},
        {"cmd": "validation_status", "project_key": "4f1c", "validation_id": 77,
         "status": "validation_done"},
    ]  # fmt: skip


def test_a_queue_that_is_not_there_is_made_and_said(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings()
    rabbitmq.drop_queue(settings.queue_name)
    said, confirmed = tell(settings, 1)
    assert confirmed
    assert said == [f"status messages: queue {settings.queue_name!r} was not there; made it"]
    rabbitmq.make_queue(settings.queue_name)  # raises if it were not durable
    assert len(bodies(rabbitmq, settings.queue_name)) == 2


def test_over_tls(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    tls = {"message_host": "amqps://127.0.0.1", "message_port": rabbitmq.tls_port}
    settings = make_settings(**tls, message_ca=str(rabbitmq.ca_file))
    assert tell(settings, 2) == ([], True)
    assert len(bodies(rabbitmq, settings.queue_name)) == 3
    said, confirmed = tell(make_settings(**tls), 2)
    assert not confirmed
    assert len(said) == 1
    assert "shows a certificate that is not trusted; name its authority's file in message_ca" in said[0]
    (line,), _ = tell(make_settings(message_host="amqps://127.0.0.1"), 2)
    assert "does not speak TLS" in line


# Exceptions and processes


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("bad\nsecond line"), "It ended by an error in the program: ValueError: bad"),
        (MemoryError(), "It ran out of memory."),
        (KeyboardInterrupt(), "It was stopped before it was done."),
    ],
)
def test_an_exception_sends_a_sentence_first(
    rabbitmq: RabbitMQ, make_settings: MakeSettings, error: BaseException, sentence: str
) -> None:
    settings = make_settings()

    def train() -> None:
        with Reporter(settings, lambda line: None) as report:
            report.progress(1, 10)
            raise error

    with pytest.raises(type(error)):
        train()
    found = bodies(rabbitmq, settings.queue_name)
    assert [message["status"] for message in found] == ["training_ing", "training_error"]
    assert found[1]["message"] == sentence


PROGRAM = """
import sys, time
from coppice.status import open_reporter
with open_reporter() as report:
    for step in range(1, 101):
        report.progress(step, step)
        report.metrics.add("loss", {"step": step, "loss": 1 / step})
        if step == 50 and "wait" in sys.argv:
            report.metrics.flush()
            print("half", flush=True)
            time.sleep(600)
    if "fail" in sys.argv:
        raise RuntimeError("no more")
"""


def program(settings_file: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "COPPICE_STATUS": str(settings_file)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
    )


def test_a_process_ends_when_all_is_confirmed(
    rabbitmq: RabbitMQ, queue: str, settings_file: Path, tmp_path: Path
) -> None:
    out, err = program(settings_file).communicate(timeout=WAIT_S)
    assert (out, err) == ("", "")
    found = bodies(rabbitmq, queue)
    assert steps_of(found) == list(range(1, 101))
    assert found[-1]["status"] == "training_done"
    log = (tmp_path / "model/save/metrics/loss.log").read_text().splitlines()
    assert (log[0], log[50], log[100], len(log)) == ("step, loss", "50, 0.02", "100, 0.01", 101)


def test_a_process_that_dies_by_an_exception_says_so(
    rabbitmq: RabbitMQ, queue: str, settings_file: Path
) -> None:
    with program(settings_file, "fail") as process:
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert err.count("Traceback") == 1
    assert (
        bodies(rabbitmq, queue)[-1]["message"] == "It ended by an error in the program: RuntimeError: no more"
    )


def test_a_process_that_is_killed_leaves_the_truth_behind(
    rabbitmq: RabbitMQ, queue: str, settings_file: Path, tmp_path: Path
) -> None:
    with program(settings_file, "wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        found = []

        def arrived() -> bool:
            found.extend(bodies(rabbitmq, queue))
            return len(found) >= 50

        until(arrived, WAIT_S, "50 messages did not arrive")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=WAIT_S)
    log = tmp_path / "model/save/metrics/loss.log"
    assert len(log.read_text().splitlines()) == 51
    # The same command again: every step is told, and every line stands there once.
    program(settings_file).communicate(timeout=WAIT_S)
    found += bodies(rabbitmq, queue)
    assert steps_of(found) == [*range(1, 51), *range(1, 101)]
    assert [message["status"] for message in found].count("training_done") == 1
    assert [line.split(",")[0] for line in log.read_text().splitlines()[1:]] == [
        str(n) for n in range(1, 101)
    ]


def test_the_program_in_the_documentation(
    rabbitmq: RabbitMQ, queue: str, settings_file: Path, tmp_path: Path
) -> None:
    page = (REPO / "docs/status.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=settings_file.parent,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = bodies(rabbitmq, queue)
    steps = steps_of(found)  # on a busy machine the end goes before some progress
    assert steps == list(range(1, len(steps) + 1))
    assert steps
    assert found[-1]["status"] == "training_done"
    assert len((tmp_path / "model/save/metrics/loss.log").read_text().splitlines()) == 1001


def test_without_settings_nothing_happens(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = threading.active_count()
    with open_reporter() as report:
        report.progress(1, 50)
        report.metrics.add("loss", {"step": 1, "loss": 2})
    assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


# Faults of the settings


def test_a_wrong_password_is_one_warning_and_one_try(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    refusals = rabbitmq.log().count("PLAIN login refused")
    said, confirmed = tell(make_settings(message_pw="wrong"), 50)
    assert not confirmed
    assert len(said) == 1
    assert (
        "refuses user 'trainer' or the password; correct message_id, message_pw or COPPICE_MESSAGE_PW"
        in said[0]
    )
    assert "wrong" not in said[0]
    until(lambda: rabbitmq.log().count("PLAIN login refused") > refusals, WAIT_S, "the broker logged nothing")
    assert rabbitmq.log().count("PLAIN login refused") == refusals + 1


def test_a_vhost_that_is_not_there(make_settings: MakeSettings) -> None:
    said, confirmed = tell(make_settings(message_host="amqp://127.0.0.1/forest"), 3)
    assert not confirmed
    assert len(said) == 1
    assert "has no vhost 'forest' for user 'trainer'; none are sent" in said[0]


def test_a_queue_that_belongs_to_somebody(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings(queue_name="somebodys")
    connection = rabbitmq.connect()
    connection.channel().queue_declare("somebodys", exclusive=True)
    said, confirmed = tell(settings, 3)
    connection.close()
    assert not confirmed
    assert len(said) == 1
    assert "refuses queue 'somebodys': RESOURCE_LOCKED" in said[0]


# Outages


def test_a_broker_that_is_down_for_good_is_one_warning(
    make_settings: MakeSettings, dead_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coppice.status.reporter.LAST_WORD_S", 1.0)
    said: list[str] = []
    began = time.monotonic()
    with Reporter(make_settings(message_port=dead_port), said.append) as report:
        for step in range(1, 20_001):
            report.progress(step, step / 200)
        worked_s = time.monotonic() - began
        report.done()
    assert len(said) == 1
    assert said[0] == (
        f"status messages: amqp://127.0.0.1:{dead_port} refuses the connection; "
        "trying again, the work goes on without them"
    )
    assert worked_s < WAIT_S  # 20,000 steps with a broker that is not there


def test_what_is_dropped_is_progress_and_the_oldest(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings()
    rabbitmq.freeze()
    try:
        sender = Sender(settings, lambda line: None, buffer=10)
        for step in range(1, 1001):
            sender.send(progress_message(settings, step, step / 10))
        sender.send(done_message(settings))
    finally:
        rabbitmq.thaw()
    assert sender.close(WAIT_S)
    found = bodies(rabbitmq, settings.queue_name)
    assert found[-1]["status"] == "training_done"
    steps = steps_of(found)
    # The last that the buffer holds; before them at most one that was in hand already.
    assert steps[-10:] == list(range(991, 1001)) or steps[-9:] == list(range(992, 1001))
    assert len(steps) <= 11


def test_a_frozen_broker_does_not_keep_the_process(
    rabbitmq: RabbitMQ, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coppice.status.reporter.LAST_WORD_S", 1.0)
    said: list[str] = []
    rabbitmq.freeze()
    try:
        with Reporter(make_settings(), said.append) as report:
            report.progress(1, 50)
    finally:
        rabbitmq.thaw()
    assert len(said) == 1
    assert "did not confirm the last one in 1 s; the platform may not know of the end" in said[0]


def test_a_slow_broker_gets_the_last_word_in_time(
    rabbitmq: RabbitMQ, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Broker.publish

    def slowly(broker: Broker, body: bytes) -> None:
        time.sleep(0.05)
        publish(broker, body)

    monkeypatch.setattr(Broker, "publish", slowly)
    settings = make_settings()
    said: list[str] = []
    sender = Sender(settings, said.append)
    for step in range(1, 1001):
        sender.send(progress_message(settings, step, step / 10))
    sender.send(done_message(settings))
    assert sender.close(2.0)
    assert said == []
    found = bodies(rabbitmq, settings.queue_name)
    assert found[-1]["status"] == "training_done"
    assert 1 < len(found) < 100


def test_a_broker_that_restarts_in_the_middle_loses_nothing(
    rabbitmq: RabbitMQ, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    said: list[str] = []
    sender = Sender(settings, said.append, first_wait_s=0.05)
    for step in range(1, 101):
        sender.send(progress_message(settings, step, 10))
    until(lambda: not sender.waiting, WAIT_S, "the first half was not sent")
    rabbitmq.pause()
    for step in range(101, 201):
        sender.send(progress_message(settings, step, 20))
    until(lambda: bool(said), WAIT_S, "the outage was not noticed")
    rabbitmq.start()
    sender.send(done_message(settings))
    assert sender.close(WAIT_S)
    assert len(said) == 2
    assert said[0].endswith("; trying again, the work goes on without them")
    assert said[1] == f"status messages: {settings.address} answers again"
    found = bodies(rabbitmq, settings.queue_name)
    steps = steps_of(found)
    assert sorted(set(steps)) == list(range(1, 201))
    assert steps == sorted(steps)  # at least once, in order
    assert len(steps) <= 202
    assert found[-1]["status"] == "training_done"


def test_a_queue_that_is_removed_on_the_way_is_made_again(
    rabbitmq: RabbitMQ, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    said: list[str] = []
    sender = Sender(settings, said.append, first_wait_s=0.05)
    sender.send(progress_message(settings, 1, 10))
    until(lambda: not sender.waiting, WAIT_S, "the first was not sent")
    rabbitmq.drop_queue(settings.queue_name)
    sender.send(done_message(settings))
    assert sender.close(WAIT_S)
    assert [message["status"] for message in bodies(rabbitmq, settings.queue_name)] == ["training_done"]
    assert "has lost the queue" in said[0]


# A queue that takes no more


def test_a_full_queue_costs_progress_and_keeps_the_last_word(
    rabbitmq: RabbitMQ, make_settings: MakeSettings
) -> None:
    full = "full-" + make_settings().queue_name
    rabbitmq.make_queue(full, **{"x-max-length": 3, "x-overflow": "reject-publish"})
    settings = make_settings(queue_name=full)
    said: list[str] = []
    sender = Sender(settings, said.append, first_wait_s=0.05)
    for step in range(1, 101):
        sender.send(progress_message(settings, step, step))
    sender.send(done_message(settings))
    until(lambda: sender.waiting == 1, WAIT_S, "progress was not dropped")
    assert said == [f"status messages: queue {full!r} is full; some are dropped"]
    found = bodies(rabbitmq, full)  # the last word may be in it already: there is room at once
    assert sender.close(WAIT_S)
    found += bodies(rabbitmq, full)
    assert steps_of(found) == [1, 2, 3]
    assert [message["status"] for message in found[3:]] == ["training_done"]


def test_a_queue_that_stays_full_does_not_keep_the_process(
    rabbitmq: RabbitMQ, make_settings: MakeSettings
) -> None:
    full = "stays-full-" + make_settings().queue_name
    rabbitmq.make_queue(full, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    rabbitmq.put(full, b"somebody's")
    settings = make_settings(queue_name=full)
    said: list[str] = []
    sender = Sender(settings, said.append, first_wait_s=0.05)
    sender.send(done_message(settings))
    assert not sender.close(1.0)
    assert "is full" in said[0]
    assert "did not confirm the last one" in said[1]
    assert len(said) == 2
