"""One export: every file of it, and the report on what it saves."""

from __future__ import annotations

import copy
import json
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.errors import CoppiceError
from coppice.pruning.contract import Export, ExportReport, Tick, Timing
from coppice.pruning.export.chain import NotAChain, Step, describe, find_chain
from coppice.pruning.export.forms import choose_forms, sequential
from coppice.pruning.export.loaders.load_narrow import build
from coppice.pruning.export.narrow import LAYERS, remove_dead_units, select_inputs
from coppice.pruning.export.onnx_file import MISSING, OnnxNetwork, onnx_is_installed, to_onnx
from coppice.pruning.export.sparse import pack_sparse, rounded_to_half, state_of
from coppice.pruning.export.timing import BATCHES, thread_counts, times_ms, torch_threads
from coppice.pruning.tensors import pack
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
ROUNDING = 1e-4
"""How far a form's outputs may be from the network's, as a part of the largest output."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an export shall have."""

    half: bool = False
    """float16 instead of float32 in the .safetensors files."""
    onnx: bool | None = None
    """None: if the extra is installed."""


class _Narrow:
    """The network as a narrow chain: its steps, and which of them are quicker sparse."""

    def __init__(self, model: nn.Module, samples: torch.Tensor, tick: Tick) -> None:
        """Raises `NotAChain`."""
        found = find_chain(model)
        self.units_before = _units(found)
        self.steps = remove_dead_units(found)
        self.units = _units(self.steps)
        self.check(sequential(self.steps), model, samples)
        self.forms = choose_forms(self.steps, samples, tick)
        self.network = self.forms.network()
        # What a user will build from the file must be the same network.
        rebuilt = build(json.loads(json.dumps(describe(self.forms.steps))))
        rebuilt.load_state_dict(state_of(sequential(self.forms.steps)), assign=True)
        for network in (rebuilt.eval(), self.network):
            self.check(network, model, samples)

    @staticmethod
    def check(network: nn.Module, model: nn.Module, samples: torch.Tensor) -> None:
        try:
            with torch.inference_mode():
                apart = _apart(network(samples), model(samples))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise NotAChain(f"its steps do not run in one line ({type(error).__name__})") from error
        if not apart <= ROUNDING:
            raise NotAChain(f"as a sequence of its layers it gives other outputs (by {apart:.2g})")


def build_export(model: nn.Module, samples: npt.NDArray[np.float32], wanted: Wanted, tick: Tick) -> Export:
    """The files of an export of `model`, whose cut weights are zero, and what was measured.

    `samples`: float32 (n, ...), n >= 1, to check outputs and to measure speed with. `tick` is called at least
    every second or so. Takes a few seconds. torch's number of threads and random state are left as they were.
    Raises `CoppiceError` if ONNX is wanted and not installed, or if the network does not take the samples.
    """
    if wanted.onnx and not onnx_is_installed():
        raise CoppiceError(f"ONNX: {MISSING}")
    with torch.random.fork_rng(devices=[]):
        return _Builder(model, samples, wanted, tick).built()


def export_or_reason(model: nn.Module, samples: npt.NDArray[np.float32], tick: Tick) -> Export:
    """`build_export` with its defaults for the end of a run, which no failure of it shall spoil: then the
    export has no files, and says why. What `tick` raises is raised."""
    raised: list[BaseException] = []

    def watched() -> None:
        try:
            tick()
        except BaseException as error:
            raised.append(error)
            raise

    try:
        return build_export(model, samples, Wanted(), watched)
    except Exception as error:
        if raised:
            raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        note = f"the export failed ({type(error).__name__}: {reason}); see `coppice export`"
        report = ExportReport({}, {}, (), (note,), torch.__version__, _processor())
        return Export({}, report)


class _Builder:
    def __init__(
        self, model: nn.Module, samples: npt.NDArray[np.float32], wanted: Wanted, tick: Tick
    ) -> None:
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        most = max(BATCHES)
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
                out = self.model(self.samples[:2])
        except Exception as error:  # the user's own forward
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CoppiceError(
                f"the network does not take samples of shape {tuple(self.samples.shape[1:])} ({reason[:200]})"
            ) from error
        if not isinstance(out, torch.Tensor) or len(out) != 2:
            raise CoppiceError("the network does not give one row of outputs for each sample")

    def _sparse(self) -> None:
        state = state_of(self.model)
        packed = pack_sparse(state, half=self.wanted.half)
        self.sizes[DENSE] = len(pack({name: tensor.clone() for name, tensor in state.items()}))
        self._keep(MODEL, packed.content)
        self.files[LOADER] = _loader(LOADER)
        self.notes += [f"{MODEL}: {warning}" for warning in packed.warnings]
        if self.wanted.half:
            self._compare(MODEL, rounded_to_half(self.model))

    def _narrowed(self) -> None:
        try:
            self.narrow = narrow = _Narrow(self.model, self.samples, self.tick)
        except NotAChain as reason:
            self.notes.append(f"{NARROW}: not written; the network is left as it is: {reason}")
            return
        removed = narrow.units_before - narrow.units
        forms = narrow.forms
        about = {
            "steps": describe(forms.steps),
            "sparse_from": forms.sparse_from,
            "turned": forms.turned,
        }
        packed = pack_sparse(state_of(sequential(forms.steps)), half=self.wanted.half, about=about)
        self._keep(NARROW, packed.content)
        self.files[NARROW_LOADER] = _loader(NARROW_LOADER)
        self._compare(NARROW, rounded_to_half(narrow.network) if self.wanted.half else narrow.network)
        self.notes.append(f"{NARROW}: {removed:,} of {narrow.units_before:,} units were dead and are removed")
        self.notes += [f"{NARROW}: {warning}" for warning in packed.warnings]

    def _onnx(self) -> None:
        if self.wanted.onnx is False:
            return
        if not onnx_is_installed():
            self.notes.append(f"{ONNX}: not written; {MISSING}")
            return
        network = self.model if self.narrow is None else sequential(_selected(self.narrow))
        try:
            content = to_onnx(network, self.samples)
            found = OnnxNetwork(content, threads=1)(self.samples.numpy())
        except Exception as error:  # onnxruntime's exceptions have no common root
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.notes.append(f"{ONNX}: not written; {reason[:200]}")
            return
        with torch.inference_mode():
            apart = _apart(torch.from_numpy(found), self.model(self.samples))
        if not apart <= ROUNDING:
            self.notes.append(f"{ONNX}: not written; onnxruntime gives other outputs (by {apart:.2g})")
            return
        self._keep(ONNX, content)
        self.apart[ONNX] = apart

    def _measure(self) -> None:
        for batch in BATCHES:
            samples = self.samples[:batch]
            with torch.inference_mode(), torch_threads(1):
                if batch > 1 and _first_ms(self.timings) * batch > 1e3 * MOST_S:
                    self.notes.append(f"batch {batch} is not measured: it would take too long")
                    continue
                for threads in thread_counts():
                    self._measure_one(samples, threads)
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

    def _compare(self, name: str, network: nn.Module) -> None:
        with torch.inference_mode():
            self.apart[name] = _apart(network(self.samples), self.model(self.samples))


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


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a part of the largest expected value; inf for another shape, NaN for NaN."""
    if found.shape != expected.shape:
        return math.inf
    scale = max(float(expected.abs().max()), 1e-12)
    return float((found - expected).abs().max()) / scale


def _loader(name: str) -> bytes:
    return (files(__package__) / "loaders" / name).read_bytes()


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
