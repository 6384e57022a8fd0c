"""The messages, field for field, and what is refused on the other side."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coppice.status.messages import (
    MAX_REASON,
    BadMessage,
    Message,
    done_message,
    error_message,
    progress_message,
)
from coppice.status.settings import StatusSettings, parse_status_settings
from tests.status.test_settings import with_

TRAINING = parse_status_settings(with_(), "here")
VALIDATION = parse_status_settings(with_(model_id=..., validation_id=5), "here")


def sent(message: Message) -> list[tuple[str, Any]]:
    return list(json.loads(message.to_bytes()).items())


def test_training_as_in_the_document() -> None:
    about = [("cmd", "training_status"), ("project_key", "4f1c"), ("model_id", "m-17")]
    assert sent(progress_message(TRAINING, 120, 12.9)) == [
        *about, ("status", "training_ing"), ("percentage", 12), ("step", 120),
    ]  # fmt: skip
    assert sent(done_message(TRAINING)) == [*about, ("status", "training_done")]
    assert sent(error_message(TRAINING, "Out of coffee.")) == [
        *about, ("status", "training_error"), ("message", "Out of coffee."),
    ]  # fmt: skip


def test_validation_by_the_same_pattern() -> None:
    about = [("cmd", "validation_status"), ("project_key", "4f1c"), ("validation_id", 5)]
    assert sent(progress_message(VALIDATION, 1, 100)) == [
        *about, ("status", "validation_ing"), ("percentage", 100), ("step", 1),
    ]  # fmt: skip
    assert sent(done_message(VALIDATION)) == [*about, ("status", "validation_done")]
    assert sent(error_message(VALIDATION, "x"))[3:] == [("status", "validation_error"), ("message", "x")]


@given(st.floats())
def test_a_percentage_is_a_whole_number_from_0_to_100(percentage: float) -> None:
    told = progress_message(TRAINING, 1, percentage).percentage
    assert isinstance(told, int)
    assert 0 <= told <= 100


@given(st.text(max_size=3000))
def test_an_error_is_one_line_that_can_be_sent(reason: str) -> None:
    message = error_message(TRAINING, reason)
    assert message.message is not None
    assert len(message.message) <= MAX_REASON
    assert "\n" not in message.message
    assert Message.from_bytes(message.to_bytes()).state == "error"


@pytest.mark.parametrize("settings", [TRAINING, VALIDATION])
def test_what_was_sent_is_read(settings: StatusSettings) -> None:
    for message in (
        progress_message(settings, 7, 50),
        done_message(settings),
        error_message(settings, "크기가 적절하지 않습니다"),
    ):
        assert Message.from_bytes(message.to_bytes()) == message


GOOD = {"cmd": "training_status", "project_key": "k", "model_id": 1, "status": "training_ing"}
PROGRESS = {**GOOD, "percentage": 50, "step": 2}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ([1], "expected an object"),
        ({**PROGRESS, "cmd": "training"}, "cmd: expected training_status or validation_status"),
        ({**PROGRESS, "cmd": "validation_status"}, "status: expected validation_ing"),
        ({**PROGRESS, "status": "done"}, "status: expected training_ing"),
        ({**PROGRESS, "percentage": 101}, "percentage: expected a number from 0 to 100"),
        ({**PROGRESS, "percentage": True}, "percentage: expected a number"),
        ({**PROGRESS, "step": "2"}, "step: expected a whole number"),
        ({**PROGRESS, "model_id": None}, "model_id: expected text or a whole number"),
        ({**PROGRESS, "project_key": {}}, "project_key: expected text or a whole number"),
        ({**GOOD, "status": "training_error"}, "message: expected text"),
    ],
)
def test_what_is_no_message(fields: Any, complaint: str) -> None:
    with pytest.raises(BadMessage, match=complaint):
        Message.from_bytes(json.dumps(fields).encode())


def test_fields_that_the_document_does_not_know_are_passed_over() -> None:
    message = Message.from_bytes(json.dumps({**PROGRESS, "percentage": 12.5, "host": "gpu7"}).encode())
    assert (message.percentage, message.step) == (12.5, 2)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_nothing_else_is_raised_for_any_bytes(data: bytes) -> None:
    with suppress(BadMessage):
        Message.from_bytes(data)
