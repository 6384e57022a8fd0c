"""model.onnx, by torch's own exporter; needs the extra `onnx`."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.errors import CoppiceError, first_line
from coppice.pruning.contract import Tick
from coppice.pruning.export.outputs import Outputs

MISSING = "onnx, onnxscript or onnxruntime is not installed; pip install onnx onnxscript onnxruntime"


def onnx_is_installed() -> bool:
    """Whether the extra is there."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def to_onnx(model: nn.Module, outputs: Outputs, tick: Tick) -> tuple[bytes, float]:
    """`model` as an ONNX file: input `samples` (n, ...), output `logits` (n, classes), any n; and how far
    what onnxruntime makes of it is from `outputs`.

    Raises `CoppiceError` if torch's exporters cannot do it, or if onnxruntime then gives something else.
    """
    # The newer exporter needs ten seconds to be imported; the older one does these networks in a tenth.
    reasons = []
    for newer in (False, True):
        tick()
        try:
            with _quiet():
                content = _exported(model, outputs.samples[:2].clone(), newer)
        except Exception as error:  # dozens of kinds, for as many reasons
            reasons.append(f"torch's exporter cannot write it ({first_line(error)})")
            continue
        try:
            apart = outputs.apart(OnnxNetwork(content, threads=1).on_tensors)
        except Exception as error:  # onnxruntime's exceptions have no common root
            reasons.append(first_line(error))
            continue
        if apart <= outputs.rounding:
            return content, apart
        reasons.append(f"onnxruntime gives other outputs (by {apart:.2g})")
    raise CoppiceError(reasons[0])


def _exported(model: nn.Module, samples: torch.Tensor, newer: bool) -> bytes:
    names: dict[str, Any] = {"input_names": ["samples"], "output_names": ["logits"]}
    if newer:
        batch = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.onnx.export(
            model, (samples,), dynamo=True, dynamic_shapes=batch, verbose=False, **names
        )
        assert program is not None
        return bytes(program.model_proto.SerializeToString())
    file = io.BytesIO()
    axes = {"samples": {0: "n"}, "logits": {0: "n"}}
    torch.onnx.export(model, (samples,), file, dynamo=False, dynamic_axes=axes, **names)  # type: ignore[arg-type]
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Both exporters talk much, also from C++."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), _stdout_away():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _stdout_away() -> Iterator[None]:
    """What anything in this process writes to file descriptor 1 goes nowhere."""
    try:
        kept = os.dup(1)
    except OSError:  # closed, as in a daemon
        yield
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


class OnnxNetwork:
    """An ONNX file in onnxruntime, on the CPU."""

    def __init__(self, content: bytes, threads: int) -> None:
        """Raises whatever onnxruntime raises for a file that it cannot run."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n, ...) -> (n, classes)."""
        return self._session.run(None, {"samples": samples})[0]  # type: ignore[no-any-return]

    def on_tensors(self, samples: torch.Tensor) -> torch.Tensor:
        """The same for tensors."""
        return torch.from_numpy(self(samples.numpy()))
