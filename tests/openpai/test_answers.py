"""Answers that no server should give, and what becomes of them: a line for the user, or another try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coppice.openpai.api import Api
from coppice.openpai.client import Client
from coppice.openpai.errors import ClusterError, JobFileError
from coppice.openpai.jobs import read_jobs
from coppice.openpai.settings import find_cluster
from coppice.openpai.show import job_view, jobs_table
from coppice.openpai.submission import submit
from tests.openpai.server import Pai, error, token_of
from tests.openpai.test_submission import posts, v2_job
from tests.support.clocks import FakeClock
from tests.support.http_server import FakeServer, Reply, Request, fake_server, says

JSON = {"Content-Type": "application/json"}


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(ClusterError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "broken",
    [
        Reply(200, b'{"message"', {**JSON, "Content-Length": "100"}, cut=True),
        Reply(200, b'{"message"', {**JSON, "Content-Encoding": "gzip"}),
    ],
    ids=["half", "damaged"],
)
def test_a_broken_body_says_nothing_of_what_was_done(
    broken: Reply, api: Api, pai: Pai, server: FakeServer
) -> None:
    pai.troubles = [broken]
    assert api.list() == []
    respond = server.respond

    def after_taking(request: Request) -> Reply:
        reply = respond(request)
        return broken if request.method == "POST" else reply

    server.respond = after_taking
    assert submit(api, v2_job()).new
    assert (len(pai.jobs), posts(server)) == (1, 1)


def test_json_without_end_is_asked_for_again(api: Api, pai: Pai) -> None:
    pai.troubles = [Reply(200, b"[" * 100_000, JSON)]
    assert api.list() == []


@pytest.mark.parametrize("answer", [None, {}, [], "x", {"error": "log in first"}])
def test_what_is_no_job_is_not_taken_for_one(answer: Any, api: Api, pai: Pai, server: FakeServer) -> None:
    pai.troubles = [says(answer)]
    assert "is no job; check --url, and --v1" in refused(submit, api, v2_job())
    assert posts(server) == 0


@pytest.mark.parametrize("time", [10**400, 1e300, float("inf"), float("nan"), -1, "yesterday"])
def test_times_that_are_none(time: Any, api: Api, pai: Pai) -> None:
    submit(api, v2_job())
    said = {"name": "a", "jobStatus": {"state": "FAILED", "createdTime": time, "completedTime": time}}
    pai.troubles = [says(said), says([{"name": "a", "createdTime": time}])]
    job = api.get("a")
    assert (job.created_s, job.ended_s) == (None, None)
    job_view(job, "page")
    jobs_table(api.list())


def test_an_address_of_a_log_that_is_none(client: Client) -> None:
    assert "as the address of a log" in refused(client.text, "http://[bad/")


def test_a_date_that_no_calendar_has(api: Api, pai: Pai, server: FakeServer) -> None:
    pai.troubles = [Reply(429, b"", {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"})]
    assert api.list() == []


@pytest.mark.parametrize("base", ["https://pai.example.org", "https://pai.example.org/sub"])
def test_a_portal_that_is_elsewhere_is_named_as_url_takes_it(base: str, clock: FakeClock) -> None:
    with fake_server(lambda request: Reply(301, b"", {"Location": base + request.target})) as other:
        client = Client(find_cluster(f"http://{other.host}", token=token_of("anna")), clock, print)
        assert refused(Api(client, "v2").list).endswith(f"sends us on to {base}; give that as --url")
        client.close()


def test_a_page_to_log_in_is_no_url(clock: FakeClock) -> None:
    with fake_server(lambda request: Reply(302, b"", {"Location": "/login"})) as other:
        client = Client(find_cluster(f"http://{other.host}", token=token_of("anna")), clock, print)
        assert refused(Api(client, "v2").list).endswith("sends us on to /login; check --url")
        client.close()


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 70}.org"])
def test_hosts_that_no_name_server_knows(host: str, clock: FakeClock) -> None:
    client = Client(find_cluster(f"http://{host}", token=token_of("anna")), clock, print)
    assert refused(Api(client, "v2").list).endswith("; check --url")


def test_an_empty_secret_hides_nothing(api: Api, pai: Pai) -> None:
    api.client.hide([""])
    pai.troubles = [error(400, "UnknownError", "no room")]
    assert "no room" in refused(api.list)


def test_an_alias_that_stands_in_what_it_names(api: Api, pai: Pai, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{v2_job().body()}x: &a [*a]\n")
    (job,) = read_jobs([path])
    with pytest.raises(JobFileError, match=r"job\.yaml: an alias"):
        submit(api, job)
    assert not pai.jobs


def test_an_answer_without_end(api: Api, pai: Pai, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coppice.openpai.client._MAX_ANSWER_BYTES", 1000)
    pai.troubles = [Reply(200, b"[" + b" " * 5000 + b"]", JSON)]
    assert "gives an answer of more than 1,000 bytes" in refused(api.list)


@pytest.mark.parametrize("length", [10, 1000, 1001, 5000])
def test_of_a_long_log_the_end_is_kept(
    length: int, client: Client, pai: Pai, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coppice.openpai.client._MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr("coppice.openpai.client._PART_BYTES", 300)
    text = "".join(chr(97 + i % 26) for i in range(length))
    pai.logs["job", "master", 0] = text
    assert client.text("/log-manager/x/job/master/0/all")[0] == text[-1000:]


def test_a_job_of_other_letters_is_the_same_job(api: Api, pai: Pai, server: FakeServer) -> None:
    """Whether the server says that its YAML is UTF-8, or leaves it out."""
    job = v2_job()
    job.content["description"] = "Löwe"
    submit(api, job)
    ((key, there),) = pai.jobs.items()
    there.text = there.text.replace("\\xF6", "ö")
    assert key[1] == job.name
    assert not submit(api, job).new
