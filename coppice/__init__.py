"""Coppice prunes neural networks by evolution, spread over a cluster by files in one shared folder."""

__version__ = "0.1.0"
