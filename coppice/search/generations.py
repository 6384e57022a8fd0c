"""What every search method shares: the box, the budget, the best, the randomness, saving and restoring.

A method only says how a generation is proposed and what is learnt from it.

Randomness: the draws of generation g come from numpy's SeedSequence((number of seeds, *seeds),
spawn_key=(g, stream)); the number is there because numpy takes (7,) and (7, 0) for the same. So no generator
has a life of its own. A generation is a function of the seed and of what was told before it,
which is why asking again (also after a restore) gives the same bits, and why a state holds no generator.
"""

from __future__ import annotations

import json
import math
import operator
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from coppice.errors import CoppiceError
from coppice.search.optimizer import Float64s, Optimizer, State

LARGEST_BOUND = 1e100
"""Bounds must not be larger than this, either way, so that squares of distances stay finite."""


class GenerationalOptimizer(Optimizer):
    """An optimiser that asks for `population` solutions at a time, first of all for `start`; arguments as in
    `Given`.

    Raises `CoppiceError` when an argument cannot be used.
    """

    method: ClassVar[str]
    """The name in the run file."""
    smallest_population: ClassVar[int] = 2

    def __init__(
        self,
        *,
        start: Float64s,
        lower: float,
        upper: float,
        population: int,
        evaluations: int,
        sigma: float | None,
        seed: int | tuple[int, ...],
    ) -> None:
        self._lower, self._upper = _number("lower", lower), _number("upper", upper)
        if not self._lower < self._upper:
            raise CoppiceError(f"search: lower ({lower}) must be below upper ({upper})")
        if max(abs(self._lower), abs(self._upper)) > LARGEST_BOUND:
            raise CoppiceError(f"search: bounds beyond {LARGEST_BOUND:g} are not supported")
        self._start = _floats("start", start).copy()
        if self._start.ndim != 1 or self._start.size == 0:
            raise CoppiceError(f"search: start must have shape (dimensions,), not {self._start.shape}")
        if not np.all((self._start >= self._lower) & (self._start <= self._upper)):  # also refuses NaN
            raise CoppiceError(f"search: start must lie inside [{self._lower:g}, {self._upper:g}]")
        self._population = _whole("population", population, self.smallest_population)
        self._budget = _whole("evaluations", evaluations, 1)
        if sigma is not None and not 0 < _number("sigma", sigma) <= LARGEST_BOUND:
            raise CoppiceError(f"search: sigma must be above 0 and at most {LARGEST_BOUND:g}, not {sigma}")
        self._given_sigma = None if sigma is None else float(sigma)
        self._seed = [
            _whole("seed", part, 0) for part in (seed if isinstance(seed, tuple | list) else (seed,))
        ]
        self._generation = 0  # tells so far
        self._asked: Float64s | None = None
        self.best_solution = self._start.copy()
        self.best_fitness = math.inf
        self.evaluations = 0

    @abstractmethod
    def _propose(self) -> Float64s:
        """A whole generation, float64 (population, dimensions), inside the box; changes nothing lasting.

        Row 0 of the first generation is replaced by start, and the last generation is cut to the budget.
        """

    @abstractmethod
    def _learn(self, asked: Float64s, fitness: Float64s) -> None:
        """Take in a generation: asked (rows, dimensions), fitness (rows,), finite; rows <= population.

        Fewer rows than population come only in the generation that ends the budget. `best_fitness` knows
        this generation already; `_generation` is still this generation's number, from 0.
        """

    @abstractmethod
    def _memory(self) -> State:
        """The method's own arrays, for `state`."""

    @abstractmethod
    def _remember(self, state: State, generation: int, evaluations: int) -> None:
        """Set the method's own arrays to those of a `state` taken after so many tells and evaluations.

        Raises `CoppiceError`, and then has changed nothing.
        """

    def _extra_settings(self) -> dict[str, Any]:
        """Further arguments that must be the same on restore."""
        return {}

    def _rng(self, stream: int = 0) -> np.random.Generator:
        """This generation's randomness, always from its beginning; streams are independent."""
        entropy = [len(self._seed), *self._seed]
        sequence = np.random.SeedSequence(entropy, spawn_key=(self._generation, stream))
        return np.random.Generator(np.random.PCG64(sequence))

    @property
    def dimensions(self) -> int:
        """Numbers in one solution."""
        return self._start.size

    @property
    def done(self) -> bool:
        return self.evaluations >= self._budget

    def ask(self) -> Float64s:
        """See `Optimizer.ask`. Raises `CoppiceError` when the budget is used up."""
        if self.done:
            raise CoppiceError(f"search: the budget of {self._budget} evaluations is used up; nothing to ask")
        if self._asked is None:
            asked = self._propose()
            if self._generation == 0:
                asked[0] = self._start
            self._asked = asked[: self._budget - self.evaluations]
        return self._asked.copy()

    def tell(self, fitness: Float64s) -> None:
        """See `Optimizer.tell`. Raises `CoppiceError`, and then has changed nothing, when nothing was
        asked, or fitness has another shape than (rows,) or holds NaN or infinity."""
        if self._asked is None:
            raise CoppiceError("search: fitness was told before anything was asked; call ask first")
        values = _floats("fitness", fitness).copy()
        if values.shape != (len(self._asked),):
            raise CoppiceError(
                f"search: fitness must have shape ({len(self._asked)},), one for each row asked, "
                f"not {values.shape}"
            )
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise CoppiceError(
                f"search: the fitness of row {row} is {values[row]}; give failures a large finite one"
            )
        asked, self._asked = self._asked, None
        first = int(np.argmin(values))
        if values[first] < self.best_fitness:
            self.best_fitness = float(values[first])
            self.best_solution = asked[first].copy()
        self._learn(asked, values)
        self._generation += 1
        self.evaluations += len(values)

    def state(self) -> State:
        """See `Optimizer.state`. Between ask and tell it is the state before the ask, which then gives
        the same generation again. Format: 'settings' is JSON in UTF-8 as uint8, counts are int64 of shape
        (), everything else float64 or int64."""
        return {
            "settings": np.frombuffer(json.dumps(self._settings()).encode(), dtype=np.uint8).copy(),
            "generation": np.array(self._generation, dtype=np.int64),
            "evaluations": np.array(self.evaluations, dtype=np.int64),
            "best_solution": self.best_solution.copy(),
            "best_fitness": np.array(self.best_fitness, dtype=np.float64),
            **self._memory(),
        }

    def restore(self, state: State) -> None:
        """See `Optimizer.restore`. Raises `CoppiceError`, and then has changed nothing, when the state is
        damaged or of a search with other arguments."""
        self._check_settings(take(state, "settings", np.uint8, (None,)))
        generation = int(take(state, "generation", np.int64, ()))
        evaluations = int(take(state, "evaluations", np.int64, ()))
        if evaluations < 0 or generation != -(-evaluations // self._population) or evaluations > self._budget:
            raise CoppiceError(
                f"search state: {evaluations} evaluations in {generation} generations cannot be; start afresh"
            )
        best_solution = take(state, "best_solution", np.float64, (self.dimensions,))
        best_fitness = float(take(state, "best_fitness", np.float64, ()))
        if math.isnan(best_fitness) or (generation > 0) != math.isfinite(best_fitness):
            raise CoppiceError(f"search state: best_fitness cannot be {best_fitness}; start afresh")
        self._remember(state, generation, evaluations)
        self._asked = None
        self._generation, self.evaluations = generation, evaluations
        self.best_solution, self.best_fitness = best_solution, best_fitness

    def _settings(self) -> dict[str, Any]:
        return {
            "format": 1,
            "method": self.method,
            "start": self._start.tolist(),
            "lower": self._lower,
            "upper": self._upper,
            "population": self._population,
            "evaluations": self._budget,
            "sigma": self._given_sigma,
            "seed": self._seed,
            **self._extra_settings(),
        }

    def _check_settings(self, encoded: np.ndarray[Any, Any]) -> None:
        try:
            theirs = json.loads(encoded.tobytes().decode())
        except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON, or all brackets
            raise CoppiceError("search state: its settings cannot be read; start afresh") from error
        ours = self._settings()
        if theirs == ours:
            return
        if not isinstance(theirs, dict):
            raise CoppiceError("search state: its settings cannot be read; start afresh")
        differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        raise CoppiceError(
            f"search state: it is of a search with another {', '.join(differing)}; "
            "restore it with the arguments it was made with, or start afresh"
        )


def take(state: State, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> Any:
    """A copy of one array of a state, of exactly this dtype and shape (None: any length).

    Raises `CoppiceError` naming the array.
    """
    if name not in state:
        raise CoppiceError(f"search state: '{name}' is missing; it is no state of this search method")
    array = np.asarray(state[name])
    fits = len(array.shape) == len(shape) and all(
        wanted is None or length == wanted for length, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        raise CoppiceError(
            f"search state: '{name}' is {array.dtype} {array.shape}, expected {np.dtype(dtype)} "
            f"{str(shape).replace('None', 'any')}; it does not fit this search"
        )
    return array.copy()


def _floats(name: str, value: Any) -> Float64s:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CoppiceError(f"search: {name} must be an array of numbers") from error


def _number(name: str, value: float) -> float:
    number = _floats(name, value)
    if number.shape != () or not np.isfinite(number):
        raise CoppiceError(f"search: {name} must be a finite number, not {value!r}")
    return float(number)


def _whole(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise CoppiceError(f"search: {name} must be a whole number, not {value!r}") from error
    if number < least:
        raise CoppiceError(f"search: {name} must be at least {least}, not {number}")
    return number
