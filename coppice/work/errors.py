"""Errors of the work folder's protocol."""

from __future__ import annotations

from coppice.errors import CoppiceError


class BadContent(CoppiceError):
    """A file of the work folder does not hold what it should; names the file and the fault."""


class RunRefused(CoppiceError):
    """The work folder cannot be used for this run: another run lives or stands there."""


class RunFailed(CoppiceError):
    """The run was given up by one of its roles; says by which and why."""


class Superseded(CoppiceError):
    """Another process has taken over this role; this one must stop writing."""
