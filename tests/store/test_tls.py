"""swebhdfs:// against a server with a certificate of its own authority."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from coppice.store import PermanentStoreError, open_store
from tests.support.http_server import FakeServer, fake_server, says

FILE = {"pathSuffix": "a", "type": "FILE", "length": 1, "modificationTime": 5}
LISTING = says({"FileStatuses": {"FileStatus": [FILE]}})


@pytest.fixture
def authority() -> trustme.CA:
    """Somebody's own certificate authority."""
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[FakeServer]:
    """A NameNode behind https, its certificate from `authority`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    with fake_server(lambda request: LISTING, tls=context) as running:
        yield running


def test_a_trusted_certificate_is_taken(
    server: FakeServer, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    store = open_store(f"swebhdfs://{server.host}/work?httpfs=0")
    assert [entry.name for entry in store.list()] == ["a"]


def test_an_unknown_certificate_is_refused_with_advice(server: FakeServer) -> None:
    with pytest.raises(PermanentStoreError, match=r"not trusted; name its authority in REQUESTS_CA_BUNDLE"):
        open_store(f"swebhdfs://{server.host}/work?httpfs=0").list()
