"""`coppice plot`: any metric logs as a picture or a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from coppice.cli import main
from coppice.status import MetricLogs
from coppice.status.metrics import FOLDER
from coppice.store import Retry


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """A folder with two logs."""
    logs = MetricLogs.open(str(tmp_path), print)
    for step in range(1, 50):
        logs.add("loss", {"step": step, "training": 1 / step, "validation & <test>": 1.2 / step})
        logs.add("accuracy", {"step": step, "accuracy": 1 - 1 / step})
    logs.close(10)
    return tmp_path / FOLDER


def coppice(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["plot", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_a_picture_of_a_folder(
    metrics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert coppice(capsys, metrics) == (0, "written into metrics.png\n", "")
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_with_a_plot_a_file_and_a_curve_a_column(
    metrics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    status, _, _ = coppice(capsys, metrics / "loss.log", metrics / "accuracy.log", "--to", page)
    assert status == 0
    text = page.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["loss", "accuracy"]
    assert text.count("<svg ") == 2
    assert ">training</text>" in text.replace("\n", "")
    assert "validation &amp; &lt;test&gt;" in text
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!#)', text.replace("xlink:href", "href"))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_logs_of_others_and_odd_ones_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text("x,_y $z$\n1,2\n2,nan\n3,\n")
    (tmp_path / "b.log").write_text("x, only names\n")
    (tmp_path / "c.log").write_text("x, far\n1, 1e300\n2, inf\n")
    (tmp_path / "d.log").write_text("x, both ways\n-1e308, 1e308\n1e308, -1e308\n")
    (tmp_path / "e.log").write_text("x, 损失\n1, 2\n2")
    for kind in ("png", "html"):
        status, _, err = coppice(capsys, tmp_path, "--to", tmp_path / f"odd.{kind}")
        assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("content", "to", "complaint"),
    [
        (None, "a.png", "not there; give a metric log, or a folder of them"),
        ("hello", "a.png", "no metric log: the first line must name the x axis and the curves"),
        ("x, y\n1, 2\n", "a.pdf", "cannot be drawn; end its name in .png or .html"),
        ("x, y\n1, 2\n", "none/a.png", "cannot be written (No such file or directory)"),
    ],
)
def test_a_mistake_is_one_line(
    content: str | None, to: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "loss.log").write_text(content)
    status, out, err = coppice(capsys, tmp_path / "loss.log", "--to", tmp_path / to)
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert complaint in line


def test_a_folder_without_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = coppice(capsys, tmp_path)
    assert status == 1
    assert "holds no file named *.log" in err


@pytest.mark.parametrize("place", [".", "./", "../metrics/.", ".."])
def test_the_folder_that_one_is_in(
    place: str, metrics: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (metrics / "deeper").mkdir()
    monkeypatch.chdir(metrics / "deeper" if place == ".." else metrics)
    assert coppice(capsys, place, "--to", "a.html")[0] == 0


def test_a_home_that_does_not_answer_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coppice.metric_plots.RETRY", Retry(patience_s=0.1))
    status, _, err = coppice(capsys, "webhdfs://127.0.0.1:1/metrics", "--to", tmp_path / "a.png")
    assert status == 1
    assert len(err.splitlines()) == 2
