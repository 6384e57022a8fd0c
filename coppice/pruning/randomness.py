"""Randomness that needs no state: every draw is a function of (seed, purpose, number).

So a checkpoint keeps no generator, and training 100 iterations twice is training 200.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a draw is for; the numbers are part of every run's history and never change."""

    HELD_OUT = 1
    REFERENCE_BATCHES = 2
    SURGERY_BATCHES = 3
    MASKS = 4
    SEARCHED_LAYERS = 5
    REFERENCE_DROPOUT = 6
    SURGERY_DROPOUT = 7
    REFERENCE_MOVES = 8
    SURGERY_MOVES = 9


def generator(seed: int, purpose: Purpose, number: int) -> np.random.Generator:
    """A fresh generator for draw `number` of this purpose."""
    return np.random.default_rng(np.random.SeedSequence((seed, int(purpose), number)))


def torch_seed(seed: int, purpose: Purpose, number: int) -> int:
    """The same for torch's generators: an integer in [0, 2**63)."""
    state = np.random.SeedSequence((seed, int(purpose), number)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


class Batches:
    """Every epoch a new order of all samples; what is left of an epoch after its last whole batch is not
    used in it."""

    def __init__(self, samples: int, batch: int, seed: int, purpose: Purpose, device: torch.device) -> None:
        self._samples = samples
        self._batch = min(batch, samples)
        self._per_epoch = samples // self._batch
        self._seed, self._purpose, self._device = seed, purpose, device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, iteration: int) -> torch.Tensor:
        """int64 (batch,), on the device: the samples of this iteration."""
        epoch, place = divmod(iteration, self._per_epoch)
        if epoch != self._epoch:
            order = generator(self._seed, self._purpose, epoch).permutation(self._samples)
            self._order = torch.from_numpy(order).to(self._device)
            self._epoch = epoch
        return self._order[place * self._batch : (place + 1) * self._batch]
