"""What the network is trained to say of a batch: its labels, or also what the dense reference says of it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from coppice.runfile import DistillSection


class Teacher:
    """The dense reference, asked about each batch as it is trained on, moved images and all."""

    def __init__(self, model: nn.Module, how: DistillSection) -> None:
        """`model` is the teacher's own, on the device of the batches to come."""
        self._model = model.eval()
        self._how = how

    def loss(self, x: torch.Tensor, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(1 - weight) * cross entropy + weight * T^2 * KL(teacher at T || student at T): Hinton, Vinyals,
        Dean 2015, section 2; T^2 keeps the gradient's size whatever T is.

        x: (n, ...), the batch; output: float (n, classes), what the student says of it, before softmax; y:
        int64 (n,). A scalar.
        """
        how, temperature = self._how, self._how.temperature
        with torch.no_grad():
            taught = log_softmax(self._model(x) / temperature, 1)
        said = log_softmax(output / temperature, 1)
        distance = kl_div(said, taught, reduction="batchmean", log_target=True) * temperature**2
        if how.weight == 1.0:
            return distance
        return (1.0 - how.weight) * cross_entropy(output, y) + how.weight * distance
