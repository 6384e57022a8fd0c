"""The ask/tell contract of every search method, on arrays; knows no files.

Minimises over a box. The caller tells fitness in the order of `ask`'s rows. All randomness comes from the
seed, so the same seed and the same fitness values give the same solutions; `state` and `restore` keep that
to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from coppice.errors import CoppiceError

if TYPE_CHECKING:
    from coppice.search.generations import GenerationalOptimizer

METHODS = ("ncs", "cmaes", "random")
"""What `make_optimizer` knows."""

Float64s = npt.NDArray[np.float64]
State = dict[str, npt.NDArray[Any]]
"""Arrays by name, of plain dtypes (no objects), so that numpy's npz keeps them without pickling."""


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


def make_optimizer(
    method: str,
    *,
    start: Float64s,
    lower: float,
    upper: float,
    population: int,
    evaluations: int,
    sigma: float | None,
    seed: int | tuple[int, ...],
) -> Optimizer:
    """An optimiser by the name that the run file gives it: 'ncs', 'cmaes' or 'random'.

    `start`: float64 (dimensions,), the first solution that is asked for. `sigma`: first step size, None for
    the method's own ((upper - lower) / population for ncs, (upper - lower) / 10 for cmaes; random has none).
    `seed` feeds numpy.random.SeedSequence.

    Raises `CoppiceError` for an unknown method, a start that is not of shape (dimensions,) inside the box,
    bounds that are no box, a population below 2 (1 for random), or another number out of its range.
    """
    # Here and not above: the methods import this module, and only 'cmaes' should load its package.
    kind: type[GenerationalOptimizer]
    if method == "ncs":
        from coppice.search.ncs import NCS as kind
    elif method == "cmaes":
        from coppice.search.cmaes import CMAES as kind
    elif method == "random":
        from coppice.search.random_search import RandomSearch as kind
    else:
        raise CoppiceError(f"search: unknown method {method!r}; known are {', '.join(METHODS)}")
    return kind(
        start=start,
        lower=lower,
        upper=upper,
        population=population,
        evaluations=evaluations,
        sigma=sigma,
        seed=seed,
    )
