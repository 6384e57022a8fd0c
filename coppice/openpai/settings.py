"""Which cluster, and who we are there: options, the environment, or a file that only its owner can read."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coppice.openpai.errors import ClusterError, JobFileError
from coppice.openpai.text import from_yaml

URL_VARIABLE = "COPPICE_OPENPAI_URL"
USER_VARIABLE = "COPPICE_OPENPAI_USER"
TOKEN_VARIABLE = "COPPICE_OPENPAI_TOKEN"
CONFIG_VARIABLE = "COPPICE_OPENPAI_CONFIG"
_KEYS = ("url", "user", "token")
_REST = "/rest-server"
"""Where the portal has the REST server."""
_REST_PORT = 9186
"""Of a REST server that is asked without the portal."""
_MAX_CONFIG_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Cluster:
    """An OpenPAI and a user of it."""

    portal: str
    """What a browser opens, without a closing slash."""
    rest: str
    """Where /api/v1 and /api/v2 are."""
    user: str
    token: str = field(repr=False)

    def page(self, name: str) -> str:
        """Where a person sees a job."""
        user, tilde, job = name.rpartition("~")
        return f"{self.portal}/job-detail.html?username={user if tilde else self.user}&jobName={job}"


def find_cluster(
    url: str | None = None,
    user: str | None = None,
    token: str | None = None,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Cluster:
    """Options go before the environment, that before the config file. Raises `ClusterError`, in one line."""
    environ = os.environ if environ is None else environ
    written = _read_config(config, environ)
    url = url or environ.get(URL_VARIABLE) or written.get("url")
    user = user or environ.get(USER_VARIABLE) or written.get("user")
    token = token or environ.get(TOKEN_VARIABLE) or written.get("token")
    if not url:
        raise ClusterError(
            f"no cluster: give --url https://HOST, or set {URL_VARIABLE}, or {_advice(environ)}"
        )
    if not token:
        raise ClusterError(
            f"no token for {url}: set {TOKEN_VARIABLE}, or {_advice(environ)}; the portal makes application "
            "tokens on the page of your profile"
        )
    token = token.strip()
    if not token.isascii() or re.search(r"[\s\x00-\x1f\x7f]", token):
        raise ClusterError("the token holds what no token does (a line break?); copy it again")
    user = user or _user_in(token)
    if not user:
        raise ClusterError(f"the token does not say whose it is: give --user NAME, or set {USER_VARIABLE}")
    if not re.fullmatch(r"[\w.-]+", user):
        raise ClusterError(f"--user: {user!r} is no name of a user; letters, digits, '_', '.' and '-' only")
    portal, rest = _addresses(url)
    return Cluster(portal, rest, user, token)


def _advice(environ: Mapping[str, str]) -> str:
    return f"write url and token into {_config_path(environ)} (chmod 600)"


def _config_path(environ: Mapping[str, str]) -> Path:
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE])
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "coppice" / "openpai.yaml"


def _read_config(path: Path | None, environ: Mapping[str, str]) -> dict[str, str]:
    """What the file says; nothing where none was named and none is there."""
    asked = path is not None or bool(environ.get(CONFIG_VARIABLE))
    path = path or _config_path(environ)
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())  # of what is read, not of what stands there a moment later
            if state.st_uid != os.geteuid():
                raise ClusterError(
                    f"{path}: belongs to another user; it may hold your token only if it is yours"
                )
            if stat.S_IMODE(state.st_mode) & 0o077:
                raise ClusterError(f"{path}: others can read it, and it is for a token: chmod 600 {path}")
            data = file.read(_MAX_CONFIG_BYTES)
    except OSError as error:
        if not asked and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise ClusterError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        content: Any = from_yaml(data.decode("utf-8", "replace"), str(path))
    except JobFileError as error:  # whose cause would quote the file
        raise ClusterError(
            f"{str(error).partition(': ')[0]}: not valid YAML; expected url, user, token"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ClusterError(f"{path}: expected lines such as 'url: https://HOST' and 'token: ...'")
    unknown = [str(key) for key in content if key not in _KEYS]
    if unknown:
        raise ClusterError(f"{path}: {unknown[0]}: unknown key; expected one of {', '.join(_KEYS)}")
    return {str(key): str(value) for key, value in content.items()}


def _addresses(url: str) -> tuple[str, str]:
    """The portal and the REST server."""
    form = "write https://HOST, as a browser opens the portal"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ClusterError(f"--url {url!r}: {error}; {form}") from error
    if parts.username or parts.password:
        raise ClusterError(f"--url: no name or password belongs into it; {form}")
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url.strip()):
        raise ClusterError(f"--url {url!r}: {form}")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    portal = base.removesuffix(_REST)
    return portal, base if base.endswith(_REST) or port == _REST_PORT else base + _REST


def _user_in(token: str) -> str | None:
    """The user name in a JSON web token, unverified: the server will do that."""
    parts = token.split(".")
    try:
        payload = parts[1] + "=" * (-len(parts[1]) % 4)
        said = json.loads(base64.urlsafe_b64decode(payload))
    except (IndexError, ValueError, binascii.Error):
        return None
    name = said.get("username") if isinstance(said, dict) else None
    return name if isinstance(name, str) and name else None
