"""The samples that a network is trained on and judged by."""

from coppice.data.dataset import Dataset
from coppice.data.load import load_data

__all__ = ["Dataset", "load_data"]
