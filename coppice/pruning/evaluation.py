"""Judging a network: where it runs, what it predicts, whether it fits its data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coppice.errors import CoppiceError, first_line
from coppice.pruning.contract import Tick

BATCH = 500
"""Samples in one pass; large enough to keep the processor busy, small enough for its cache."""


def pick_device(name: str) -> torch.device:
    """'cpu', 'cuda', 'cuda:1', or 'auto' (cuda where there is one)."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CoppiceError(
            f"evaluators.device: unknown device {name!r}; cpu, cuda, cuda:0 or auto"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise CoppiceError(f"evaluators.device: {name!r} is not supported; cpu, cuda, cuda:0 or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CoppiceError(f"evaluators.device: there is no {name} here; use cpu or auto")
    # Convolutions would be rounded to ten bits by default: too coarse for a verdict that others repeat.
    torch.backends.cudnn.allow_tf32 = False
    return device


def to_device(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples as tensors on `device`."""
    return torch.tensor(x, dtype=torch.float32, device=device), torch.tensor(y, device=device)


def count_errors(model: nn.Module, x: torch.Tensor, y: torch.Tensor, tick: Tick) -> int:
    """How many samples the network gets wrong, in evaluation mode; `tick` is called once a batch.

    x: (n, ...), y: int64 (n,). A sample whose logits are not all finite counts as wrong. The count stays
    on the device until the end.
    """
    was_training = model.training
    model.eval()
    wrong = torch.zeros((), dtype=torch.int64, device=y.device)
    for begin in range(0, len(y), BATCH):
        tick()
        wrong += wrong_in(model, x[begin : begin + BATCH], y[begin : begin + BATCH]).sum()
    model.train(was_training)
    return int(wrong)


def wrong_in(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """bool (n,): which samples the network, in evaluation mode, gets wrong. x: (n, ...), y: int64 (n,).

    A sample whose largest logit is not finite counts as wrong.
    """

    def wrong(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        best, predicted = logits.max(1)  # NaN wins every max, so it cannot hide
        return (predicted != y) | ~best.isfinite()

    return judged(model, x, y, wrong)


def judged(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    judge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """(n, ...): what `judge` says of the logits, (n, classes), and y, (n, ...). x: (n, ...).

    Where the device has no room for all samples, they go through in halves.
    """
    try:
        with torch.inference_mode():
            return judge(model(x.clone()), y)  # there are networks that write into what they are given
    except torch.OutOfMemoryError:
        if len(y) == 1:
            raise
    half = len(y) // 2
    return torch.cat([judged(model, x[:half], y[:half], judge), judged(model, x[half:], y[half:], judge)])


def check_fit(model: nn.Module, name: str, x: torch.Tensor, classes: int) -> None:
    """Raise `CoppiceError` unless the network `name` gives logits (n, classes or more) for `x`, (n, ...)."""
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(x.clone())
    except Exception as error:  # the user's own code, or torch on a shape that does not fit
        raise CoppiceError(
            f"model.name: {name} does not take samples of shape {tuple(x.shape[1:])} ({first_line(error)})"
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not (isinstance(shape, tuple) and len(shape) == 2 and shape[0] == len(x) and shape[1] >= classes):
        raise CoppiceError(
            f"model.name: {name} gives {shape} for {len(x)} samples; "
            f"expected logits of shape (samples, {classes} or more)"
        )
