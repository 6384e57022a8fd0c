"""NCS against a slow, literal reading of the published formulas, and its special cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.errors import CoppiceError
from coppice.search.ncs import FARTHEST, NCS, bhattacharyya, nearest_other, reflect, share
from coppice.search.optimizer import Float64s


def distance(x: Float64s, sigma_x: float, y: Float64s, sigma_y: float) -> float:
    """1/8 sum (x - y)^2 / c + 1/2 sum (ln c - 1/2 (ln sigma_x^2 + ln sigma_y^2)), dimension by dimension."""
    total = 0.0
    for k in range(len(x)):
        c = (sigma_x**2 + sigma_y**2) / 2
        total += (x[k] - y[k]) ** 2 / c / 8
        total += 0.5 * (math.log(c) - 0.5 * (math.log(sigma_x**2) + math.log(sigma_y**2)))
    return total


def normalised(a: float, b: float) -> float:
    return 0.5 if a + b == 0 else a / (a + b)


def mirrored(value: float, lower: float, upper: float) -> float:
    if value < lower:
        value = 2 * lower - value
        return min(value, upper)
    if value > upper:
        value = 2 * upper - value
        return max(value, lower)
    return value


class LiteralNCS:
    """The paper's loop over searches, written for reading; only the random numbers are shared with NCS."""

    def __init__(self, start: Float64s, lower: float, upper: float, n: int, budget: int, seed: int) -> None:
        self.lower, self.upper, self.n, self.budget, self.seed = lower, upper, n, budget, seed
        self.x = [start.copy() for _ in range(n)]
        self.fit = [math.inf] * n
        self.sigma = [(upper - lower) / n] * n
        self.flag = [0] * n
        self.best = math.inf
        self.generation = 0
        self.sigmas_seen: list[list[float]] = []
        self.moves = 0

    def random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng(
            np.random.SeedSequence((1, self.seed), spawn_key=(self.generation, stream))
        )

    def children(self) -> list[Float64s]:
        normal = self.random(0).standard_normal((self.n, len(self.x[0])))
        made = []
        for i in range(self.n):
            child = self.x[i].copy()
            for k in range(len(child)):
                step = self.sigma[i] * normal[i, k]
                child[k] = mirrored(self.x[i][k] + step, self.lower, self.upper)
            made.append(child)
        if self.generation == 0:
            made[0] = self.x[0].copy()
        return made[: self.budget - self.generation * self.n]

    def select(self, children: list[Float64s], fit: list[float]) -> None:
        self.best = min(self.best, *fit)
        if self.generation == 0:
            for i, child in enumerate(children):
                self.x[i], self.fit[i] = child, fit[i]
        else:
            t, t_max = self.generation - 1, self.budget / self.n
            normal = self.random(1).standard_normal(self.n)
            parents = [x.copy() for x in self.x]
            for i, child in enumerate(children):
                others = [j for j in range(self.n) if j != i]
                corr = min(distance(parents[i], self.sigma[i], parents[j], self.sigma[j]) for j in others)
                corr_child = min(distance(child, self.sigma[i], parents[j], self.sigma[j]) for j in others)
                lambda_i = 1 + (0.1 - 0.1 * t / t_max) * normal[i]
                if lambda_i * normalised(corr_child, corr) > normalised(
                    fit[i] - self.best, self.fit[i] - self.best
                ):
                    self.x[i], self.fit[i] = child, fit[i]
                    self.flag[i] += 1
                    self.moves += 1
            if self.generation % self.n == 0:
                for i in range(self.n):
                    if self.flag[i] / self.n > 0.2:
                        self.sigma[i] /= 0.99
                    elif self.flag[i] / self.n < 0.2:
                        self.sigma[i] *= 0.99
                self.flag = [0] * self.n
        self.sigmas_seen.append(list(self.sigma))
        self.generation += 1


def ncs(**changes: Any) -> NCS:
    usual: dict[str, Any] = {
        "start": np.array([1.0, 2.5, 9.0]),
        "lower": 0.0,
        "upper": 10.0,
        "population": 5,
        "evaluations": 203,
        "sigma": None,
        "seed": 11,
    }
    return NCS(**(usual | changes))


def waves(x: Float64s) -> float:
    return float(((x - 6) ** 2 / 10 - np.cos(3 * x)).sum())


def steps(x: Float64s) -> float:
    """Many ties, and infeasible nearly everywhere."""
    return 1.1 if x.min() < 3 else round(float(x.mean())) / 10


@pytest.mark.parametrize("function", [waves, steps])
@pytest.mark.parametrize(
    ("n", "d", "budget"), [(2, 1, 61), (2, 3, 60), (3, 1, 100), (5, 3, 403), (10, 4, 700), (7, 8, 300)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_array_code_runs_as_the_literal_loop(
    function: Any, n: int, d: int, budget: int, seed: int
) -> None:
    start = np.linspace(0.5, 9.5, d)
    search = ncs(start=start, population=n, evaluations=budget, seed=seed)
    literal = LiteralNCS(start, 0.0, 10.0, n, budget, seed)
    while not search.done:
        asked, children = search.ask(), literal.children()
        np.testing.assert_array_equal(asked, np.array(children))
        fitness = [function(x) for x in asked]
        search.tell(np.array(fitness))
        literal.select(children, fitness)
        np.testing.assert_array_equal(search.state()["x"], np.array(literal.x))
        np.testing.assert_array_equal(search.state()["f"], np.array(literal.fit))
        np.testing.assert_array_equal(search.state()["sigma"], np.array(literal.sigma))
    # The comparison saw searches that moved and stayed, and step sizes that changed.
    assert 0 < literal.moves < budget - n
    assert len(np.unique(literal.sigmas_seen)) > 2


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_distances_are_those_of_the_formula(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    m = data.draw(st.integers(1, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = 10.0 ** data.draw(st.integers(-20, 20))
    x, others = rng.normal(size=(m, d)) * size, rng.normal(size=(n, d)) * size
    sigma = np.exp(rng.normal(size=n) * data.draw(st.sampled_from([0.0, 0.01, 3.0]))) * size
    ours = bhattacharyya(x, sigma[:m], others, sigma)
    theirs = [[distance(x[i], sigma[i], others[j], sigma[j]) for j in range(n)] for i in range(m)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


def test_a_distance_worked_out_by_hand() -> None:
    # c = (1 + 4) / 2 = 2.5; 1/8 (9 + 16) / 2.5 + 2/2 ln(2.5 / (1 * 2))
    found = bhattacharyya(np.array([[0.0, 0.0]]), np.array([1.0]), np.array([[3.0, 4.0]]), np.array([2.0]))
    assert found[0, 0] == pytest.approx(1.25 + math.log(1.25), rel=1e-14)


def test_the_nearest_other_leaves_out_the_own_parent_only() -> None:
    parents = np.array([[0.0], [8.0], [9.0]])
    sigma = np.ones(3)
    np.testing.assert_allclose(nearest_other(parents, parents, sigma), [8.0, 1 / 8, 1 / 8])
    # Child 0 beside its own parent is still far from the others; child 1 on parent 0 is not.
    children = np.array([[0.1], [0.0]])
    np.testing.assert_allclose(nearest_other(children, parents, sigma), [7.9**2 / 8, 0.0])


def test_the_largest_fitness_values_do_not_overflow() -> None:
    """Only the order against the best counts: -1.7e308 beats 1.7e308, whose difference is no float."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        search = ncs(population=2, sigma=1e-140)
        for fitness in ([1.7e308, 1.7e308], [-1.7e308, 1.7e308], [1.7e308, -1.7e308]):
            search.ask()
            search.tell(np.array(fitness))
    np.testing.assert_array_equal(search.state()["f"], [-1.7e308, -1.7e308])


@pytest.mark.parametrize("sigma", [1e-300, 1e-160, 1e100])
def test_absurd_step_sizes_do_no_harm(sigma: float) -> None:
    """Squares of them are 0 or infinite, which must not reach a division."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        search = ncs(sigma=sigma, start=np.zeros(3))
        while not search.done:
            asked = search.ask()
            assert ((asked >= 0) & (asked <= 10)).all()
            search.tell(np.array([waves(x) for x in asked]))


def test_identical_points_are_at_distance_zero_and_far_ones_are_cut() -> None:
    x, sigma = np.array([[0.1, 0.7]] * 2), np.full(2, 0.3)
    assert (bhattacharyya(x, sigma, x, sigma) == 0).all()
    far = bhattacharyya(np.array([[0.0]]), np.array([1e-150]), np.array([[1e100]]), np.array([1e-150]))
    assert far[0, 0] == FARTHEST


def test_shares() -> None:
    a, b = np.array([0.0, 3.0, 0.0, 1.0, FARTHEST]), np.array([0.0, 0.0, 3.0, 3.0, FARTHEST])
    np.testing.assert_array_equal(share(a, b), [0.5, 1.0, 0.0, 0.25, 0.5])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, 0.0), (10.0, 10.0), (4.0, 4.0), (-1.0, 1.0), (11.0, 9.0),
        (-10.0, 10.0), (-12.0, 10.0), (20.0, 0.0), (25.0, 0.0), (1e300, 0.0), (-1e300, 10.0),
    ],
)  # fmt: skip
def test_reflection_mirrors_at_the_bound_then_clips(value: float, expected: float) -> None:
    assert reflect(np.array([value]), 0.0, 10.0)[0] == expected
    assert reflect(np.array([value + 5]), 5.0, 15.0)[0] == expected + 5  # not about 0


def test_a_search_from_the_corner_does_not_stick_to_the_bounds() -> None:
    """Clipping alone would leave half of all numbers on the bound."""
    first = ncs(start=np.zeros(3), population=100, evaluations=100).ask()[1:]
    assert (first > 0).all()


def test_the_first_generation_is_around_start_by_sigma() -> None:
    usual = ncs(start=np.full(4, 5.0), population=400, evaluations=400, upper=10.0).ask()[1:]
    assert np.std(usual - 5.0) == pytest.approx(10 / 400, rel=0.1)
    given_sigma = ncs(start=np.full(4, 5.0), population=400, evaluations=400, sigma=0.5).ask()[1:]
    assert np.std(given_sigma - 5.0) == pytest.approx(0.5, rel=0.1)


def test_the_first_generation_may_fill_the_box_as_published() -> None:
    first = ncs(population=400, evaluations=400, spread="box").ask()
    np.testing.assert_array_equal(first[0], [1.0, 2.5, 9.0])
    assert np.histogram(first[1:], bins=4, range=(0, 10))[0].min() > 0.2 * first[1:].size
    assert ncs(spread="box").ask().max() <= 10


@pytest.mark.parametrize("changes", [{"spread": "box"}, {"r": 0.9}])
def test_a_state_of_another_spread_or_r_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CoppiceError, match=next(iter(changes))):
        ncs(**changes).restore(ncs().state())


def test_a_state_without_fitness_values_is_refused() -> None:
    search = ncs()
    search.tell(np.ones(len(search.ask())))
    state = search.state()
    state["f"][3] = np.nan
    with pytest.raises(CoppiceError, match="'f' must be finite"):
        ncs().restore(state)


@pytest.mark.parametrize("changes", [{"spread": "all"}, {"r": 1.0}, {"r": 0.0}, {"population": 1}])
def test_arguments_of_its_own(changes: dict[str, Any]) -> None:
    with pytest.raises(CoppiceError, match=next(iter(changes))):
        ncs(**changes)


def test_the_step_sizes_follow_the_one_in_five_rule_once_an_epoch() -> None:
    """Search i takes i children of its 5 in each epoch.

    Its points are all the same (sigma is too small to move them), so that both Corr shares are 1/2, and
    lambda, near 1, cannot outweigh a fitness share of 0 (the child is the new best) or about 1.
    """
    search = ncs(population=5, evaluations=5000, sigma=1e-140, r=0.5)
    search.ask()
    search.tell(np.ones(5))
    sigmas = [search.state()["sigma"] / 1e-140]
    for generation in range(15):
        search.ask()
        takes = generation % 5 < np.arange(5)
        search.tell(np.where(takes, -float(generation), 1e9))
        sigmas.append(search.state()["sigma"] / 1e-140)
    for epoch in range(3):
        for sigma in sigmas[5 * epoch : 5 * epoch + 5]:
            np.testing.assert_allclose(sigma, np.array([0.5, 1, 2, 2, 2]) ** epoch)


def test_identical_searches_with_equal_fitness_move_when_lambda_exceeds_one() -> None:
    """Both shares are 0/0, so 1/2: lambda alone decides, half of the time."""
    n = 1000
    search = ncs(start=np.full(2, 5.0), population=n, evaluations=3 * n, sigma=1e-140)
    for _ in range(2):
        asked = search.ask()
        assert (asked == 5.0).all()
        search.tell(np.ones(n))
    taken = search.state()["successes"]
    lambda_t = np.random.default_rng(np.random.SeedSequence((1, 11), spawn_key=(1, 1))).standard_normal(n)
    np.testing.assert_array_equal(taken, lambda_t > 0)


def test_lambda_narrows_over_the_run() -> None:
    """At the first children its standard deviation is 0.1, near the end little of it is left.

    Points are all the same, so that the Corr shares are 1/2; the fitness shares are set to 0.525: only a
    lambda above 1.05 takes a child.
    """
    n, generations = 400, 5

    def taken(generation: int) -> float:
        search = ncs(start=np.full(1, 5.0), population=n, evaluations=n * generations, sigma=1e-140, seed=5)
        for _ in range(generation):
            search.ask()
            search.tell(np.full(n, 0.475))
        before = search.state()["successes"]
        search.ask()
        search.tell(np.append(np.full(n - 1, 0.525), 0.0))  # the last is the best: others count from 0
        return float((search.state()["successes"] - before)[:-1].mean())

    def above(value: float, std: float) -> float:
        return 0.5 * math.erfc((value - 1) / std / math.sqrt(2))

    assert taken(1) == pytest.approx(above(1.05, 0.1), abs=0.06)
    assert taken(4) == pytest.approx(above(1.05, 0.1 - 0.1 * 3 / 5), abs=0.04)


def test_ncs_searches_and_does_not_only_wander() -> None:
    """Far better than the same number of random points, on a function that its step size fits."""

    def error(x: Float64s) -> Float64s:
        return np.asarray(((x - 6.5) ** 2).sum(axis=1))

    ours, random = [], []
    for seed in range(5):
        search = ncs(start=np.full(6, 1.0), population=10, evaluations=3000, seed=seed, sigma=0.3)
        while not search.done:
            search.tell(error(search.ask()))
        ours.append(search.best_fitness)
        random.append(error(np.random.default_rng(seed).uniform(0, 10, (3000, 6))).min())
    assert np.median(ours) < np.median(random) / 5
