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
    """A network that was measured, as it was then."""

    measure: Measure
    crates: Float64s
    tensors: Tensors
    """Its parameters, masked to zero, and its buffers; copies."""
    masks: Tensors
    """Copies too."""

    def beaten_by(self, measure: Measure) -> bool:
        """Fewest parameters, then highest accuracy; of equals the later one, which has trained longer."""
        new = (measure.parameters_remaining, -measure.accuracy)
        return new <= (self.measure.parameters_remaining, -self.measure.accuracy)

    def info(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {"measure": asdict(self.measure), "crates": self.crates.tolist()}


def best_from(info: Mapping[str, Any], tensors: Tensors, masks: Tensors) -> Best:
    """The other way."""
    fields = dict(info["measure"])
    fields["layer_remaining"] = tuple(fields["layer_remaining"])
    return Best(Measure(**fields), np.array(info["crates"], dtype=np.float64), tensors, masks)
