"""A proxy between a store and a real HDFS that cuts, delays and repeats requests, as a bad network or a
portal's load balancer does.

It works request by request: what comes in goes to the server as it is, and the server's answer back as it is,
but for the DataNode's address in a redirect, which becomes the proxy's own second port. So content goes
through it too.
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit, urlunsplit

_TIMEOUT_S = 60.0
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host")


class Toxin(Enum):
    """What happens to one request."""

    REFUSED = "the connection is cut before the server hears of it"
    UNANSWERED = "the server does it, and the connection is cut before its answer"
    HALF_ANSWERED = "the server does it, and the connection is cut in the middle of its answer"
    DELAYED = "it waits a little on its way"
    TWICE = "it reaches the server twice, and the second answer is given"
    AGAIN_LATER = "it is answered, and reaches the server once more a little later"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, as a rule may want to know it."""

    operation: str
    path: str
    to_datanode: bool


Rule = Callable[[Seen], Toxin | None]
"""Decides what happens to a request; called by several threads, one at a time."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Proxy:
    """Listens on loopback, in front of one NameNode (or HttpFS) and its DataNode, until `close`.

    `suffered` counts what happened, by (operation, toxin). Until `rule` is set nothing does.
    """

    def __init__(self, server: str, datanode: str, delay_s: float = 0.2, seed: int = 1) -> None:
        """`server`, `datanode`: host:port; `delay_s`: the longest that anything is held back."""
        self.rule: Rule = lambda seen: None
        self.suffered: Counter[tuple[str, Toxin]] = Counter()
        self._datanode = datanode
        self._delay_s = delay_s
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._late: list[threading.Timer] = []
        self._fronts = [self._listen(server, False), self._listen(datanode, True)]
        self.host, self._datanode_host = (f"127.0.0.1:{each.server_address[1]}" for each in self._fronts)

    def close(self) -> None:
        """Stop listening, and wait for what was to be sent again."""
        for each in self._fronts:
            each.shutdown()
            each.server_close()
        for timer in self._late:
            timer.cancel()
            timer.join(_TIMEOUT_S)

    def _listen(self, upstream: str, to_datanode: bool) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                ask = _Request(upstream, self.command, self.path, dict(self.headers.items()), body)
                query = parse_qs(urlsplit(self.path).query)
                operation = query.get("op", ["?"])[-1].upper()
                toxin = proxy._decide(Seen(operation, urlsplit(self.path).path, to_datanode))
                answer = proxy._serve(ask, toxin)
                if answer is None:
                    self._cut()
                    return
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.headers:
                    self.send_header(name, proxy._rewritten(value) if name == "Location" else value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if toxin is Toxin.HALF_ANSWERED:
                    self.wfile.write(answer.body[: len(answer.body) // 2])
                    self._cut()
                    return
                self.wfile.write(answer.body)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def _cut(self) -> None:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: object) -> None:
                pass

        front = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        front.daemon_threads = True
        front.handle_error = lambda request, client_address: None  # type: ignore[method-assign] # who hung up
        threading.Thread(target=front.serve_forever, args=(0.05,), daemon=True).start()
        return front

    def _decide(self, seen: Seen) -> Toxin | None:
        with self._lock:
            toxin = self.rule(seen)
            if toxin is not None:
                self.suffered[seen.operation, toxin] += 1
            return toxin

    def _serve(self, ask: _Request, toxin: Toxin | None) -> _Answer | None:
        """What the client is answered; None: nothing, the connection is cut."""
        if toxin is Toxin.REFUSED:
            return None
        if toxin is Toxin.DELAYED:
            time.sleep(self._moment_s())
        try:
            answer = ask.send()
            if toxin is Toxin.TWICE:
                answer = ask.send()
        except (OSError, http.client.HTTPException):  # the server is down: so are we
            return None
        if toxin is Toxin.AGAIN_LATER:
            timer = threading.Timer(self._moment_s(), ask.send_in_vain)
            timer.daemon = True
            timer.start()
            with self._lock:
                self._late = [*(each for each in self._late if each.is_alive()), timer]
        return None if toxin is Toxin.UNANSWERED else answer

    def _moment_s(self) -> float:
        with self._lock:
            return self._rng.uniform(0.0, self._delay_s)

    def _rewritten(self, location: str) -> str:
        parts = urlsplit(location)
        if parts.netloc != self._datanode:
            raise RuntimeError(f"the server sends us to {parts.netloc}, which is not {self._datanode}")
        return urlunsplit(parts._replace(netloc=self._datanode_host))


@dataclass(frozen=True, slots=True)
class _Request:
    upstream: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    def send(self) -> _Answer:
        """Over a connection of its own; the whole answer."""
        connection = http.client.HTTPConnection(self.upstream, timeout=_TIMEOUT_S)
        try:
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _HOP_BY_HOP}
            connection.request(self.method, self.target, body=self.body or None, headers=headers)
            reply = connection.getresponse()
            kept = tuple((n, v) for n, v in reply.getheaders() if n.lower() not in _HOP_BY_HOP)
            return _Answer(reply.status, reply.reason, kept, reply.read())
        finally:
            connection.close()

    def send_in_vain(self) -> None:
        """Once more, for nobody."""
        try:
            self.send()
        except (OSError, http.client.HTTPException):
            pass


def by_chance(chances: Mapping[Toxin, float], seed: int) -> Rule:
    """Each request meets each toxin with this probability, one at the most."""
    rng = random.Random(seed)
    toxins, weights = list(chances), list(chances.values())
    nothing = 1.0 - sum(weights)
    assert nothing >= 0

    def rule(seen: Seen) -> Toxin | None:
        return rng.choices([*toxins, None], [*weights, nothing])[0]

    return rule


@contextmanager
def proxied(server: str, datanode: str, rule: Rule) -> Iterator[Proxy]:
    """A proxy for one test, that lets everything through when the test ends."""
    proxy = Proxy(server, datanode)
    proxy.rule = rule
    try:
        yield proxy
    finally:
        proxy.rule = lambda seen: None
        proxy.close()
