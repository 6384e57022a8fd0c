"""A whole export: its files load without Coppice and give the network's outputs, and its report is honest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.models.builtin import lenet_5, mlp
from coppice.pruning.contract import Export, Tick, Timing
from coppice.pruning.export import bundle, forms, onnx_file, outputs
from coppice.pruning.export.bundle import FILES, Wanted, build_export, export_or_reason, slower
from coppice.pruning.export.outputs import Outputs
from coppice.pruning.export.timing import thread_counts, times_ms
from coppice.pruning.tensors import model_tensors, pack
from tests.export.networks import Functional, Residual, cut, normed
from tests.pruning.networks import Branching, Shared, no_tick


def exported(model: nn.Module, *shape: int, half: bool = False, onnx: bool = True) -> Export:
    samples = np.random.default_rng(0).random((40, *shape), dtype=np.float32)
    return build_export(model, samples, Wanted(half=half, onnx=onnx), no_tick)


def write(made: Export, folder: Path) -> None:
    for name, content in made.files.items():
        (folder / name).write_bytes(content)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(64, (40, 30), 10), (1, 8, 8)),
    "lenet-5": (lenet_5, (1, 28, 28)),
    "functional": (Functional, (1, 28, 28)),
    "normed": (normed, (1, 12, 12)),
    "shared": (Shared, (64,)),
}

WITHOUT_COPPICE = """
import sys
for name in ("coppice", "safetensors"):
    sys.modules[name] = None
import torch
from load_narrow import network
from load_model import load
x, expected = torch.load("expected.pt", weights_only=True)
for sparse in (True, False):
    net = network("narrow.safetensors", sparse)
    assert not net.training
    for n in (1, 17, len(x)):
        close = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(net(x[:n]), expected[:n], rtol=1e-4, atol=close)
print(len(load("model.safetensors")))
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_every_form_gives_the_networks_outputs_without_coppice(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    model = cut(make(), 0.05)
    made = exported(model, *shape)
    assert set(made.files) == set(FILES)
    write(made, tmp_path)
    x = torch.rand(300, *shape)
    expected = model(x).detach()
    torch.save((x, expected), tmp_path / "expected.pt")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COPPICE], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == f"{len(model.state_dict())}\n", done.stderr

    session = onnxruntime.InferenceSession(made.files["model.onnx"], providers=["CPUExecutionProvider"])
    for n in (1, 17, 300):
        (found,) = session.run(["logits"], {"samples": x[:n].numpy()})
        np.testing.assert_allclose(found, expected[:n], rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_selected_inputs_are_exported_like_every_other_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def select_wins(runs: Mapping[str, object], tick: Tick) -> dict[str, float]:
        return {form: 1.0 if form == "selected" else 2.0 for form in runs}

    monkeypatch.setattr(forms, "times_ms", select_wins)
    made = exported(cut(mlp(64, (60, 30), 10), 0.02), 1, 8, 8)
    assert set(made.files) == set(FILES), made.report.notes
    assert b'"Select"' in made.files["narrow.safetensors"].replace(b"\\", b"")


def test_the_report_says_bytes_milliseconds_and_what_was_removed(tmp_path: Path) -> None:
    made = exported(cut(mlp(64, (60, 30), 10), 0.02), 1, 8, 8)
    report = made.report
    assert json.loads(made.files["export.json"]) == json.loads(json.dumps(asdict(report)))
    assert list(report.size_bytes) == ["dense", "model.safetensors", "narrow.safetensors", "model.onnx"]
    for name, size in report.size_bytes.items():
        assert name == "dense" or size == len(made.files[name])
    forms = {timing.form for timing in report.timings}
    assert forms == {"dense", "narrow.safetensors", "model.onnx"}
    assert {timing.batch for timing in report.timings} == {1, 256}
    assert all(timing.ms > 0 for timing in report.timings)
    assert all(apart < 1e-5 for apart in report.outputs_apart.values())
    assert "units were dead and are removed" in report.notes[0]


@pytest.mark.parametrize("model", [Residual(), Branching(16, 4)], ids=["residual", "branching"])
def test_a_network_that_is_left_alone_is_exported_all_the_same(model: nn.Module) -> None:
    made = exported(cut(model, 0.2), 16)
    assert "narrow.safetensors" not in made.files
    assert "load_narrow.py" not in made.files
    assert "model.safetensors" in made.files
    (note,) = (note for note in made.report.notes if "narrow" in note)
    assert note.startswith("narrow.safetensors: not written; the network is left as it is: ")


class Liar(nn.Module):
    """A line of layers, that does something else in between that its tracing does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 4) -> (n, 4)."""
        x = self.fc(x)
        return x if isinstance(x, torch.fx.Proxy) else x + 1


def test_outputs_are_compared_before_anything_is_believed() -> None:
    made = exported(Liar(), 4)
    assert "narrow.safetensors" not in made.files
    assert any("gives other outputs" in note for note in made.report.notes)


def test_float16(tmp_path: Path) -> None:
    model = cut(mlp(64, (60, 30), 10), 0.1)
    half, full = exported(model, 64, half=True), exported(model, 64)
    for name in ("model.safetensors", "narrow.safetensors"):
        assert half.report.size_bytes[name] < full.report.size_bytes[name]
        assert 1e-6 < half.report.outputs_apart[name] < 0.01


def test_float16_that_is_too_coarse_is_said() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2049.0, -2048.0]]))  # type: ignore[operator]
    made = build_export(model, np.ones((4, 2), np.float32), Wanted(half=True, onnx=False), no_tick)
    (note,) = (note for note in made.report.notes if note.startswith("model.safetensors"))
    assert note.endswith("float16 is too coarse for this network, it changes outputs by 1 of the largest")


class Inverse(nn.Module):
    """Whose outputs are infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 4) -> (n, 2)."""
        return 1 / (self.fc(x) * 0)  # type: ignore[no-any-return]


def test_infinite_outputs_are_no_failure() -> None:
    report = exported(Inverse(), 4, half=True, onnx=False).report
    assert report.outputs_apart["model.safetensors"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_a_coarser_type_is_narrowed_too(dtype: torch.dtype) -> None:
    model = cut(mlp(64, (60, 30), 10), 0.2).to(dtype)
    assert "narrow.safetensors" in exported(model, 64, onnx=False).files


def test_a_shared_weight_counts_once() -> None:
    model = cut(Shared(16, 4), 0.5)
    stored = {name: tensor.detach() for name, tensor in model_tensors(model).items()}
    assert exported(model, 16, onnx=False).report.size_bytes["dense"] == len(pack(stored))


def test_a_network_that_takes_no_single_sample() -> None:
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    made = exported(cut(nn.Sequential(nn.Linear(8, 6), norm, nn.Linear(6, 3)), 0.5), 8, onnx=False)
    assert "narrow.safetensors" in made.files
    assert {timing.batch for timing in made.report.timings} == {256}
    assert any(note.startswith("batch 1 is not measured: Expected more than 1") for note in made.report.notes)


def test_whatever_fails_when_it_is_narrowed_the_rest_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(steps: object) -> None:
        raise KeyError("one more kind of network")

    monkeypatch.setattr(bundle, "remove_dead_units", fail)
    made = exported(cut(mlp(8, (6,), 3), 0.5), 8)
    assert {"model.safetensors", "model.onnx"} < set(made.files)
    assert not {"narrow.safetensors", "load_narrow.py"} & set(made.files)
    assert "narrow.safetensors: not written; KeyError: 'one more kind of network'" in made.report.notes


@pytest.mark.parametrize("build", [build_export, export_or_reason])
def test_what_a_tick_raises_is_never_a_note(build: Callable[..., Export]) -> None:
    model, samples = cut(mlp(8, (6,), 3), 0.5), np.ones((3, 8), np.float32)
    for last in (1, 5, 20):
        left = iter(range(last))

        def tick(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise ValueError("the run is another's now")

        with pytest.raises(ValueError, match="another's now"):
            build(model, samples, *([Wanted(onnx=False)] if build is build_export else []), tick)


def test_samples_too_large_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MOST_BYTES", 16 * 8 * 4)
    report = exported(cut(mlp(8, (6,), 3), 0.5), 8, onnx=False).report
    assert {timing.batch for timing in report.timings} == {1}
    assert "batch 256 is not measured: it would take too much memory" in report.notes


def test_without_the_extra_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "onnx_is_installed", lambda: False)
    model = cut(mlp(8, (6,), 3), 0.5)
    samples = np.ones((3, 8), np.float32)
    made = build_export(model, samples, Wanted(), no_tick)
    assert "model.onnx" not in made.files
    assert f"model.onnx: not written; {onnx_file.MISSING}" in made.report.notes
    with pytest.raises(CoppiceError, match="pip install"):
        build_export(model, samples, Wanted(onnx=True), no_tick)


def test_onnx_that_computes_something_else_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    original = onnx_file._exported

    def wrong(model: nn.Module, samples: torch.Tensor, newer: bool) -> bytes:
        return original(nn.Linear(8, 3), samples, False)

    monkeypatch.setattr(onnx_file, "_exported", wrong)
    made = exported(cut(mlp(8, (6,), 3), 0.5), 8)
    assert "model.onnx" not in made.files
    assert any("onnxruntime gives other outputs" in note for note in made.report.notes)


def test_torchs_newer_exporter_stands_in_where_the_older_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    original = onnx_file._exported

    def gone(model: nn.Module, samples: torch.Tensor, newer: bool) -> bytes:
        tried.append(newer)
        if not newer:
            raise TypeError("no such exporter any more")
        return original(model, samples, newer)

    monkeypatch.setattr(onnx_file, "_exported", gone)
    model = cut(mlp(8, (6,), 3), 0.5)
    content, apart = onnx_file.to_onnx(model, Outputs(model, torch.rand(4, 8), no_tick), no_tick)
    assert apart < 1e-5
    assert tried == [False, True]
    x = torch.rand(9, 8)
    found = onnx_file.OnnxNetwork(content, 1)(x.numpy())
    np.testing.assert_allclose(found, model(x).detach(), rtol=1e-4, atol=1e-5)


def test_torchs_newer_exporter_stands_in_where_the_older_one_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = onnx_file._exported

    def wrong_first(model: nn.Module, samples: torch.Tensor, newer: bool) -> bytes:
        return original(model if newer else nn.Linear(8, 3), samples, False)

    monkeypatch.setattr(onnx_file, "_exported", wrong_first)
    assert "model.onnx" in exported(cut(mlp(8, (6,), 3), 0.5), 8).files


def test_the_exporters_are_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with onnx_file._quiet():
        os.write(1, b"from C++")
    os.write(1, b"{}")
    assert capfd.readouterr().out == "{}"


def test_what_is_slower_is_said() -> None:
    timings = [
        Timing("dense", 1, 1, 0.5),
        Timing("dense", 256, 2, 3.0),
        Timing("narrow.safetensors", 1, 1, 0.6),
        Timing("narrow.safetensors", 256, 2, 1.0),
        Timing("model.onnx", 1, 1, 0.1),
    ]
    assert slower(timings) == [
        "narrow.safetensors: SLOWER than the dense network at batch 1 on 1 thread (0.6 ms against 0.5 ms)"
    ]


def test_a_network_too_slow_to_measure_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_S", 0.0)
    report = exported(cut(mlp(8, (6,), 3), 0.5), 8, onnx=False).report
    assert {timing.batch for timing in report.timings} == {1}
    assert "batch 256 is not measured: it would take too long" in report.notes


class Sum(nn.Linear):
    """One number for all samples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> ()."""
        return super().forward(x).sum()


def test_samples_that_do_not_fit() -> None:
    with pytest.raises(CoppiceError, match="one row of outputs for each sample"):
        exported(Sum(8, 3), 8)
    with pytest.raises(CoppiceError, match=r"does not take samples of shape \(7,\)"):
        exported(mlp(8, (6,), 3), 7)


def test_nothing_else_is_touched() -> None:
    model = cut(mlp(8, (6,), 3), 0.5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    exported(model, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_failed_export_spoils_no_run_but_a_tick_ends_it() -> None:
    made = export_or_reason(mlp(8, (6,), 3), np.ones((3, 7), np.float32), no_tick)
    assert made.files == {}
    assert "the export failed (CoppiceError: the network does not take samples" in made.report.notes[0]

    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        export_or_reason(cut(mlp(8, (6,), 3), 0.5), np.ones((3, 8), np.float32), stop)


def test_one_thread_and_two_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "thread_counts", lambda: (1, 2))
    report = exported(cut(mlp(8, (6,), 3), 0.5), 8, onnx=False).report
    assert {timing.threads for timing in report.timings} == {1, 2}
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    assert thread_counts() == (1,)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2})
    assert thread_counts() == (1, 2)


def test_times_are_the_quietest_of_blocks_and_ticks_go_on() -> None:
    ticks: list[int] = []
    calls: dict[str, int] = {"a": 0, "b": 0}

    def count(name: str) -> None:
        calls[name] += 1

    times = times_ms({"a": lambda: count("a"), "b": lambda: count("b")}, lambda: ticks.append(1))
    assert set(times) == {"a", "b"}
    assert all(calls.values())
    assert len(ticks) >= 2


def test_there_is_a_tick_between_two_passes_that_may_be_long() -> None:
    done: list[str] = []
    times_ms({"a": lambda: time.sleep(0.005) or done.append("a")}, lambda: done.append("tick"))  # type: ignore[func-returns-value]
    assert done == ["tick", "a"] * (len(done) // 2)
