"""From the run file's `data:` section to samples."""

from __future__ import annotations

from coppice.data.arrays import load_arrays
from coppice.data.dataset import Dataset
from coppice.data.digits import load_digits
from coppice.data.mnist import load_mnist
from coppice.errors import CoppiceError
from coppice.runfile import DataSection


def load_data(section: DataSection) -> Dataset:
    """The samples that a run file names. Raises `CoppiceError` saying which file is missing or wrong."""
    if section.name == "digits":
        return load_digits()
    if section.name == "mnist":
        return load_mnist(section.folder)
    if section.train is None:
        raise CoppiceError(
            "data.train must be given for data.name: arrays; <train>_x.npy and <train>_y.npy are read"
        )
    return load_arrays(section.train, section.test)
