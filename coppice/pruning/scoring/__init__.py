"""Judging solutions: the plain scorer, which says what is right, and the fast one, which says the same."""

from coppice.pruning.scoring.fast import FastScorer
from coppice.pruning.scoring.plain import PlainScorer
from coppice.pruning.scoring.reference import Reference

__all__ = ["FastScorer", "PlainScorer", "Reference"]
