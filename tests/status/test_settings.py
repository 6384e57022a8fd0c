"""The settings file: what is taken, and one clear line for what is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from coppice.status.settings import (
    PASSWORD_VARIABLE,
    StatusSettingsError,
    load_status_settings,
    parse_status_settings,
)

PLAIN: dict[str, Any] = {
    "message_host": "rabbit.example.org",
    "message_id": "trainer",
    "message_pw": "sesame",
    "queue_name": "status",
    "project_key": "4f1c",
    "model_id": "m-17",
}


def with_(**changes: Any) -> dict[str, Any]:
    content = {**PLAIN, **changes}
    return {key: value for key, value in content.items() if value is not ...}


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_yaml_and_json_say_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"status{suffix}"
    path.write_text(json.dumps(PLAIN, indent="\t") if suffix == ".json" else yaml.safe_dump(PLAIN))
    settings = load_status_settings(path, {})
    assert settings == parse_status_settings(PLAIN, "here")
    assert (settings.kind, settings.id, settings.password) == ("training", "m-17", "sesame")
    assert settings.model_write_path is None


def test_the_password_of_the_environment_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "status.yaml"
    path.write_text(yaml.safe_dump(with_(message_pw=...)))
    assert (
        load_status_settings(path, {PASSWORD_VARIABLE: "of the environment"}).password == "of the environment"
    )
    with pytest.raises(
        StatusSettingsError, match=f"no password: set {PASSWORD_VARIABLE}, or write message_pw"
    ):
        load_status_settings(path, {})
    path.write_text(yaml.safe_dump(PLAIN))
    assert (
        load_status_settings(path, {PASSWORD_VARIABLE: "of the environment"}).password == "of the environment"
    )


def test_the_password_shows_nowhere() -> None:
    settings = parse_status_settings(PLAIN, "here")
    assert "sesame" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    with pytest.raises(StatusSettingsError) as caught:
        parse_status_settings(with_(message_pw=["sesame"]), "here")
    assert "message_pw" in str(caught.value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("id_", ["m-17", 17])
def test_an_id_stays_what_it_is(id_: int | str) -> None:
    assert parse_status_settings(with_(model_id=id_), "here").id == id_
    validation = parse_status_settings(with_(model_id=..., validation_id=id_), "here")
    assert (validation.kind, validation.id) == ("validation", id_)


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("rabbit", None, "amqp://rabbit:5672"),
        ("rabbit", 1234, "amqp://rabbit:1234"),
        ("10.0.0.7", None, "amqp://10.0.0.7:5672"),
        ("amqp://rabbit", None, "amqp://rabbit:5672"),
        ("amqps://rabbit", None, "amqps://rabbit:5671"),
        ("amqps://rabbit:1234/tree", None, "amqps://rabbit:1234/tree"),
        ("amqps://rabbit/a%2Fb", 99, "amqps://rabbit:99/a/b"),
        ("amqps://[::1]:1234/", 1234, "amqps://[::1]:1234"),
        ("::1", None, "amqp://[::1]:5672"),
    ],
)
def test_where_the_broker_is(host: str, port: int | None, address: str) -> None:
    settings = parse_status_settings(with_(message_host=host, message_port=port), "here")
    assert str(settings.address) == address


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mesage_port": 1}, "mesage_port: unknown key; expected one of message_host, message_port,"),
        ({"queue_name": ...}, "queue_name: missing; this key has no default"),
        ({"message_port": "many"}, "message_port: Input should be a valid integer"),
        ({"message_port": 0}, "message_port: Input should be greater than or equal to 1, found 0"),
        ({"message_port": True}, "message_port: a port is a number, found True"),
        ({"queue_name": ""}, "queue_name: String should have at least 1 character, found ''"),
        ({"queue_name": "ö" * 200}, "queue_name: at most 255 bytes of text on one line, found"),
        ({"model_id": True}, "model_id: expected text or a whole number, found 'True'"),
        ({"project_key": [1]}, "project_key: expected text or a whole number, found '[1]'"),
        ({"model_id": ...}, "give model_id (training) or validation_id (validation), one of them"),
        ({"validation_id": "v"}, "give model_id (training) or validation_id (validation), one of them"),
        ({"message_host": "http://rabbit"}, "message_host: expected a host name, or amqp://host:port/vhost"),
        ({"message_host": "rab bit"}, "message_host: expected a host name, or amqp://host:port/vhost"),
        ({"message_host": "amqp://me:pw@rabbit"}, "no user or password in the URL: they go into message_id"),
        ({"message_host": "amqp://rabbit:1", "message_port": 2}, "message_host says port 1, message_port 2"),
        ({"message_host": "amqp://rabbit:99999"}, "message_host: Port out of range"),
        ({"message_ca": "ca.pem"}, "message_ca is for amqps://"),
        ({"model_write_path": "s3://models"}, "model_write_path: cannot open 's3://models'"),
        ({"model_write_path": "webhdfs://"}, "model_write_path: webhdfs://: '' is no host[:port]"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StatusSettingsError) as caught:
        parse_status_settings(with_(**changes), "status.yaml")
    line = str(caught.value)
    assert line.startswith("status.yaml: ")
    assert complaint in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (
            "a.yaml",
            "message_host: a\nmessage_host: b",
            "line 2: not valid YAML (the key 'message_host' is given",
        ),
        (
            "a.json",
            '{"message_host": 1, "message_host": 2}',
            "not valid JSON (the key 'message_host' is given",
        ),
        ("a.json", '{"message_host": ', "not valid JSON (Expecting value"),
        ("a.json", "[" * 100_00, "not valid JSON (nested too deeply)"),
        ("a.json", "[1]", "expected keys such as 'message_host:' and 'queue_name:', found list"),
        ("a.yaml", "x" * 60_000, "larger than 50,000 bytes; this is not a settings file"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StatusSettingsError) as caught:
        load_status_settings(tmp_path / name, {})
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StatusSettingsError, match=r"cannot be read .*; give the path of a settings file"):
        load_status_settings(tmp_path / "none.yaml", {})


def test_the_settings_in_the_documentation_are_taken(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/status.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "status.yaml").write_text(block)
    settings = load_status_settings(tmp_path / "status.yaml", {PASSWORD_VARIABLE: "x"})
    assert (settings.project_key, settings.id) == ("4f1c", "m-17")
    for key in type(settings).model_fields:
        assert f"`{key}`" in page


def test_one_of_many_that_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "status.yaml"
    path.write_text(yaml.safe_dump(with_(model_id=..., model_write_path="/models/")))
    training = load_status_settings(path, {}, about=("training", "MDL000002"))
    assert (training.kind, training.id) == ("training", "MDL000002")
    assert training.model_write_path == "/models/MDL000002"
    path.write_text(yaml.safe_dump(PLAIN))
    validation = load_status_settings(path, {}, about=("validation", 7))
    assert (validation.kind, validation.id, validation.model_write_path) == ("validation", 7, None)


def test_on_hdfs_with_options(tmp_path: Path) -> None:
    path = tmp_path / "status.yaml"
    path.write_text(yaml.safe_dump(with_(model_write_path="webhdfs://nn:9870/models/?timeout_s=5")))
    settings = load_status_settings(path, {}, about=("training", "MDL000002"))
    assert settings.model_write_path == "webhdfs://nn:9870/models/MDL000002?timeout_s=5"


@pytest.mark.parametrize(
    "changes",
    [
        {"message_host": "amqp://trainer:s3cret@host/"},
        {"message_host": "amqp://host/?password=s3cret"},
        {"message_host": "trainer:s3cret@host"},
        {"model_write_path": "webhdfs://me:s3cret@nn:9870/models"},
        {"message_pw": ["s3cret"]},
        {"message_pwd": "s3cret"},
    ],
)
def test_no_complaint_repeats_a_password(changes: dict[str, Any]) -> None:
    with pytest.raises(StatusSettingsError) as caught:
        parse_status_settings(with_(**changes), "status.yaml")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["!s3cret", "!!s3cret", "!a!s3cret", "*s3cret", "%s3cret", "s3: cret: x", "&a &s3cret"]
)
def test_a_password_that_yaml_reads_otherwise_is_not_repeated(value: str, tmp_path: Path) -> None:
    path = tmp_path / "status.yaml"
    path.write_text(f"message_pw: {value}\n")
    with pytest.raises(StatusSettingsError, match="line 1: not valid YAML") as caught:
        load_status_settings(path, {})
    assert "s3" not in str(caught.value)
