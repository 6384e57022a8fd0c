"""The settings file of status messages and metric logs: where the broker is, and what is reported on.

    message_host: rabbitmq.example.org
    message_id: trainer
    queue_name: status
    project_key: 4f1c
    model_id: m-17
    model_write_path: /mnt/share/models/m-17

The password belongs into COPPICE_MESSAGE_PW rather than into the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from coppice.errors import CoppiceError, printable
from coppice.store import StoreError
from coppice.store.urls import below, open_home
from coppice.yamlfile import expected, read_yaml

PASSWORD_VARIABLE = "COPPICE_MESSAGE_PW"
"""The environment variable with the broker's password; it goes before the file's message_pw."""
MAX_SETTINGS_BYTES = 50_000
_MAY_HOLD_PASSWORD = (["message_pw"], ["message_host"], ["model_write_path"])
"""What stands there is not repeated: a URL may hold one, by mistake."""
_PORTS = {"amqp": 5672, "amqps": 5671}

Kind = Literal["training", "validation"]
ID_KEYS: dict[Kind, str] = {"training": "model_id", "validation": "validation_id"}
"""In the settings as in the messages."""
Id = StrictInt | Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200)]
"""An id of the platform's: sent back as it was given, a number as a number."""


class StatusSettingsError(CoppiceError):
    """The settings file cannot be used; the message names file, key and what was expected."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the broker listens."""

    host: str
    port: int
    tls: bool
    vhost: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        vhost = "" if self.vhost == "/" else f"/{self.vhost}"
        return f"{'amqps' if self.tls else 'amqp'}://{host}:{self.port}{vhost}"


class StatusSettings(BaseModel):
    """A whole settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    message_host: str
    """The broker: a host name, or amqp://host:port/vhost; amqps:// for TLS."""
    message_port: int | None = Field(default=None, ge=1, le=65535)
    """Default: the URL's, or 5672 (5671 for amqps)."""
    message_id: str = Field(min_length=1)
    """The broker's user."""
    message_pw: SecretStr | None = None
    """Its password; better given by COPPICE_MESSAGE_PW."""
    message_ca: str | None = None
    """amqps: a file with the certificate of an authority of one's own."""
    queue_name: str = Field(min_length=1)
    """The queue that the platform reads."""
    project_key: Id
    model_id: Id | None = None
    """Training is reported on, under this id..."""
    validation_id: Id | None = None
    """...or validation, under this one."""
    model_write_path: str | None = None
    """Below it, in save/metrics/, metric logs are written: a folder, or webhdfs://. Default: none are."""

    @field_validator("message_port", mode="before")
    @classmethod
    def _is_no_switch(cls, port: object) -> object:
        if isinstance(port, bool):  # a number to pydantic
            raise ValueError("a port is a number")
        return port

    @field_validator("message_host")
    @classmethod
    def _address_is_one(cls, host: str) -> str:
        _split(host)
        return host

    @field_validator("queue_name")
    @classmethod
    def _fits_amqp(cls, name: str) -> str:
        if len(name.encode("utf-8", "surrogatepass")) > 255 or not name.isprintable():
            raise ValueError("at most 255 bytes of text on one line")
        return name

    @field_validator("model_write_path")
    @classmethod
    def _is_a_store(cls, url: str | None) -> str | None:
        if url:
            try:
                open_home(url).close()  # only looks at the words
            except StoreError as error:
                raise ValueError(str(error)) from error
        return url

    @model_validator(mode="after")
    def _fits_together(self) -> StatusSettings:
        if (self.model_id is None) == (self.validation_id is None):
            raise ValueError("give model_id (training) or validation_id (validation), one of them")
        _, port, tls, _ = _split(self.message_host)
        if port and self.message_port and port != self.message_port:
            raise ValueError(f"message_host says port {port}, message_port {self.message_port}; give one")
        if self.message_ca is not None and not tls:
            raise ValueError("message_ca is for amqps://; write message_host: amqps://...")
        return self

    @property
    def kind(self) -> Kind:
        """What is reported on."""
        return "training" if self.validation_id is None else "validation"

    @property
    def id(self) -> int | str:
        """model_id or validation_id."""
        found = self.model_id if self.validation_id is None else self.validation_id
        assert found is not None
        return found

    @property
    def address(self) -> Address:
        """Where the broker listens."""
        host, port, tls, vhost = _split(self.message_host)
        return Address(host, self.message_port or port or _PORTS["amqps" if tls else "amqp"], tls, vhost)

    @property
    def password(self) -> str:
        """The broker's password."""
        return self.message_pw.get_secret_value() if self.message_pw else ""


def _split(text: str) -> tuple[str, int | None, bool, str]:
    """Host, port if given, TLS, vhost. Raises `ValueError`."""
    if "://" not in text:
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?", text):
            raise ValueError("expected a host name, or amqp://host:port/vhost (amqps:// for TLS)")
        return text.strip("[]"), None, False, "/"
    url = urlsplit(text)
    if url.scheme not in _PORTS or not url.hostname or url.query or url.fragment:
        raise ValueError("expected a host name, or amqp://host:port/vhost (amqps:// for TLS)")
    if url.username is not None or url.password is not None:
        raise ValueError(f"no user or password in the URL: they go into message_id and {PASSWORD_VARIABLE}")
    return url.hostname, url.port, url.scheme == "amqps", unquote(url.path.removeprefix("/")) or "/"


def load_status_settings(
    path: str | Path,
    environment: Mapping[str, str] = os.environ,
    *,
    about: tuple[Kind, int | str] | None = None,
) -> StatusSettings:
    """Read and check a settings file, YAML or JSON; the password may come from the environment.

    `about`: one of many trainings and validations that share the file. Its id goes before the file's, which
    needs none, and its metric logs into a folder of that name below model_write_path.

    Raises `StatusSettingsError`: one line with the file, the key and what was expected.
    """
    content = read_yaml(
        path,
        kind="settings file",
        examples="'message_host:' and 'queue_name:'",
        most_bytes=MAX_SETTINGS_BYTES,
        error=StatusSettingsError,
    )
    if environment.get(PASSWORD_VARIABLE):
        content["message_pw"] = environment[PASSWORD_VARIABLE]
    if about is not None:
        kind, id_ = about
        content = {key: content[key] for key in content if key not in ID_KEYS.values()} | {ID_KEYS[kind]: id_}
        if isinstance(content.get("model_write_path"), str):
            content["model_write_path"] = below(content["model_write_path"], str(id_))
    return parse_status_settings(content, str(path))


def parse_status_settings(content: dict[Any, Any], origin: str) -> StatusSettings:
    """Check the content of a settings file that came from `origin` (a path, for the message)."""
    try:
        settings = StatusSettings.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=True)[0]
        place = [str(part) for part in first["loc"][:1]]  # what follows is which kind of id did not fit
        key = printable(".".join(place), " ")[:120]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 and place else ""
        if place in (["project_key"], ["model_id"], ["validation_id"]) and first["type"] != "missing":
            what = f"expected text or a whole number, found {str(content.get(place[0]))[:80]!r}"
            raise StatusSettingsError(f"{origin}: {key}: {what}") from error
        if not place:
            raise StatusSettingsError(
                f"{origin}: {str(first['msg']).removeprefix('Value error, ')}"
            ) from error
        what = expected(first, place, StatusSettings, secret=place in _MAY_HOLD_PASSWORD)
        raise StatusSettingsError(f"{origin}: {key}: {printable(what, ' ')}{more}") from error
    if settings.message_pw is None:
        raise StatusSettingsError(
            f"{origin}: no password: set {PASSWORD_VARIABLE}, or write message_pw into the file"
        )
    return settings
