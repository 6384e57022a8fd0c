"""A web server that answers as a test tells it to."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """What came in."""

    method: str
    target: str
    """Path and query as they were sent."""
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    """By name in lower case."""

    @property
    def path(self) -> str:
        """Decoded, without the query."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """Decoded; the last of equal names."""
        return {key: values[-1] for key, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def operation(self) -> str:
        """What WebHDFS is asked for."""
        return self.query.get("op", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes out; `cut` closes the connection instead (after the body, if there is a status)."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


Respond = Callable[[Request], Reply]


def says(content: object, status: int = 200) -> Reply:
    """A JSON reply."""
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def refuses(exception: str, message: str = "no", status: int = 403) -> Reply:
    """A RemoteException."""
    said = {"exception": exception, "javaClassName": f"org.apache.hadoop.{exception}", "message": message}
    return says({"RemoteException": said}, status)


def cuts() -> Reply:
    """No reply at all."""
    return Reply(cut=True)


class FakeServer:
    """Listens on loopback until the `with` of `fake_server` ends; keeps the requests it got."""

    def __init__(self, respond: Respond, tls: ssl.SSLContext | None = None) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes; the second would wait 40 ms

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, body, headers)
                fake.requests.append(request)
                reply = fake.respond(request)
                if not reply.cut or reply.body:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    if "Content-Length" not in reply.headers:
                        self.send_header("Content-Length", str(len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body)
                if reply.cut:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def operations(self) -> list[str]:
        """What was asked for, in order."""
        return [request.operation for request in self.requests]

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def fake_server(respond: Respond, tls: ssl.SSLContext | None = None) -> Iterator[FakeServer]:
    """A server for one test, behind https with `tls`."""
    server = FakeServer(respond, tls)
    try:
        yield server
    finally:
        server.close()
