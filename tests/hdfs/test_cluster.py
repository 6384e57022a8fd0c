"""The real HDFS of the tests leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hdfs import jars
from tests.hdfs.service import Service, until


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone, or going while it is read
        return False
    return state != "Z"


def test_a_service_dies_with_whoever_started_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    program = (
        "import sys, pathlib; from tests.hdfs.service import Service; "
        f"Service('x', ['sleep', '600'], pathlib.Path({str(folder)!r})).start(); print('up', flush=True); "
        "sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    pid = int((folder / "x.pid").read_text())
    assert alive(pid)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    until(lambda: not alive(pid) and not folder.exists(), 30, "the service outlived its owner")


def test_a_service_keeps_its_data_when_it_is_stopped_or_killed(tmp_path: Path) -> None:
    service = Service("x", ["sleep", "600"], tmp_path)
    for end in (service.stop, service.kill):
        service.start()
        pid = int((tmp_path / "x.pid").read_text())
        assert service.running
        assert alive(pid)
        end()
        assert not service.running
        assert not alive(pid)
        assert tmp_path.exists()
        end()  # twice is no harm


def test_missing_java_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(jars.HadoopMissing, match="openjdk-17-jre-headless maven") as caught:
        jars.hadoop_jars()
    assert "\n" not in str(caught.value)
