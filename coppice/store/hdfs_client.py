"""The package `hdfs`' client for one server, with what a shared work folder needs besides.

Its low-level methods (`_rename`, `_list_status`, ...) are used, not `upload` or `status`: those write final
names in place and take every error for absence.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import requests
from hdfs.client import Client, InsecureClient, TokenClient
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from coppice.store.errors import PermanentStoreError, StoreError, TransientStoreError
from coppice.store.hdfs_address import STANDARD_API, HdfsAddress
from coppice.store.hdfs_errors import remote_error, request_error

CONNECT_TIMEOUT_S = 5.0
_MOST_REDIRECTS = 5
_DATANODE = "datanode"


class Calls:
    """Counts requests by operation ("RENAME", ...; what goes to a DataNode counts as "datanode")."""

    def __init__(self) -> None:
        self.counter: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, operation: str) -> None:
        """One more request."""
        with self._lock:
            self.counter[operation] += 1


class _Careful:
    """Mixed into a client of `hdfs`: errors mapped, redirects untouched, requests counted, names verbatim.

    Every error of `_request` is a `StoreError`, so that the package's own failover, which would repeat a
    rename whose reply was lost and believe the second answer, never sees one.
    """

    server: str
    address: HdfsAddress
    calls: Calls
    data_at_once: bool
    """Whether CREATE takes the content in its first request (HttpFS)."""

    def resolve(self, hdfs_path: str) -> str:
        """The path as it is: the package would expand names such as #LATEST."""
        return hdfs_path

    def _request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        operation = str(kwargs["params"]["op"])
        what = f"{operation} {unquote(url.removeprefix(self.server + STANDARD_API)) or '/'}"
        if self.address.api != STANDARD_API:
            url = self.server + self.address.api + url.removeprefix(self.server + STANDARD_API)
        if self.data_at_once and operation == "CREATE":
            kwargs["params"]["data"] = "true"
        kwargs["allow_redirects"] = False
        self.calls.count(operation)
        try:
            reply = super()._request(method, url, **kwargs)  # type: ignore[misc]
        except requests.RequestException as error:
            raise self._hidden(request_error(error, what, self.server)) from None
        except ValueError:  # requests looks at the Location by itself, and does not expect http://[
            raise _leads_nowhere(what, self.server) from None
        if reply.is_redirect and operation not in ("CREATE", "OPEN"):
            return self.follow(reply, method, what)
        return self._checked(reply, what)

    def instrumentation(self) -> requests.Response:
        """An operation that only HttpFS has; a NameNode says IllegalArgumentException."""
        return self._request("GET", f"{self.server}{STANDARD_API}/", params={"op": "INSTRUMENTATION"})

    def follow(
        self,
        reply: requests.Response,
        method: str,
        what: str,
        data: bytes | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """Go where a reply points, untouched, with `data`, until it is a whole answer; raises `StoreError`.

        Not through the client's own request method: that would add our parameters to those that the
        NameNode has put into the Location.
        """
        session: requests.Session = self._session  # type: ignore[attr-defined]
        timeout: tuple[float, float] = self._timeout  # type: ignore[attr-defined]
        for _ in range(_MOST_REDIRECTS):
            if not reply.is_redirect:
                return self._checked(reply, what)
            headers = {"Content-Type": "application/octet-stream"}
            try:
                location = requests.compat.urljoin(reply.url, reply.headers["location"])
                server = "/".join(location.split("/", 3)[:3])
                # A DataNode is content with what the NameNode has put into the Location; an HttpFS, which
                # sends us to itself, wants to know again who we are.
                who = (session.auth, session.cookies) if server == self.server else (None, None)
                asked = requests.Request(method, location, headers, data=data, auth=who[0], cookies=who[1])
                request = asked.prepare()
            except (requests.RequestException, ValueError):
                raise _leads_nowhere(what, self.server) from None
            self.calls.count(_DATANODE)
            try:
                reply.content  # noqa: B018 - read to its end, so that the connection is kept
                settings = session.merge_environment_settings(location, {}, stream, None, None)
                reply = session.send(request, timeout=timeout, allow_redirects=False, **settings)
            except requests.RequestException as error:
                failure = request_error(error, what, server)
                if isinstance(failure, TransientStoreError):  # no NotServing: the NameNode did its part
                    failure = TransientStoreError(str(failure))
                raise self._hidden(failure) from None
            except ValueError:
                raise _leads_nowhere(what, server) from None
        raise PermanentStoreError(f"cannot {what}: {self.server} redirects in circles; check the URL")

    def _checked(self, reply: requests.Response, what: str) -> requests.Response:
        if reply.status_code < 400:
            if reply.headers.get("content-type", "").startswith("text/html"):
                raise PermanentStoreError(
                    f"cannot {what}: {self.server} answers with a web page; is this the address of WebHDFS?"
                )
            return reply
        with reply:
            raise self._hidden(
                remote_error(reply, f"{what} at {self.server}", self.address.user or "this login")
            )

    def _hidden(self, error: StoreError) -> StoreError:
        """No server's message may show our token."""
        token = self.address.token
        if token and token in str(error):
            return type(error)(str(error).replace(token, "***"))
        return error


def _leads_nowhere(what: str, server: str) -> TransientStoreError:
    return TransientStoreError(f"cannot {what}: {server} redirects to no address")


class _Session(requests.Session):
    """Looks up proxies and certificates once for each server instead of at every request: a quarter of what
    a small call costs in this process."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[object, ...], Mapping[str, Any]] = {}

    def merge_environment_settings(  # type: ignore[override]
        self, url: str, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> dict[str, Any]:
        """As the base class, remembered."""
        key = ("/".join(url.split("/", 3)[:3]), str(proxies), stream, verify, cert)
        if key not in self._known:
            self._known[key] = super().merge_environment_settings(url, proxies, stream, verify, cert)
        return dict(self._known[key])


class _UserClient(_Careful, InsecureClient):  # type: ignore[misc]
    pass


class _TokenClient(_Careful, TokenClient):  # type: ignore[misc]
    pass


class _KerberosClient(_Careful, Client):  # type: ignore[misc]
    pass


class _Kerberos(AuthBase):
    """A handshake of its own for each request.

    The package's `KerberosClient` has all threads share one, where two that greet a server at once take each
    other's answers. A server that knows us by its cookie asks for none.
    """

    def __init__(self) -> None:
        """Raises `PermanentStoreError` where the packages are not installed."""
        try:
            from requests_kerberos import OPTIONAL, HTTPKerberosAuth
        except ImportError as error:
            raise PermanentStoreError(
                "auth=kerberos needs one more package: pip install requests-kerberos, then kinit"
            ) from error
        self._handshake = partial(HTTPKerberosAuth, mutual_authentication=OPTIONAL)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared: requests.PreparedRequest = self._handshake()(request)
        return prepared


def open_client(address: HdfsAddress, server: str, calls: Calls, connections: int) -> Any:
    """A client for one server of `address`, keeping up to `connections` connections open.

    Raises `PermanentStoreError` where Kerberos is asked for and not installed.
    """
    session = _Session()
    adapter = HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    common = {"timeout": (CONNECT_TIMEOUT_S, address.timeout_s), "session": session}
    if address.token is not None:
        client = _TokenClient(server, token=address.token, **common)
    elif address.user is not None:
        client = _UserClient(server, user=address.user, **common)
    else:
        session.auth = _Kerberos()
        client = _KerberosClient(server, **common)
    client.server, client.address, client.calls = server, address, calls
    client.data_at_once = bool(address.httpfs)
    return client
