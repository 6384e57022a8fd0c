"""What can go wrong between a user and a cluster."""

from __future__ import annotations

from coppice.errors import CoppiceError


class JobFileError(CoppiceError):
    """A job cannot be written, or what should be one is none."""


class ClusterError(CoppiceError):
    """The cluster cannot be reached, or refuses; the message says what to do."""


class NoSuchJob(ClusterError):
    """The cluster knows no job of that name."""


class JobExists(ClusterError):
    """The cluster has a job of that name already (409)."""


class Doubtful(ClusterError):
    """No answer, or one that does not say whether the request was done: look before asking again."""
