"""Search methods by the names that run files give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from coppice.errors import CoppiceError
from coppice.search.optimizer import Given, Optimizer

if TYPE_CHECKING:
    from coppice.search.generations import GenerationalOptimizer

METHODS = ("ncs", "cmaes", "random")
"""What `make_optimizer` knows."""


def make_optimizer(method: str, **given: Unpack[Given]) -> Optimizer:
    """An optimiser by the name that the run file gives it: 'ncs', 'cmaes' or 'random'.

    Raises `CoppiceError` for an unknown method, a start that is not of shape (dimensions,) inside the box,
    bounds that are no box, a population below 2 (1 for random), or another number out of its range.
    """
    # Here and not above: only 'cmaes' should load its package.
    kind: type[GenerationalOptimizer]
    if method == "ncs":
        from coppice.search.ncs import NCS as kind
    elif method == "cmaes":
        from coppice.search.cmaes import CMAES as kind
    elif method == "random":
        from coppice.search.random_search import RandomSearch as kind
    else:
        raise CoppiceError(f"search: unknown method {method!r}; known are {', '.join(METHODS)}")
    return kind(**given)
