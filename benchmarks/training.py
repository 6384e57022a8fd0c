"""What a step of LeNet-5's training costs on one core, and what of it is saved where channels are dead.

    python -m benchmarks.training

Random images, no data set: time does not depend on them. `--dead 10 35`: how many channels of the two
convolutions are cut whole; default: about as many as in a network at 400x. Each row is the median of several
turns, taken in turn with the other rows, so that whatever else the machine does hits them alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from coppice.models.builtin import lenet_5
from coppice.pruning import units
from coppice.pruning.arrangement import arrange, channels_last
from coppice.pruning.augment import augment
from coppice.pruning.layers import find_layers
from coppice.pruning.masks import open_masks
from coppice.pruning.randomness import Purpose
from coppice.pruning.sgd import MaskedSGD
from coppice.runfile import AugmentSection, SurgerySection

HOW = SurgerySection(batch=64, learning_rate=0.01)
MOVES = AugmentSection(shift=1.0, rotate=8, scale=0.08, shear=0.08)


def stepper(dead: tuple[int, int], arranged: bool, lanes: int) -> Callable[[], object]:
    """One step of a network of which so many channels are cut whole."""
    torch.manual_seed(1)
    model = lenet_5()
    if arranged:
        arrange(model)
    found = find_layers(model)
    sgd = MaskedSGD(model)
    masks = open_masks(found, sgd.values)
    for name, count in zip(("conv1", "conv2"), dead, strict=True):
        masks[f"{name}.weight"][:count] = 0
        masks[f"{name}.bias"][:count] = 0
    edges = units.find_edges(model, found)
    units.bury(edges, masks, (sgd.values, sgd.momentum))
    held, units._LANES = units._LANES, lanes
    narrowed = units.Narrowed(model, edges, sgd.values)
    units._LANES = held
    own, own_masks = narrowed.enter(sgd, masks)
    x, y = torch.rand(64, 1, 28, 28), torch.arange(64) % 10

    def step() -> object:
        moved = augment(x, MOVES, 1, Purpose.SURGERY_MOVES, 0)
        return own.step(narrowed.model, own_masks, channels_last(moved) if arranged else moved, y, 0.01, HOW)

    return step


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dead", type=int, nargs=2, default=(9, 35), metavar="CHANNELS")
    parser.add_argument("--steps", type=int, default=30, help="in a turn")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dead = (arguments.dead[0], arguments.dead[1])
    rows = {
        "whole network, as torch has it": stepper((0, 0), False, 1),
        "whole network, channels side by side": stepper((0, 0), True, 1),
        f"{dead[0]} and {dead[1]} channels dead and left out": stepper(dead, False, 1),
        "... and channels side by side": stepper(dead, True, 1),
        "... and whole vectors of them": stepper(dead, True, units._LANES),
    }
    took: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(arguments.turns):
        for name, step in rows.items():
            step()
            began = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            took[name].append((time.perf_counter() - began) / arguments.steps * 1e3)
    table = Table("training LeNet-5, batch 64", "ms a step", "faster than the first")
    first = statistics.median(next(iter(took.values())))
    for name, times in took.items():
        median = statistics.median(times)
        table.add_row(name, f"{median:.1f}", f"{first / median:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
