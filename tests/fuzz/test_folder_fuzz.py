"""A work folder in which anything may hold anything: the board, the status, the report, and the limits."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from coppice.cli import main
from coppice.errors import CoppiceError
from coppice.report import write_report
from coppice.roles import context as roles_context
from coppice.roles.context import Board, RunOver, read_failure, read_record
from coppice.roles.history import SearchHistory, read_histories
from coppice.roles.master import read_result
from coppice.roles.rounds import read_rounds
from coppice.roles.status import read_status
from coppice.roles.status_view import status_view
from coppice.runfile import parse_run_file
from coppice.show import result_lines, result_table
from coppice.store import Store, open_store
from coppice.store.memory import MemoryHome
from coppice.work import limits, names
from coppice.work.checkpoints import Checkpoints
from coppice.work.contents import array_to_bytes, bundle_to_bytes
from coppice.work.errors import BadContent, RunFailed, RunRefused
from coppice.work.generation import holds, prepare, publish, read_fit, read_solutions, repair
from coppice.work.names import GenerationId
from coppice.work.presence import announce_evaluator, read_role_file, take_office
from coppice.work.sentinels import NcsOver, NcsStart, NewItr, Report, RunRecord
from tests.fuzz.damage import NUMBERS, content, memory_below, read_or_refuse
from tests.roles.threads import context
from tests.test_report import RUN_ID, Made

fuzz = settings(deadline=None, max_examples=60)
GENERATION = GenerationId(RUN_ID, 3, 1)


def whole_folder() -> dict[str, bytes]:
    """Every file that a run leaves, one of each kind."""
    made = Made(Store(MemoryHome()))
    made.finished()
    made.under_way(3, 10)
    made.record("running")
    store = made.store
    store.replace(names.NEW_ITR, NewItr(RUN_ID, 3, 500).to_bytes())
    store.replace(names.REPORT, Report(RUN_ID, 2, 5, 5, 1, 10, 2.0, 0.9, True, 2.0, None).to_bytes())
    store.replace(names.NCS_START, NcsStart(RUN_ID, 3, (0.5, 1.0, 0.1), (True, True, False)).to_bytes())
    store.replace(names.NCS_OVER, NcsOver(RUN_ID, 2, 20, 2, 0.5, "0" * 64).to_bytes())
    store.replace(names.CRATES, array_to_bytes(np.zeros(3)))
    store.replace(f"{names.ASIDE}/solution_x_t1.txt", b"try 1: it is dead\n")
    publish(prepare(store, 2), GENERATION, np.ones((2, 3)))
    store.rename(GENERATION.path("i00_t1_waiting"), GENERATION.path("i00_t1_claimed_by_host-1"))
    store.replace(GENERATION.solution(1).fit_file, array_to_bytes(np.ones(4)))
    world = context(lambda: store)
    announce_evaluator(store, world.clock, world.me)
    take_office(store, world.clock, world.me, "master", lambda: None, lambda line: None)
    tree: Any = store.home
    return dict(tree._tree.files)


WHOLE = whole_folder()
EMPTY_NOTE = {f"{names.ASIDE}/note.txt": b" \n"}


def folder(files: dict[str, bytes]) -> Store:
    store = Store(MemoryHome())
    for path, data in files.items():
        store.home.put(path, data)
    return store


def show_status(store: Store) -> None:
    status = read_status(store)
    Console(file=io.StringIO(), width=100).print(status_view(status))
    json.dumps(status.to_json(), allow_nan=False)


def show_result(store: Store) -> None:
    result = read_result(store)
    result_lines(result, "")
    Console(file=io.StringIO(), width=100).print(result_table(result))


def test_the_whole_folder_is_read() -> None:
    for read in (show_status, show_result, write_report):
        read(folder(WHOLE))


@fuzz
@given(st.data())
def test_the_status_of_any_folder(data: st.DataObject) -> None:
    files = dict(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(files)))
        files[path] = data.draw(content(files[path]))
    read_or_refuse(lambda: show_status(folder(files)))
    read_or_refuse(lambda: show_result(folder(files)))


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        10**16,
        10**299,
        1e308,
        -1e308,
        5e-324,
        "x",
        "5.0",
        "[/bold]",
        "\x1b[2J\n",
        [],
        {},
        [1],
    ]
)


def in_json(draw: Callable[[Any], Any], data: bytes) -> bytes:
    """A JSON object with one value changed or removed."""
    whole: Any = json.loads(data)
    at = whole
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not (isinstance(at[key], dict | list) and at[key]) or draw(st.booleans()):
            break
        at = at[key]
    if draw(st.integers(0, 3)):
        at[key] = draw(VALUES)
    else:
        del at[key]
    return json.dumps(whole).encode()


JSON_FILES = sorted(path for path in WHOLE if path.endswith(".json"))


@fuzz
@given(st.data())
def test_the_status_where_somebody_has_edited_json(data: st.DataObject) -> None:
    files = dict(WHOLE)
    path = data.draw(st.sampled_from(JSON_FILES))
    files[path] = in_json(data.draw, files[path])
    read_or_refuse(lambda: show_status(folder(files)))
    read_or_refuse(lambda: show_result(folder(files)))
    read_or_refuse(lambda: read_rounds(folder(files)))


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_the_report_of_any_folder(data: st.DataObject) -> None:
    """Few examples, since each draws all figures; most damage is found before, by the readers' own tests."""
    files = dict(WHOLE)
    if data.draw(st.booleans()):
        del files[names.RESULT_JSON]
    path = data.draw(st.sampled_from(sorted(files)))
    edited = path.endswith(".json") and data.draw(st.booleans())
    files[path] = in_json(data.draw, files[path]) if edited else data.draw(content(files[path]))
    read_or_refuse(lambda: write_report(folder(files)))


@fuzz
@given(st.data())
def test_the_board_raises_only_what_it_says(data: st.DataObject) -> None:
    kinds: dict[str, Any] = {
        names.NEW_ITR: NewItr,
        names.REPORT: Report,
        names.NCS_START: NcsStart,
        names.NCS_OVER: NcsOver,
    }
    store = folder(WHOLE)
    said: list[str] = []
    board = Board(context(lambda: store, say=said), RUN_ID)
    for _ in range(3):
        for name in data.draw(st.lists(st.sampled_from([*kinds, names.CRATES]), max_size=2)):
            store.replace(name, data.draw(content(WHOLE[name])))
        if data.draw(st.integers(0, 5)) == 0:
            store.replace(names.RUN, data.draw(content(WHOLE[names.RUN])))
        if data.draw(st.integers(0, 9)) == 0:
            store.replace(names.FAILED, data.draw(st.binary(max_size=20)))
        try:
            board.look()
        except (RunOver, RunFailed, RunRefused, BadContent):
            return
        for name, kind in kinds.items():
            found = board.get(name, kind)
            assert found is None or found.run == RUN_ID
    for name in (*kinds, names.CRATES):
        board.ensure_bytes(name, WHOLE[name])
        assert store.read(name) == WHOLE[name]
    assert all(len(line.splitlines()) == 1 for line in said)


# What is too large is damaged, and stays out of memory


HUGE = b"0" * (limits.MAX_TEXT_BYTES + 1)


def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test should need four gigabytes; the limits go where they are used."""
    import sys

    for name in [name for name in vars(limits) if name.startswith("MAX_")]:
        for module in [
            m for key, m in sys.modules.items() if key.startswith("coppice.") and hasattr(m, name)
        ]:
            monkeypatch.setattr(module, name, 2000)


def test_a_sentinel_that_is_too_large_is_waited_for_and_written_again() -> None:
    store, said = folder({**WHOLE, names.NCS_START: HUGE, names.CRATES: HUGE}), list[str]()
    board = Board(context(lambda: store, say=said), RUN_ID)
    for _ in range(2):
        board.look()
        assert board.get(names.NCS_START, NcsStart) is None
    assert said == [
        "role: ncs_start.txt: larger than the 1048576 bytes that such a file may have; waiting for it to be "
        "written again"
    ]
    for name in (names.NCS_START, names.CRATES):
        board.ensure_bytes(name, WHOLE[name])
    board.look()
    assert board.get(names.NCS_START, NcsStart) is not None
    assert store.read(names.CRATES) == WHOLE[names.CRATES]


def test_what_else_is_too_large_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    huge = b"0" * 3000
    record, fit = names.round_record(1), GENERATION.solution(1).fit_file
    store = folder({**WHOLE, record: huge, fit: huge, GENERATION.solutions_file: huge, names.FAILED: huge})
    for path in (names.RUN, names.history(1), names.RESULT_JSON, names.ACCURACY):
        store.replace(path, huge)
    store.replace(f"{names.ROLES}/master_0009.json", huge)
    reads: list[Callable[[], object]] = [
        lambda: read_record(store),
        lambda: read_rounds(store),
        lambda: read_histories(store),
        lambda: read_solutions(store, GENERATION),
        lambda: read_fit(store, GENERATION.solution(1), np.ones(3)),
        lambda: read_result(store),
    ]
    for read in reads:
        with pytest.raises(BadContent, match=r"larger than|allowed"):
            read()
    assert read_role_file(store, f"{names.ROLES}/master_0009.json") is None
    assert "larger than" in (read_failure(store) or "")
    assert not holds(store, GENERATION, b"")
    assert "solutions.npy published again" in repair(store, GENERATION, np.ones((2, 3)))


def test_of_two_checkpoints_the_one_that_is_too_large_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    store, said = Store(MemoryHome()), list[str]()
    checkpoints = Checkpoints(store, "ncs", said.append)
    checkpoints.save({"a": b"1"})
    store.replace("ncs/checkpoint_000002.zip", bundle_to_bytes({"a": bytes(5000)}))
    assert checkpoints.load() == {"a": b"1"}
    assert "going on from the checkpoint before it" in said[0]
    with pytest.raises(CoppiceError, match="the network is too large"):
        checkpoints.save({"a": bytes(5000)})


# What was found


def test_checkpoints_of_foreign_names_do_not_count() -> None:
    """Digits of another script, other widths, and a number after which no name was known any more."""
    store = Store(MemoryHome())
    for name in ("٠٠٠٠٠٩", "0000000007", "999999999999"):
        store.replace(f"ncs/checkpoint_{name}.zip", b"")
    checkpoints = Checkpoints(store, "ncs", lambda line: None)
    assert checkpoints.load() is None
    checkpoints.save({"a": b"1"})
    again = Checkpoints(store, "ncs", lambda line: None)
    assert again.load() == {"a": b"1"}
    again.save({"a": b"2"})
    assert Checkpoints(store, "ncs", lambda line: None).load() == {"a": b"2"}


def test_an_office_whose_term_has_nine_nines_is_taken_over() -> None:
    store = Store(MemoryHome())
    store.replace(f"{names.ROLES}/terms/master_999999999", b"")
    world = context(lambda: store)

    def pause() -> None:
        raise AssertionError("waits for nobody")

    first = take_office(store, world.clock, world.me, "master", pause, lambda line: None)
    first.end()
    take_office(store, world.clock, world.me, "master", pause, lambda line: None).beat(at_once=True)


@pytest.mark.parametrize(
    "more",
    [
        EMPTY_NOTE,
        {"[/bold]": b""},
        {"\x1b[2Jname": b""},
        {names.round_record(3): WHOLE[names.round_record(1)].replace(b'"round": 1', b'"round": "5.0"')},
        {
            names.round_record(3): WHOLE[names.round_record(1)].replace(
                b'"accuracy": 0.98', b'"accuracy": NaN'
            )
        },
        {
            names.round_record(3): WHOLE[names.round_record(1)].replace(
                b'"accuracy": 0.98', b'"accuracy": "0.9"'
            )
        },
        {f"{names.ROLES}/evaluator_x.json": b'{"host": "[/]", "worker": "\\u001b[2J", "pid": true}'},
        {f"{names.ROLES}/evaluator_x.json": b'{"host": "\\ud800"}'},
    ],
    ids=str,
)
def test_the_status_survives(more: dict[str, bytes]) -> None:
    read_or_refuse(lambda: show_status(folder({**WHOLE, **more})))


@pytest.mark.parametrize(
    "progress",
    [b'{"search": "x"}', b'{"search": [1]}', b"[" * 9999, b'{"search": 3, "budget": 9, "fitness": 0}'],
)
def test_the_status_survives_a_checkpoint_of_another_kind(progress: bytes) -> None:
    history = SearchHistory(3, 3).to_bytes()
    store = folder(
        {
            **WHOLE,
            names.NCS + "/checkpoint_000009.zip": bundle_to_bytes(
                {"progress.json": progress, "history.zip": history}
            ),
        }
    )
    show_status(store)


@pytest.mark.parametrize("key", ["compression", "best_compression", "accuracy", "loss"])
@pytest.mark.parametrize("value", [0, -1e308, 1e308, 5e-324])
def test_the_report_survives_a_round_of_any_size(key: str, value: float) -> None:
    record = json.loads(WHOLE[names.round_record(1)])
    files = {**WHOLE, names.round_record(1): json.dumps({**record, key: value}).encode()}
    del files[names.RESULT_JSON]
    read_or_refuse(lambda: write_report(folder(files)))


def test_the_report_survives_a_fitness_of_nothing() -> None:
    told = SearchHistory(1, 3)
    for fitness in (0.0, -1.0, 1e308, 5e-324):
        told.add(1, np.array([1e308, -1e308, 0.0]), fitness, 1.0, "x")
    read_or_refuse(lambda: write_report(folder({**WHOLE, names.history(1): told.to_bytes()})))


def test_why_a_run_failed_leaves_room_in_run_json() -> None:
    store = folder({names.FAILED: "ü".encode() * 500_000})
    reason = read_failure(store)
    assert reason == "ü" * roles_context._MAX_REASON
    record = RunRecord(
        RUN_ID, "failed", parse_run_file({"name": "x"}, "x").model_dump(mode="json"), "1", reason
    )
    assert len(record.to_bytes()) < limits.MAX_TEXT_BYTES


@pytest.mark.parametrize("number", NUMBERS)
def test_the_command_line_ends_in_one_line(
    number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(str(tmp_path / "work")) as store:
        for path, data in WHOLE.items():
            store.replace(path, data)
        store.replace(names.RUN, WHOLE[names.RUN].replace(b'"seed": 1', f'"seed": {number}'.encode()))
    with pytest.raises(SystemExit) as caught, memory_below(50_000_000):
        main(["status", str(tmp_path / "work")])
    assert caught.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
