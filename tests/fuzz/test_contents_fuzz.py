"""Sentinels, arrays, bundles, JSON and names of the work folder."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coppice.roles import outer, searcher
from coppice.roles.history import SearchHistory
from coppice.work import names
from coppice.work.contents import (
    array_from_bytes,
    array_to_bytes,
    bundle_from_bytes,
    bundle_to_bytes,
    json_from_bytes,
    json_to_bytes,
    matrix_from_bytes,
    vector_from_bytes,
)
from coppice.work.errors import BadContent
from coppice.work.sentinels import NcsOver, NcsStart, NewItr, Report, RunRecord
from tests.fuzz.damage import NUMBERS, content, memory_below, quick, read_or_refuse

RUN = "0123abcd"


def history() -> SearchHistory:
    told = SearchHistory(1, 2)
    for i in range(4):
        told.add(1 + i // 2, np.array([0.5, i]), 0.5 + i, 0.9, f"host-{i}")
    return told


NCS_PROGRESS = b'{"search": 1, "budget": 9, "generation": 2, "evaluations": 4, "fitness": 0.5, "over": false}'
REPORT = Report(RUN, 1, 5, 5, 1, 10, 2.0, 0.9, True, 2.0, None)
OUTER_PROGRESS = json_to_bytes(
    {
        "round": 1,
        "searches": 1,
        "until": None,
        "report": {key: getattr(REPORT, key) for key in Report.__slots__ if key != "run"},
        "seconds": 1.5,
    }
)
READERS: dict[str, tuple[Callable[[bytes, str], Any], bytes]] = {
    "new_itr": (NewItr.from_bytes, NewItr(RUN, 1, 500).to_bytes()),
    "report": (Report.from_bytes, REPORT.to_bytes()),
    "ncs_start": (NcsStart.from_bytes, NcsStart(RUN, 1, (0.5, 1e-300), (True, False)).to_bytes()),
    "ncs_over": (NcsOver.from_bytes, NcsOver(RUN, 1, 20, 2, 0.5, "0" * 64).to_bytes()),
    "run": (RunRecord.from_bytes, RunRecord(RUN, "over", {"name": "x"}, "1", "why", "now").to_bytes()),
    "array": (array_from_bytes, array_to_bytes(np.arange(6, dtype=np.float32).reshape(2, 3))),
    "vector": (vector_from_bytes, array_to_bytes(np.arange(3.0))),
    "matrix": (matrix_from_bytes, array_to_bytes(np.ones((2, 2)))),
    "bundle": (bundle_from_bytes, bundle_to_bytes({"a.json": b"{}", "b.npy": b"12345678"})),
    "json": (json_from_bytes, json_to_bytes({"a": [1, 2.5, None, True, "x"], "b": {"c": -1}})),
    "history": (lambda data, name: SearchHistory.from_bytes(data, name, 1), history().to_bytes()),
    "ncs progress": (lambda data, _: searcher.read_progress({"progress.json": data}), NCS_PROGRESS),
    "outer progress": (lambda data, _: outer.read_progress(data), OUTER_PROGRESS),
}


@pytest.mark.parametrize("kind", READERS)
@quick
@given(st.data())
def test_any_damage_is_refused_with_bad_content(kind: str, data: st.DataObject) -> None:
    read, valid = READERS[kind]
    read(valid, "file")
    error = read_or_refuse(lambda: read(data.draw(content(valid)), "file"))
    assert error is None or isinstance(error, BadContent)


@quick
@given(st.data())
def test_a_bundle_of_damaged_arrays_is_no_history(data: st.DataObject) -> None:
    """The bundle's checksums hide the parts from the fuzzer above."""
    parts = bundle_from_bytes(history().to_bytes(), "x")
    name = data.draw(st.sampled_from(sorted(parts)))
    parts[name] = data.draw(content(*parts.values()))
    bundle = bundle_to_bytes(parts)
    error = read_or_refuse(lambda: SearchHistory.from_bytes(bundle, "x", 1).best())
    assert error is None or isinstance(error, BadContent)


# Names

NAMES = [
    "0123abcd_s0001_g0001",
    "solution_0123abcd_s0001_g0001_i00.npy",
    "fit_solution_0123abcd_s0001_g0001_i00.npy",
    "i00_t1_waiting",
    "i05_t1_claimed_by_host-1",
    "i05_t1_f0.0213_a0.984_by_host-1",
    "i05_t5_aside_by_host-1",
    "weights_s0001.safetensors",
    "round_0001.json",
]


@quick
@given(st.sampled_from(NAMES) | st.text(max_size=60), st.data())
def test_any_name_is_known_or_foreign(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name)))
    worse = data.draw(st.sampled_from([*NUMBERS, "٣", "\0", "\ud800", "_", ".", "e5", "9" * 12]))
    for each in (name, name[:at] + worse + name[at:], name[:at] + worse, worse + name[at:]):
        for parse in (names.parse_generation, names.parse_solution, names.parse_token, names.parse_weights):
            parse(each)
        names.parse_round(each)
        names.is_own(each)


# What was found


def npy(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def test_a_shape_of_thousands_of_digits_can_be_complained_about() -> None:
    """Python does not write such a number out, and did not when the complaint was made."""
    with pytest.raises(BadContent, match="impossible shape"):
        array_from_bytes(npy("(0x" + "f" * 5000 + ",)"), "x.npy")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 400 + "}",
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1, "a": 2}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": ' + "[" * 100 + "]" * 100 + "}",
        '{"a": ' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=lambda text: text[:20],
)
def test_json_that_python_takes_and_nothing_else_could_use_is_refused(text: str) -> None:
    with pytest.raises(BadContent, match=r"^x: ") as caught:
        json_from_bytes(text.encode(), "x")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("generation.npy", np.array(1)),
        ("generation.npy", np.array([1.0, np.nan, 1.0, 1.0])),
        ("fitness.npy", np.ones((4, 1))),
        ("fitness.npy", np.array([0.5, np.nan, 0.5, 0.5])),
        ("accuracy.npy", np.array(0.5)),
        ("solutions.npy", np.full((4, 2), np.inf)),
        ("solutions.npy", np.ones((4, 2), dtype=np.int64)),
    ],
    ids=str,
)
def test_a_history_with_a_column_of_another_kind_is_refused(name: str, array: Any) -> None:
    parts = bundle_from_bytes(history().to_bytes(), "x")
    with pytest.raises(BadContent):
        SearchHistory.from_bytes(bundle_to_bytes({**parts, name: array_to_bytes(array)}), "x", 1)


@pytest.mark.parametrize(
    "text", [b"{}", b'{"search": "x"}', b'{"search": [1], "budget": 1}', b"[" * 5000, b""]
)
def test_progress_of_another_kind_is_refused(text: bytes) -> None:
    with pytest.raises(BadContent):
        searcher.read_progress({"progress.json": text})


def test_digits_of_another_script_are_no_number() -> None:
    text = NcsStart(RUN, 1, (0.5,), (True,)).to_bytes().replace(b"0.5", "٠.٥".encode())
    with pytest.raises(BadContent, match="expected a number"):
        NcsStart.from_bytes(text, "ncs_start.txt")


def test_a_zip_that_lists_a_million_parts_is_refused_before_they_are_taken_apart() -> None:
    """zipfile makes an object of half a kilobyte of each 46 bytes."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    listed = (entry + b"x") * 200_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(listed), 0, 0)
    with memory_below(2 * len(listed)), pytest.raises(BadContent, match="list of parts"):
        bundle_from_bytes(listed + end, "x.zip")


def test_parts_that_share_their_bytes_are_refused() -> None:
    """Sixteen times one part of four megabytes."""
    size, count = 4 << 20, 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("0", bytes(size))
        first = bundle.infolist()[0]
        for _ in range(1, count):
            bundle.filelist.append(first)
    with memory_below(4 * size), pytest.raises(BadContent):
        bundle_from_bytes(buffer.getvalue(), "x.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_not_unpacked(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as bundle:
        bundle.writestr("progress.json", bytes(50_000_000))
    with memory_below(1_000_000), pytest.raises(BadContent):
        bundle_from_bytes(buffer.getvalue(), "x.zip")


@pytest.mark.parametrize("field", [slice(18, 22), slice(22, 26)], ids=["packed", "unpacked"])
@pytest.mark.parametrize("size", [0, 1, 2**31, 2**32 - 1])
def test_a_part_that_says_it_is_huge_is_not_believed(field: slice, size: int) -> None:
    whole = bytearray(bundle_to_bytes({"a": b"12345678"}))
    central = whole.index(b"PK\1\2")
    for start in (0, central + 2):
        whole[start + field.start : start + field.stop] = size.to_bytes(4, "little")
    with memory_below(1_000_000):
        try:
            assert bundle_from_bytes(bytes(whole), "x.zip") == {"a": b"12345678"}  # zipfile saw through it
        except BadContent:
            pass
