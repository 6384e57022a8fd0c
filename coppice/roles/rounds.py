"""The master's records of finished rounds, one file each, written once."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from coppice.store import Store
from coppice.work import names
from coppice.work.contents import json_from_bytes, json_to_bytes
from coppice.work.errors import BadContent, RunRefused
from coppice.work.limits import MAX_TEXT_BYTES, read_limited, read_many_limited
from coppice.work.sentinels import Report

T = TypeVar("T")
REPORT = TypeAdapter(Report)
Count = Annotated[int, Field(ge=0, lt=10**15)]
"""How many, in a JSON file that somebody may have changed."""


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
    somebody has changed for the worse: `BadContent`. A listing that is out of date hides none: what may
    follow the last one listed is asked for by name.
    """
    numbers = {names.parse_round(entry.name) for entry in store.list(names.ROUNDS)} - {None}
    paths = [names.round_record(number) for number in range(1, len(numbers) + 1)]
    contents = read_many_limited(store, paths, MAX_TEXT_BYTES)
    while (data := read_limited(store, names.round_record(len(contents) + 1), MAX_TEXT_BYTES)) is not None:
        contents.append(data)
    rounds = []
    for number, data in enumerate(contents, 1):
        path = names.round_record(number)
        if data is None:
            raise RunRefused(
                f"{store.url}/{path}: missing, though later rounds are recorded; the run cannot go on"
            )
        record = checked(REPORT, json_from_bytes(data, path), f"{store.url}/{path}")
        rounds.append(_fields(Report.from_bytes(record.to_bytes(), f"{store.url}/{path}")))
    return rounds


def keep_round(store: Store, report: Report) -> dict[str, Any]:
    """Record a report for good; keeping the same one again does nothing."""
    content = _fields(report)
    store.create(names.round_record(report.round), json_to_bytes(content), durable=True)
    return content


def _fields(report: Report) -> dict[str, Any]:
    return {key: getattr(report, key) for key in Report.__slots__}
