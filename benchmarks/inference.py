"""A network at 100x: how small its file is, and how much faster it runs.

    python -m benchmarks.inference

LeNet-300-100 and LeNet-5 are trained for a moment on MNIST (read from COPPICE_MNIST, or downloaded), cut by
magnitude over all layers, and exported as `coppice export` does it. They are not trained again after the cut:
time does not depend on the values of the weights, only on where they are; and random weights, which are cut
everywhere alike, use more inputs and units than any trained network (`--random` measures that).
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import nn

from benchmarks.command import run as run_command
from coppice.data import load_data
from coppice.models.builtin import lenet_5, lenet_300_100
from coppice.pruning.contract import ExportReport
from coppice.pruning.export.bundle import Wanted, build_export
from coppice.pruning.layers import find_layers
from coppice.runfile import DataSection
from coppice.show import export_lines, export_table

RESULTS = Path(__file__).parent / "results" / "inference.json"
NETWORKS = {"lenet-300-100": lenet_300_100, "lenet-5": lenet_5}
RATES = {"lenet-300-100": 0.05, "lenet-5": 0.02}
ITERATIONS = 400

Images = npt.NDArray[np.float32]


def trained(name: str, x: Images, y: npt.NDArray[np.int64]) -> nn.Module:
    """The network after a short training, on one thread: two that share a core get nowhere."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = NETWORKS[name]()
    optimiser = torch.optim.SGD(model.parameters(), RATES[name], momentum=0.9, weight_decay=5e-4)
    images, classes = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(ITERATIONS):
        chosen = torch.randint(len(y), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), classes[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model


def cut(model: nn.Module, compression: float, alike: bool) -> float:
    """Keep the largest weights, so many that `compression` is reached, and count what is left.

    Over all layers together; `alike`: the same share of every layer. A unit without weights loses its bias.
    """
    layers, parameters = find_layers(model), dict(model.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    magnitudes = torch.cat([parameters[layer.weight].detach().abs().flatten() for layer in layers])
    magnitudes = magnitudes.sort(descending=True).values
    low, high = 0.0, 1.0
    for _ in range(40):  # biases go with their units: search for the share of weights
        share = (low + high) / 2
        limit = float(magnitudes[int(share * (len(magnitudes) - 1))])
        left = total
        masks = {}
        for layer in layers:
            weight = parameters[layer.weight].detach().abs()
            if alike:
                limit = float(
                    weight.flatten().sort(descending=True).values[int(share * (weight.numel() - 1))]
                )
            masks[layer.weight] = weight >= limit
            left -= int((~masks[layer.weight]).sum())
            if layer.bias is not None:
                masks[layer.bias] = masks[layer.weight].flatten(1).any(1)
                left -= int((~masks[layer.bias]).sum())
        low, high = (share, high) if total / left > compression else (low, share)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    return total / left


def measured(name: str, compression: float, random: bool, x: Images, y: Any) -> tuple[float, ExportReport]:
    """One network's export."""
    torch.manual_seed(0)
    model = NETWORKS[name]() if random else trained(name, x, y)
    reached = cut(model, compression, alike=random)
    return reached, build_export(model, x[:256], Wanted(), lambda: None).report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--compression", type=float, default=100.0)
    parser.add_argument("--random", action="store_true", help="weights as they are before training")
    arguments = parser.parse_args()
    console = Console()
    x, y = np.random.default_rng(0).random((256, 1, 28, 28), dtype=np.float32), None
    if not arguments.random:
        data = load_data(DataSection(name="mnist"))
        x, y = data.train_x, data.train_y
    results = {}
    for name in NETWORKS:
        reached, report = measured(name, arguments.compression, arguments.random, x, y)
        load = os.getloadavg()[0]
        console.print(
            f"{name} at {reached:.1f}x, on {report.processor}, torch {report.torch}, load {load:.1f}"
        )
        console.print(export_table(report))
        console.print("\n".join(export_lines(report)), markup=False, highlight=False, soft_wrap=True)
        results[name] = {"compression": reached, "random": arguments.random, "load": load, **asdict(report)}
    if not arguments.random:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
