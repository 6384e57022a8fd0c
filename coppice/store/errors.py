"""What can go wrong between a role and the place where the work folder lives."""

from __future__ import annotations

from coppice.errors import CoppiceError


class StoreError(CoppiceError):
    """A storage call did not do what was asked."""


class TransientStoreError(StoreError):
    """The home did not answer, or not sensibly: the call may or may not have happened.

    Worth repeating: a NameNode failing over, starting or in safe mode, a refused or cut connection, a
    timeout, a listing that broke midway.
    """


class PermanentStoreError(StoreError):
    """Repeating the call cannot help: permission, quota, a folder where a file should be."""


class TooLarge(StoreError):
    """A file is larger than the reader allows; nothing of it was kept in memory."""
