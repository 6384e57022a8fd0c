"""CMA-ES: the package's own run where nothing is added to it, and the restarts that we add."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cmaes
import numpy as np
import pytest

from coppice.search.cmaes import CMAES
from coppice.search.optimizer import Float64s


def search(**changes: Any) -> CMAES:
    usual: dict[str, Any] = {
        "start": np.array([0.25, 0.5, 0.75]),
        "lower": 0.0,
        "upper": 1.0,
        "population": 6,
        "evaluations": 600,
        "sigma": None,
        "seed": 3,
    }
    return CMAES(**(usual | changes))


def slope(x: Float64s) -> Float64s:
    return np.asarray(((x - [0.3, 0.9, 0.1]) ** 2 * [1.0, 10.0, 100.0]).sum(axis=1))


@pytest.mark.parametrize("sigma", [None, 0.4])
def test_in_the_unit_cube_it_is_the_package_at_the_same_seeds(sigma: float | None) -> None:
    cube = np.array([[0.0, 1.0]] * 3)
    package = cmaes.CMA(
        mean=np.array([0.25, 0.5, 0.75]), sigma=sigma or 0.1, bounds=cube, population_size=6, seed=0
    )
    ours = search(sigma=sigma)
    for generation in range(20):
        rng = np.random.default_rng(np.random.SeedSequence((1, 3), spawn_key=(generation, 0)))
        package.reseed_rng(int(rng.integers(2**32)))
        theirs = np.array([package.ask() for _ in range(6)])
        if generation == 0:
            theirs[0] = [0.25, 0.5, 0.75]
        np.testing.assert_array_equal(ours.ask(), theirs)
        ours.tell(slope(theirs))
        package.tell(list(zip(theirs, slope(theirs).tolist(), strict=True)))


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_the_box_only_stretches_the_search(sigma: float | None) -> None:
    """Boxes of powers of two, so that stretching rounds nothing; also where absolute tolerances of the
    package would end every search at once."""
    size = 2.0**30
    small = search(sigma=sigma)
    large = search(start=size * small.ask()[0], upper=size, sigma=sigma and size * sigma)
    while not small.done:
        np.testing.assert_array_equal(small.ask() * 2**30, large.ask())
        small.tell(slope(small.ask()))
        large.tell(slope(large.ask() / 2**30))


def test_it_finds_the_bottom_of_a_bowl() -> None:
    ours = search(evaluations=1500)
    while not ours.done:
        ours.tell(slope(ours.ask()))
    assert ours.best_fitness < 1e-12


def generations(ours: CMAES, fitness: Callable[[Float64s], Float64s]) -> list[Float64s]:
    """All solutions of a whole run."""
    asked = []
    while not ours.done:
        asked.append(ours.ask())
        ours.tell(fitness(asked[-1]))
    return asked


def test_when_converged_it_also_starts_elsewhere() -> None:
    """Two valleys, the wider one worse: a converged search alone would stay in it."""

    def valleys(x: Float64s) -> Float64s:
        wide = 0.5 + ((x - 0.7) ** 2).sum(axis=1)
        narrow = 50 * ((x - 0.1) ** 2).sum(axis=1)
        return np.asarray(np.minimum(wide, narrow))

    ours = search(start=np.full(2, 0.8), sigma=0.05, evaluations=12000)
    asked = generations(ours, valleys)
    converged = [generation.std(axis=0).max() < 1e-6 for generation in asked]
    restarts = sum(before and not after for before, after in pairwise(converged))
    assert restarts >= 4
    assert ours.best_fitness < 0.1


def test_on_a_plain_it_restarts_at_the_best_known_and_at_random_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in pruning: one solution is feasible, all that were drawn around it are not, and look the same."""
    begun: list[tuple[Float64s, float]] = []

    class Recorded(cmaes.CMA):  # type: ignore[misc]
        def __init__(self, mean: Float64s, sigma: float, **others: Any) -> None:
            begun.append((mean.copy(), sigma))
            super().__init__(mean=mean, sigma=sigma, **others)

    monkeypatch.setattr(cmaes, "CMA", Recorded)
    start = np.array([0.9, 0.1, 0.2, 0.6])
    ours = search(start=start, population=20, evaluations=4000)
    asked = generations(ours, lambda x: np.where((x == start).all(axis=1), 0.5, 1.1))
    assert len(begun) >= 5
    for number, (mean, sigma) in enumerate(begun):
        assert sigma == (0.01 if number % 2 else 0.1)
        assert (mean == start).all() == (number % 2 == 1 or number == 0)
    randoms = np.array([mean for mean, _ in begun[2::2]])
    assert len(np.unique(randoms, axis=0)) == len(randoms)
    # And the restarts are what is asked from.
    for mean, _ in begun:
        assert min(np.abs(generation.mean(axis=0) - mean).max() for generation in asked) < 0.1


def test_restoring_takes_back_restarts_too() -> None:
    """The turn of the restarts is part of the state, also when the object had gone past one."""

    def flat(x: Float64s) -> Float64s:
        return np.full(len(x), 1.1)

    ours = search(population=20, evaluations=1700)  # five restarts: an odd number
    states, asked = [], []
    while not ours.done:
        states.append(ours.state())
        asked.append(ours.ask())
        ours.tell(flat(asked[-1]))
    for number in (0, 40, 20, 60, 1):
        ours.restore(states[number])
        for expected in asked[number:]:
            np.testing.assert_array_equal(ours.ask(), expected)
            ours.tell(flat(expected))
