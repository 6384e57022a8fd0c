"""Submitting and waiting, against a server that behaves as OpenPAI does and as it should not."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from coppice.openpai import submission
from coppice.openpai.api import Api
from coppice.openpai.client import Client
from coppice.openpai.convert import convert, parse_v1
from coppice.openpai.errors import ClusterError, JobFileError, NoSuchJob
from coppice.openpai.jobs import JobFile, read_jobs
from coppice.openpai.plan import make_plan
from coppice.openpai.render import render_v1, render_v2
from coppice.openpai.settings import find_cluster
from coppice.openpai.submission import submit, wait
from coppice.openpai.text import from_yaml
from tests.openpai.server import Pai, error, token_of
from tests.openpai.test_convert import SEED_JOBS
from tests.support.clocks import FakeClock
from tests.support.http_server import FakeServer, Reply, cuts, fake_server

DIGITS = Path(__file__).resolve().parents[2] / "jobs/digits.yaml"
HDFS = "webhdfs://namenode:5070/shared/work"
SECRET = "s3cr3t-delegation-token"


def v2_job(**options: Any) -> JobFile:
    text = render_v2(make_plan(DIGITS, **{"storage": "nfs", **options}))
    return JobFile("coppice.yaml", "v2", from_yaml(text, "coppice.yaml"))


def v1_jobs() -> list[JobFile]:
    files = render_v1(make_plan(DIGITS, work=HDFS))
    return [JobFile(name, "v1", json.loads(text)) for name, text in files.items()]


def posts(server: FakeServer) -> int:
    return len([request for request in server.requests if request.method == "POST"])


# What goes well


def test_a_job_is_submitted_once(api: Api, pai: Pai, server: FakeServer, said: list[str]) -> None:
    job = v2_job()
    assert submit(api, job) == submission.Submitted(job.name, "WAITING", new=True)
    assert pai.jobs["anna", job.name].config == job.content
    for _ in range(3):
        assert submit(api, job).new is False
    assert posts(server) == 1
    assert said == []


def test_job_json(client: Client, pai: Pai, server: FakeServer) -> None:
    api = Api(client, "v1")
    for job in [*v1_jobs(), *v1_jobs()]:
        submit(api, job)
    assert posts(server) == 4
    assert sorted(name for _, name in pai.jobs) == sorted(job.name for job in v1_jobs())
    assert {request.path for request in server.requests if request.method == "POST"} == {
        "/rest-server/api/v1/user/anna/jobs"
    }


@pytest.mark.parametrize("original", SEED_JOBS, ids=lambda job: job["jobName"])
def test_the_original_jobs_are_taken_as_they_are_and_converted(
    original: dict[str, Any], client: Client, pai: Pai
) -> None:
    assert submit(Api(client, "v1"), JobFile("seed", "v1", original)).new
    assert pai.jobs.pop(("anna", original["jobName"])).config == original
    converted = convert(parse_v1(original, "seed")).job
    assert submit(Api(client, "v2"), JobFile("seed", "v2", converted)).new


def test_secrets_come_from_the_environment_of_whoever_submits(api: Api, pai: Pai) -> None:
    job = v2_job(secrets=("COPPICE_HDFS_TOKEN",))
    with pytest.raises(JobFileError, match="COPPICE_HDFS_TOKEN is not set in this environment"):
        job.with_secrets({})
    with pytest.raises(JobFileError, match="COPPICE_HDFS_TOKEN holds spaces, quotes or <>"):
        job.with_secrets({"COPPICE_HDFS_TOKEN": "it's"})
    filled = job.with_secrets({"COPPICE_HDFS_TOKEN": SECRET})
    submit(api, filled)
    assert pai.jobs["anna", job.name].config["secrets"] == {"COPPICE_HDFS_TOKEN": SECRET}
    assert submit(api, filled).new is False  # what the cluster shows has ****** for it


# Doubtful answers


@pytest.mark.parametrize("fate", ["500", "404", "cut"])
@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_an_error_though_the_job_exists(
    fate: str, generation: str, client: Client, pai: Pai, server: FakeServer, said: list[str]
) -> None:
    job = v2_job() if generation == "v2" else v1_jobs()[0]
    pai.upcoming = [fate]
    done = submit(Api(client, job.generation), job)
    assert (done.name, done.new) == (job.name, True)
    assert posts(server) == 1
    (line,) = said
    assert line.endswith(f"; looking whether {job.name} is there")


@pytest.mark.parametrize("fate", ["lost-500", "lost-cut"])
def test_an_error_and_the_job_is_not_there(
    fate: str, api: Api, pai: Pai, server: FakeServer, clock: FakeClock
) -> None:
    pai.upcoming = [fate, fate]
    assert submit(api, v2_job()).new
    assert posts(server) == 3
    assert clock.slept


def test_a_job_that_shows_only_after_a_while(
    api: Api, pai: Pai, server: FakeServer, clock: FakeClock
) -> None:
    job = v2_job()
    pai.upcoming = ["500"]
    before = pai.respond
    hidden = [3]

    def respond(request: Any) -> Reply:
        if request.method == "GET" and hidden[0] > 0:
            hidden[0] -= 1
            return error(404, "NoJobError", "not yet")
        return before(request)

    server.respond = respond
    assert submit(api, job).new
    assert posts(server) == 1


def test_or_so_late_that_it_is_submitted_again(api: Api, pai: Pai, server: FakeServer) -> None:
    """The second submission is answered 409: the first was heard after all."""
    pai.upcoming = ["500"]
    before = pai.respond

    def respond(request: Any) -> Reply:
        if request.method == "GET" and posts(server) < 2:
            return error(404, "NoJobError", "not yet")
        return before(request)

    server.respond = respond
    assert submit(api, v2_job()).new
    assert posts(server) == 2
    assert len(pai.jobs) == 1


def test_a_server_that_never_takes_it(api: Api, pai: Pai, server: FakeServer) -> None:
    pai.upcoming = ["lost-500"] * 99
    with pytest.raises(ClusterError, match=r"answers 500 .* is not there after 5 tries; submit again later"):
        submit(api, v2_job())
    assert posts(server) == submission.TRIES


# Names that are there


def test_somebody_submits_the_same_at_this_moment(api: Api, pai: Pai, server: FakeServer) -> None:
    job = v2_job()
    submit(api, job)
    before = pai.respond
    blind = [1]

    def respond(request: Any) -> Reply:
        if request.method == "GET" and blind and blind.pop():
            return error(404, "NoJobError", "not yet")
        return before(request)

    server.respond = respond
    assert submit(api, job).new is False
    assert posts(server) == 2


def test_another_job_of_that_name_is_no_success(api: Api, pai: Pai) -> None:
    job = v2_job()
    submit(api, job)
    other = replace(job, content={**job.content, "jobRetryCount": 3})
    with pytest.raises(ClusterError, match=f"anna has another job of the name {job.name}"):
        submit(api, other)


@pytest.mark.parametrize("state", ["FAILED", "STOPPED"])
def test_a_job_that_has_failed_is_submitted_under_the_next_name(state: str, api: Api, pai: Pai) -> None:
    job = v2_job()
    submit(api, job)
    pai.jobs["anna", job.name].states = [state]
    with pytest.raises(ClusterError, match=f"{job.name} is there and {state}.*submit --again"):
        submit(api, job)
    assert submit(api, job, again=True).name == f"{job.name}-2"
    assert submit(api, job, again=True).new is False  # which is alive: harmless
    pai.jobs["anna", f"{job.name}-2"].states = [state]
    assert submit(api, job, again=True).name == f"{job.name}-3"
    assert submission.newest(api, job.name) == f"{job.name}-3"


def test_a_job_that_succeeded_is_done(api: Api, pai: Pai) -> None:
    job = v2_job()
    submit(api, job)
    pai.jobs["anna", job.name].states = ["SUCCEEDED"]
    for again in (False, True):
        assert submit(api, job, again) == submission.Submitted(job.name, "SUCCEEDED", new=False)


# Refusals, each with a line


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ClusterError) as raised:
        call()
    line = str(raised.value)
    assert "\n" not in line
    assert token_of("anna") not in line
    return line


def test_400_no_such_virtual_cluster(api: Api) -> None:
    line = refused(lambda: submit(api, v2_job(virtual_cluster="moon")))
    assert "has no such virtual cluster (NoVirtualClusterError: Virtual cluster moon is not found.)" in line


def test_400_invalid_protocol(api: Api) -> None:
    job = v2_job()
    wrong = replace(job, content={k: v for k, v in job.content.items() if k != "prerequisites"})
    assert "refuses (400, InvalidProtocolError: " in refused(lambda: submit(api, wrong))


def test_401(server: FakeServer, clock: FakeClock) -> None:
    client = Client(find_cluster(f"http://{server.host}", token=token_of("nobody")), clock, print)
    for call in (lambda: submit(Api(client, "v2"), v2_job()), lambda: Api(client, "v2").list()):
        line = refused(call)
        assert "does not accept the token (UnauthorizedUserError: " in line
        assert "make an application token" in line
    client.close()


def test_403_virtual_cluster_of_others(api: Api) -> None:
    assert "does not allow anna to do this (ForbiddenUserError: " in refused(
        lambda: submit(api, v2_job(virtual_cluster="gpu"))
    )


def test_403_job_of_others(client: Client, api: Api, server: FakeServer, clock: FakeClock) -> None:
    ben = Client(find_cluster(f"http://{server.host}", token=token_of("ben")), clock, print)
    job = v2_job()
    submit(Api(ben, "v2"), job)
    assert api.get(f"ben~{job.name}").user == "ben"
    assert "does not allow anna to do this" in refused(lambda: api.stop(f"ben~{job.name}"))
    ben.close()


def test_404_no_such_storage(api: Api, pai: Pai) -> None:
    line = refused(lambda: submit(api, v2_job(storage="moon")))
    assert "has no such storage (NoStorageError: Storage moon is not found.)" in line
    assert pai.jobs == {}


def test_404_no_such_job(api: Api) -> None:
    with pytest.raises(NoSuchJob, match="NoJobError: Job anna~moon is not found"):
        api.get("moon")
    assert api.find("moon") is None


def test_429_is_waited_for_as_told(
    api: Api, pai: Pai, clock: FakeClock, said: list[str], server: FakeServer
) -> None:
    pai.submissions_an_hour = 1
    submit(api, v2_job())
    before = pai.respond

    def respond(request: Any) -> Reply:
        if sum(clock.slept) >= 7 + 7:
            pai.submissions_an_hour = 60
        return before(request)

    server.respond = respond
    assert submit(api, v2_job(evaluators=7)).new
    assert clock.slept == [7.0, 7.0]
    assert len(said) == 2
    assert "asks to wait 7 s: too many requests (OpenPAI allows 600 calls a minute" in said[0]


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [(None, 60.0), ("0", 1.0), ("3.5", 3.5), ("soon", 60.0), ("Tue, 14 Nov 2023 22:31:30 GMT", 90.0)],
)
def test_429_however_it_is_told(
    header: str | None, expected_s: float, api: Api, pai: Pai, clock: FakeClock, server: FakeServer
) -> None:
    pai.retry_after = header
    pai.calls_a_minute = 0
    before = pai.respond

    def respond(request: Any) -> Reply:
        pai.calls_a_minute = 600 if clock.slept else 0
        return before(request)

    server.respond = respond
    assert api.list() == []
    assert clock.slept == [expected_s]  # it is 22:30:00 in the tests


def test_429_for_longer_than_anybody_waits(api: Api, pai: Pai, clock: FakeClock) -> None:
    pai.retry_after, pai.calls_a_minute = "86400", 0
    assert "asks to wait 86400 s: too many requests" in refused(api.list)
    assert clock.slept == []


def test_500_is_borne_for_a_while(api: Api, pai: Pai, clock: FakeClock, said: list[str]) -> None:
    pai.troubles = [error(500, "UnknownError", "etcd"), error(503, "", "gateway"), cuts()]
    assert api.list() == []
    assert len(said) == 1
    assert "answers 500 (UnknownError: etcd); trying again for up to 60 s" in said[0]
    pai.troubles = [error(500, "UnknownError", "etcd")] * 999
    assert "answers 500 (UnknownError: etcd) (tried for 60 s)" in refused(api.list)
    assert 59.9 < sum(clock.slept) < 130


def test_nobody_there(clock: FakeClock) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    client = Client(
        find_cluster(f"http://127.0.0.1:{port}", token=token_of("anna")), clock, lambda line: None
    )
    assert f"http://127.0.0.1:{port} refuses the connection" in refused(Api(client, "v2").list)
    client.close()


def test_a_certificate_that_is_not_trusted(clock: FakeClock) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with fake_server(lambda request: Reply(), context) as other:
        client = Client(find_cluster(f"https://{other.host}", token=token_of("anna")), clock, print)
        assert "certificate that is not trusted; name its authority in REQUESTS_CA_BUNDLE" in refused(
            Api(client, "v2").list
        )
        client.close()
    assert clock.slept == []


def test_a_host_that_nobody_knows(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    client = Client(find_cluster("https://pai.example.org", token=token_of("anna")), clock, print)
    assert "https://pai.example.org: no such host name; check --url" in refused(Api(client, "v2").list)
    assert clock.slept == []
    client.close()


def test_the_address_of_something_else(clock: FakeClock) -> None:
    page = Reply(200, b"<html>hello</html>", {"Content-Type": "text/html"})
    answers = {
        "answers with a web page; is --url the address of OpenPAI's portal?": page,
        "answers 404": Reply(404, b"<html>no</html>", {"Content-Type": "text/html"}),
        "sends us on to https://elsewhere/; give that as --url": Reply(
            301, b"", {"Location": "https://elsewhere/"}
        ),
        "the list of jobs is none; check --url": Reply(200, b"{}", {"Content-Type": "application/json"}),
    }
    for complaint, reply in answers.items():
        with fake_server(lambda request, reply=reply: reply) as other:  # type: ignore[misc]
            client = Client(find_cluster(f"http://{other.host}", token=token_of("anna")), clock, print)
            assert complaint in refused(Api(client, "v2").list)
            assert clock.slept == []
            client.close()


def test_an_answer_that_breaks_off_is_asked_for_again(api: Api, pai: Pai) -> None:
    pai.troubles = [Reply(200, b'[{"name": "di', {"Content-Type": "application/json"})]
    assert api.list() == []


def test_a_server_that_repeats_secrets_is_not_quoted(api: Api, pai: Pai) -> None:
    token = token_of("anna")
    pai.troubles = [error(400, "UnknownError", f"bad header: Bearer {token}")]
    assert "bad header: Bearer ***" in refused(api.list)
    api.client.hide([SECRET])
    pai.troubles = [error(400, "InvalidProtocolError", f"secrets: {SECRET}")]
    assert SECRET not in refused(api.list)


def test_what_netrc_holds_is_not_sent(
    server: FakeServer, tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ben password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    api.list()
    assert server.requests[-1].headers["authorization"] == f"Bearer {token_of('anna')}"


# Stopping and waiting


def test_stop(client: Client, pai: Pai) -> None:
    for api, job in ((Api(client, "v2"), v2_job()), (Api(client, "v1"), v1_jobs()[0])):
        submit(api, job)
        pai.troubles = [cuts()]  # asked again: twice does no harm
        api.stop(job.name)
        assert pai.jobs["anna", job.name].states == ["STOPPING", "STOPPED"]


def test_wait_shows_the_states_until_the_end(api: Api, pai: Pai, clock: FakeClock) -> None:
    job = v2_job(evaluators=2)
    submit(api, job)
    pai.jobs["anna", job.name].states = ["WAITING", "WAITING", "RUNNING", "RUNNING", "SUCCEEDED"]
    shown: list[str] = []
    assert wait([(api, job.name)], shown.append) == 0
    assert [line.partition(" (")[0] for line in shown] == [
        f"{job.name}: {state}" for state in ("WAITING", "RUNNING", "SUCCEEDED")
    ]
    assert "(master RUNNING, outer RUNNING, ncs RUNNING, evaluator 2 RUNNING)" in shown[1]
    assert clock.slept == [10.0] * 4


@pytest.mark.parametrize("state", ["FAILED", "STOPPED"])
def test_wait_says_how_it_ended(state: str, api: Api, pai: Pai) -> None:
    job = v2_job()
    submit(api, job)
    pai.jobs["anna", job.name].states = ["RUNNING", "UNKNOWN", "STOPPING", state]
    shown: list[str] = []
    assert wait([(api, job.name)], shown.append) == 1
    assert f"{job.name}: {state}" in shown[-1]
    assert ("MinFailedTaskCount 1 in the TaskRole [outer]" in shown[-1]) == (state == "FAILED")


def test_wait_for_four_jobs(client: Client, pai: Pai) -> None:
    api = Api(client, "v1")
    jobs = v1_jobs()
    for number, job in enumerate(jobs):
        submit(api, job)
        pai.jobs["anna", job.name].states = ["RUNNING"] * (number + 1) + ["SUCCEEDED"]
    shown: list[str] = []
    assert wait([(api, job.name) for job in jobs], shown.append) == 0
    assert len(shown) == 8
    pai.jobs["anna", jobs[0].name].states = ["RUNNING"]
    pai.jobs["anna", jobs[1].name].states = ["FAILED"]
    assert wait([(api, job.name) for job in jobs], shown.append) == 1  # the others would wait for ever


def test_wait_survives_an_outage_and_a_job_that_is_not_seen_yet(api: Api, pai: Pai, clock: FakeClock) -> None:
    job = v2_job()
    submit(api, job)
    pai.jobs["anna", job.name].states = ["SUCCEEDED"]
    pai.troubles = [error(404, "NoJobError", "not yet"), error(500, "UnknownError", "down"), cuts()]
    assert wait([(api, job.name)], lambda line: None) == 0


def test_wait_for_a_job_that_is_nowhere(api: Api, clock: FakeClock) -> None:
    with pytest.raises(NoSuchJob):
        wait([(api, "moon")], lambda line: None)
    assert sum(clock.slept) >= submission.UNSEEN_S


# Files


def test_jobs_are_read_as_they_were_written(tmp_path: Path) -> None:
    for name, text in render_v1(make_plan(DIGITS, work=HDFS)).items():
        (tmp_path / name).write_text(text)
    assert sorted(job.name for job in read_jobs([tmp_path])) == sorted(job.name for job in v1_jobs())
    (tmp_path / "coppice.yaml").write_text(v2_job().body())
    with pytest.raises(JobFileError, match="holds job JSON"):
        read_jobs([tmp_path])
    assert read_jobs([tmp_path / "coppice.yaml"])[0].content == v2_job().content


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (
            "a.yaml",
            DIGITS.read_text(),
            "no job of OpenPAI's; a run file becomes one by: coppice openpai render",
        ),
        ("a.yaml", "apiVersion: batch/v1\nkind: Job", "this is for Kubernetes: kubectl apply -f"),
        ("a.yaml", "protocolVersion: 2\nname: a.b\ntaskRoles: {}", "name: 'a.b'; letters, digits"),
        ("a.yaml", "protocolVersion: 3\nname: a", "not a job of protocol version 2"),
        ("a.yaml", "a: [", "a.yaml, line 1: not valid YAML"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON (nested too deeply)"),
        ("a.json", '{"jobName": "a"}', "image: Field required; this is no job JSON"),
        ("a.json", "[]", "no job of OpenPAI's"),
        ("a.json", " " * (1 << 21), "larger than"),
    ],
)
def test_files_that_are_no_jobs(name: str, text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(JobFileError) as raised:
        read_jobs([tmp_path / name])
    assert complaint in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


def test_folders_and_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="no job in this folder"):
        read_jobs([tmp_path])
    with pytest.raises(JobFileError, match="cannot be read"):
        read_jobs([tmp_path / "no.yaml"])
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(JobFileError, match="not readable as text"):
        read_jobs([tmp_path / "a.json"])
    (tmp_path / "a.json").write_text(json.dumps([SEED_JOBS[0], SEED_JOBS[0]]))
    with pytest.raises(JobFileError, match="two jobs have the name"):
        read_jobs([tmp_path / "a.json"])
