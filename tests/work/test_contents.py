"""Every content goes there and back; everything else is refused with `BadContent` and nothing else."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from coppice.work.contents import (
    array_from_bytes,
    array_to_bytes,
    bundle_from_bytes,
    bundle_to_bytes,
    json_from_bytes,
    json_to_bytes,
    vector_from_bytes,
)
from coppice.work.errors import BadContent
from coppice.work.limits import MAX_TEXT_BYTES
from coppice.work.sentinels import NcsOver, NcsStart, NewItr, Report, RunRecord

quick = settings(deadline=None, max_examples=100)

RUNS = st.text("0123456789abcdef", min_size=8, max_size=8)
COUNTS = st.integers(0, 10**15 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
LINES = st.text(st.characters(codec="ascii", min_codepoint=32), max_size=40)

TIMES = st.floats(1, 1e15)
NEW_ITRS = st.builds(NewItr, RUNS, COUNTS, st.none() | COUNTS)
REPORTS = st.builds(
    Report,
    run=RUNS,
    round=COUNTS,
    iterations=COUNTS,
    iteration=COUNTS,
    searches=COUNTS,
    parameters_remaining=COUNTS,
    compression=TIMES,
    accuracy=st.floats(0, 1),
    feasible=st.booleans(),
    best_compression=TIMES,
    loss=st.none() | FINITE,
)
EXITS = st.builds(NcsStart, RUNS, COUNTS, st.none())
ORDERS = (
    st.lists(st.tuples(FINITE, st.booleans()), min_size=1, max_size=40)
    .filter(lambda layers: any(searched for _, searched in layers))
    .flatmap(
        lambda layers: st.builds(
            NcsStart, RUNS, COUNTS, st.just(tuple(c for c, _ in layers)), st.just(tuple(s for _, s in layers))
        )
    )
)
NCS_OVERS = st.builds(
    NcsOver, RUNS, COUNTS, COUNTS, COUNTS, FINITE, st.text("0123456789abcdef", min_size=64, max_size=64)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.builds(
    RunRecord,
    RUNS,
    st.sampled_from(["running", "over", "failed"]),
    st.dictionaries(st.text(), JSON, max_size=4),
    st.text(),
    st.none() | st.text(),
    st.text(),
)
CONTENTS = st.one_of(NEW_ITRS, REPORTS, EXITS, ORDERS, NCS_OVERS, RECORDS)
READERS: list[Callable[[bytes, str], Any]] = [
    NewItr.from_bytes,
    Report.from_bytes,
    NcsStart.from_bytes,
    NcsOver.from_bytes,
    RunRecord.from_bytes,
    array_from_bytes,
    vector_from_bytes,
    bundle_from_bytes,
    json_from_bytes,
]


def read_or_refuse(read: Callable[[bytes, str], Any], data: bytes) -> Any:
    """The content, or None if it was refused, in one line that names the file."""
    try:
        return read(data, "the.file")
    except BadContent as error:
        complaint = str(error)
    assert complaint.startswith("the.file: ")
    assert len(complaint.splitlines()) == 1
    assert len(complaint) < 400
    return None


# Sentinels


@quick
@given(CONTENTS)
def test_a_sentinel_goes_there_and_back(content: Any) -> None:
    assert type(content).from_bytes(content.to_bytes(), "file") == content


@quick
@given(CONTENTS, st.data())
def test_a_sentinel_cut_short_is_refused_or_was_whole(content: Any, data: st.DataObject) -> None:
    whole = content.to_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    read = read_or_refuse(type(content).from_bytes, whole[:cut])
    # Only what ends the file may be missing unnoticed: a line's end, and characters of the last line.
    if read is not None:
        assert whole[cut:].count(b"\n") <= 1
        assert whole.count(b"\n") - whole[:cut].count(b"\n") <= 1


@quick
@given(st.binary(max_size=300), st.sampled_from(READERS))
def test_any_bytes_are_refused_in_one_line(data: bytes, read: Callable[[bytes, str], Any]) -> None:
    read_or_refuse(read, data)


@quick
@given(CONTENTS, st.data(), st.sampled_from(READERS))
def test_any_damage_is_refused_in_one_line(
    content: Any, data: st.DataObject, read: Callable[[bytes, str], Any]
) -> None:
    whole = bytearray(content.to_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(read, bytes(whole))


@quick
@given(st.lists(st.tuples(LINES, LINES), max_size=8), LINES, st.sampled_from(READERS[:4]))
def test_any_lines_are_refused_in_one_line(
    pairs: list[tuple[str, str]], first: str, read: Callable[[bytes, str], Any]
) -> None:
    text = "\n".join([first, *(f"{key}: {value}" for key, value in pairs)])
    read_or_refuse(read, text.encode())


def test_first_lines_say_what_the_original_jobs_said() -> None:
    assert NewItr("0123abcd", 1, 1001).to_bytes().splitlines()[0] == b"1001"
    assert NewItr("0123abcd", 1, None).to_bytes().splitlines()[0] == b"over"
    assert NcsStart("0123abcd", 1, None).to_bytes().splitlines()[0] == b"exit"
    assert NcsStart("0123abcd", 1, (0.5, -1.0), (True, False)).to_bytes().splitlines()[0] == b"0.5 -1.0"
    assert NcsOver("0123abcd", 1, 200, 20, 0.5, "00").to_bytes().splitlines()[0] == b"over"


@quick
@given(st.lists(FINITE, min_size=1, max_size=5))
def test_start_crates_from_numpy_are_written_like_python_floats(crates: list[float]) -> None:
    flags = (True,) * len(crates)
    ours = NcsStart("0123abcd", 1, tuple(crates), flags)
    theirs = NcsStart("0123abcd", 1, tuple(np.array(crates, dtype=np.float64)), flags)
    assert theirs.to_bytes() == ours.to_bytes()


@pytest.mark.parametrize(
    ("read", "text", "complaint"),
    [
        (NewItr.from_bytes, "", "empty"),
        (NewItr.from_bytes, "1001", "line 'run: ...' is missing"),
        (NewItr.from_bytes, "1e3\nround: 1\nrun: a", "the first line: expected a whole number, found '1e3'"),
        (NewItr.from_bytes, "-1\nround: 1\nrun: a", "the first line: expected a whole number"),
        (NewItr.from_bytes, "5\nround: one\nrun: a", "round: expected a whole number, found 'one'"),
        (NewItr.from_bytes, "5\nround 1\nrun: a", "expected 'key: value', found 'round 1'"),
        (NewItr.from_bytes, "٥\nround: 1\nrun: a", "the first line: expected a whole number"),
        (NewItr.from_bytes, "9" * 16 + "\nround: 1\nrun: a", "the first line: expected a whole number"),
        (NcsStart.from_bytes, "0.1 x\nlayers: 1 1\nsearch: 1\nrun: a", "the first line: expected a number"),
        (NcsStart.from_bytes, "nan\nlayers: 1\nsearch: 1\nrun: a", "expected a finite number"),
        (NcsStart.from_bytes, "0.1\nlayers: 1 1\nsearch: 1\nrun: a", "layers: expected 1 of 0 and 1"),
        (NcsStart.from_bytes, "0.1\nlayers: 0\nsearch: 1\nrun: a", "at least one 1"),
        (NcsStart.from_bytes, "\nlayers: \nsearch: 1\nrun: a", "layers: expected 0 of 0 and 1"),
        (NcsOver.from_bytes, "done\nsearch: 1\nrun: a", "the first line: expected 'over', found 'done'"),
    ],
)
def test_a_mistake_in_a_sentinel_is_named(
    read: Callable[[bytes, str], Any], text: str, complaint: str
) -> None:
    with pytest.raises(BadContent) as raised:
        read(text.encode(), "the.txt")
    assert str(raised.value).startswith("the.txt: ")
    assert complaint in str(raised.value)


def test_a_report_that_is_neither_feasible_nor_not_is_refused() -> None:
    report = Report("0123abcd", 1, 5, 5, 1, 10, 2.0, 0.9, True, 2.0, None).to_bytes()
    with pytest.raises(BadContent, match="feasible: expected True or False, found 'yes'"):
        Report.from_bytes(report.replace(b"feasible: True", b"feasible: yes"), "report.txt")


def test_a_sentinel_without_end_is_refused_before_it_is_taken_apart() -> None:
    with pytest.raises(BadContent, match="larger than"):
        NewItr.from_bytes(b"5\n" + b"x: y\n" * MAX_TEXT_BYTES, "new_itr.txt")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"run_id": "0123ABCD"}, "run_id: expected eight hexadecimal digits"),
        ({"run_id": 12345678}, "run_id: expected eight hexadecimal digits"),
        ({"state": "done"}, "state: expected running, over or failed"),
        ({"state": ["over"]}, "state: expected running, over or failed"),
        ({"run_file": None}, "run_file: expected an object"),
    ],
)
def test_a_mistake_in_run_json_is_named(change: dict[str, Any], complaint: str) -> None:
    good = {"run_id": "0123abcd", "state": "running", "run_file": {}}
    with pytest.raises(BadContent, match=f"^run.json: {complaint}"):
        RunRecord.from_bytes(json_to_bytes({**good, **change}), "run.json")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"3", b"{", b'{"a": 1} x', b"[" * 100_000, b"\xff\xfe", b"null"]
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(BadContent, match=r"^x\.json: "):
        json_from_bytes(data, "x.json")


# Arrays

NUMBERS = st.one_of(
    np_st.floating_dtypes(), np_st.integer_dtypes(), np_st.unsigned_integer_dtypes(), np_st.boolean_dtypes()
)
ARRAYS = np_st.arrays(NUMBERS, np_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


@quick
@given(ARRAYS, st.booleans())
def test_an_array_goes_there_and_back_to_the_bit(array: npt.NDArray[Any], fortran: bool) -> None:
    given_array = np.asarray(array, order="F" if fortran else "C")
    back = array_from_bytes(array_to_bytes(given_array), "x.npy")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@quick
@given(ARRAYS)
def test_numpy_itself_reads_what_we_write_and_we_what_it_writes(array: npt.NDArray[Any]) -> None:
    import io

    assert np.load(io.BytesIO(array_to_bytes(array)), allow_pickle=False).tobytes() == array.tobytes()
    for order in ("C", "F"):
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(array, order=order), allow_pickle=False)
        assert array_from_bytes(buffer.getvalue(), "x.npy").tobytes() == array.tobytes()


@quick
@given(ARRAYS, st.data())
def test_a_truncated_array_is_refused(array: npt.NDArray[Any], data: st.DataObject) -> None:
    whole = array_to_bytes(array)
    with pytest.raises(BadContent, match=r"^x\.npy: "):
        array_from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))], "x.npy")
    with pytest.raises(BadContent, match="truncated or damaged"):
        array_from_bytes(whole + b"x", "x.npy")


@quick
@given(ARRAYS, st.data())
def test_a_damaged_array_is_refused_or_has_other_numbers(
    array: npt.NDArray[Any], data: st.DataObject
) -> None:
    whole = bytearray(array_to_bytes(array))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(array_from_bytes, bytes(whole))


def npy(shape: str, descr: str = "'<f8'", body: bytes = b"", version: int = 1) -> bytes:
    """A .npy file whose header says whatever we like."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + body


LIES = [
    npy("(1000000000000,)"),
    npy("(1000000000000,)", body=b"\0" * 64),
    npy("(4611686018427387904, 4)"),
    npy("(18446744073709551616,)"),
    npy(f"(0, {10**30})"),
    npy(f"({2**40}, 0, {2**40})"),
    npy(f"({2**47}, {2**47}, 0)"),
    npy("(" + "1, " * 200 + ")", body=b"\0" * 8),
    npy("(-1,)", body=b"\0" * 8),
    npy("(-2, -4)", body=b"\0" * 64),
    npy("(True,)", body=b"\0" * 8),
    npy("(1.0,)", body=b"\0" * 8),
    npy("('a',)", body=b"\0" * 8),
    npy("5", body=b"\0" * 40),
    npy("[1]", body=b"\0" * 8),
    npy("__import__('os').getpid()", body=b"\0" * 8),
    npy("(1,)", descr="'|O'", body=b"\0" * 8),
    npy("(1,)", descr="[('a', '<f8')]", body=b"\0" * 8),
    npy("(1,)", descr="'(3,)<f8'", body=b"\0" * 24),
    npy("(1,)", descr="'<U1'", body=b"\0" * 4),
    npy("(5,)", descr="'|S0'"),
    npy("(1,)", descr="'<M8[s]'", body=b"\0" * 8),
    npy("(1,)", descr="'<c16'", body=b"\0" * 16),
    npy("(1,)", descr="'nonsense'", body=b"\0" * 8),
    npy("(1,)", descr="7", body=b"\0" * 8),
    npy("(" * 5000),
    npy("(1,)", version=3, body=b"\0" * 8),
    npy("(1,)", version=9, body=b"\0" * 8),
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    b"\x93NUMPY",
    b"PK\x03\x04",
    b"",
]


@pytest.mark.parametrize("data", LIES, ids=range(len(LIES)))
def test_a_header_that_lies_is_refused_without_taking_its_word(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadContent, match=r"^x\.npy: "):
            array_from_bytes(data, "x.npy")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # Python's own parser; what the headers promise is at least 8 TB


def test_a_pickled_array_is_not_unpickled() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadContent, match="holds object, expected plain numbers"):
        array_from_bytes(buffer.getvalue(), "solution.npy")


@quick
@given(st.lists(FINITE, max_size=20))
def test_a_vector_goes_there_and_back(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float64)
    back = vector_from_bytes(array_to_bytes(vector), "x.npy", len(values))
    assert back.tobytes() == vector.tobytes()
    back[:] = 7.0  # the reader's own, writable


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros(3, dtype=np.float32), "expected a float64 vector, found float32"),
        (np.zeros(3, dtype=">f8"), "expected a float64 vector"),
        (np.zeros((3, 1)), r"found float64 of shape \(3, 1\)"),
        (np.zeros(()), r"of shape \(\)"),
        (np.zeros(4), "expected 3 values, found 4"),
        (np.array([1.0, math.nan, 2.0]), "holds NaN or infinity"),
        (np.array([1.0, math.inf, 2.0]), "holds NaN or infinity"),
    ],
)
def test_what_is_no_vector_of_that_length_is_refused(array: npt.NDArray[Any], complaint: str) -> None:
    with pytest.raises(BadContent, match=f"^fit.npy: .*{complaint}"):
        vector_from_bytes(array_to_bytes(array), "fit.npy", 3)


# Bundles

PARTS = st.dictionaries(st.from_regex(r"\A[a-z]{1,8}\.(npy|json)\Z"), st.binary(max_size=40), max_size=4)


@quick
@given(PARTS)
def test_a_bundle_goes_there_and_back_and_is_the_same_every_time(parts: dict[str, bytes]) -> None:
    bundle = bundle_to_bytes(parts)
    assert bundle_from_bytes(bundle, "x.zip") == parts
    assert list(bundle_from_bytes(bundle, "x.zip")) == list(parts)
    assert bundle_to_bytes(parts) == bundle


def test_one_wrong_bit_anywhere_never_gives_other_parts() -> None:
    parts = {"progress.json": b'{"round": 3}', "pruner.safetensors": bytes(range(60))}
    whole = bundle_to_bytes(parts)
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            read = read_or_refuse(bundle_from_bytes, bytes(damaged))
            assert read is None or read == parts, f"bit {bit} of byte {position}"


def test_a_bundle_cut_short_or_grown_is_refused() -> None:
    whole = bundle_to_bytes({"a.npy": b"123", "b.npy": b"456"})
    for length in range(len(whole)):
        with pytest.raises(BadContent, match=r"^x\.zip: "):
            bundle_from_bytes(whole[:length], "x.zip")
    with pytest.raises(BadContent):
        bundle_from_bytes(whole + b"x", "x.zip")


def test_a_foreign_zip_is_refused() -> None:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", b"\0" * 1_000_000)
    with pytest.raises(BadContent, match="not one of Coppice's bundles"):
        bundle_from_bytes(buffer.getvalue(), "x.zip")
    many = {f"part{i}": b"" for i in range(100)}
    with pytest.raises(BadContent, match="not one of Coppice's bundles"):
        bundle_from_bytes(bundle_to_bytes(many), "x.zip")


@quick
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_json_goes_there_and_back_and_ends_with_a_newline(value: dict[str, Any]) -> None:
    data = json_to_bytes(value)
    assert json_from_bytes(data, "x.json") == value
    assert data.endswith(b"\n")
