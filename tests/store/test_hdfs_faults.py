"""What a real HDFS does only on a bad day: servers that answer as the test tells them to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import pytest
from requests import PreparedRequest
from requests.auth import AuthBase

from coppice.store import PermanentStoreError, Retry, Store, StoreError, TransientStoreError, open_store
from coppice.store.hdfs import HdfsHome
from tests.support.clocks import FakeClock
from tests.support.http_server import FakeServer, Reply, Request, cuts, fake_server, refuses, says

STANDBY = refuses("StandbyException", "Operation category READ is not supported in state standby")
TOKEN = "s3cret-t0ken"


def file_status(name: str = "") -> dict[str, object]:
    return {"pathSuffix": name, "type": "FILE", "length": 1, "modificationTime": 5}


def listing(*names: str) -> Reply:
    return says({"FileStatuses": {"FileStatus": [file_status(name) for name in names]}})


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    """These replies one after the other, then the last again and again."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def store_on(*servers: FakeServer, options: str = "", patience_s: float = 60.0) -> tuple[Store, FakeClock]:
    clock = FakeClock()
    url = f"webhdfs://anna@{','.join(server.host for server in servers)}/work?httpfs=0{options}"
    return open_store(url, clock=clock, retry=Retry(patience_s=patience_s)), clock


def names(store: Store) -> list[str]:
    return [entry.name for entry in store.list()]


def test_a_standby_is_passed_over_and_the_active_one_remembered() -> None:
    with fake_server(lambda request: STANDBY) as nn1, fake_server(lambda request: listing("a")) as nn2:
        store, clock = store_on(nn1, nn2)
        assert names(store) == names(store) == names(store) == ["a"]
        assert (len(nn1.requests), len(nn2.requests)) == (1, 3)
        assert clock.slept == []
        nn1.respond, nn2.respond = nn2.respond, nn1.respond  # a failover
        assert names(store) == names(store) == ["a"]
        assert (len(nn1.requests), len(nn2.requests)) == (3, 4)


def test_a_dead_namenode_is_passed_over() -> None:
    with socket.socket() as unused, fake_server(lambda request: listing("a")) as nn2:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with open_store(f"webhdfs://anna@{host},{nn2.host}/work", clock=FakeClock()) as store:
            assert names(store) == names(store) == ["a"]


@pytest.mark.parametrize(
    "excuse",
    [
        STANDBY,
        refuses("RetriableException", "NameNode still not started"),
        refuses("SecurityException", "Failed to obtain user group information: ... StandbyException", 401),
        refuses("SafeModeException", "Name node is in safe mode"),
        refuses("IOException", "Failed to find datanode, suggest to check cluster health"),
        refuses("SomethingNewException", status=500),
        Reply(503, b"busy"),
        Reply(200, b'{"FileStatuses": {"FileStatus": [{"pathSuffix": "a", "ty'),
        Reply(200, b'{"FileStatuses": null}'),
        Reply(200, b'{"FileStatuses": {"FileStatus": [{"pathSuffix": "a"}]}}'),
        Reply(200, b'{"FileSta', {"Content-Length": "500"}, cut=True),
        Reply(404, b'{"RemoteExc', {"Content-Length": "500"}, cut=True),
        Reply(403, b'{"RemoteExc', {"Content-Type": "application/json"}),
        cuts(),
    ],
    ids=str,
)
def test_what_is_borne(excuse: Reply) -> None:
    with fake_server(in_turn(excuse, excuse, excuse, listing("a", "b"))) as server:
        store, clock = store_on(server)
        assert names(store) == ["a", "b"]
        assert len(clock.slept) == 3


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        (
            refuses("AccessControlException", "Permission denied: user=anna\n\tat java..."),
            "no permission for anna",
        ),
        (refuses("AccessControlException", "Permission denied", 500), "no permission for anna"),  # HttpFS
        (refuses("NSQuotaExceededException"), "quota"),
        (refuses("DSQuotaExceededException", status=500), "quota"),
        (refuses("SecurityException", "token expired", 401), "COPPICE_HDFS_TOKEN"),
        (refuses("InvalidToken", "token (HDFS_DELEGATION_TOKEN token 1) is expired"), "COPPICE_HDFS_TOKEN"),
        (Reply(401, b"<html>Authentication required</html>"), "kinit"),
        (refuses("FSLimitException$PathComponentTooLongException"), "shorter name"),
        (refuses("IllegalArgumentException", status=400), "IllegalArgumentException"),
        (Reply(404, b"It looks like you are making an HTTP request to a Hadoop IPC port."), "9870"),
        (Reply(200, b"<html>Log in</html>", {"Content-Type": "text/html; charset=utf-8"}), "web page"),
    ],
    ids=str,
)
def test_what_ends_at_once_with_advice(refusal: Reply, advice: str) -> None:
    with fake_server(lambda request: refusal) as server:
        store, clock = store_on(server)
        with pytest.raises(PermanentStoreError, match=advice) as caught:
            store.list()
        assert clock.slept == []
        assert "\n" not in str(caught.value)
        assert server.host in str(caught.value)


@pytest.mark.parametrize("left", [(), ("a",)])
def test_an_empty_root_that_may_not_go_stays(left: tuple[str, ...]) -> None:
    def respond(request: Request) -> Reply:
        return listing(*left) if request.operation == "LISTSTATUS" else refuses("AccessControlException")

    with fake_server(respond) as server:
        store, _ = store_on(server)
        if not left:
            assert store.delete_tree("")
            store.home.remove_root()
            return
        with pytest.raises(PermanentStoreError, match="no permission"):
            store.delete_tree("")


def test_the_folders_above_the_root_are_removed_only_if_empty() -> None:
    with fake_server(lambda request: refuses("PathIsNotEmptyDirectoryException")) as server:
        above = HdfsHome(f"webhdfs://anna@{server.host}/a/b?httpfs=0").above()
        assert above is not None
        above.remove_root()
        (request,) = server.requests
        assert (request.method, request.path, request.query["recursive"]) == (
            "DELETE",
            "/webhdfs/v1/a",
            "false",
        )
        top = above.above()
        assert top is not None
        assert top.above() is None


def test_a_rename_that_is_cut_off_in_a_failover_is_still_ours() -> None:
    """The package's own failover would ask the second NameNode, and believe its "no such source"."""
    moved = threading.Event()

    def first(request: Request) -> Reply:
        moved.set()
        return cuts()  # done, and dead before it could say so

    def second(request: Request) -> Reply:
        assert moved.is_set()
        if request.operation == "RENAME":
            return refuses("FileNotFoundException", "rename source /work/a is not found.", 404)
        if request.path.endswith("/work/claims/a"):
            return says({"FileStatus": file_status()})
        return refuses("FileNotFoundException", status=404)

    with fake_server(first) as nn1, fake_server(second) as nn2:
        store, clock = store_on(nn1, nn2)
        assert store.rename("a", "claims/a")
        assert nn1.operations == ["RENAME"]
        assert nn2.operations == ["RENAME", "GETFILESTATUS", "GETFILESTATUS"]
        assert len(clock.slept) == 1


def test_a_server_that_never_answers_is_given_up() -> None:
    over = threading.Event()

    def silent(request: Request) -> Reply:
        over.wait(30)
        return cuts()

    with fake_server(silent) as server:
        store, _ = store_on(server, options="&timeout_s=0.1", patience_s=0.5)
        with pytest.raises(TransientStoreError, match="did not answer in time"):
            store.stat("a")
        over.set()


@pytest.mark.parametrize("status", [200, 403])
def test_an_answer_that_stops_in_its_middle_is_late_and_not_cut(status: int) -> None:
    half = Reply(status, b'{"FileStat', {"Content-Length": "500"})
    with fake_server(lambda request: half) as server:
        store, _ = store_on(server, options="&timeout_s=0.1", patience_s=0.5)
        with pytest.raises(TransientStoreError, match="did not answer in time"):
            store.stat("a")


def test_a_portal_is_asked_under_its_root_and_its_redirects_followed_untouched() -> None:
    query = "op=CREATE&user.name=root&namenoderpcaddress=hdfs-nn:9000&overwrite=true&odd=%2Fa%20b+c;d"

    def portal(request: Request) -> Reply:
        assert request.path == "/webhdfs/api/v1/work/a b"
        if request.method == "PUT":
            return Reply(307, headers={"Location": f"http://{datanode.host}/webhdfs/v1/work/a%20b?{query}"})
        return Reply(307, headers={"Location": f"http://{datanode.host}/read?{query}"})

    def serve(request: Request) -> Reply:
        return Reply(201) if request.method == "PUT" else Reply(200, b"content")

    with fake_server(serve) as datanode, fake_server(portal) as server:
        store, _ = store_on(server, options="&root=/webhdfs/api/v1")
        store.home.put("a b", b"content")
        assert store.read("a b") == b"content"
        assert [request.target for request in datanode.requests] == [
            f"/webhdfs/v1/work/a%20b?{query}",
            f"/read?{query}",
        ]
        assert [request.body for request in datanode.requests] == [b"content", b""]
        assert [request.body for request in server.requests] == [b"", b""]  # content only where it belongs
        assert server.requests[0].query["overwrite"] == "true"


def test_only_the_datanodes_201_proves_a_put() -> None:
    answers = in_turn(cuts(), refuses("IOException", "pipeline broke", 500), Reply(201))

    def namenode(request: Request) -> Reply:
        if request.operation == "CREATE":
            return Reply(307, headers={"Location": f"http://{datanode.host}{request.target}"})
        return Reply(200) if request.operation == "RENAME" else says({"boolean": True})

    with fake_server(answers) as datanode, fake_server(namenode) as server:
        store, clock = store_on(server)
        assert store.create("a", b"1")
        assert len({request.path for request in datanode.requests}) == 3
        assert len(clock.slept) == 2


def test_a_content_that_breaks_off_is_read_again() -> None:
    answers = in_turn(Reply(200, b"con", {"Content-Length": "7"}, cut=True), Reply(200, b"content"))
    with fake_server(answers) as server:
        store, clock = store_on(server)
        assert store.read("a") == b"content"
        assert len(clock.slept) == 1


def test_a_refusal_that_breaks_off_is_asked_for_again() -> None:
    broken = Reply(404, b'{"RemoteExc', {"Content-Length": "500"}, cut=True)
    with fake_server(in_turn(broken, refuses("FileNotFoundException", status=404))) as server:
        store, clock = store_on(server)
        assert store.read("a") is None
        assert len(clock.slept) == 1


def test_redirects_in_circles_end() -> None:
    with fake_server(lambda request: Reply(307, headers={"Location": request.target})) as server:
        store, _ = store_on(server)
        with pytest.raises(PermanentStoreError, match="circles"):
            store.read("a")


def failures(monkeypatch: pytest.MonkeyPatch) -> Sequence[Callable[[], None]]:
    """Every way in which a request with a token may fail."""

    def against(respond: Callable[[Request], Reply]) -> Callable[[], None]:
        def run() -> None:
            with fake_server(respond) as server:
                url = f"webhdfs://{server.host}/work?httpfs=0&timeout_s=0.1"
                open_store(url, clock=FakeClock(), retry=Retry(patience_s=0.0)).create("a", b"1")

        return run

    def unreachable() -> None:
        open_store("webhdfs://127.0.0.1:1/work?httpfs=0", retry=Retry(patience_s=0.0)).create("a", b"1")

    away = {"Location": f"http://127.0.0.1:1/x?delegation={TOKEN}"}
    return (
        against(lambda request: cuts()),
        against(lambda request: refuses("InvalidToken", f"token {request.query['delegation']} is expired")),
        against(lambda request: refuses("IOException", f"what is {request.query['delegation']}?")),
        against(lambda request: Reply(307, headers=away)),
        against(lambda request: Reply(500, request.target.encode())),
        unreachable,
    )


def test_a_token_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_HDFS_TOKEN", TOKEN)
    with fake_server(lambda request: listing("a")) as server:
        assert names(open_store(f"webhdfs://anna@{server.host}/work?httpfs=0")) == ["a"]
        assert server.requests[0].query == {"op": "LISTSTATUS", "delegation": TOKEN}
    for fail in failures(monkeypatch):
        with pytest.raises(StoreError) as caught:
            fail()
        error: BaseException | None = caught.value
        while error is not None:
            assert TOKEN not in str(error)
            assert TOKEN not in repr(error)
            error = error.__cause__


def test_kerberos_without_its_packages_says_what_to_install() -> None:
    try:
        import requests_kerberos  # noqa: F401
    except ImportError:
        with pytest.raises(PermanentStoreError, match="pip install requests-kerberos"):
            open_store("webhdfs://nn/work?auth=kerberos")
    else:
        home = open_store("webhdfs://nn/work?auth=kerberos").home
        assert isinstance(home, HdfsHome)


def test_an_httpfs_that_was_not_announced_is_recognised() -> None:
    def httpfs(request: Request) -> Reply:
        if request.operation == "INSTRUMENTATION":
            return refuses("AccessControlException", "User not in HttpFSServer admin group", 401)
        if request.operation == "CREATE":
            return Reply(201)
        if request.operation == "RENAME":
            return says({"boolean": True})
        return refuses("FileNotFoundException", status=404)

    with fake_server(httpfs) as server:
        store = open_store(f"webhdfs://anna@{server.host}/work", clock=FakeClock())
        assert store.rename("a", "b")
        assert server.operations == ["INSTRUMENTATION", "GETFILESTATUS", "RENAME"]
        assert store.create("a", b"content")
        created = server.requests[3]
        assert (created.query["data"], created.body) == ("true", b"content")


def test_an_httpfs_that_does_not_know_our_groups_is_recognised() -> None:
    def httpfs(request: Request) -> Reply:
        if request.operation == "INSTRUMENTATION":
            return refuses("IOException", "No groups found for user anna", 500)
        return says({"boolean": True}) if request.operation == "RENAME" else refuses("FileNotFoundException")

    with fake_server(httpfs) as server:
        assert open_store(f"webhdfs://anna@{server.host}/work", clock=FakeClock()).rename("a", "b")


class _Ticket(AuthBase):
    """Stands in for the handshake, which wants a KDC (see tests/hdfs/kerberos.py)."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = "Negotiate ticket"
        return request


def test_only_the_server_that_was_asked_sees_who_we_are_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coppice.store.hdfs_client._Kerberos", _Ticket)

    def redirects(request: Request) -> Reply:
        if request.headers.get("authorization") != "Negotiate ticket":
            return Reply(401, headers={"WWW-Authenticate": "Negotiate"})
        if request.operation in ("RENAME", "MKDIRS", "DELETE"):
            return says({"boolean": True})
        if request.operation != "CREATE":
            return refuses("FileNotFoundException", status=404)
        if "data" in request.query:
            return Reply(201)
        to = other.host if "elsewhere" in request.path else server.host
        return Reply(307, headers={"Location": f"http://{to}{request.target}&data=true"})

    with fake_server(redirects) as server, fake_server(lambda request: Reply(201)) as other:
        store = open_store(f"webhdfs://{server.host}/work?auth=kerberos&httpfs=0", clock=FakeClock())
        assert store.create("a", b"content")
        assert b"content" in [request.body for request in server.requests]
        store = open_store(f"webhdfs://{server.host}/elsewhere?auth=kerberos&httpfs=0", clock=FakeClock())
        assert store.create("a", b"content")
        assert [request.body for request in other.requests] == [b"content"]
        assert "authorization" not in other.requests[0].headers
