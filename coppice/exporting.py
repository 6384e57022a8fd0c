"""`coppice export`: a finished run, or weights of the user's own, as files in a folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from coppice.data import load_data
from coppice.errors import CoppiceError
from coppice.export_folder import check_folder, write_files
from coppice.models import build_model
from coppice.pruning.contract import ExportReport
from coppice.pruning.export.bundle import ONNX, Wanted, build_export
from coppice.pruning.export.loaders.load_model import load
from coppice.pruning.export.outputs import how_many
from coppice.pruning.tensors import fill_model, unpack
from coppice.roles.context import read_record
from coppice.runfile import ModelSection, RunFile, parse_run_file
from coppice.store import open_store
from coppice.work import names
from coppice.work.contents import array_from_bytes
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_SAMPLES_BYTES, MAX_WEIGHTS_BYTES, read_limited

Samples = npt.NDArray[np.float32]


def export(
    source: str,
    folder: Path,
    wanted: Wanted,
    *,
    run: RunFile | None = None,
    model: ModelSection | None = None,
    shape: tuple[int, ...] | None = None,
) -> ExportReport:
    """Write the export of `source` into `folder`, which is made on demand.

    `source`: a work folder whose run is over, or a .safetensors file; then `run` or `model` says of which
    network, and `shape`, that of one sample, is needed where neither the run's data nor a first Linear layer
    tells it. Raises `CoppiceError`, one line, for anything that cannot be used, before anything is written;
    and for ONNX that is `wanted` and cannot be made, when the other files are written.
    """
    check_folder(folder, source)
    if source.endswith(".safetensors"):
        section = run.model if run else model
        if section is None:
            raise CoppiceError(
                f"{source}: of which network? give --run RUN.yaml, or --model NAME and --arguments JSON"
            )
        network = _from_file(source, section)
        samples = _samples_for(network, run, shape)
    else:
        if Path(source).is_file():
            raise CoppiceError(f"{source}: not a .safetensors file, and no run's work folder")
        if run or model:
            raise CoppiceError(
                f"{source}: a work folder says itself of which network; leave out --run and --model"
            )
        network, samples = _from_work(source)
        if shape is not None:
            samples = _random(shape)
    made = build_export(network, samples, wanted, _no_tick)
    write_files(folder, made.files)
    if wanted.onnx and ONNX not in made.files:
        reason = next(note for note in made.report.notes if note.startswith(ONNX))
        raise CoppiceError(f"{reason}; the other files are in {folder}/")
    return made.report


def export_to_json(report: ExportReport) -> dict[str, Any]:
    """What export.json holds."""
    return asdict(report)


def parse_shape(text: str) -> tuple[int, ...]:
    """'1,28,28' or '1x28x28'. Raises `CoppiceError`."""
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or int(np.prod(shape, dtype=np.float64)) > 10**8:
        raise CoppiceError(f"--input: expected the sizes of one sample, such as 1,28,28, found {text[:40]!r}")
    return shape


def parse_arguments(text: str) -> dict[str, Any]:
    """A JSON object. Raises `CoppiceError`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CoppiceError(f"--arguments: not JSON ({error}); such as '{{\"inputs\": 64}}'") from error
    if not isinstance(value, dict):
        raise CoppiceError("--arguments: expected a JSON object, such as '{\"inputs\": 64}'")
    return value


# Where the network comes from


def _from_work(url: str) -> tuple[nn.Module, Samples]:
    with open_store(url) as store:
        record = read_record(store)
        if record is None:
            raise CoppiceError(
                f"{store.url}: no run here (no {names.RUN}); give a work folder or a .safetensors file"
            )
        content = read_limited(store, names.RESULT_MODEL, MAX_WEIGHTS_BYTES)
        if content is None or store.stat(names.RESULT_JSON) is None:
            raise CoppiceError(f"{store.url}: no result yet, the run is {record.state}; see `coppice status`")
        run = parse_run_file(record.run_file, names.RUN)
        data = read_limited(store, names.DATA, MAX_SAMPLES_BYTES)
        place = f"{store.url}/{names.RESULT_MODEL}"
    network = build_model(run.model, run.seed)
    fill_model(network, unpack(content, place)[0], place)
    if data is None:
        return network, _samples_for(network, run, None)
    samples = array_from_bytes(data, names.DATA)
    if samples.dtype != np.float32 or samples.ndim < 2 or not len(samples):
        raise BadContent(f"{names.DATA}: holds no samples")
    return network, samples


def _from_file(path: str, section: ModelSection) -> nn.Module:
    network = build_model(section, seed=0)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CoppiceError(f"{path}: cannot be read ({error.strerror})") from error
    tensors, about = unpack(content, path)
    if "sparse" in about:  # one that was exported before
        try:
            tensors = load(path)
        except Exception as error:  # a damaged file: anything
            raise CoppiceError(f"{path}: not a whole file of an export") from error
    fill_model(network, tensors, path)
    return network


def _samples_for(network: nn.Module, run: RunFile | None, shape: tuple[int, ...] | None) -> Samples:
    """To try the network on: random ones of `shape`, those of the run, or what its first layer takes."""
    if shape is not None:
        return _random(shape)
    if run is not None:
        return load_data(run.data).train_x[:256]
    layers = [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]
    first = layers[0] if layers else None
    if not isinstance(first, nn.Linear):
        raise CoppiceError("what is a sample like? give its sizes, for example --input 1,28,28")
    return _random((first.in_features,))


def _random(shape: tuple[int, ...]) -> Samples:
    return np.random.default_rng(0).random((how_many(shape), *shape), dtype=np.float32)


def _no_tick() -> None:
    """Nobody waits for a beat."""
