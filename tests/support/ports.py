"""Ports for the servers that tests start."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence


class Ports:
    """Ports that are ours alone, between all test processes of this machine, also while no server listens.

    They are below those that Linux gives to outgoing connections: one of these could take the place of a
    server that is down for a while.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._held: list[socket.socket] = []
        free = self._free()
        self.numbers = {name: next(free) for name in names}

    def _free(self) -> Iterator[int]:
        for port in random.SystemRandom().sample(range(10_240, 32_768), 1000):
            reservation = socket.socket(socket.AF_UNIX)
            try:
                reservation.bind(f"\0coppice-tests-port-{port}")  # goes when the process does, not a file
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                reservation.close()
                continue
            self._held.append(reservation)
            yield port

    def give_back(self) -> None:
        """Others may have them."""
        for each in self._held:
            each.close()
