"""How a benchmark ends where it cannot be run."""

from __future__ import annotations

import sys
from collections.abc import Callable

from coppice.errors import CoppiceError


def run(main: Callable[[], object]) -> None:
    """Run it; a user's mistake (no data, a wrong run file) ends it with one line."""
    try:
        main()
    except CoppiceError as error:
        sys.exit(str(error))
