"""`coppice export`: from a work folder or a file, into a folder; a user's mistake is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from coppice import __version__
from coppice.cli import main
from coppice.errors import CoppiceError
from coppice.models.builtin import lenet_5, mlp
from coppice.pruning.export import bundle
from coppice.pruning.export.bundle import FILES
from coppice.pruning.export.loaders.load_model import load
from coppice.pruning.pruner import TorchPruner
from coppice.roles.result import RESULT, write_result
from coppice.store import open_store
from coppice.work import names
from coppice.work.contents import array_to_bytes
from coppice.work.sentinels import RunRecord
from tests.export.networks import cut
from tests.pruning.networks import no_tick, small

ARGUMENTS = '{"inputs": 16, "hidden": [30, 20], "classes": 4}'
Ended = tuple[int, str, str]


@pytest.fixture
def coppice(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Status, output and complaint of `coppice export ARGUMENTS...`."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            main(["export", *map(str, arguments)])
        said = capsys.readouterr()
        return int(raised.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Cut weights of a small network in a file."""
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(cut(mlp(16, (30, 20), 4), 0.05).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder, pruned by real training, written by the code that writes real ones."""
    folder = tmp_path_factory.mktemp("work")
    run = small()
    pruner = TorchPruner(run)
    pruner.train_reference(120, no_tick)
    pruner.apply(pruner.start_crates() + 1.0, 0.5)
    pruner.train(40, no_tick)
    pruner.measure(no_tick)
    with open_store(str(folder)) as store:
        record = RunRecord("0123abcd", "over", run.model_dump(mode="json"), __version__)
        store.replace(names.RUN, record.to_bytes())
        store.replace(names.DATA, array_to_bytes(pruner.samples()[0]))
        write_result(
            store,
            run_id="0123abcd",
            run=run,
            layers=pruner.layers,
            outcome=pruner.finish(no_tick),
            searches=1,
            seconds=1.0,
        )
    return folder


def test_a_finished_run_has_its_export_already(work: Path) -> None:
    assert {path.name for path in (work / names.RESULT_EXPORT).iterdir()} == set(FILES)
    result = RESULT.validate_python(json.loads((work / names.RESULT_JSON).read_bytes()))
    assert result.export is not None
    told = json.loads((work / names.exported("export.json")).read_bytes())
    assert told["size_bytes"] == dict(result.export.size_bytes)
    assert result.export.timings
    assert result.export.size_bytes["dense"] == (work / names.RESULT_MODEL).stat().st_size


def test_from_a_work_folder(work: Path, tmp_path: Path, coppice: Callable[..., Ended]) -> None:
    status, out, err = coppice(work, "--to", tmp_path / "new" / "small")
    assert (status, err) == (0, "")
    assert "narrow.safetensors" in out
    assert " kB" in out
    assert f"written into {tmp_path / 'new' / 'small'}/" in out
    assert {path.name for path in (tmp_path / "new" / "small").iterdir()} == set(FILES)
    dense = safetensors.torch.load_file(work / names.RESULT_MODEL)
    small_ones = load(str(tmp_path / "new" / "small" / "model.safetensors"))
    assert all(torch.equal(small_ones[name], dense[name]) for name in dense)


def test_from_a_file_and_again_from_what_was_exported(
    weights: Path, tmp_path: Path, coppice: Callable[..., Ended]
) -> None:
    to = tmp_path / "out"
    named = ("--model", "mlp", "--arguments", ARGUMENTS)
    status, out, _ = coppice(weights, *named, "--to", to, "--json")
    assert status == 0
    assert json.loads(out) == json.loads((to / "export.json").read_bytes())
    again = tmp_path / "again"
    assert coppice(to / "model.safetensors", *named, "--to", again, "--no-onnx")[0] == 0
    assert (to / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert not (again / "model.onnx").exists()


def test_from_a_file_and_its_run_file(tmp_path: Path, coppice: Callable[..., Ended]) -> None:
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(cut(mlp(64, (16, 12), 10), 0.2).state_dict(), path)
    run = tmp_path / "run.yaml"
    run.write_text("name: mine\nmodel: {name: mlp, arguments: {hidden: [16, 12]}}\n")
    assert coppice(path, "--run", run, "--to", tmp_path / "out", "--no-onnx", "--float16")[0] == 0


def test_an_earlier_export_is_written_over_whole(
    weights: Path, tmp_path: Path, coppice: Callable[..., Ended]
) -> None:
    to = tmp_path / "out"
    named = ("--model", "mlp", "--arguments", ARGUMENTS)
    coppice(weights, *named, "--to", to)
    (to / "mine.txt").write_text("kept")
    assert coppice(weights, *named, "--to", to, "--no-onnx")[0] == 0
    assert {path.name for path in to.iterdir()} == {*FILES, "mine.txt"} - {"model.onnx"}


# Mistakes


def complaint(ended: Ended) -> str:
    status, out, err = ended
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    return line


def test_mistakes_are_one_line(weights: Path, tmp_path: Path, coppice: Callable[..., Ended]) -> None:
    to = ("--to", tmp_path / "out")
    named = ("--model", "mlp", "--arguments", ARGUMENTS)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no run here" in complaint(coppice(empty, *to))
    assert "of which network? give --run" in complaint(coppice(weights, *to))
    assert "'fc1.weight' has shape" in complaint(coppice(weights, "--model", "mlp", *to))
    assert "no built-in network 'nlp'" in complaint(coppice(weights, "--model", "nlp", *to))
    assert "cannot be read" in complaint(coppice(tmp_path / "no.safetensors", *named, *to))
    assert "not JSON" in complaint(coppice(weights, "--model", "mlp", "--arguments", "{", *to))
    assert "a JSON object" in complaint(coppice(weights, "--model", "mlp", "--arguments", "[1]", *to))
    assert "--arguments" in complaint(coppice(weights, "--arguments", "{}", *to))
    assert "--input: expected the sizes" in complaint(coppice(weights, *named, "--input", "a,b", *to))
    assert "--input SIZES says" in complaint(coppice(weights, *named, "--input", "3", *to))
    assert "not both" in complaint(coppice(weights, "--model", "mlp", "--run", "jobs/digits.yaml", *to))
    assert "leave out --run" in complaint(coppice(empty, *named, *to))
    (tmp_path / "broken.safetensors").write_bytes(weights.read_bytes()[:-7])
    assert "not a whole safetensors" in complaint(coppice(tmp_path / "broken.safetensors", *named, *to))
    (tmp_path / "mine.pt").write_bytes(weights.read_bytes())
    assert "mine.pt: not a .safetensors file" in complaint(coppice(tmp_path / "mine.pt", *named, *to))
    assert "--to: name a folder" in complaint(coppice(weights, *named, "--to", ""))
    lazy = ("--model", "torch.nn:LazyLinear", "--arguments", '{"out_features": 4}', "--input", "16")
    safetensors.torch.save_file(torch.nn.Linear(16, 4).state_dict(), tmp_path / "linear.safetensors")
    assert "weight has no shape yet" in complaint(coppice(tmp_path / "linear.safetensors", *lazy, *to))
    assert not (tmp_path / "out").exists()


def test_sizes_are_asked_for_where_the_network_does_not_tell_them(
    tmp_path: Path, coppice: Callable[..., Ended]
) -> None:
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(lenet_5().state_dict(), path)
    ended = coppice(path, "--model", "lenet-5", "--to", tmp_path / "out")
    assert "give its sizes, for example --input 1,28,28" in complaint(ended)


def test_a_run_that_is_not_over(tmp_path: Path, coppice: Callable[..., Ended]) -> None:
    record = RunRecord("0123abcd", "running", small().model_dump(mode="json"), __version__)
    (tmp_path / names.RUN).write_bytes(record.to_bytes())
    assert "no result yet, the run is running" in complaint(coppice(tmp_path, "--to", tmp_path / "out"))


def test_nothing_of_the_users_is_overwritten(
    weights: Path, tmp_path: Path, coppice: Callable[..., Ended]
) -> None:
    named = ("--model", "mlp", "--arguments", ARGUMENTS)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.safetensors").write_bytes(weights.read_bytes())
    assert "holds a model.safetensors that is not as an export left it" in complaint(
        coppice(weights, *named, "--to", mine)
    )
    source = mine / "model.safetensors"
    assert "would be overwritten" in complaint(coppice(source, *named, "--to", mine))
    assert [path.name for path in mine.iterdir()] == ["model.safetensors"]
    assert "not a folder" in complaint(coppice(weights, *named, "--to", weights))


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "load_narrow.py", "export.json"])
def test_what_was_put_beside_an_earlier_export_stays(
    name: str, weights: Path, tmp_path: Path, coppice: Callable[..., Ended]
) -> None:
    named = ("--model", "mlp", "--arguments", ARGUMENTS, "--no-onnx", "--to", tmp_path / "out")
    assert coppice(weights, *named)[0] == 0
    (tmp_path / "out" / name).write_text("mine")
    before = contents(tmp_path / "out")
    assert "not as an export left it; move it away" in complaint(coppice(weights, *named))
    assert contents(tmp_path / "out") == before


def test_a_write_that_fails_leaves_what_was_there(
    weights: Path, tmp_path: Path, coppice: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ("--model", "mlp", "--arguments", ARGUMENTS, "--no-onnx")
    to = tmp_path / "out"
    assert coppice(weights, *named, "--to", to)[0] == 0
    before = contents(to)
    write = Path.write_bytes

    def fails(path: Path, content: bytes) -> int:
        write(path, content[:10])
        if "narrow.safetensors" in path.name:
            raise OSError(27, "File too large")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    assert "cannot be written (File too large)" in complaint(coppice(weights, *named, "--to", to))
    assert contents(to) == before
    complaint(coppice(weights, *named, "--to", tmp_path / "fresh"))
    assert contents(tmp_path / "fresh") == {}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_place_that_cannot_be_a_folder(
    weights: Path, tmp_path: Path, coppice: Callable[..., Ended]
) -> None:
    ended = coppice(weights, "--model", "mlp", "--arguments", ARGUMENTS, "--to", weights / "below")
    assert "cannot be written" in complaint(ended)


def test_onnx_that_is_wanted_and_cannot_be_made(
    weights: Path, tmp_path: Path, coppice: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise CoppiceError("torch's exporter cannot write it (why)")

    monkeypatch.setattr(bundle, "to_onnx", fails)
    named = ("--model", "mlp", "--arguments", ARGUMENTS)
    line = complaint(coppice(weights, *named, "--to", tmp_path / "out", "--onnx"))
    assert "model.onnx: not written; torch's exporter cannot write it (why); the other files are in" in line
    assert set(contents(tmp_path / "out")) == {*FILES} - {"model.onnx"}
    assert coppice(weights, *named, "--to", tmp_path / "out")[0] == 0  # it was not asked for


def test_onnx_that_is_wanted_and_not_installed(
    weights: Path, tmp_path: Path, coppice: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "onnx_is_installed", lambda: False)
    named = ("--model", "mlp", "--arguments", ARGUMENTS)
    assert "pip install onnx onnxscript onnxruntime" in complaint(
        coppice(weights, *named, "--to", tmp_path / "out", "--onnx")
    )
