"""Ask/tell search methods on arrays: ncs, and its rivals cmaes and random."""

from coppice.search.optimizer import METHODS, Optimizer, make_optimizer

__all__ = ["METHODS", "Optimizer", "make_optimizer"]
