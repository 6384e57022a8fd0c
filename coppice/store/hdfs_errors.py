"""What an HDFS server's refusals mean: transient or permanent, and what to do."""

from __future__ import annotations

import requests

from coppice.store.errors import PermanentStoreError, StoreError, TransientStoreError

_NOT_SERVING = ("StandbyException", "RetriableException", "ObserverRetryOnActiveException")
_TRANSIENT = (
    "SafeModeException",
    "IOException",  # also "no DataNode is left": a cluster that is starting
    "RemoteException",
    "ConnectException",
    "NoRouteToHostException",
    "SocketTimeoutException",
    "SocketException",
    "EOFException",
    "InterruptedIOException",
    "BlockMissingException",
    "ReplicaNotFoundException",
    "NotReplicatedYetException",
    "LeaseExpiredException",
    "AlreadyBeingCreatedException",
    "RecoveryInProgressException",
    "NoHttpResponseException",
)
_QUOTA = (
    "NSQuotaExceededException",
    "DSQuotaExceededException",
    "QuotaExceededException",
    "QuotaByStorageTypeExceededException",
    "ClusterStorageCapacityExceededException",
)
_LIMITS = ("PathComponentTooLongException", "MaxDirectoryItemsExceededException")


class NotServing(TransientStoreError):
    """This server did not even begin: another NameNode may be the active one."""


class NoSuchFile(PermanentStoreError):
    """The path is not there. Homes answer None or False instead."""


class Occupied(PermanentStoreError):
    """Something that may not be overwritten is there already."""


def remote_error(reply: requests.Response, what: str, user: str) -> StoreError:
    """The store's error for a reply of 400 and above, by the Java exception: a 403 can be any of them."""
    exception = _remote_exception(reply)
    if exception is None:
        return TransientStoreError(f"cannot {what}: the answer, HTTP status {reply.status_code}, broke off")
    name, message = exception
    said = f"cannot {what}: {name}: {message}" if name else f"cannot {what}: HTTP status {reply.status_code}"
    # A standby that is shown a token wraps its excuse in a SecurityException.
    if name in _NOT_SERVING or "StandbyException" in message:
        return NotServing(f"{said} (this NameNode is not the active one, or is starting)")
    if name == "FileNotFoundException":
        if "is not a file" in message:
            return PermanentStoreError(f"{said}; it is a folder")
        return NoSuchFile(said)
    if "(is not a directory)" in message:  # a path below a file; an AccessControlException by name
        return NoSuchFile(f"{said}; a file is where a folder should be, move it away")
    if name == "FileAlreadyExistsException" or "must both be directories" in message:
        return Occupied(f"{said}; a folder is where a file should be, or the reverse, move it away")
    if name == "AccessControlException":
        return PermanentStoreError(
            f"{said}; no permission for {user}: have the owner run hdfs dfs -chmod or -chown, or set "
            "COPPICE_HDFS_USER"
        )
    if name in _QUOTA:
        return PermanentStoreError(
            f"{said}; quota used up: delete old runs, or have an administrator raise it"
        )
    if any(limit in name for limit in _LIMITS):
        return PermanentStoreError(f"{said}; choose a shorter name, or fewer files a folder")
    if reply.status_code == 401 or name in ("SecurityException", "InvalidToken", "AuthenticationException"):
        return PermanentStoreError(
            f"{said}; not logged in as {user}: renew the token in COPPICE_HDFS_TOKEN, or run kinit"
        )
    if name in _TRANSIENT or (reply.status_code >= 500 and not name) or reply.status_code in (408, 429):
        return TransientStoreError(said)
    if reply.status_code >= 500 and name not in (
        "PathIsNotEmptyDirectoryException",
        "IllegalArgumentException",
    ):
        return TransientStoreError(said)
    if not name:
        return PermanentStoreError(
            f"{said}; is this the address of a WebHDFS server (port 9870, HttpFS 14000)?"
        )
    return PermanentStoreError(said)


def request_error(error: requests.RequestException, what: str, server: str) -> StoreError:
    """The store's error for a request that got no whole answer.

    Says nothing of `error`'s own text: that holds the query, and so the token.
    """
    texts = _chain_of_names(error)
    said = f"cannot {what}: {server}"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return PermanentStoreError(
            f"{said} shows a certificate that is not trusted; name its authority in REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return PermanentStoreError(f"{said} is no address that can be asked; check the URL")
    if "NameResolutionError" in texts or "gaierror" in texts:
        return NotServing(f"{said}: no such host name")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return NotServing(f"{said} does not take the connection")
    if "NewConnectionError" in texts or "ConnectionRefusedError" in texts:
        return NotServing(f"{said} refuses the connection")
    # requests calls an answer that stops in its middle a ConnectionError; how it ended stands behind it.
    if isinstance(error, requests.exceptions.Timeout) or "ReadTimeoutError" in texts:
        return TransientStoreError(f"{said} did not answer in time")
    return TransientStoreError(f"{said} cut the connection")


def one_line(text: str) -> str:
    """The first line, shortened: Java puts a stack trace behind it."""
    line = text.strip().partition("\n")[0].strip()
    return line if len(line) <= 300 else f"{line[:297]}..."


def _remote_exception(reply: requests.Response) -> tuple[str, str] | None:
    """Name and message of the server's exception: empty where it sent none. None: the reply broke off."""
    try:
        reply.content  # noqa: B018 - here it may turn out that the connection was cut
    except requests.RequestException:
        return None
    try:
        said = reply.json()["RemoteException"]
        return str(said.get("exception") or ""), one_line(str(said.get("message") or ""))
    except ValueError:  # a reply without a length may break off without anybody noticing
        return None if "json" in reply.headers.get("content-type", "") else ("", "")
    except (KeyError, TypeError, AttributeError, RecursionError):
        return "", ""


def _chain_of_names(error: BaseException) -> set[str]:
    """The class names of an exception, its causes, and urllib3's `reason`s."""
    names: set[str] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and len(names) < 50:
            names.add(type(each).__name__)
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
    return names
