"""Where the cluster's address and the token come from, and who may read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coppice.openpai.errors import ClusterError
from coppice.openpai.settings import find_cluster
from tests.openpai.server import token_of

TOKEN = token_of("anna")
URL = "https://pai.example.org"


def put_config(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_options_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    config = put_config(tmp_path / "c.yaml", f"url: https://file\nuser: carl\ntoken: {token_of('carl')}\n")
    environ = {"COPPICE_OPENPAI_URL": "https://environment", "COPPICE_OPENPAI_TOKEN": token_of("ben")}
    cluster = find_cluster(config=config, environ={})
    assert (cluster.portal, cluster.user, cluster.token) == ("https://file", "carl", token_of("carl"))
    cluster = find_cluster(config=config, environ=environ)
    assert (cluster.portal, cluster.user, cluster.token) == ("https://environment", "carl", token_of("ben"))
    cluster = find_cluster("https://option", "dora", TOKEN, config, environ)
    assert (cluster.portal, cluster.user, cluster.token) == ("https://option", "dora", TOKEN)


def test_the_file_is_found_where_others_are(tmp_path: Path) -> None:
    put_config(tmp_path / ".config/coppice/openpai.yaml", f"url: {URL}\ntoken: {TOKEN}\n")
    assert find_cluster(environ={"HOME": str(tmp_path)}).portal == URL
    other = put_config(tmp_path / "other.yaml", f"url: https://other\ntoken: {TOKEN}\n")
    environ = {"HOME": str(tmp_path), "COPPICE_OPENPAI_CONFIG": str(other)}
    assert find_cluster(environ=environ).portal == "https://other"


def test_the_user_is_the_token_s() -> None:
    assert find_cluster(URL, token=TOKEN, environ={}).user == "anna"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700 | 0o010])
def test_a_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    config = put_config(tmp_path / "c.yaml", f"url: {URL}\ntoken: {TOKEN}\n", mode)
    with pytest.raises(ClusterError) as raised:
        find_cluster(config=config, environ={})
    assert str(raised.value) == f"{config}: others can read it, and it is for a token: chmod 600 {config}"


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = put_config(tmp_path / "c.yaml", f"url: {URL}\ntoken: {TOKEN}\n")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(ClusterError, match="belongs to another user"):
        find_cluster(config=config, environ={})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("url: [", "c.yaml, line 1: not valid YAML; expected url, user, token"),
        (f"- {TOKEN}", "c.yaml: expected lines such as"),
        ("url: 3", "c.yaml: expected lines such as"),
        (f"url: {URL}\ntokken: {TOKEN}", "c.yaml: tokken: unknown key; expected one of url, user, token"),
        (f"token: '{TOKEN}", "not valid YAML"),
    ],
)
def test_a_damaged_file(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as raised:
        find_cluster(config=put_config(tmp_path / "c.yaml", text), environ={})
    assert complaint in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no\.yaml: cannot be read \(No such file or directory\)"):
        find_cluster(URL, token=TOKEN, config=tmp_path / "no.yaml", environ={})


@pytest.mark.parametrize(
    ("url", "rest", "portal"),
    [
        ("https://pai.example.org", "https://pai.example.org/rest-server", "https://pai.example.org"),
        ("https://pai.example.org/", "https://pai.example.org/rest-server", "https://pai.example.org"),
        ("http://h:8080/rest-server/", "http://h:8080/rest-server", "http://h:8080"),
        ("http://10.0.0.1:9186", "http://10.0.0.1:9186", "http://10.0.0.1:9186"),
        ("https://h/pai", "https://h/pai/rest-server", "https://h/pai"),
    ],
)
def test_addresses(url: str, rest: str, portal: str) -> None:
    cluster = find_cluster(url, token=TOKEN, environ={})
    assert (cluster.rest, cluster.portal) == (rest, portal)


@pytest.mark.parametrize(
    ("url", "token", "user", "complaint"),
    [
        (None, TOKEN, None, "no cluster: give --url https://HOST, or set COPPICE_OPENPAI_URL"),
        (URL, None, None, f"no token for {URL}: set COPPICE_OPENPAI_TOKEN"),
        (URL, "opaque", None, "the token does not say whose it is: give --user NAME"),
        (URL, "a.b.c", None, "the token does not say whose it is"),
        (URL, "two words", None, "the token holds what no token does"),
        (URL, TOKEN, "a/b", "--user: 'a/b' is no name of a user"),
        ("pai.example.org", TOKEN, None, "write https://HOST"),
        ("ftp://pai.example.org", TOKEN, None, "write https://HOST"),
        ("https://anna:secret@pai.example.org", TOKEN, None, "no name or password belongs into it"),
        ("https://h:99999", TOKEN, None, "write https://HOST"),
    ],
)
def test_what_is_missing_or_wrong(
    url: str | None, token: str | None, user: str | None, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError) as raised:
        find_cluster(url, user, token, environ={"HOME": str(tmp_path)})
    assert complaint in str(raised.value)
    assert "secret@" not in str(raised.value)


def test_nothing_that_is_printed_shows_the_token() -> None:
    assert TOKEN not in repr(find_cluster(URL, token=TOKEN, environ={}))
