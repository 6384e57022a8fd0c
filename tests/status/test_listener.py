"""`coppice listen`: what is in the queue as bars, lines or an exit status."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coppice.listening import messages_view
from coppice.status import Message, Reporter
from coppice.status.broker import BrokerError, BrokerTrouble
from coppice.status.listener import Board, listen
from coppice.status.messages import BadMessage
from coppice.status.settings import load_status_settings
from tests.hdfs.service import until
from tests.roles.processes import REPO, coppice, environment
from tests.status.conftest import MakeSettings, bodies
from tests.status.rabbitmq import RabbitMQ

WAIT_S = 60.0


def message(id_: int | str, state: str, **fields: Any) -> Message:
    content = {"cmd": "training_status", "project_key": "k", "model_id": id_, "status": f"training_{state}"}
    return Message.from_bytes(json.dumps({**content, **fields}).encode())


def ing(id_: int | str, percentage: float, step: int = 1) -> Message:
    return message(id_, "ing", percentage=percentage, step=step)


def seen(board: Board) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(messages_view(board))
    return out.getvalue()


# The board


def test_a_bar_for_each_model_and_what_became_of_it() -> None:
    board = Board()
    assert "nothing heard yet" in seen(board)
    for each in (
        ing("a", 10),
        ing("b", 20.5, 7),
        message("c", "error", message="No data."),
        message("a", "done"),
    ):
        board.take(each)
    lines = seen(board).splitlines()
    assert [line.split()[1] for line in lines] == ["b", "c", "a"]
    assert "20.5 %, step 7" in lines[0]
    assert "error" in lines[1]
    assert "No data." in lines[1]
    assert "done" in lines[2]
    assert not board.settled
    board.take(message("b", "done"))
    assert board.settled


def test_after_an_error_nothing_counts() -> None:
    board = Board()
    for each in (message("a", "error", message="x"), ing("a", 50), message("a", "done")):
        board.take(each)
    assert board.last == message("a", "error", message="x")
    assert board.settled


def test_nothing_that_steers_a_terminal_or_marks_up_gets_through() -> None:
    board = Board()
    board.take(message("\x1b[31mred", "error", message="[bold]\x07loud\nline"))
    assert "\x1b" not in seen(board)
    assert "\x07" not in seen(board)
    assert "[bold]" in seen(board)


def test_many_models_are_cut_short() -> None:
    board = Board()
    for number in range(2000):
        board.take(ing(number, 1))
    assert len(board.standings) == 1000
    assert "... and 960 more" in seen(board)


# The queue


def test_what_was_sent_is_heard_and_off_the_queue(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings()
    with Reporter(settings, lambda line: None) as report:
        report.progress(1, 50)
    rabbitmq.put(settings.queue_name, b"{", b"\xff" * 10)
    heard: list[Message | BadMessage] = []
    for each in listen(settings, lambda line: None):
        if each is not None:
            heard.append(each)
        elif len(heard) == 4:  # and the last of them is acknowledged
            break
    assert [each.state for each in heard if isinstance(each, Message)] == ["ing", "done"]
    assert [str(each) for each in heard if isinstance(each, BadMessage)] == ["not JSON", "not JSON"]
    assert bodies(rabbitmq, settings.queue_name) == []


def test_what_was_not_dealt_with_comes_again(rabbitmq: RabbitMQ, make_settings: MakeSettings) -> None:
    settings = make_settings()
    with Reporter(settings, lambda line: None) as report:
        report.progress(1, 50)
    messages = listen(settings, lambda line: None)
    first = next(messages)
    messages.close()  # type: ignore[attr-defined]
    assert isinstance(first, Message)
    assert first.state == "ing"
    assert len(bodies(rabbitmq, settings.queue_name)) == 2


def test_a_queue_that_is_removed_is_said_and_outlasted(
    rabbitmq: RabbitMQ, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    said: list[str] = []
    messages = listen(settings, said.append, lambda s: None)
    assert next(messages) is None
    rabbitmq.drop_queue(settings.queue_name)
    until(lambda: next(messages) is None and len(said) == 2, WAIT_S, "the queue was not missed")
    assert "has lost the queue; trying again" in said[0]
    assert "was not there; made it" in said[1]
    with Reporter(settings, lambda line: None):
        pass
    assert isinstance(next(each for each in messages if each is not None), Message)


def test_a_broker_that_is_not_there_at_the_start(make_settings: MakeSettings) -> None:
    with pytest.raises(BrokerTrouble, match="refuses the connection"):
        next(listen(make_settings(message_port=1), print))
    with pytest.raises(BrokerError, match="refuses user 'trainer' or the password"):
        next(listen(make_settings(message_pw="wrong"), print))


# The command


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        coppice("listen", *map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        cwd=REPO,
        env={**environment(), "COLUMNS": "120"},
    )


def test_the_command_ends_with_the_state_of_the_last_one(
    rabbitmq: RabbitMQ, make_settings: MakeSettings, settings_file: Path
) -> None:
    settings = make_settings()
    for each in (ing("a", 10), ing("b", 30), message("b", "done"), message("a", "error", message="No disk.")):
        rabbitmq.put(settings.queue_name, each.to_bytes())
    failed = run(settings_file, "--exit-with-state", "--json")
    assert failed.returncode == 1
    assert [json.loads(line)["status"] for line in failed.stdout.splitlines()] == [
        "training_ing", "training_ing", "training_done", "training_error",
    ]  # fmt: skip
    assert failed.stderr == "training a: No disk.\n"
    rabbitmq.put(settings.queue_name, ing("c", 30).to_bytes(), message("c", "done").to_bytes())
    done = run(settings_file, "--exit-with-state")
    assert (done.returncode, done.stderr) == (0, "")
    assert "training c" in done.stdout
    assert "done" in done.stdout


def test_a_wrong_password_is_one_line(settings_file: Path) -> None:
    settings_file.write_text(settings_file.read_text().replace("correct horse", "wrong"))
    ended = run(settings_file)
    assert (ended.returncode, ended.stdout.strip()) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("coppice: amqp://127.0.0.1:")
    assert "refuses user 'trainer' or the password" in line


def test_what_is_no_text_in_a_message_stops_nothing(
    rabbitmq: RabbitMQ, make_settings: MakeSettings, settings_file: Path
) -> None:
    """Half a surrogate pair can be written in JSON, and in no file."""
    odd = message("a\ud800", "done")
    rabbitmq.put(make_settings().queue_name, json.dumps(odd.to_json()).encode())
    ended = run(settings_file, "--exit-with-state", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["model_id"] == "a?"


def test_ctrl_c_ends_it_though_the_broker_says_nothing(rabbitmq: RabbitMQ, settings_file: Path) -> None:
    settings = load_status_settings(settings_file)
    rabbitmq.put(settings.queue_name, message("a", "done").to_bytes())
    listening = subprocess.Popen(
        coppice("listen", str(settings_file), "--json"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPO,
        env=environment(),
    )
    try:
        assert listening.stdout is not None
        listening.stdout.readline()
        rabbitmq.freeze()
        listening.send_signal(signal.SIGINT)
        assert listening.wait(WAIT_S) == 0
    finally:
        rabbitmq.thaw()
        listening.kill()
        listening.communicate()
