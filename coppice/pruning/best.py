"""The best feasible network so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coppice.pruning.contract import Float64s, Measure
from coppice.pruning.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Best:
    """A network that was measured, as it was then: surgery can go on from it."""

    measure: Measure
    crates: Float64s
    limits: tuple[float, ...] | None
    """The layers' thresholds; None: not cut yet."""
    values: Tensors
    """Its parameters as they learn, not masked, and its buffers; copies."""
    masks: Tensors
    """Copies too."""

    def tensors(self) -> Tensors:
        """Its parameters, masked to zero, and its buffers."""
        return {
            name: value * self.masks[name] if name in self.masks else value
            for name, value in self.values.items()
        }

    def beaten_by(self, measure: Measure, steadier: bool = False) -> bool:
        """Fewest parameters, then highest accuracy; of equals the later one, which has trained longer.
        `steadier`: what was measured is the mean of more weights, which is worth more than a few samples."""
        new = (measure.parameters_remaining, float("-inf") if steadier else -measure.accuracy)
        return new <= (self.measure.parameters_remaining, -self.measure.accuracy)

    def info(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        limits = None if self.limits is None else list(self.limits)
        return {"measure": asdict(self.measure), "crates": self.crates.tolist(), "limits": limits}


def best_from(info: Mapping[str, Any], values: Tensors, masks: Tensors) -> Best:
    """The other way."""
    fields = dict(info["measure"])
    fields["layer_remaining"] = tuple(fields["layer_remaining"])
    limits = None if info["limits"] is None else tuple(info["limits"])
    crates = np.array(info["crates"], dtype=np.float64)
    return Best(Measure(**fields), crates, limits, values, masks)
