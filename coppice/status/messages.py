"""What a training or a validation tells the platform, field for field; and reading it back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from coppice.errors import CoppiceError, printable
from coppice.status.settings import ID_KEYS, Kind, StatusSettings

MAX_MESSAGE_BYTES = 1 << 16
"""Of one message that is read."""
MAX_REASON = 1000
"""Letters of what an error message says."""

State = Literal["ing", "done", "error"]


class BadMessage(CoppiceError):
    """Something in the queue is no status message; says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One status message."""

    kind: Kind
    project_key: int | str
    id: int | str
    """model_id or validation_id."""
    state: State
    percentage: int | float | None = None
    """ing: 0 to 100."""
    step: int | None = None
    """ing: the step at work."""
    message: str | None = None
    """error: for a person."""

    @property
    def final(self) -> bool:
        """Whether nothing may follow it."""
        return self.state != "ing"

    def to_json(self) -> dict[str, Any]:
        """The fields of the platform's document, in its order, and no others."""
        fields: dict[str, Any] = {
            "cmd": f"{self.kind}_status",
            "project_key": self.project_key,
            ID_KEYS[self.kind]: self.id,
            "status": f"{self.kind}_{self.state}",
        }
        if self.state == "ing":
            fields |= {"percentage": self.percentage, "step": self.step}
        elif self.state == "error":
            fields["message"] = self.message
        return fields

    def to_bytes(self) -> bytes:
        """What is sent."""
        return json.dumps(self.to_json(), ensure_ascii=False).encode("utf-8", "replace")

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """Raises `BadMessage`. Fields that are not in the document are passed over."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise BadMessage(f"larger than {MAX_MESSAGE_BYTES} bytes")
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadMessage("not JSON") from error
        if not isinstance(fields, dict):
            raise BadMessage(f"expected an object, found {type(fields).__name__}")
        kind = _kind(fields.get("cmd"))
        state = next((s for s in get_args(State) if fields.get("status") == f"{kind}_{s}"), None)
        if state is None:
            raise BadMessage(f"status: expected {kind}_ing, {kind}_done or {kind}_error")
        message = cls(kind, _id(fields, "project_key"), _id(fields, ID_KEYS[kind]), state)
        if state == "ing":
            percentage = _number(fields, "percentage")
            return cls(kind, message.project_key, message.id, state, percentage, _step(fields))
        if state == "error":
            text = fields.get("message")
            if not isinstance(text, str):
                raise BadMessage("message: expected text")
            return cls(kind, message.project_key, message.id, state, message=text)
        return message


def _kind(cmd: object) -> Kind:
    for kind in get_args(Kind):
        if cmd == f"{kind}_status":
            return kind  # type: ignore[no-any-return]
    raise BadMessage("cmd: expected training_status or validation_status")


def _id(fields: dict[str, Any], key: str) -> int | str:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadMessage(f"{key}: expected text or a whole number")
    return value


def _number(fields: dict[str, Any], key: str) -> int | float:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise BadMessage(f"{key}: expected a number from 0 to 100")
    return value


def _step(fields: dict[str, Any]) -> int:
    value = fields.get("step")
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadMessage("step: expected a whole number")
    return value


def progress_message(settings: StatusSettings, step: int, percentage: float) -> Message:
    """`..._ing`. The percentage is cut to a whole number from 0 to 100: any reader takes one."""
    whole = 0 if math.isnan(percentage) else int(min(100.0, max(0.0, percentage)))
    return Message(settings.kind, settings.project_key, settings.id, "ing", whole, int(step))


def done_message(settings: StatusSettings) -> Message:
    """`..._done`."""
    return Message(settings.kind, settings.project_key, settings.id, "done")


def error_message(settings: StatusSettings, reason: str) -> Message:
    """`..._error`: a sentence for a person, on one line."""
    text = " ".join(printable(reason, " ").split())
    text = text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 1]}…"
    return Message(settings.kind, settings.project_key, settings.id, "error", message=text)
