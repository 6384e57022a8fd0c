"""Negatively Correlated Search: parallel Gaussian searches that are rewarded for keeping apart.

K. Tang, P. Yang, X. Yao: "Negatively Correlated Search", IEEE Journal on Selected Areas in Communications
34(3), pp. 542-550, 2016 (arXiv:1504.04914), in the form NCS-C for continuous problems.

The symbols are the paper's. What is computed follows the authors' own MATLAB release (NCS.m of 1 July 2015),
which was read line by line; a formula marked [NCS.m] is that file's. The paper's text was not at hand, so no
equation numbers are given: none would have been certain.

Where this differs from NCS.m, and why:
- The first generation is `start` and start + sigma * N(0, I), since Coppice always searches on from given
  crates; NCS.m draws it uniformly from the box. spread="box" does that, for all but row 0.
- A step over one bound that would after reflection lie beyond the other is clipped to that other bound; the
  release means the same, but its indices miss (only steps longer than the box are concerned).
- 0/0 counts as 1/2: equal fitness, or two pairs of identical searches. NCS.m gets NaN, and keeps the parent.
- The last generation may be shorter; then only the first searches move.
- T is the number of generations that the budget allows, evaluations / population, as there; it need not be
  whole.
- sigma stays within [1e-150, 1e150] and distances below 1e300, so that nothing overflows or divides by zero.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Unpack

import numpy as np

from coppice.errors import CoppiceError
from coppice.search.generations import GenerationalOptimizer, take
from coppice.search.optimizer import Float64s, Given, State

SIGMA_MIN, SIGMA_MAX = 1e-150, 1e150
FARTHEST = 1e300
"""Distances are cut here; also stands for 'no other search', as in [NCS.m]."""


class NCS(GenerationalOptimizer):
    """NCS with n = `population` searches; arguments as in `Given`.

    `spread`: where the other searches begin: around start ('start') or anywhere in the box ('box', as
    published). `r`: the step sizes are divided or multiplied by it once an epoch. One step size serves all
    dimensions of a search, since the box is a cube: sigma_i starts at (upper - lower) / n unless `sigma` is
    given.
    """

    method: ClassVar[str] = "ncs"

    def __init__(
        self,
        *,
        spread: Literal["start", "box"] = "start",
        r: float = 0.99,
        **given: Unpack[Given],
    ) -> None:
        super().__init__(**given)
        if spread not in ("start", "box"):
            raise CoppiceError(f"search: spread must be 'start' or 'box', not {spread!r}")
        if not 0 < r < 1:
            raise CoppiceError(f"search: r must lie between 0 and 1, not {r}")
        self._spread, self._r = spread, float(r)
        n = self._population
        sigma_0 = (
            (self._upper - self._lower) / n if self._given_sigma is None else self._given_sigma
        )  # [NCS.m]
        self._x = np.tile(self._start, (n, 1))  # (n, d) parents
        self._f = np.full(n, np.inf)  # (n,) their fitness
        self._sigma = np.full(n, np.clip(sigma_0, SIGMA_MIN, SIGMA_MAX))  # (n,)
        self._successes = np.zeros(n, dtype=np.int64)  # (n,) in this epoch: c_i of the 1/5 rule

    def _extra_settings(self) -> dict[str, Any]:
        return {"spread": self._spread, "r": self._r}

    def _propose(self) -> Float64s:
        rng, shape = self._rng(), self._x.shape
        if self._generation == 0 and self._spread == "box":
            return np.clip(rng.uniform(self._lower, self._upper, shape), self._lower, self._upper)
        step = self._sigma[:, None] * rng.standard_normal(shape)
        return reflect(self._x + step, self._lower, self._upper)  # x'_i ~ N(x_i, sigma_i^2 I)  [NCS.m]

    def _learn(self, asked: Float64s, fitness: Float64s) -> None:
        rows = len(asked)
        if self._generation == 0:
            self._x[:rows], self._f[:rows] = asked, fitness
            return
        x, f, sigma = self._x, self._f[:rows], self._sigma
        # The best fitness so far, children included, becomes 0  [NCS.m]. A quarter of everything leaves the
        # shares as they are and keeps the largest floats from overflowing.
        best = self.best_fitness / 4
        f_share = share(fitness / 4 - best, f / 4 - best)  # f' / (f + f')
        # Both against the other *parents*  [NCS.m].
        corr = nearest_other(x[:rows], x, sigma)
        corr_child = nearest_other(asked, x, sigma)
        corr_share = share(corr_child, corr)  # Corr' / (Corr + Corr')
        lambda_t = 1 + self._lambda_std() * self._rng(stream=1).standard_normal(len(x))[:rows]
        accepted = lambda_t * corr_share > f_share  # f' / Corr' < lambda, normalised  [NCS.m]
        x[:rows][accepted] = asked[accepted]
        f[accepted] = fitness[accepted]
        self._successes[:rows] += accepted
        if self._generation % self._population == 0:  # an epoch is n generations  [NCS.m]
            self._adapt()

    def _lambda_std(self) -> float:
        """lambda_t ~ N(1, 0.1 - 0.1 t / T), a standard deviation, t = 0 for the first children  [NCS.m]."""
        return 0.1 - 0.1 * (self._generation - 1) / (self._budget / self._population)

    def _adapt(self) -> None:
        """The 1/5 success rule  [NCS.m]: wider after more successes than one in five, narrower after fewer.
        Compared in whole numbers, so that exactly 1/5 changes nothing."""
        fives, epoch = 5 * self._successes, self._population
        narrower = np.where(fives < epoch, self._sigma * self._r, self._sigma)
        self._sigma = np.clip(np.where(fives > epoch, self._sigma / self._r, narrower), SIGMA_MIN, SIGMA_MAX)
        self._successes = np.zeros_like(self._successes)

    def _memory(self) -> State:
        return {
            "x": self._x.copy(),
            "f": self._f.copy(),
            "sigma": self._sigma.copy(),
            "successes": self._successes.copy(),
        }

    def _remember(self, state: State, generation: int, evaluations: int) -> None:
        n = self._population
        x: Float64s = take(state, "x", np.float64, (n, self.dimensions))
        f: Float64s = take(state, "f", np.float64, (n,))
        sigma: Float64s = take(state, "sigma", np.float64, (n,))
        successes = take(state, "successes", np.int64, (n,))
        if not np.all((x >= self._lower) & (x <= self._upper)):
            raise CoppiceError("search state: 'x' leaves the box; start afresh")
        if not np.isfinite(f[: min(n, evaluations)]).all():
            raise CoppiceError("search state: 'f' must be finite; start afresh")
        if not np.all((sigma >= SIGMA_MIN) & (sigma <= SIGMA_MAX)):
            raise CoppiceError("search state: 'sigma' must be positive; start afresh")
        if not np.all((successes >= 0) & (successes <= n)):
            raise CoppiceError(
                "search state: 'successes' must lie between 0 and the population; start afresh"
            )
        self._x, self._f, self._sigma, self._successes = x, f, sigma, successes


def reflect(x: Float64s, lower: float, upper: float) -> Float64s:
    """Mirror what left the box at the bound it crossed, then clip; any shape  [NCS.m]."""
    mirrored = np.where(x < lower, 2 * lower - x, np.where(x > upper, 2 * upper - x, x))
    return np.clip(mirrored, lower, upper)


def share(a: Float64s, b: Float64s) -> Float64s:
    """a / (a + b) for a, b >= 0 of shape (n,); 0 / 0 counts as 1/2."""
    total = a + b
    return np.asarray(np.divide(a, total, out=np.full_like(total, 0.5), where=total > 0))


def bhattacharyya(x: Float64s, sigma: Float64s, others: Float64s, others_sigma: Float64s) -> Float64s:
    """Bhattacharyya distances, (m, n), of N(x_i, sigma_i^2 I) to N(others_j, others_sigma_j^2 I).

    `x` (m, d), `sigma` (m,), `others` (n, d), `others_sigma` (n,). With c = (sigma_i^2 + sigma_j^2) / 2
    per dimension: 1/8 sum (x_i - x_j)^2 / c + 1/2 sum (ln c - 1/2 (ln sigma_i^2 + ln sigma_j^2))
    [NCS.m]; cut at `FARTHEST`.
    """
    s_i, s_j = sigma[:, None], others_sigma[None, :]
    apart = x[:, None, :] - others[None, :, :]  # (m, n, d)
    with np.errstate(over="ignore"):  # cut below
        near = np.einsum("ijd,ijd->ij", apart, apart) / ((s_i**2 + s_j**2) / 2) / 8
    # ln c - 1/2 (ln sigma_i^2 + ln sigma_j^2) = ln(c / (sigma_i sigma_j)) = ln(1 + (sigma_i - sigma_j)^2 /
    # (2 sigma_i sigma_j)): the same number, never negative, and 0 for equal step sizes.
    wide = x.shape[1] / 2 * np.log1p((s_i - s_j) ** 2 / (2 * s_i * s_j))
    return np.asarray(np.minimum(near + wide, FARTHEST))


def nearest_other(x: Float64s, parents: Float64s, sigma: Float64s) -> Float64s:
    """Corr, (m,): the distance of search i, standing at x_i with its own step size, to the nearest parent
    of *another* search. `x` (m, d) with m <= n, `parents` (n, d), `sigma` (n,)  [NCS.m]."""
    m = len(x)
    distances = bhattacharyya(x, sigma[:m], parents, sigma)
    distances[np.arange(m), np.arange(m)] = FARTHEST
    return np.asarray(distances.min(axis=1))
