"""CMA-ES by the package `cmaes`, with restarts: the strongest general rival of NCS.

N. Hansen: "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772. The search runs in the unit cube, so
that the package's stopping rules, which have absolute tolerances, do not depend on the box. When they say
that a search is over (converged, flat, degenerate), a new one of the same population starts: in turn at the
best solution so far with a tenth of the first step size (in pruning, a search that went flat has left the
feasible solutions, and those are around its best), and at a random mean with the whole. Solutions outside
the box are drawn again, and clipped after 100 tries, as the package does.

The package does not expose its state, so ours is the told history: `restore` tells it again, in the same
order, which gives the same floats on the same machine. Its generator is seeded anew for every generation.
"""

from __future__ import annotations

from typing import ClassVar, Unpack

import cmaes
import numpy as np

from coppice.errors import CoppiceError
from coppice.search.generations import GenerationalOptimizer, take
from coppice.search.optimizer import Float64s, Given, State


class CMAES(GenerationalOptimizer):
    """CMA-ES; arguments as in `Given`. `sigma` is (upper - lower) / 10 unless given: less than the
    0.3 that is advised for an unknown optimum, since start is a good solution already, and a wide first
    generation around it is infeasible as a whole. A state grows with the evaluations: 8 (dimensions + 1)
    bytes each."""

    method: ClassVar[str] = "cmaes"

    def __init__(self, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self._width = self._upper - self._lower
        self._sigma_0 = 0.1 if self._given_sigma is None else self._given_sigma / self._width
        self._forget()

    def _forget(self) -> None:
        self._told: list[tuple[Float64s, Float64s]] = []  # (rows, dimensions) and (rows,) a generation
        self._restarts = 0
        self._search = self._begin(self._to_unit(self._start), self._sigma_0)

    def _begin(self, mean: Float64s, sigma: float) -> cmaes.CMA:
        cube = np.tile([0.0, 1.0], (self.dimensions, 1))
        with np.errstate(
            divide="ignore"
        ):  # a population of 2 has no rank-mu update; the package divides by 0
            return cmaes.CMA(mean=mean, sigma=sigma, bounds=cube, population_size=self._population, seed=0)

    def _to_unit(self, x: Float64s) -> Float64s:
        return np.clip((x - self._lower) / self._width, 0.0, 1.0)

    def _propose(self) -> Float64s:
        self._search.reseed_rng(int(self._rng().integers(2**32)))
        unit = np.array([self._search.ask() for _ in range(self._population)])
        return np.clip(self._lower + unit * self._width, self._lower, self._upper)

    def _learn(self, asked: Float64s, fitness: Float64s) -> None:
        self._told.append((asked, fitness))
        if len(asked) < self._population:  # the budget ends here, and the package wants whole generations
            return
        unit = self._to_unit(asked)
        with np.errstate(over="ignore"):  # the range of huge fitness values may be infinite
            self._search.tell([(row, float(value)) for row, value in zip(unit, fitness, strict=True)])
            if self._search.should_stop():
                self._search = self._restart()

    def _restart(self) -> cmaes.CMA:
        self._restarts += 1
        if self._restarts % 2 == 0:
            return self._begin(self._rng(stream=1).uniform(size=self.dimensions), self._sigma_0)
        solutions, fitness = (np.concatenate(parts) for parts in zip(*self._told, strict=True))
        return self._begin(self._to_unit(solutions[np.argmin(fitness)]), self._sigma_0 / 10)

    def _memory(self) -> State:
        return {
            "told_solutions": np.concatenate(
                [np.empty((0, self.dimensions)), *(solutions for solutions, _ in self._told)]
            ),
            "told_fitness": np.concatenate([np.empty(0), *(fitness for _, fitness in self._told)]),
        }

    def _remember(self, state: State, generation: int, evaluations: int) -> None:
        solutions: Float64s = take(state, "told_solutions", np.float64, (evaluations, self.dimensions))
        fitness: Float64s = take(state, "told_fitness", np.float64, (evaluations,))
        if not np.all((solutions >= self._lower) & (solutions <= self._upper)):
            raise CoppiceError("search state: 'told_solutions' leaves the box; start afresh")
        if not np.isfinite(fitness).all():
            raise CoppiceError("search state: 'told_fitness' must be finite; start afresh")
        self._forget()
        for self._generation in range(generation):  # restarts draw from their generation's randomness
            rows = slice(self._generation * self._population, (self._generation + 1) * self._population)
            self._learn(solutions[rows], fitness[rows])
