"""What a webhdfs:// or swebhdfs:// URL and the environment say about an HDFS."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from coppice.store.errors import StoreError

TOKEN_VARIABLE = "COPPICE_HDFS_TOKEN"
USER_VARIABLES = ("COPPICE_HDFS_USER", "HADOOP_USER_NAME", "PAI_USER_NAME")
"""The last is set in OpenPAI's containers, in which everybody is root."""
STANDARD_API = "/webhdfs/v1"
_HTTPFS_PORT = 14000
_NAMENODE_PORTS = (9870, 9871, 50070, 50470, 5070)
_FORM = "webhdfs://[user@]namenode[:port][,namenode2[:port]]/path[?root=...&httpfs=0|1&auth=kerberos&timeout_s=60]"
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class HdfsAddress:
    """Where an HDFS is and who we are there."""

    url: str
    """As the user wrote it; never holds a secret."""
    servers: tuple[str, ...]
    """http://host:port of every NameNode, or of one HttpFS."""
    path: str
    """The root folder, absolute, without a closing slash: "" is the file system's own root."""
    api: str
    """What comes before a path on the server: /webhdfs/v1, or what a portal has instead."""
    httpfs: bool | None
    """Whether the server is an HttpFS; None: has to be asked."""
    timeout_s: float
    """How long an answer may take, seconds."""
    user: str | None
    """Name to work under, without security; None with a token or Kerberos."""
    token: str | None = field(repr=False)
    """Delegation token."""


def parse_hdfs_url(url: str, environ: Mapping[str, str] | None = None) -> HdfsAddress:
    """Take `url` apart; user and token may come from the environment.

    Several NameNodes (HA) are separated by commas. The default port is 9870, with swebhdfs 9871; an HttpFS is
    known by its port 14000 or by ?httpfs=1, else the server is asked. `root` is for portals that serve
    WebHDFS under another path, such as /webhdfs/api/v1. Raises `StoreError` with the accepted form.
    """
    environ = os.environ if environ is None else environ
    if any(ord(letter) < 32 for letter in url):
        raise StoreError(f"{url!r} holds a control character; write {_FORM}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise StoreError(f"{url!r} is no URL ({error}); write {_FORM}") from error
    user_info, _, hosts = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{hosts}{parts.path}"
    if ":" in user_info:
        raise StoreError(f"{shown}: no password belongs into a URL; write {_FORM}")
    if _UNFIT.search(_unquoted(url)):
        raise StoreError(f"{shown!r} holds a control character, or bytes that are no UTF-8; write {_FORM}")
    if "#" in url:
        raise StoreError(f"{shown}: a '#' in a name is written %23; write {_FORM}")
    secure = parts.scheme == "swebhdfs"
    servers, ports = [], []
    for each in hosts.split(","):
        match = _HOST.fullmatch(each)
        if match is None or int(match[2] or 1) > 65535:
            raise StoreError(f"{shown}: {each!r} is no host[:port]; write {_FORM}")
        ports.append(int(match[2] or (9871 if secure else 9870)))
        servers.append(f"{'https' if secure else 'http'}://{match[1]}:{ports[-1]}")
    options = _options(shown, parts.query)
    user, token = _unquoted(user_info) or None, environ.get(TOKEN_VARIABLE) or None
    if options.get("auth") == "kerberos":
        user = token = None
    elif token is not None:
        user = None
    elif user is None:
        user = _login_name(environ)
    return HdfsAddress(
        url=url.rstrip("/") if not parts.query else url,
        servers=tuple(servers),
        path=_path(shown, _unquoted(parts.path)),
        api="/" + options.get("root", STANDARD_API).strip("/"),
        httpfs=_is_httpfs(shown, options, ports),
        timeout_s=_seconds(shown, options.get("timeout_s", "60")),
        user=user,
        token=token,
    )


def _unquoted(text: str) -> str:
    """Bytes that are no UTF-8 become surrogates, so that they can be refused."""
    return unquote(text, errors="surrogateescape")


def _options(shown: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key in options:
        if key not in ("root", "httpfs", "auth", "timeout_s"):
            hint = (
                f"; a token goes into the variable {TOKEN_VARIABLE}"
                if "tok" in key or key == "delegation"
                else ""
            )
            raise StoreError(f"{shown}: there is no option {key!r}{hint}; write {_FORM}")
    if options.get("auth", "simple") not in ("simple", "kerberos"):
        raise StoreError(f"{shown}: auth is 'simple' or 'kerberos'; write {_FORM}")
    return options


def _path(shown: str, path: str) -> str:
    names = [each for each in path.split("/") if each]
    if any(each in (".", "..") or ":" in each for each in names):
        raise StoreError(f"{shown}: an HDFS path has no '.', '..' or ':'; write {_FORM}")
    return "".join(f"/{each}" for each in names)


def _is_httpfs(shown: str, options: Mapping[str, str], ports: list[int]) -> bool | None:
    said = options.get("httpfs")
    if said is not None:
        if said not in ("0", "1"):
            raise StoreError(f"{shown}: httpfs is 0 or 1; write {_FORM}")
        return said == "1"
    if _HTTPFS_PORT in ports:
        return True
    if len(ports) > 1 or "root" in options or ports[0] in _NAMENODE_PORTS:
        return False
    return None


def _seconds(shown: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86400:
        raise StoreError(f"{shown}: timeout_s is a number of seconds above 0, not {text!r}; write {_FORM}")
    return seconds


def _login_name(environ: Mapping[str, str]) -> str:
    for variable in USER_VARIABLES:
        if environ.get(variable):
            return environ[variable]
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:  # a container's user without a name
        raise StoreError(
            f"this user has no name; set {USER_VARIABLES[0]}, or write user@ in the URL"
        ) from error
