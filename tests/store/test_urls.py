"""What a user may write to name a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coppice.store import Store, StoreError, open_store
from coppice.store.folder import FolderHome
from coppice.store.hdfs import HdfsHome
from coppice.store.hdfs_address import HdfsAddress, parse_hdfs_url
from coppice.store.urls import absolute


def parse(url: str, **environ: str) -> HdfsAddress:
    return parse_hdfs_url(url, {"HADOOP_USER_NAME": "anna", **environ})


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", "a b", "./a b"):
        store = open_store(url)
        assert isinstance(store.home, FolderHome)
        assert store.url.endswith(("a b", "a%20b"))
        store.replace("file", url.encode())
        assert (tmp_path / "a b" / "file").read_bytes() == url.encode()


def test_a_file_url_names_the_very_folder_that_python_meant(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9 #1")
    open_store(folder.as_uri()).replace("file", b"1")
    assert (folder / "file").read_bytes() == b"1"
    with pytest.raises(StoreError, match="no name can hold %00"):
        open_store("file:///tmp/a%00b")


def test_a_current_directory_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for act in (open_store, absolute):
        with pytest.raises(StoreError, match=r"where work is: the current directory was removed"):
            act("work")
    assert open_store(str(tmp_path)).list() == []


def test_memory_is_shared_by_name() -> None:
    open_store("memory:one").create("a", b"1")
    assert open_store("memory:one").read("a") == b"1"
    assert open_store("memory:two").read("a") is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "  ",
        "hdfs://nn:9000/work",
        "http://nn:9870/work",
        "s3://bucket/work",
        "memory:",
        "file://other/work",
    ],
)
def test_anything_else_is_refused_in_one_line_that_names_what_is_accepted(url: str) -> None:
    with pytest.raises(StoreError, match=r"webhdfs://|memory:name|file:///path") as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_hdfs_is_not_asked_before_it_is_used() -> None:
    with open_store("webhdfs://anna@nowhere.invalid:9870/work") as store:
        assert isinstance(store, Store)
        assert isinstance(store.home, HdfsHome)
        assert not store.home.calls


def test_one_namenode() -> None:
    address = parse("webhdfs://nn/shared/my%20work/")
    assert address.servers == ("http://nn:9870",)
    assert address.path == "/shared/my work"
    assert (address.user, address.token, address.httpfs, address.api) == ("anna", None, False, "/webhdfs/v1")
    assert parse("webhdfs://nn:9870").path == ""
    assert parse("webhdfs://nn/runs/run%232").path == "/runs/run#2"
    assert parse("swebhdfs://nn/x").servers == ("https://nn:9871",)
    assert parse("webhdfs://[::1]:50070/x").servers == ("http://[::1]:50070",)


def test_several_namenodes() -> None:
    address = parse("webhdfs://bob@nn1:9870,nn2/work")
    assert address.servers == ("http://nn1:9870", "http://nn2:9870")
    assert (address.user, address.httpfs) == ("bob", False)


def test_options() -> None:
    address = parse("webhdfs://portal:80/work?root=/webhdfs/api/v1&timeout_s=5")
    assert (address.api, address.timeout_s, address.httpfs) == ("/webhdfs/api/v1", 5.0, False)
    assert parse("webhdfs://gateway:14000/work").httpfs is True
    assert parse("webhdfs://gateway:8000/work").httpfs is None
    assert parse("webhdfs://gateway:8000/work?httpfs=1").httpfs is True
    assert parse("webhdfs://gateway:14000/work?httpfs=0").httpfs is False


def test_who_we_are() -> None:
    assert parse("webhdfs://nn/x", COPPICE_HDFS_USER="carl").user == "carl"
    assert parse("webhdfs://bob@nn/x", COPPICE_HDFS_USER="carl").user == "bob"
    with_token = parse("webhdfs://bob@nn/x", COPPICE_HDFS_TOKEN="sesame")
    assert (with_token.user, with_token.token) == (None, "sesame")
    assert "sesame" not in repr(with_token)
    kerberos = parse("webhdfs://nn/x?auth=kerberos", COPPICE_HDFS_TOKEN="sesame")
    assert (kerberos.user, kerberos.token) == (None, None)


@pytest.mark.parametrize(
    "url",
    [
        "webhdfs:///work",
        "webhdfs://nn:port/work",
        "webhdfs://nn1,/work",
        "webhdfs://nn/work/../..",
        "webhdfs://nn/work?httpfs=yes",
        "webhdfs://nn/work?auth=magic",
        "webhdfs://nn/work?timeout_s=0",
        "webhdfs://nn/work?timeout_s=soon",
        "webhdfs://nn/work?unknown=1",
        "webhdfs://nn/runs/run#2",
        "webhdfs://nn/work#",
        "webhdfs://nn/work?root=/a#b",
        "webhdfs://nn/a%00b",
        "webhdfs://nn/a%0Ab",
        "webhdfs://nn/a\x7fb",
        "webhdfs://bob%00@nn/work",
        "webhdfs://nn/caf%E9",
        "webhdfs://nn/caf\udce9",
    ],
)
def test_bad_hdfs_urls_are_refused_with_the_form(url: str) -> None:
    with pytest.raises(StoreError, match=r"write webhdfs://\[user@\]namenode") as caught:
        parse(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["webhdfs://bob:sesame@nn/x", "webhdfs://bob:sesame%E9@nn/x#1", "webhdfs://nn/x?token=sesame"]
)
def test_secrets_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert "sesame" not in str(caught.value)


@given(st.text(max_size=40))
def test_no_url_ends_in_another_error(text: str) -> None:
    for url in (f"webhdfs://{text}", f"webhdfs://nn/{text}", text if "\0" not in text else "x"):
        try:
            open_store(url).close()
        except StoreError:
            pass


def test_a_user_without_a_name_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    with pytest.raises(StoreError, match="COPPICE_HDFS_USER"):
        parse_hdfs_url("webhdfs://nn/x", {})
    assert "LOGNAME" not in os.environ or parse("webhdfs://nn/x").user == "anna"
