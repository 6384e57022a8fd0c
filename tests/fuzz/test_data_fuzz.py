"""Samples and weights of the user's own: idx, .npy and safetensors files; and what the search keeps."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coppice.data.arrays import load_arrays
from coppice.data.mnist import read_idx
from coppice.errors import CoppiceError
from coppice.search import make_optimizer
from coppice.search.optimizer import Optimizer
from coppice.work.contents import array_from_file
from tests.data.idx_files import idx_bytes
from tests.fuzz.damage import content, memory_below, quick, read_or_refuse

fuzz = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
IDX = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


@fuzz
@given(data=content(IDX), inside=content(gzip.decompress(IDX)))
def test_any_idx_file_is_refused_or_read(tmp_path: Path, data: bytes, inside: bytes) -> None:
    for each in (data, gzip.compress(inside, 1)):
        (tmp_path / "x.gz").write_bytes(each)
        read_or_refuse(lambda: read_idx(tmp_path / "x.gz", 3))


@fuzz
@given(x=content(npy(np.ones((3, 2), np.float32))), y=content(npy([0, 1, 1])))
def test_any_arrays_are_refused_or_read(tmp_path: Path, x: bytes, y: bytes) -> None:
    for name, good, bad in (("x", npy(np.ones((3, 2))), x), ("y", npy([0, 1, 1]), y)):
        (tmp_path / f"good_{name}.npy").write_bytes(good)
        (tmp_path / f"bad_{name}.npy").write_bytes(bad)
    read_or_refuse(lambda: load_arrays(str(tmp_path / "bad"), str(tmp_path / "good")))
    read_or_refuse(lambda: load_arrays(str(tmp_path / "good"), str(tmp_path / "bad")))


# What was found


def test_an_idx_file_of_nothing_times_everything(tmp_path: Path) -> None:
    head = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 0, 2**32 - 1)
    (tmp_path / "x.gz").write_bytes(gzip.compress(head))
    with pytest.raises(CoppiceError, match=r"x\.gz"):
        read_idx(tmp_path / "x.gz", 3)


def test_a_gzip_bomb_is_given_up_at_the_limit(tmp_path: Path) -> None:
    """A gigabyte in a megabyte; the limit is a hundred."""
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(8 << 20), 1) * 128)
    with memory_below(300_000_000), pytest.raises(CoppiceError, match="not an idx file"):
        read_idx(tmp_path / "x.gz", 3)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", npy([1.0]))
    return buffer.getvalue()


def promise(shape: str, descr: str = "'<f8'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "data",
    [b"PK\3\4", archive(), promise("(1000000000000,)"), promise("(1,)", "'|O'"), promise("(" * 5000), b"."],
    ids=["zip", "npz", "promises", "objects", "brackets", "pickle"],
)  # fmt: skip
def test_what_is_no_array_is_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("x", "y"):
        (tmp_path / f"a_{name}.npy").write_bytes(data)
    with memory_below(20_000_000), pytest.raises(CoppiceError, match=r"a_x\.npy"):
        load_arrays(str(tmp_path / "a"), str(tmp_path / "a"))


@quick
@given(st.booleans(), st.lists(st.integers(0, 4), max_size=3))
def test_an_array_of_the_users_is_read_as_numpy_reads_it(fortran: bool, shape: list[int]) -> None:
    import tempfile

    array = np.asarray(np.arange(float(np.prod(shape))).reshape(shape), order="F" if fortran else "C")
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, array)
        file.flush()
        read = array_from_file(file.name, "x")
        assert read.shape == array.shape
        assert np.array_equal(read, np.load(file.name, allow_pickle=False))


# Search states


def optimizer(method: str) -> Optimizer:
    return make_optimizer(
        method,
        start=np.array([1.0, 2.0]),
        lower=0.0,
        upper=10.0,
        population=4,
        evaluations=18,
        sigma=None,
        seed=3,
    )


@pytest.mark.parametrize("method", ["ncs", "cmaes", "random"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_state_is_refused_or_gone_on_with(method: str, data: st.DataObject) -> None:
    search = optimizer(method)
    for _ in range(data.draw(st.integers(0, 4))):
        rows = search.ask()
        search.tell(rows.sum(axis=1))
    state = search.state()
    name = data.draw(st.sampled_from(sorted(state)))
    array = state[name]
    if array.size and data.draw(st.booleans()):
        numbers = (
            [0, 1, -1, 5, 2**62, -(2**63)] if array.dtype.kind in "iu" else [0.0, -1.0, 1e308, np.nan, np.inf]
        )
        with np.errstate(over="ignore"):
            changed = np.array(data.draw(st.sampled_from(numbers))).astype(array.dtype)
        array.flat[data.draw(st.integers(0, array.size - 1))] = changed
    else:
        state[name] = np.array(data.draw(st.sampled_from([0, 1.5, [1], [[1.0]], b"x", [b"[" * 5000]])))

    def go_on() -> None:
        fresh = optimizer(method)
        fresh.restore(state)
        while not fresh.done:
            fresh.tell(fresh.ask().sum(axis=1))

    read_or_refuse(go_on)


# What was found


@pytest.mark.parametrize("method", ["ncs", "cmaes", "random"])
def test_a_spent_budget_does_not_hide_a_million_billion_generations(method: str) -> None:
    search = optimizer(method)
    while not search.done:
        search.tell(search.ask().sum(axis=1))
    state = search.state()
    state["generation"] = np.array(10**15)
    with pytest.raises(CoppiceError, match="cannot be"):
        optimizer(method).restore(state)


def test_settings_of_brackets_are_refused() -> None:
    state = optimizer("ncs").state()
    state["settings"] = np.frombuffer(b"[" * 100_000, dtype=np.uint8)
    with pytest.raises(CoppiceError, match="settings cannot be read"):
        optimizer("ncs").restore(state)
