"""The ask/tell contract of every search method, on arrays; knows no files.

Minimises over a box. The caller tells fitness in the order of `ask`'s rows. All randomness comes from the
seed, so the same seed and the same fitness values give the same solutions; `state` and `restore` keep that
to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
State = dict[str, npt.NDArray[Any]]
"""Arrays by name, of plain dtypes (no objects), so that numpy's npz keeps them without pickling."""


class Given(TypedDict):
    """What every method is made with."""

    start: Float64s
    """float64 (dimensions,), inside the box: the first solution that is asked for."""
    lower: float
    upper: float
    """The box, the same in all dimensions."""
    population: int
    """Rows of a generation."""
    evaluations: int
    """The budget."""
    sigma: float | None
    """First step size; None for the method's own ((upper - lower) / population for ncs, (upper - lower) / 10
    for cmaes; random has none)."""
    seed: int | tuple[int, ...]
    """Not negative; for numpy.random.SeedSequence."""


class Optimizer(ABC):
    """One search."""

    best_solution: Float64s
    """float64 (dimensions,): the solution of the smallest fitness told so far (ties: the first)."""
    best_fitness: float
    """inf before the first tell."""
    evaluations: int
    """Fitness values told so far."""

    @abstractmethod
    def ask(self) -> Float64s:
        """The next generation, float64 (rows, dimensions), inside the box. Asking again before telling
        gives the same. The last generation is shortened so that `evaluations` never passes the budget."""

    @abstractmethod
    def tell(self, fitness: Float64s) -> None:
        """Fitness of the rows last asked for, float64 (rows,), finite."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """The budget of evaluations is used up."""

    @abstractmethod
    def state(self) -> State:
        """Everything needed to go on, to the bit; taken between `tell` and the next `ask`."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on where `state` was taken; the object must have been made with the same arguments."""
