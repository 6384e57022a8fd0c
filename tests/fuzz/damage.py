"""Damaged content of every kind, and what a reader may make of it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from coppice.errors import CoppiceError

LONGEST_S = 30.0
"""That one example may take; most take a millisecond. Of this process' own time: the machine may be busy."""

quick = settings(deadline=None, max_examples=150)
slow = settings(deadline=None, max_examples=25)

NUMBERS = ["1e999999", "-1e999999", "1" * 310, "9" * 5000, "0x" + "f" * 5000, "1_0", "٣", "NaN", "Infinity"]
DEEP = [b"[" * 5000, b'{"a":' * 5000, b"[" * 990 + b"]" * 990, b"- " * 900, b"{" * 300 + b"}" * 300]
TOKENS = [
    *(number.encode() for number in NUMBERS),
    *DEEP,
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b"\xe2\x80\xa8",
    b"\r\n",
    b"\x1b[2J",
    b"&a *a",
    b"<<: ",
    b"!!int ''",
    b"null",
    b"[]",
    b"{}",
]
"""What a text file is made worse with."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid content with up to four kinds of damage: bits, bytes, numbers, cuts, splices, repeats."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 40)))
        match draw(st.integers(0, 7)):
            case 0:
                del data[at:]
            case 1 if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 2:
                data[at:to] = draw(st.binary(max_size=12))
            case 3:
                data[at:at] = data[at:to] * draw(st.integers(1, 50))
            case 4:
                del data[at:to]
            case 5:  # a size, an offset, a count
                size = draw(st.sampled_from([2, 4, 8]))
                number = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 2**63 - 1, 2**64 - 1]))
                number = number & (256**size - 1)
                data[at : at + size] = number.to_bytes(size, draw(st.sampled_from(["little", "big"])))
            case 6:
                data[at:to] = draw(st.sampled_from(TOKENS))
            case _:
                other = draw(st.integers(0, len(data)))
                data[at:] = data[other:]
    return bytes(data)


def content(*valid: bytes) -> st.SearchStrategy[bytes]:
    """Damage to any of these valid contents, and any bytes at all."""
    return st.one_of(
        st.sampled_from(valid).flatmap(damaged),
        st.binary(max_size=200),
        st.sampled_from(TOKENS),
        st.lists(st.sampled_from(TOKENS), max_size=3).map(b"".join),
    )


def read_or_refuse(read: Callable[[], Any]) -> CoppiceError | None:
    """The refusal, in one line that is not too long; None if the content was taken. Never anything else."""
    began = time.process_time()
    try:
        read()
    except CoppiceError as error:
        complaint = str(error)
        assert len(complaint.splitlines()) == 1, complaint
        assert len(complaint) < 1000
        return error
    finally:
        assert time.process_time() - began < LONGEST_S
    return None


@contextmanager
def memory_below(most: int) -> Iterator[None]:
    """Fails if Python and numpy take more than `most` bytes at once meanwhile."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes"
