"""The master's records of finished rounds, one file each, written once."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from coppice.store import Store
from coppice.work import names
from coppice.work.contents import MAX_TEXT_BYTES, Report, json_from_bytes, json_to_bytes
from coppice.work.errors import BadContent, RunRefused

T = TypeVar("T")
REPORT = TypeAdapter(Report)


def checked(adapter: TypeAdapter[T], value: dict[str, Any], name: str) -> T:
    """The JSON object in file `name` as a dataclass. Raises `BadContent`: somebody has changed it."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadContent(f"{name}: {key}: {first['msg']}") from error


def read_rounds(store: Store) -> list[dict[str, Any]]:
    """All recorded rounds, first to last: the reports, field for field.

    Records are written in order, so a gap means that somebody removed one: raises `RunRefused`; one that
    somebody has changed for the worse: `BadContent`.
    """
    count = sum(names.parse_round(entry.name) is not None for entry in store.list(names.ROUNDS))
    paths = [names.round_record(number) for number in range(1, count + 1)]
    rounds = []
    for path, data in zip(paths, store.read_many(paths, MAX_TEXT_BYTES), strict=True):
        if data is None:
            raise RunRefused(
                f"{store.url}/{path}: missing, though later rounds are recorded; the run cannot go on"
            )
        record = json_from_bytes(data, path)
        checked(REPORT, record, f"{store.url}/{path}")
        rounds.append(record)
    return rounds


def keep_round(store: Store, report: Report) -> dict[str, Any]:
    """Record a report for good; keeping the same one again does nothing."""
    content = {key: getattr(report, key) for key in Report.__slots__}
    store.create(names.round_record(report.round), json_to_bytes(content), durable=True)
    return content
