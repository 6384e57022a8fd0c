"""A real RabbitMQ, started when the first test asks for it, and a queue of each test's own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coppice.status.settings import PASSWORD_VARIABLE, StatusSettings, parse_status_settings
from tests.status.rabbitmq import PASSWORD, USER, RabbitMissing, RabbitMQ

MakeSettings = Callable[..., StatusSettings]


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """Leave it running."""
    try:
        broker = RabbitMQ()
    except RabbitMissing as error:
        pytest.fail(str(error), pytrace=False)
    with broker:
        yield broker


@pytest.fixture
def queue(rabbitmq: RabbitMQ) -> str:
    """The name of a durable queue that is empty."""
    name = f"status-{uuid.uuid4().hex[:8]}"
    rabbitmq.make_queue(name)
    return name


@pytest.fixture(autouse=True)
def no_password_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user who runs the tests has set counts for nothing."""
    for variable in (PASSWORD_VARIABLE, "COPPICE_STATUS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is: who waits for the end of a patience asks for less."""
    for patience in ("LAST_WORD_S", "LEAVE_S", "METRICS_S"):
        monkeypatch.setattr(f"coppice.status.reporter.{patience}", 60.0)


def settings_of(rabbitmq: RabbitMQ, queue: str, **changes: Any) -> dict[str, Any]:
    """The content of a settings file for training m-17; a key with the value None is left out."""
    content = {
        "message_host": "127.0.0.1",
        "message_port": rabbitmq.port,
        "message_id": USER,
        "message_pw": PASSWORD,
        "queue_name": queue,
        "project_key": "4f1c",
        "model_id": "m-17",
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}


@pytest.fixture
def make_settings(rabbitmq: RabbitMQ, queue: str) -> MakeSettings:
    """Settings for this test's queue, with changes."""
    return lambda **changes: parse_status_settings(settings_of(rabbitmq, queue, **changes), "settings")


@pytest.fixture
def settings_file(rabbitmq: RabbitMQ, queue: str, tmp_path: Path) -> Path:
    """A settings file for this test's queue, with metric logs below tmp_path/model."""
    path = tmp_path / "status.yaml"
    content = settings_of(rabbitmq, queue, model_write_path=str(tmp_path / "model"))
    path.write_text(json.dumps(content, indent=1))
    return path


def bodies(rabbitmq: RabbitMQ, queue: str) -> list[dict[str, Any]]:
    """What is in a queue by now, each as the object that it holds; taken off."""
    return [json.loads(body) for body, _ in rabbitmq.take(queue)]
