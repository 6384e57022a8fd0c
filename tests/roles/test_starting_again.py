"""The same run, started again: what may have changed meanwhile, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coppice.roles.context import Stopped, declare_failure, read_record, wait_for_run
from coppice.roles.master import master
from coppice.store import Store, open_store
from coppice.work import names
from coppice.work.errors import RunFailed
from tests.roles.threads import context, run_all, small_run


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """A work folder in memory of this test's own."""
    return lambda: open_store(f"memory:{request.node.name}")


def start_master(opened: Callable[[], Store], **sections: object) -> None:
    """Open the run, or go on with it, and stop at the first wait."""
    own = context(opened, "master")
    own.stopping = lambda: opened().stat(names.NEW_ITR) is not None
    opened().delete(names.NEW_ITR)
    with pytest.raises(Stopped):
        master(own, small_run(**sections))


@pytest.mark.parametrize("failed", [False, True])
def test_roles_go_by_what_was_changed_and_may_be(opened: Callable[[], Store], failed: bool) -> None:
    start_master(opened, evaluators={"device": "cuda"})
    first = read_record(opened())
    if failed:
        declare_failure(opened(), "outer", "there is no cuda here")
        with pytest.raises(RunFailed):
            master(context(opened), small_run(evaluators={"device": "cuda"}))
    start_master(opened, evaluators={"device": "cpu"}, work="elsewhere")
    record, run = wait_for_run(context(opened))
    assert first is not None
    assert (record.run_id, record.state, record.reason) == (first.run_id, "running", None)
    assert run == small_run(evaluators={"device": "cpu"}, work="elsewhere")


def test_what_stands_of_a_finished_run_is_left_as_it_was(opened: Callable[[], Store]) -> None:
    run_all(opened, small_run())
    before = opened().read(names.RUN)
    master(context(opened), small_run(evaluators={"count": 7}))
    assert opened().read(names.RUN) == before


@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_a_failure_without_words_is_told_in_words(opened: Callable[[], Store], content: bytes) -> None:
    start_master(opened)
    opened().replace(names.FAILED, content)
    with pytest.raises(RunFailed, match=r"^failed\.txt is empty$"):
        master(context(opened), small_run())
    record = read_record(opened())
    assert record is not None
    assert (record.state, record.reason) == ("failed", "failed.txt is empty")
