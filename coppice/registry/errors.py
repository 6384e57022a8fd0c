"""What can be wrong in a registry."""

from __future__ import annotations

from coppice.errors import CoppiceError


class RegistryError(CoppiceError):
    """Something in the registry, or asked of it, is not as it should be: what, where, what to do."""


class OrderFailed(RegistryError):
    """A work order cannot be done; the message is the reason that its log ends with."""


class OrderLost(Exception):
    """The order was taken back meanwhile, from a worker that seemed dead: leave it alone."""
