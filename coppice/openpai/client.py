"""HTTP to an OpenPAI REST server: bearer token, waiting as told, and errors that say what to do.

One call is one request, except that a server that asks to wait (429) is waited for. Requests that may be
repeated are repeated by `until_answered`; what may not (a submission) is left to whoever knows how to look.
"""

from __future__ import annotations

import email.utils
import json
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import LocationParseError

from coppice import __version__
from coppice.clock import Clock
from coppice.errors import printable
from coppice.openpai.errors import ClusterError, Doubtful, JobExists, NoSuchJob
from coppice.openpai.settings import Cluster

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
LIMITS = "OpenPAI allows 600 calls a minute and 60 submissions an hour"
_LONGEST_WAIT_S = 7200.0
"""A server that asks for more than two hours is not waited for; its limits are of an hour."""
_WAIT_UNTOLD_S = 60.0
_SHORTEST_WAIT_S = 0.001
"""Less cannot be waited for: added to a clock that has run for long it may be nothing at all."""
_MAX_ANSWER_BYTES = 1 << 26
"""Of a log the last so many are kept; any other answer that is longer is none of OpenPAI's."""
_PART_BYTES = 1 << 16
_TELLING = 300
"""Letters of what a server said that are shown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    code: str
    """OpenPAI's name for an error, such as NoJobError; "" where it gave none."""
    message: str
    content: Any
    """Decoded JSON; the text where it is none."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came over HTTP."""

    url: str
    status: int
    reason: str
    headers: Mapping[str, str]
    """Whatever case their names are asked in."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Client:
    """One cluster. Not safe for several threads."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        say: Callable[[str], None],
        *,
        patience_s: float = 60.0,
        rng: random.Random | None = None,
    ) -> None:
        self.cluster = cluster
        self.clock = clock
        self.say = say
        self.patience_s = patience_s
        """How long `until_answered` bears a server that does not answer."""
        self._rng = rng or random.Random()
        self._secrets = {cluster.token}
        self._session = requests.Session()
        self._session.auth = _no_login  # or requests would send what ~/.netrc holds instead of our token

    def hide(self, secrets: Iterable[str]) -> None:
        """What a server says shall not show these."""
        self._secrets.update(secret for secret in secrets if secret)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def call(
        self, method: str, path: str, *, data: str | None = None, kind: str = "application/json"
    ) -> Answer:
        """One request below the REST server.

        Raises `Doubtful` where nobody can know whether it was done; `JobExists`, `NoSuchJob` or another
        `ClusterError` where it was refused.
        """
        url = self.cluster.rest + path
        headers = {"Authorization": f"Bearer {self.cluster.token}"}
        if data is not None:
            headers["Content-Type"] = kind
        while True:
            reply = self._send(method, url, headers, data)
            if reply.status != 429:
                break
            self._wait_as_told(reply)
        return self._checked(reply, method, url)

    def until_answered(self, ask: Callable[[], T]) -> T:
        """Repeat `ask`, which only looks or may be done twice, while the answer is `Doubtful`."""
        began, pause_s, told = self.clock.monotonic(), 0.5, False
        while True:
            try:
                return ask()
            except Doubtful as error:
                left_s = self.patience_s - (self.clock.monotonic() - began)
                if left_s < _SHORTEST_WAIT_S:
                    raise ClusterError(f"{error} (tried for {self.patience_s:.0f} s)") from error
                if not told:
                    told = True
                    self.say(f"{error}; trying again for up to {self.patience_s:.0f} s")
                self.clock.sleep(min(left_s, pause_s * self._rng.uniform(0.5, 1.0)))
                pause_s = min(15.0, 2 * pause_s)

    def text(self, address: str) -> tuple[str, str]:
        """A page and where it is, by an address that a cluster gave. The token goes to the cluster alone."""
        try:
            url = urljoin(f"{self.cluster.portal}/", address)
        except ValueError as error:
            raise ClusterError(f"the cluster gives {address[:_TELLING]!r} as the address of a log") from error
        own = _origin(url) == _origin(self.cluster.rest)
        headers = {"Authorization": f"Bearer {self.cluster.token}"} if own else {}
        reply = self._send("GET", url, headers, None, only_end=True)
        if reply.status >= 300:
            raise ClusterError(f"{url}: answers {reply.status}; open it in a browser, or ask later")
        return ("" if "html" in reply.headers.get("Content-Type", "") else reply.text), url

    def _send(
        self, method: str, url: str, headers: dict[str, str], data: str | None, *, only_end: bool = False
    ) -> _Reply:
        server = _origin(url)
        try:
            with self._session.request(
                method,
                url,
                headers={"User-Agent": f"coppice/{__version__}", **headers},
                data=None if data is None else data.encode(),
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                allow_redirects=False,
                stream=True,
            ) as reply:
                body = _read(reply, only_end)
                return _Reply(url, reply.status_code, reply.reason or "", reply.headers, body)
        except requests.exceptions.SSLError as error:
            raise ClusterError(
                f"{server} shows a certificate that is not trusted; name its authority in REQUESTS_CA_BUNDLE"
            ) from error
        except requests.exceptions.Timeout as error:
            raise Doubtful(f"{server} does not answer in time") from error
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
            raise Doubtful(f"{server} gave an answer that is not whole") from error
        except requests.exceptions.ConnectionError as error:
            if "resolve" in str(error) or "Name or service" in str(error):
                raise ClusterError(f"{server}: no such host name; check --url") from error
            refused = "refused" in str(error)
            raise Doubtful(
                f"{server} {'refuses the connection' if refused else 'broke the connection off'}"
            ) from error
        except (requests.RequestException, LocationParseError) as error:  # the latter is urllib3's own
            raise ClusterError(f"{server}: {self._hidden(str(error))}; check --url") from error

    def _wait_as_told(self, reply: _Reply) -> None:
        wait_s = self._told(reply.headers.get("Retry-After"))
        if wait_s > _LONGEST_WAIT_S:
            raise ClusterError(
                f"{_origin(reply.url)} asks to wait {wait_s:.0f} s: too many requests; {LIMITS}"
            )
        self.say(f"{_origin(reply.url)} asks to wait {wait_s:.0f} s: too many requests ({LIMITS})")
        self.clock.sleep(wait_s)

    def _told(self, header: str | None) -> float:
        """Seconds, or a date, or nothing that can be read."""
        if header is None:
            return _WAIT_UNTOLD_S
        try:
            return max(1.0, float(header))
        except ValueError:
            pass
        try:
            return max(1.0, email.utils.parsedate_to_datetime(header).timestamp() - self.clock.time())
        except (ValueError, OverflowError):
            return _WAIT_UNTOLD_S

    def _checked(self, reply: _Reply, method: str, url: str) -> Answer:
        answer = self._answer(reply)
        status, said = answer.status, f"{answer.code}: {answer.message}" if answer.code else answer.message
        server = _origin(url)
        if status < 300:
            if isinstance(answer.content, str) and "html" in reply.headers.get("Content-Type", ""):
                raise ClusterError(
                    f"{url}: answers with a web page; is --url the address of OpenPAI's portal?"
                )
            return answer
        if status < 400:
            # Where the same call is at another address, that address is what was meant.
            place = reply.headers.get("Location", "another address")
            base = place.removesuffix(url.removeprefix(self.cluster.portal))
            advice = "give that as --url" if "://" in base else "check --url"
            raise ClusterError(f"{server} sends us on to {self._hidden(base)}; {advice}")
        if status == 401:
            raise ClusterError(
                f"{server} does not accept the token ({said}); login tokens end after 7 days: make an "
                "application token on the page of your profile in the portal"
            )
        if status == 403:
            raise ClusterError(
                f"{server} does not allow {self.cluster.user} to do this ({said}); take a job or a virtual "
                "cluster (--vc) of your own, or ask the administrator"
            )
        if status == 404:
            if answer.code == "NoStorageError":
                raise ClusterError(
                    f"{server} has no such storage ({said}); render again with another --storage"
                )
            if method == "POST":  # some say so although they have taken the job
                raise Doubtful(f"{server} answers 404 ({said}) to a submission")
            if answer.code in ("NoJobError", "NoJobConfigError", "NoTaskLogError"):
                raise NoSuchJob(f"{server}: {said}")
            raise ClusterError(
                f"{url} answers 404 ({said}): not the address of an OpenPAI portal, or one of another "
                "generation; check --url, and --v1"
            )
        if status == 409:
            raise JobExists(f"{server}: {said}")
        if status == 400 and answer.code == "NoVirtualClusterError":
            raise ClusterError(
                f"{server} has no such virtual cluster ({said}); render again with another --vc"
            )
        if status >= 500:
            raise Doubtful(f"{server} answers {status} ({said})")
        raise ClusterError(f"{server} refuses ({status}, {said})")

    def _answer(self, reply: _Reply) -> Answer:
        content: Any
        try:
            content = (
                json.loads(reply.body) if "json" in reply.headers.get("Content-Type", "json") else reply.text
            )
        except (ValueError, RecursionError):
            if reply.status < 300:  # half an answer says nothing
                raise Doubtful(f"{_origin(reply.url)} gave an answer that is not whole") from None
            content = reply.text
        said: dict[str, Any] = content if isinstance(content, dict) else {}
        message = said.get("message") or (reply.reason if isinstance(content, dict) else str(content))
        text = " ".join(self._hidden(str(message)).split())
        return Answer(reply.status, str(said.get("code") or ""), printable(text)[:_TELLING], content)

    def _hidden(self, text: str) -> str:
        """No server's message may show our token, or a job's secret."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _read(reply: requests.Response, only_end: bool) -> bytes:
    parts: deque[bytes] = deque()
    size = 0
    for part in reply.iter_content(_PART_BYTES):
        parts.append(part)
        size += len(part)
        while only_end and size - len(parts[0]) >= _MAX_ANSWER_BYTES:
            size -= len(parts.popleft())
        if size > _MAX_ANSWER_BYTES and not only_end:
            raise ClusterError(
                f"{_origin(reply.url)} gives an answer of more than {_MAX_ANSWER_BYTES:,} bytes; check --url"
            )
    return b"".join(parts)[-_MAX_ANSWER_BYTES:]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _no_login(request: Any) -> Any:
    return request
