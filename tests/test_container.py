"""What roles take from the environment of a container."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coppice.cli import work_of
from coppice.clock import SystemClock
from coppice.container import Container, this_container, work_folder
from coppice.runfile import RunFile
from coppice.store import open_store
from coppice.store.hdfs_address import parse_hdfs_url
from coppice.work import names
from coppice.work.presence import Identity, announce_evaluator, read_role_file, role_files

PAI = {
    "PAI_JOB_NAME": "anna~coppice-digits-1a2b3c4d",
    "PAI_USER_NAME": "anna",
    "PAI_CURRENT_TASK_ROLE_NAME": "evaluator",
    "PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX": "3",
    "PAI_TASK_INDEX": "3",
}
OLD = "hdfs://10.0.0.1:9000"


def test_outside_of_a_cluster() -> None:
    assert this_container({"HOME": "/root", "PAI_JOB_NAME": ""}) is None


def test_openpai() -> None:
    container = this_container(PAI)
    assert container == Container("anna~coppice-digits-1a2b3c4d", "evaluator", "3")
    assert str(container) == "anna~coppice-digits-1a2b3c4d evaluator 3"


def test_an_openpai_that_sets_less() -> None:
    assert str(this_container({"PAI_JOB_NAME": "digits"})) == "digits"
    assert str(this_container({"PAI_JOB_NAME": "digits", "PAI_TASK_INDEX": "2"})) == "digits 2"


def test_kubernetes() -> None:
    assert str(this_container({"COPPICE_CONTAINER": "coppice-digits-evaluator-3-x7k2p"})) == (
        "coppice-digits-evaluator-3-x7k2p"
    )


def test_the_heartbeat_says_which_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PAI.items():
        monkeypatch.setenv(name, value)
    me = Identity.of_this_process()
    assert re.fullmatch(names.WORKER, me.worker)
    assert "-evaluator-3-" in me.worker
    with open_store(str(tmp_path)) as store:
        announce_evaluator(store, SystemClock(), me)
        (file,) = role_files(store)
        content = read_role_file(store, file.path)
    assert content is not None
    assert content["container"] == "anna~coppice-digits-1a2b3c4d evaluator 3"


@pytest.mark.parametrize("host", ["n" * 200, "...", "gpu07.example.org"])
def test_a_worker_s_name_is_always_one(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    for role in ("evaluator", "r" * 99, ""):
        monkeypatch.setenv("PAI_JOB_NAME", "digits")
        monkeypatch.setenv("PAI_CURRENT_TASK_ROLE_NAME", role)
        assert re.fullmatch(names.WORKER, Identity.of_this_process().worker)


@pytest.mark.parametrize(
    ("written", "environ", "expected"),
    [
        (None, {}, None),
        ("work/digits", {}, "work/digits"),
        ("work/digits", {"PAI_DEFAULT_FS_URI": ""}, "work/digits"),  # since 1.0
        (None, {"PAI_DEFAULT_FS_URI": OLD}, "webhdfs://10.0.0.1:5070/shared/work"),
        ("work/digits", {"PAI_DEFAULT_FS_URI": OLD}, "webhdfs://10.0.0.1:5070/shared/work"),
        ("/mnt/share/work", {"PAI_DEFAULT_FS_URI": OLD}, "/mnt/share/work"),
        ("webhdfs://nn:9870/work", {"PAI_DEFAULT_FS_URI": OLD}, "webhdfs://nn:9870/work"),
        ("work/digits", {"PAI_DEFAULT_FS_URI": "s3://somewhere"}, "work/digits"),
    ],
)
def test_the_work_folder(written: str | None, environ: dict[str, str], expected: str | None) -> None:
    assert work_folder(written, environ) == expected


def test_what_was_asked_for_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAI_DEFAULT_FS_URI", OLD)
    run = RunFile(name="digits", work="work/digits")
    assert work_of("/mnt/here", run) == "/mnt/here"
    assert work_of(None, run) == "webhdfs://10.0.0.1:5070/shared/work"


def test_hdfs_knows_the_user_of_the_cluster() -> None:
    assert parse_hdfs_url("webhdfs://nn:5070/shared/work", PAI).user == "anna"
    assert parse_hdfs_url("webhdfs://nn:5070/shared/work", {**PAI, "HADOOP_USER_NAME": "ben"}).user == "ben"
