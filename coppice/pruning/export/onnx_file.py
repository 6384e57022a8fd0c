"""model.onnx, by torch's own exporter; needs the extra `onnx`."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.errors import CoppiceError

MISSING = "onnx, onnxscript or onnxruntime is not installed; pip install 'coppice[onnx]'"


def onnx_is_installed() -> bool:
    """Whether the extra is there."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def to_onnx(model: nn.Module, samples: torch.Tensor) -> bytes:
    """`model` as an ONNX file: input `samples` (n, ...), output `logits` (n, classes), any n.

    Raises `CoppiceError` if torch's exporters cannot do it.
    """
    # The newer exporter needs ten seconds to be imported; the older one does these networks in a tenth.
    errors = []
    for newer in (False, True):
        try:
            with _quiet():
                return _exported(model, samples[:2].clone(), newer)
        except Exception as error:  # dozens of kinds, for as many reasons
            errors.append(error)
    reason = (str(errors[0]).strip().splitlines() or [type(errors[0]).__name__])[0]
    raise CoppiceError(f"torch's exporter cannot write it ({reason[:200]})") from errors[-1]


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
    """Both exporters talk much."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
