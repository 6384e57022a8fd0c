"""Metric logs: the format, what is kept, and how they are written to a store that may fail."""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coppice.status.metric_logs import MetricLogs
from coppice.status.metrics import BadMetricLog, MetricLog, log_path, read_curves
from coppice.store import Retry, Store, open_store
from coppice.store.memory import shared_memory_home
from tests.support.failing_home import Call, FailingHome, Fault

LOSS = log_path("loss")


def text(store: Store, path: str = LOSS) -> str:
    return (store.read(path) or b"").decode()


def silent(line: str) -> None:
    raise AssertionError(f"said: {line}")


# The format


def test_the_example_of_the_document() -> None:
    log = MetricLog(("Main axis name", "graph1 name", "graph2 name"))
    for line in ((1, 0.2, 0.2), (2, 0.3, 0.25), (3, 0.4, 0.4)):
        log.add(line)
    assert log.to_bytes().decode() == (
        "Main axis name, graph1 name, graph2 name\n1, 0.2, 0.2\n2, 0.3, 0.25\n3, 0.4, 0.4\n"
    )


@pytest.mark.parametrize("names", [("x",), ("x", "a,b"), ("x", "a\nb"), ("", "a"), ("x", " ")])
def test_names_that_no_header_can_hold(names: tuple[str, ...]) -> None:
    with pytest.raises(BadMetricLog):
        MetricLog(names)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_names_that_no_log_can_have(name: str) -> None:
    with pytest.raises(BadMetricLog):
        log_path(name)


@pytest.mark.parametrize("values", [(1.0,), (1, 2, 3), (math.nan, 1), (math.inf, 1)])
def test_lines_that_no_log_can_hold(values: tuple[float, ...]) -> None:
    with pytest.raises(BadMetricLog):
        MetricLog(("x", "y")).add(values)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(st.tuples(st.integers(0, 10**9), NUMBERS, NUMBERS), unique_by=lambda line: line[0]))
def test_what_is_written_is_read(lines: list[tuple[int, float, float]]) -> None:
    log = MetricLog(("x", "a", "b"))
    for line in sorted(lines):
        log.add(line)
    read = read_curves(log.to_bytes(), "here")
    assert read.names == ("x", "a", "b")
    assert read.values[:, 0].tolist() == [line[0] for line in sorted(lines)]
    assert read.values[:, 1].tolist() == pytest.approx([line[1] for line in sorted(lines)], rel=1e-5)


def test_x_that_goes_back_cuts_the_log_there() -> None:
    log = MetricLog(("x", "y"))
    for x in (10, 20, 30, 40):
        log.add((x, 1))
    log.add((25, 2))
    assert log.lines == [(10, 1), (20, 1), (25, 2)]


@given(st.integers(1, 500), st.integers(2, 40))
def test_a_long_log_is_thinned_evenly(lines: int, most: int) -> None:
    log = MetricLog(("x", "y"), max_lines=most)
    for x in range(lines):
        log.add((x, -x))
    assert len(log.lines) <= most
    assert log.lines == [(x, -x) for x in range(0, lines, log.stride)]
    assert log.stride == 1 or len(log.lines) > most / 2 - 1


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "here: no metric log"),
        (b"\x89PNG\r\n", "here: no metric log"),
        (b"x\n1\n", "here: no metric log"),
        (b"x, y\n1, 2\n3\n", "here, line 3: 1 values for 2 names"),
        (b"x, y\n1, two\n", "here, line 2: expected numbers, found '1, two'"),
    ],
)
def test_what_is_no_metric_log(data: bytes, complaint: str) -> None:
    with pytest.raises(BadMetricLog) as caught:
        read_curves(data, "here")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("last", [b"3", b"3, 4, 5", b"3, -", b"", b"3."])
def test_a_last_line_that_is_being_written_is_passed_over(last: bytes) -> None:
    assert read_curves(b"x, y\n1, 2\n" + last, "here").values.tolist() == [[1, 2]]


def test_gaps_are_read_as_gaps() -> None:
    assert read_curves(b"x,y\r\n1,\r\n\r\n2,nan\r\n3,5\r\n", "here").values[:, 1].tolist()[2] == 5


@given(st.binary(max_size=300))
def test_nothing_else_is_raised_for_any_file(data: bytes) -> None:
    with suppress(BadMetricLog):
        read_curves(data, "here")


# Writing


def test_a_reader_sees_whole_lines_at_any_moment(tmp_path: Path) -> None:
    logs = MetricLogs.open(str(tmp_path), silent)
    path, over = tmp_path / LOSS, threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not over.is_set():
            if path.exists():
                seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for step in range(1, 3000):
            logs.add("loss", {"step": step, "loss": 1 / step})
            if step % 20 == 0:
                logs.flush()
        logs.close(10)
    finally:
        over.set()
        reader.join()
    assert len(set(seen)) > 5
    whole = path.read_bytes()
    for content in seen:
        assert content.endswith(b"\n")
        assert whole.startswith(content)


def test_columns_cannot_change(tmp_path: Path) -> None:
    logs = MetricLogs.open(str(tmp_path), silent)
    logs.add("loss", {"step": 1, "loss": 1})
    with pytest.raises(BadMetricLog, match="its columns are step, loss"):
        logs.add("loss", {"step": 2, "accuracy": 1})
    logs.close(10)


def test_without_a_place_nothing_is_written() -> None:
    logs = MetricLogs.open(None, silent)
    logs.add("loss", {"step": 1, "loss": 1})
    logs.flush()
    logs.close(10)


def crash_and_go_on(name: str, resume: bool, again_from: int) -> list[str]:
    """Lines 1 to 5, a crash, then again from there to 7; every state that a reader can see."""
    seen = []
    for first, last in ((1, 5), (again_from, 7)):
        logs = MetricLogs(Store(shared_memory_home(name)), silent, resume=resume, background=False)
        for step in range(first, last + 1):
            logs.add("loss", {"step": step, "loss": step * step})
            seen.append(text(open_store(f"memory:{name}")))
    return seen


@pytest.mark.parametrize("again_from", [3, 6])
def test_a_log_that_is_gone_on_with_has_every_line_once(again_from: int) -> None:
    seen = crash_and_go_on(f"resumed{again_from}", True, again_from)
    assert seen[-1] == "step, loss\n1, 1\n2, 4\n3, 9\n4, 16\n5, 25\n6, 36\n7, 49\n"
    assert all(after.startswith(before) for before, after in pairwise(seen))


def test_a_log_that_is_told_whole_again_never_shows_less() -> None:
    seen = crash_and_go_on("told-again", False, 1)
    assert seen[-1] == "step, loss\n1, 1\n2, 4\n3, 9\n4, 16\n5, 25\n6, 36\n7, 49\n"
    assert all(after.startswith(before) for before, after in pairwise(seen))


def test_a_log_of_other_columns_is_replaced() -> None:
    store = open_store("memory:other-columns")
    store.create(LOSS, b"epoch, loss\n1, 2\n")
    logs = MetricLogs(store, silent, background=False)
    logs.add("loss", {"step": 9, "loss": 1})
    assert text(store) == "step, loss\n9, 1\n"


# Stores that fail


def failing(name: str, fault: Fault | None) -> tuple[FailingHome, Store, list[Fault | None]]:
    faults = [fault]

    def plan(call: Call) -> Fault | None:
        return faults[0] if call.operation == "put" else None

    home = FailingHome(shared_memory_home(name), plan)
    return home, Store(home, retry=Retry(patience_s=0.0)), faults


def test_a_store_that_refuses_is_one_line_and_no_error() -> None:
    said: list[str] = []
    home, store, _ = failing("refuses", Fault.PERMANENT)
    logs = MetricLogs(store, said.append, background=False)
    for step in range(5):
        logs.add("loss", {"step": step, "loss": 1})
    logs.close(10)
    assert len(said) == 1
    assert said[0].startswith("metric logs: none are written any more: ")
    assert home.operations.count("put") == 1


def test_a_store_that_comes_back_gets_all_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coppice.status.metric_logs.TRY_AGAIN_S", 0.05)
    said: list[str] = []
    _, store, faults = failing("comes-back", Fault.BEFORE)
    logs = MetricLogs(store, said.append)
    for step in range(5):
        logs.add("loss", {"step": step, "loss": 1})
    complained = threading.Event()
    while not said and not complained.wait(0.01):
        pass
    faults[0] = None
    logs.close(10)
    assert len(said) == 1
    assert "connection refused" in said[0]
    assert len(text(store).splitlines()) == 6


@pytest.mark.parametrize("damaged", ["iteration, loss\n1, 2\n, 3\n", "iteration, loss\nnan, 2\n", "\0"])
def test_a_damaged_log_ends_nothing(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / LOSS
    path.parent.mkdir(parents=True)
    path.write_text(damaged)
    said: list[str] = []
    logs = MetricLogs.open(str(tmp_path), said.append)
    logs.add("loss", {"iteration": 5, "loss": 1})
    logs.flush()
    logs.close(10)
    assert path.read_text() == "iteration, loss\n5, 1\n"
    assert not said


def test_adding_never_waits_for_the_store() -> None:
    slow = threading.Event()
    faults = 0

    def plan(call: Call) -> Fault | None:
        nonlocal faults
        if call.operation == "put":
            faults += 1
            slow.wait(30)
        return None

    store = Store(FailingHome(shared_memory_home("slow"), plan))
    logs = MetricLogs(store, silent)
    for step in range(2000):
        logs.add("loss", {"step": step, "loss": 1})
    assert faults <= 1  # all of it while the first write was still under way
    slow.set()
    logs.close(10)
    assert len(text(store).splitlines()) == 2001
