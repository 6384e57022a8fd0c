"""Random search: uniform in the box. What every other method must beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from coppice.search.generations import GenerationalOptimizer
from coppice.search.optimizer import Float64s, State


class RandomSearch(GenerationalOptimizer):
    """Solutions drawn uniformly from the box, after start; `sigma` has no meaning here."""

    method: ClassVar[str] = "random"
    smallest_population: ClassVar[int] = 1

    def _propose(self) -> Float64s:
        shape = (self._population, self.dimensions)
        return np.clip(self._rng().uniform(self._lower, self._upper, shape), self._lower, self._upper)

    def _learn(self, asked: Float64s, fitness: Float64s) -> None:
        """Nothing is learnt."""

    def _memory(self) -> State:
        return {}

    def _remember(self, state: State, generation: int, evaluations: int) -> None:
        """Nothing is remembered."""
