"""`coppice registry ...`: what people type, and what they are told when it cannot be done."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coppice.cli import main
from coppice.registry.registry import Registry
from coppice.store import Retry, open_store
from tests.registry.support import ARCHITECTURE, GENERATORS, add_task, new_registry, settle
from tests.support.homes import over_homes

Call = Callable[..., Any]


@pytest.fixture
def at(store_url: str) -> str:
    """Where the registry is; a folder, unless a test wants other homes."""
    return store_url


@pytest.fixture
def call(at: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """`coppice registry ARGUMENTS... --json`: its answer; a mistake raises SystemExit."""
    monkeypatch.setenv("COPPICE_REGISTRY", at)
    monkeypatch.setenv("COLUMNS", "160")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str, plain: bool = False) -> Any:
        capsys.readouterr()
        try:
            main(["registry", *arguments, *([] if plain else ["--json"])])
        except SystemExit as end:
            if end.code not in (0, None):
                raise
        out = capsys.readouterr().out
        return out if plain else json.loads(out)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def complaint(call: Call, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line of a user's mistake."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            call(*arguments, plain=True)
        assert end.value.code == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        return str(line)

    return run


@pytest.fixture
def scripts(tmp_path: Path) -> dict[str, str]:
    """Options that name the quick scripts."""
    paths = {}
    for prefix, found in (("gen", GENERATORS), ("arch", ARCHITECTURE)):
        for kind, content in found.items():
            path = tmp_path / f"{prefix}_{kind}.py"
            path.write_bytes(content)
            paths[f"{prefix}_{kind}"] = str(path)
    return paths


def options(scripts: dict[str, str], prefix: str) -> list[str]:
    return [
        word for kind in ("train", "test", "predict") for word in (f"--{kind}", scripts[f"{prefix}_{kind}"])
    ]


@over_homes("folder", "webhdfs")
def test_a_task_by_commands_alone(call: Call, scripts: dict[str, str], tmp_path: Path) -> None:
    assert call("init")["registry"]
    assert call("add-task", "quick", *options(scripts, "gen"), "--tolerance", "0.1") == {"task": "TSK000001"}
    assert call("add-arch", "TSK000001", *options(scripts, "arch"), "--name", "one") == {"arch": "ARC000001"}
    assert call("add-train", "TSK000001") == {"set": "TRD000001"}
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, np.ones((4, 2)))
    np.save(y, np.zeros(4, int))
    assert call("add-test", "TSK000001", "--x", str(x), "--y", str(y)) == {"set": "TST000001"}
    found = call("ls")
    assert [row["wait"] for row in found["queues"] if row["kind"] == "traingen"] == [1]
    for workflow in ("train", "test"):
        call("worker", "--until-empty", plain=True)
        call("wf", workflow, "--once", plain=True)
    call("worker", "--until-empty", plain=True)
    assert call("best", "TSK000001") == {
        "test": "TST000001",
        "models": [{"model": "MDL000001", "score": 2.5, "parameters": 4}],
    }
    assert call("add-predict", "TSK000001", "--x", str(x)) == {"set": "PRD000001"}
    call("wf", "predict", "--once", plain=True)
    call("worker", "predict", "--until-empty", plain=True)
    found = call("show", "TSK000001")
    assert [model["scores"] for model in found["models"]] == [{"TST000001": 2.5}]
    assert found["predictions"] == [
        {"set": "PRD000001", "model": "MDL000001", "file": "out/PRD000001_yhat.npy"}
    ]
    assert call("show", "MDL000001")["parameters"] == 4
    assert call("show", "TRD000001")["made"] is True
    assert call("lineage", "MDL000001")["lineage"][1] == "  TRD000001: made by gen/TSK000001_train.py"
    assert call("retry") == {"retried": []}
    order = call("prune", "TSK000001", "MDL000001")
    assert order["order"] == "prune_TSK000001_ARC000001_TRD000001_MDL000001_MDL000002"
    assert call("prune", "TSK000001", "MDL000001") == order
    for command in (["show", "TSK000001"], ["show", "MDL000001"], ["best", "TSK000001"]):
        assert "MDL000001" in call(*command, plain=True)
    assert "TSK000001" in call("ls", plain=True)
    assert call("show", "SCR000001")["score"] == 2.5
    assert call("show", "ARC000001")["files"][-1] == "arch/ARC000001_train.py"
    assert "not made yet" in call("lineage", "MDL000002", plain=True)


def test_failed_orders_are_shown_and_put_back(call: Call, scripts: dict[str, str], at: str) -> None:
    call("init")
    Path(scripts["gen_train"]).write_text("raise SystemExit('no sensor')")
    call("add-task", "quick", *options(scripts, "gen"))
    call("add-train", "TSK000001")
    call("worker", "traingen", "--until-empty", plain=True)
    shown = call("ls", plain=True)
    assert (
        "failed: traingen_TSK000001_TRD000001, see wo/traingen/fail/traingen_TSK000001_TRD000001.log" in shown
    )
    log = Path(at, "wo/traingen/fail/traingen_TSK000001_TRD000001.log").read_text()
    assert log.splitlines()[-1] == "gen/TSK000001_train.py: exit status 1: no sensor"
    name = "traingen_TSK000001_TRD000001"
    Path(at, "gen/TSK000001_train.py").write_bytes(GENERATORS["train"])
    assert call("retry", name) == {"retried": [name]}
    call("worker", "traingen", "--until-empty", plain=True)
    assert call("show", "TRD000001")["orders"] == [f"success: {name}"]
    assert "nothing had failed" in call("retry", plain=True)


def test_mistakes_are_answered_in_a_line(complaint: Callable[..., str], call: Call, at: str) -> None:
    assert complaint("ls") == (
        f"coppice: {at}: there is no registry; begin one: coppice registry init --at {at}"
    )
    call("init")
    assert "TSK000001.yaml: there is no such task" in complaint("add-train", "TSK000001")
    call("add-task", "bare")
    assert "gen/TSK000001_train.py: there is no such script; put it there" in complaint(
        "add-train", "TSK000001"
    )
    assert complaint("add-train", "TSK000001", "--x", "x.npy") == "coppice: give both --x and --y, or neither"
    assert "nowhere.npy: cannot be read" in complaint("add-predict", "TSK000001", "--x", "nowhere.npy")
    assert "kind 'sing': there is none; expected one of traingen," in complaint("worker", "sing")
    assert "workflow 'sing': there is none" in complaint("wf", "sing")
    assert "'nonsense': no id; expected one such as" in complaint("show", "nonsense")
    assert "MDL000009: there is none in" in complaint("show", "MDL000009")
    assert "MDL000009: there is none in" in complaint("lineage", "MDL000009")
    assert "'ARC000001': no model; expected an id such as" in complaint("lineage", "ARC000001")
    assert "there is no such task" in complaint("best", "TSK000009")
    assert "MDL000009: no model of TSK000001" in complaint("prune", "TSK000001", "MDL000009")
    assert "has no test set yet" in complaint("best", "TSK000001")
    assert "foo: no test set of TSK000001; it has none" in complaint("best", "TSK000001", "--test", "foo")
    assert "no such order has failed" in complaint("retry", "train_TSK000001")
    assert "better: Input should be 'higher' or 'lower', found 'more'" in complaint(
        "add-task", "x", "--better", "more"
    )
    assert "example 'iris': there is none; expected one of digits, mnist" in complaint("demo", "iris")


def test_arrays_that_are_none_are_refused(
    complaint: Callable[..., str], call: Call, tmp_path: Path, at: str
) -> None:
    call("init")
    call("add-task", "bare")
    bad = tmp_path / "bad.npy"
    for content, expected in (
        (b"hello", "not a whole .npy file"),
        (_npy(np.zeros(3)), "expected numbers of shape (samples, ...)"),
        (_npy(np.array([[np.inf]])), "holds NaN or infinite numbers"),
    ):
        bad.write_bytes(content)
        said = complaint("add-predict", "TSK000001", "--x", str(bad))
        assert expected in said
        assert said.startswith("coppice: x: ")  # and not the file of a set that the registry has
    assert [entry.name for entry in Path(at, "predict").iterdir()] == []
    assert call("add-task", "next") == {"task": "TSK000002"}


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_workers_and_workflows_end_when_they_are_told(tmp_path: Path, at: str) -> None:
    with open_store(at) as store:
        registry = Registry.init(store)
        task = add_task(registry)
        store.replace(f"gen/{task}_train.py", b"import time; time.sleep(1000)")
        registry.order_set(task, "train")
        registry.ids.new("TST", {"task": task, "made by": "script"})  # for the workflow to order
    environment = {**os.environ, "COPPICE_REGISTRY": at}
    for command in (["worker"], ["wf", "train", "test", "predict", "prune"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "coppice", "registry", *command],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "ordered" in line or "begun" in line:
                break
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143
        assert "Traceback" not in said


def test_odd_names_and_broken_tasks_are_shown(call: Call, at: str) -> None:
    call("init")
    call("add-task", "[/x] [red]odd")
    assert "[/x] [red]odd" in call("ls", plain=True)
    Path(at, "task/TSK000001.yaml").write_text("a: &a [1]\nb: *a\n")
    assert "aliases such as *this are not taken" in " ".join(call("ls", plain=True).split())
    Path(at, "task/TSK000001_model.csv").write_text("rubbish\n")
    assert "TSK000001_model.csv, line 1: left out" in " ".join(call("ls", plain=True).split())


def test_a_pruning_that_failed_is_not_ordered_anew(call: Call, at: str) -> None:
    with open_store(at) as store:
        registry = new_registry(store)
        task = add_task(registry)
        registry.order_set(task, "train")
        settle(registry)
    assert "ordered, prune_" in call("prune", task, "MDL000001", plain=True)
    assert "had been ordered, prune_" in call("prune", task, "MDL000001", plain=True)
    order = f"prune_{task}_ARC000001_TRD000001_MDL000001_MDL000002.wo"
    Path(at, "wo/prune/wait", order).rename(Path(at, "wo/prune/fail", order))
    assert "had failed; coppice registry retry puts it back" in call("prune", task, "MDL000001", plain=True)


@pytest.mark.parametrize("command", [["registry", "ls", "--at"], ["status"], ["report"]])
def test_a_store_that_does_not_answer_is_told(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Retry.__init__, "__defaults__", (0.2, 0.05, 10.0))
    with pytest.raises(SystemExit):
        main([*command, "webhdfs://localhost:1/x"])
    assert "localhost:1 refuses the connection; trying again for up to" in capsys.readouterr().err
