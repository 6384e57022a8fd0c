"""One export: every file of it, and the report on what it saves."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.errors import CoppiceError, first_line
from coppice.pruning.contract import Export, ExportReport, Tick, Timing
from coppice.pruning.export.chain import NotAChain, Step, describe, find_chain
from coppice.pruning.export.forms import choose_forms, sequential
from coppice.pruning.export.loaders.load_narrow import build
from coppice.pruning.export.narrow import LAYERS, remove_dead_units, select_inputs
from coppice.pruning.export.onnx_file import MISSING, OnnxNetwork, onnx_is_installed, to_onnx
from coppice.pruning.export.outputs import Outputs, copied, how_many
from coppice.pruning.export.sparse import pack_sparse, rounded_to_half, state_of
from coppice.pruning.export.timing import BATCHES, thread_counts, times_ms, torch_threads
from coppice.pruning.tensors import model_tensors, pack
from coppice.work.contents import json_to_bytes

MODEL = "model.safetensors"
NARROW = "narrow.safetensors"
ONNX = "model.onnx"
LOADER = "load_model.py"
NARROW_LOADER = "load_narrow.py"
ABOUT = "export.json"
FILES = (MODEL, LOADER, NARROW, NARROW_LOADER, ONNX, ABOUT)
"""All that an export can have."""

DENSE = "dense"
MOST_S = 1.0
"""A batch that the dense network would need longer for is not measured."""
COARSE = 0.01
"""From which difference in outputs on float16 is said to be too coarse, as a part of the largest output."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an export shall have."""

    half: bool = False
    """float16 instead of float32 in the .safetensors files."""
    onnx: bool | None = None
    """None: if the extra is installed."""


class _Narrow:
    """The network as a narrow chain: its steps, and which of them are quicker sparse."""

    def __init__(self, model: nn.Module, outputs: Outputs, tick: Tick) -> None:
        """Raises `NotAChain`."""
        found = find_chain(model)
        self.units_before = _units(found)
        self.steps = remove_dead_units(found)
        self.units = _units(self.steps)
        _check(sequential(self.steps), outputs)
        self.forms = choose_forms(self.steps, outputs.samples, tick)
        self.network = self.forms.network()
        # What a user will build from the file must be the same network.
        rebuilt = build(json.loads(json.dumps(describe(self.forms.steps))))
        rebuilt.load_state_dict(state_of(sequential(self.forms.steps)), assign=True)
        for network in (rebuilt.eval(), self.network):
            _check(network, outputs)


def _check(network: nn.Module, outputs: Outputs) -> None:
    try:
        apart = outputs.apart(network)
    except Exception as error:
        raise NotAChain(f"its steps do not run in one line ({type(error).__name__})") from error
    if not apart <= outputs.rounding:
        raise NotAChain(f"as a sequence of its layers it gives other outputs (by {apart:.2g})")


class _Stopped(BaseException):
    """What `tick` raised, on its way past all that turns a failure into a note."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _stopping(tick: Tick) -> Iterator[Tick]:
    """`tick`, whose exceptions end what is done within and are raised behind it."""

    def stopping() -> None:
        try:
            tick()
        except Exception as error:
            raise _Stopped(error) from error

    try:
        yield stopping
    except _Stopped as stopped:
        raise stopped.error from None


def build_export(model: nn.Module, samples: npt.NDArray[np.float32], wanted: Wanted, tick: Tick) -> Export:
    """The files of an export of `model`, whose cut weights are zero, and what was measured.

    `samples`: float32 (n, ...), n >= 1, to check outputs and to measure speed with. `tick` is called at least
    every second or so, but while torch's exporters run or a single pass takes longer. Takes a few seconds.
    torch's number of threads and random state are left as they were. What cannot be made is left out, and a
    note says why. Raises `CoppiceError` if ONNX is wanted and not installed, or if the network does not take
    the samples.
    """
    if wanted.onnx and not onnx_is_installed():
        raise CoppiceError(f"ONNX: {MISSING}")
    with _stopping(tick) as stopping:
        return _built(model, samples, wanted, stopping)


def export_or_reason(model: nn.Module, samples: npt.NDArray[np.float32], tick: Tick) -> Export:
    """`build_export` with its defaults for the end of a run, which no failure of it shall spoil: then the
    export has no files, and says why. What `tick` raises is raised."""
    with _stopping(tick) as stopping:
        try:
            return _built(model, samples, Wanted(), stopping)
        except Exception as error:
            note = f"the export failed ({type(error).__name__}: {first_line(error)}); see `coppice export`"
    return Export({}, ExportReport({}, {}, (), (note,), torch.__version__, _processor()))


def _built(model: nn.Module, samples: npt.NDArray[np.float32], wanted: Wanted, tick: Tick) -> Export:
    with torch.random.fork_rng(devices=[]):
        return _Builder(model, samples, wanted, tick).built()


class _Builder:
    def __init__(
        self, model: nn.Module, samples: npt.NDArray[np.float32], wanted: Wanted, tick: Tick
    ) -> None:
        self.model = copied(model)
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        most = how_many(samples.shape[1:])
        several = np.resize(samples, (most, *samples.shape[1:])) if len(samples) < most else samples[:most]
        self.samples = torch.tensor(several, dtype=dtype)
        self.wanted, self.tick = wanted, tick
        self.files: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.apart: dict[str, float] = {}
        self.notes: list[str] = []
        self.timings: list[Timing] = []
        self.narrow: _Narrow | None = None

    def built(self) -> Export:
        self._check_samples()
        self.outputs = Outputs(self.model, self.samples, self.tick)
        self._sparse()
        self._narrowed()
        self._onnx()
        self._measure()
        report = ExportReport(
            size_bytes=self.sizes,
            outputs_apart=self.apart,
            timings=tuple(self.timings),
            notes=tuple(self.notes),
            torch=torch.__version__,
            processor=_processor(),
        )
        self.files[ABOUT] = json_to_bytes(asdict(report))
        return Export(self.files, report)

    def _check_samples(self) -> None:
        try:
            with torch.inference_mode():
                out = self.model(self.samples[:2].clone())
        except Exception as error:  # the user's own forward
            raise CoppiceError(
                f"the network does not take samples of shape {tuple(self.samples.shape[1:])} "
                f"({first_line(error)}); --input SIZES says what one is like"
            ) from error
        if not isinstance(out, torch.Tensor) or out.dim() == 0 or len(out) != 2:
            raise CoppiceError("the network does not give one row of outputs for each sample")

    def _sparse(self) -> None:
        state = state_of(self.model)
        packed = pack_sparse(state, half=self.wanted.half)
        dense = {name: tensor.clone() for name, tensor in model_tensors(self.model).items()}
        self.sizes[DENSE] = len(pack(dense))
        self._keep(MODEL, packed.content)
        self.files[LOADER] = loaders()[LOADER]
        self.notes += [f"{MODEL}: {warning}" for warning in packed.warnings]
        if self.wanted.half:
            self._compared(MODEL, self.outputs.apart(rounded_to_half(self.model)))

    def _narrowed(self) -> None:
        try:
            narrow = _Narrow(self.model, self.outputs, self.tick)
            forms = narrow.forms
            about = {
                "steps": describe(forms.steps),
                "sparse_from": forms.sparse_from,
                "turned": forms.turned,
            }
            packed = pack_sparse(state_of(sequential(forms.steps)), half=self.wanted.half, about=about)
            network = rounded_to_half(narrow.network) if self.wanted.half else narrow.network
            apart = self.outputs.apart(network)
        except NotAChain as reason:
            self.notes.append(f"{NARROW}: not written; the network is left as it is: {reason}")
            return
        except Exception as error:  # there are more networks than anyone can foresee
            self.notes.append(f"{NARROW}: not written; {type(error).__name__}: {first_line(error)}")
            return
        self.narrow = narrow
        self._keep(NARROW, packed.content)
        self.files[NARROW_LOADER] = loaders()[NARROW_LOADER]
        removed = narrow.units_before - narrow.units
        self.notes.append(f"{NARROW}: {removed:,} of {narrow.units_before:,} units were dead and are removed")
        self.notes += [f"{NARROW}: {warning}" for warning in packed.warnings]
        self._compared(NARROW, apart)

    def _onnx(self) -> None:
        if self.wanted.onnx is False:
            return
        if not onnx_is_installed():
            self.notes.append(f"{ONNX}: not written; {MISSING}")
            return
        network = self.model if self.narrow is None else sequential(_selected(self.narrow))
        try:
            content, apart = to_onnx(network, self.outputs, self.tick)
        except CoppiceError as reason:
            self.notes.append(f"{ONNX}: not written; {reason}")
            return
        self._keep(ONNX, content)
        self._compared(ONNX, apart)

    def _measure(self) -> None:
        for batch in BATCHES:
            samples = self.samples[:batch]
            with torch.inference_mode(), torch_threads(1):
                if len(samples) < batch:
                    self.notes.append(f"batch {batch} is not measured: it would take too much memory")
                    continue
                if batch > 1 and _first_ms(self.timings) * batch > 1e3 * MOST_S:
                    self.notes.append(f"batch {batch} is not measured: it would take too long")
                    continue
                try:
                    for threads in thread_counts():
                        self._measure_one(samples, threads)
                except Exception as error:  # some networks take no single sample
                    self.notes.append(f"batch {batch} is not measured: {first_line(error)}")
        self.notes += slower(self.timings)

    def _measure_one(self, samples: torch.Tensor, threads: int) -> None:
        runs: dict[str, Callable[[], Any]] = {DENSE: lambda: self.model(samples)}
        if self.narrow is not None:
            network = self.narrow.network
            runs[NARROW] = lambda: network(samples)
        with torch_threads(threads):
            times = times_ms(runs, self.tick)
        if ONNX in self.files:
            session, array = OnnxNetwork(self.files[ONNX], threads), samples.numpy()
            times |= times_ms({ONNX: lambda: session(array)}, self.tick)
        self.timings += [
            Timing(form, len(samples), threads, float(f"{ms:.4g}")) for form, ms in times.items()
        ]

    def _keep(self, name: str, content: bytes) -> None:
        self.files[name] = content
        self.sizes[name] = len(content)

    def _compared(self, name: str, apart: float) -> None:
        if math.isfinite(apart):
            self.apart[name] = apart
        if apart > max(COARSE, self.outputs.rounding):
            how = f"by {apart:.2g} of the largest" if math.isfinite(apart) else "beyond all numbers"
            self.notes.append(f"{name}: float16 is too coarse for this network, it changes outputs {how}")


def slower(timings: list[Timing]) -> list[str]:
    """A line for each form that is slower than the dense network somewhere."""
    dense = {(t.batch, t.threads): t.ms for t in timings if t.form == DENSE}
    found = []
    for form in dict.fromkeys(t.form for t in timings if t.form != DENSE):
        places = [
            f"batch {t.batch} on {t.threads} {'thread' if t.threads == 1 else 'threads'} "
            f"({t.ms:.4g} ms against {dense[t.batch, t.threads]:.4g} ms)"
            for t in timings
            if t.form == form and t.ms > dense[t.batch, t.threads]
        ]
        if places:
            found.append(f"{form}: SLOWER than the dense network at {', '.join(places)}")
    return found


def _first_ms(timings: list[Timing]) -> float:
    return next((t.ms for t in timings if t.form == DENSE and t.batch == 1), 0.0)


def _selected(narrow: _Narrow) -> list[Step]:
    """With a Select for each layer that is quicker sparse: ONNX has no sparse layers."""
    chosen: list[Step] = []
    forms = narrow.forms
    for at, step in enumerate(forms.steps):
        chosen += (select_inputs(forms.steps, at) if step[0] in forms.sparse_from else None) or [step]
    return chosen


def _units(steps: list[Step]) -> int:
    return sum(len(module.weight) for _, module in steps if isinstance(module, LAYERS))


def loaders() -> Mapping[str, bytes]:
    """The text of the files that read the others, by their names."""
    return {name: (files(__package__) / "loaders" / name).read_bytes() for name in (LOADER, NARROW_LOADER)}


def _processor() -> str:
    """What the milliseconds were measured on, for people."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
