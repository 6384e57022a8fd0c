"""What a WebHDFS server may answer: whatever it says, a `StoreError` or a sensible answer comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coppice.store import Entry, Retry, Store, StoreError, open_store
from tests.fuzz.damage import TOKENS, damaged
from tests.store.test_hdfs_faults import file_status
from tests.support.clocks import FakeClock
from tests.support.http_server import FakeServer, Reply, fake_server

fuzz = settings(deadline=None, max_examples=60)

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1e999, float("nan"), 10**400, "", "x", "a/b", "\ud800", [], [1], {}, {"a": 1}]
)
STATES = st.fixed_dictionaries(
    {}, optional={key: ODD | st.just(value) for key, value in file_status("a").items()}
)
ANSWERS = st.one_of(
    ODD,
    st.builds(
        lambda states: {"FileStatuses": {"FileStatus": states}}, st.lists(STATES | ODD, max_size=3) | ODD
    ),
    st.builds(lambda state: {"FileStatus": state}, STATES | ODD),
    st.builds(lambda said: {"boolean": said}, ODD),
    st.builds(lambda said: {"RemoteException": said}, ODD),
    st.builds(lambda name, why: {"RemoteException": {"exception": name, "message": why}}, ODD, ODD),
).map(lambda answer: json.dumps(answer).encode())
BODIES = ANSWERS | st.sampled_from(TOKENS) | ANSWERS.flatmap(damaged)
LOCATIONS = [
    "",
    "http://",
    "http://[::1",
    "http://:0/",
    "ftp://a/b",
    "//",
    "http://a b/",
    "\\",
    "http://127.0.0.1:1/",
]


def calls(store: Store) -> list[Callable[[], object]]:
    return [
        lambda: store.list("a"),
        lambda: store.stat("a"),
        lambda: store.read("a", 1000),
        lambda: store.rename("a", "b"),
        lambda: store.delete("a"),
        lambda: store.delete_tree("a"),
        lambda: store.make_folder("a"),
        lambda: store.home.touch("a"),
        lambda: store.home.put("a", b"1"),
    ]


def try_all(server: FakeServer, first: int = 0, count: int = 9) -> None:
    store = open_store(
        f"webhdfs://anna@{server.host}/work?httpfs=0", clock=FakeClock(), retry=Retry(patience_s=0.0)
    )
    with store:
        for call in calls(store)[first : first + count]:
            try:
                answer = call()
            except StoreError:
                continue
            for entry in answer if isinstance(answer, list) else [answer]:
                if isinstance(entry, Entry):
                    assert isinstance(entry.name, str)
                    entry.name.encode()
                    assert isinstance(entry.size, int)
                    assert isinstance(entry.mtime_ms, int)


def test_any_answer_is_sensible_or_refused() -> None:
    with fake_server(lambda request: Reply()) as server:

        @fuzz
        @given(BODIES, st.sampled_from([200, 200, 200, 201, 204, 307, 403, 404, 500]), st.integers(0, 7))
        def answer(body: bytes, status: int, first: int) -> None:
            server.respond = lambda request: Reply(status, body, {"Content-Type": "application/json"})
            try_all(server, first, 2)

        answer()


# What was found


@pytest.mark.parametrize("location", LOCATIONS, ids=repr)
def test_a_redirect_to_nowhere_is_refused(location: str) -> None:
    with fake_server(lambda request: Reply(307, headers={"Location": location})) as server:
        try_all(server)


def listed(name: str) -> bytes:
    state = f'{{"pathSuffix": {name}, "type": "FILE", "length": 1, "modificationTime": 1}}'
    return f'{{"FileStatuses": {{"FileStatus": [{state}]}}}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"FileStatus": ' + b"[" * 100_000,
        b'{"FileStatus": {"type": "FILE", "length": 1e999, "modificationTime": 1}}',
        listed("5"),
        listed('"\\ud800"'),
        listed('"a/b"'),
    ],
    ids=lambda body: body[:40],
)
@pytest.mark.parametrize("status", [200, 500])
def test_these_came_out_as_something_else(body: bytes, status: int) -> None:
    with fake_server(lambda request: Reply(status, body, {"Content-Type": "application/json"})) as server:
        try_all(server)
