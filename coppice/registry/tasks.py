"""A task's settings: task/TSK000001.yaml, which its owner may edit."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coppice.registry import layout
from coppice.registry.errors import RegistryError
from coppice.runfile import MAX_RUN_FILE_BYTES
from coppice.store import Store, TooLarge
from coppice.yamlfile import first_mistake, parse_yaml, to_yaml


class TaskSettings(BaseModel):
    """What a task wants."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=200)
    better: Literal["higher", "lower"] = "higher"
    """Which score wins."""
    tolerance: float = Field(default=0.0, ge=0)
    """Scores so close are a tie, which the smaller model wins."""
    limit_s: float = Field(default=3600.0, gt=0)
    """For one script, or one pruning run."""
    prune: dict[str, Any] | None = None
    """A run file's settings, model and data left out: each trained model that has a score is pruned so."""

    def to_bytes(self) -> bytes:
        """YAML, with a word on each key."""
        text = to_yaml(self.model_dump(mode="json"))
        return ("# See docs/registry.md, Tasks.\n" + text).encode()


def read_settings(store: Store, task: str) -> TaskSettings:
    """Raises `RegistryError` in one line: no such task, or what is wrong in its file."""
    path = layout.settings_file(task)
    where = f"{store.url}/{path}"
    try:
        content = store.read(path, MAX_RUN_FILE_BYTES)
    except TooLarge as error:
        raise RegistryError(f"{where}: larger than {MAX_RUN_FILE_BYTES:,} bytes; this is no task") from error
    if content is None:
        raise RegistryError(f"{where}: there is no such task; see: coppice registry ls")
    try:
        return TaskSettings.model_validate(parse_yaml(content, where, RegistryError))
    except ValidationError as error:
        raise RegistryError(f"{where}: {first_mistake(error, TaskSettings)}") from error
