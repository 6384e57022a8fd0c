"""From the run file's `data:` section to samples."""

from __future__ import annotations

from coppice.data.arrays import load_arrays
from coppice.data.dataset import Dataset
from coppice.data.digits import load_digits
from coppice.data.mnist import load_mnist
from coppice.runfile import DataSection


def load_data(section: DataSection) -> Dataset:
    """The samples that a run file names. Raises `CoppiceError` saying which file is missing or wrong."""
    if section.name == "digits":
        return load_digits()
    if section.name == "mnist":
        return load_mnist(section.folder)
    assert section.train is not None  # the section has seen to it
    return load_arrays(section.train, section.test)
