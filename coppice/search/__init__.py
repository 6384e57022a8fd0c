"""Ask/tell search methods on arrays: ncs, and its rivals cmaes and random."""

from coppice.search.methods import METHODS, make_optimizer
from coppice.search.optimizer import Optimizer

__all__ = ["METHODS", "Optimizer", "make_optimizer"]
