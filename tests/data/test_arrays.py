from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coppice.data import load_data
from coppice.errors import CoppiceError
from coppice.runfile import DataSection


def write(folder: Path, **changed: Any) -> DataSection:
    arrays: dict[str, Any] = {
        "train_x": np.arange(24, dtype=np.float64).reshape(6, 2, 2),
        "train_y": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
        "test_x": np.ones((3, 2, 2), dtype=np.uint8),
        "test_y": np.array([2, 1, 0], dtype=np.int32),
    } | changed
    for name, array in arrays.items():
        if callable(array):
            array(folder / f"{name}.npy")
        elif array is not None:
            np.save(folder / f"{name}.npy", array)
    return DataSection(name="arrays", train=str(folder / "train"), test=str(folder / "test"))


def test_arrays_become_float32_and_int64_as_they_are(tmp_path: Path) -> None:
    data = load_data(write(tmp_path))
    assert data.train_x.dtype == np.float32
    assert data.train_x[1].tolist() == [[4, 5], [6, 7]]
    assert data.train_y.dtype == np.int64
    assert data.train_y.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test_x.shape == (3, 2, 2)
    assert data.test_y.tolist() == [2, 1, 0]
    assert data.classes == 3


def truncated(path: Path) -> None:
    np.save(path, np.zeros((6, 2, 2)))
    path.write_bytes(path.read_bytes()[:-8])


def archive(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, x=np.zeros(3))


def text(path: Path) -> None:
    path.write_text("1,2,3\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.mkdir()


NAN = np.where(np.arange(24) == 5, np.nan, 1.0).reshape(6, 2, 2)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train_x", None, "train_x.npy: cannot be read (No such file"),
        ("train_x", folder, "train_x.npy: cannot be read"),
        ("train_x", truncated, "train_x.npy: truncated or damaged"),
        ("train_x", archive, "found an archive"),
        ("train_x", text, "train_x.npy: not a whole .npy file"),
        ("test_x", empty, "test_x.npy: not a whole .npy file"),
        (
            "train_x",
            np.array([[None, 1]] * 6, dtype=object),
            "train_x.npy: holds object, expected plain numbers",
        ),
        ("train_x", np.array([["a"]] * 6), "train_x.npy: holds <U1, expected plain numbers"),
        ("train_x", np.zeros(6), "expected numbers of shape (samples, ...)"),
        ("train_x", np.zeros((6, 2), dtype=np.complex64), "expected plain numbers"),
        ("train_x", NAN, "holds NaN"),
        ("train_x", np.full((6, 2, 2), 1e300), "too large"),
        ("train_x", np.zeros((5, 2, 2)), "6 labels for 5 samples"),
        ("train_x", np.zeros((6, 0)), "holds no samples"),
        ("test_x", np.zeros((3, 4)), "samples of shape (4,), but"),
        ("train_y", np.zeros(6), "expected integers of shape (samples,)"),
        ("train_y", np.zeros((6, 1), dtype=int), "expected integers of shape (samples,)"),
        ("train_y", np.array([0, 1, -1, 0, 1, 2]), "holds the label -1"),
        ("train_y", np.array([0, 1, 2**40, 0, 1, 2]), "holds the label 1099511627776"),
        ("test_y", np.array([0, 1, 3]), "label 3 does not occur"),
    ],
)
def test_mistakes_name_the_file(
    tmp_path: Path, name: str, content: Any | Callable[[Path], None], said: str
) -> None:
    section = write(tmp_path, **{name: content})
    with pytest.raises(CoppiceError) as caught:
        load_data(section)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_test_set_a_tenth_is_set_aside(tmp_path: Path) -> None:
    x, y = np.arange(60.0).reshape(30, 2), np.repeat([0, 1, 2], 10)
    np.save(tmp_path / "own_x.npy", x)
    np.save(tmp_path / "own_y.npy", y)
    section = DataSection(name="arrays", train=str(tmp_path / "own"))
    data = load_data(section)
    assert sorted(data.test_y.tolist()) == [0, 1, 2]
    assert len(data.train_y) == 27
    seen = np.concatenate([data.train_x, data.test_x])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, x.tolist()))
    assert (load_data(section).test_x == data.test_x).all()
    np.save(tmp_path / "few_x.npy", x[:10])
    np.save(tmp_path / "few_y.npy", y[:10])
    with pytest.raises(CoppiceError, match=r"too few samples to set some aside; give data\.test"):
        load_data(DataSection(name="arrays", train=str(tmp_path / "few")))
