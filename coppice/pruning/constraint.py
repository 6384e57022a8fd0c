"""What a pruned network may lose, in whole samples."""

from __future__ import annotations

import math


def allowed_errors(reference_accuracy: float, drop: float, samples: int) -> int:
    """The most errors on `samples` that lose no more than `drop` (a fraction) against the reference.

    An integer, so that the verdict hangs on no rounding: the reference's own errors are whole again, and
    1e-6 of a sample forgives what 0.29 * 100 loses in floating point.
    """
    return _errors(reference_accuracy, samples) + math.floor(drop * samples + 1e-6)


def keeps(accuracy: float, reference_accuracy: float, drop: float, samples: int) -> bool:
    """Whether this accuracy on `samples` loses no more than `drop` (a fraction) against the reference."""
    return _errors(accuracy, samples) <= allowed_errors(reference_accuracy, drop, samples)


def _errors(accuracy: float, samples: int) -> int:
    return round((1.0 - accuracy) * samples)
