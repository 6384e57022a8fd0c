"""NCS against CMA-ES and random search on the CEC2005 functions, at equal numbers of evaluations.

    python -m benchmarks.search_cec2005             # two settings, some 3 minutes on one core
    python -m benchmarks.search_cec2005 --quick     # a few seconds
    python -m benchmarks.search_cec2005 --full      # 30 dimensions, 300,000 evaluations, as published: hours
    python -m benchmarks.search_cec2005 --dimensions 10 --evaluations 2000 --seeds 5 --functions all

The figure is the best fitness found minus the global optimum (an error below 1e-8 counts as 1e-8, as in
CEC2005), its median over the seeds. Every method gets the same start (uniform in the box), population and
evaluations. Ratios are geometric means over the functions of error(other) / error(ncs): above 1, NCS is
better. Everything goes to benchmarks/results/search_cec2005.json.

Methods: `ncs` is what Coppice runs: published constants, first generation around the start. `ncs-box` has
the published first generation (anywhere in the box). `ncs-r0.8` is ncs with r = 0.8 instead of 0.99, so
that step sizes change within small budgets. `cmaes` restarts when it has converged; its first step size is
a tenth of the box.

What to know about the functions: they are those of the package opfunu 1.0, which has rotated functions and
compositions for 10, 30 and 50 dimensions only. Its F2 leaves out the last partial sum, so its last dimension
is free and the numbers are not comparable with other work's. All methods stay in the box, so F25, and F7 in
part, cannot be solved (their optimum lies outside the range of initialisation). The paper's own table was
not at hand, so nothing is compared with it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import platform
import statistics
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from coppice.search import Optimizer, make_optimizer
from coppice.search.ncs import NCS

RESULTS = Path(__file__).parent / "results" / "search_cec2005.json"
METHODS = ("ncs", "ncs-box", "ncs-r0.8", "cmaes", "random")
SMALLEST_ERROR = 1e-8
ANY_DIMENSIONS = (1, 2, 4, 5, 6, 9, 12, 13, 15)
"""Functions that opfunu has for any number of dimensions; the others have 10, 30 and 50."""


@dataclass(frozen=True)
class Setting:
    """One table."""

    name: str
    dimensions: int
    evaluations: int
    seeds: int
    functions: tuple[int, ...]
    population: int = 10


QUICK = (Setting("quick", 4, 300, 3, (1, 6, 9)),)
USUAL = (
    Setting("as Coppice searches", 4, 500, 15, (1, 2, 5, 6, 9, 12, 13)),
    Setting("standard", 10, 10_000, 5, (1, 2, 5, 6, 9, 10, 13)),
)
FULL = (Setting("as in the paper", 30, 300_000, 5, (1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14)),)


@cache
def cec2005(number: int, dimensions: int) -> Any:
    """The opfunu object of function F<number>."""
    # Newer setuptools lacks pkg_resources, of which opfunu 1.0 uses one call.
    if "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
        stand_in = types.ModuleType("pkg_resources")
        stand_in.resource_filename = lambda package, name: str(  # type: ignore[attr-defined]
            Path(sys.modules[package].__file__ or "").parent / name
        )
        sys.modules["pkg_resources"] = stand_in
    from opfunu.cec_based import cec2005 as suite

    return getattr(suite, f"F{number}2005")(ndim=dimensions)


def search(method: str, setting: Setting, start: Any, lower: float, upper: float, seed: int) -> Optimizer:
    """The method of one column; the arguments are the same for all."""
    common: dict[str, Any] = {
        "start": start,
        "lower": lower,
        "upper": upper,
        "population": setting.population,
        "evaluations": setting.evaluations,
        "sigma": None,
        "seed": seed,
    }
    if method == "ncs-box":
        return NCS(**common, spread="box")
    if method == "ncs-r0.8":
        return NCS(**common, r=0.8)
    return make_optimizer(method, **common)


def best_error(method: str, number: int, setting: Setting, seed: int) -> tuple[float, float]:
    """Error of one run, and the processor seconds spent in ask and tell."""
    function = cec2005(number, setting.dimensions)
    lower, upper = float(function.lb[0]), float(function.ub[0])
    start = np.random.default_rng((seed, number)).uniform(lower, upper, setting.dimensions)
    optimizer = search(method, setting, start, lower, upper, seed)
    np.random.seed(seed)  # the noisy functions of opfunu draw from the global generator
    seconds = 0.0
    while not optimizer.done:
        began = time.process_time()
        asked = optimizer.ask()
        seconds += time.process_time() - began
        fitness = np.array([function.evaluate(x) for x in asked], dtype=np.float64)
        began = time.process_time()
        optimizer.tell(fitness)
        seconds += time.process_time() - began
    if optimizer.evaluations != setting.evaluations:
        raise AssertionError(f"{method} used {optimizer.evaluations} evaluations, not {setting.evaluations}")
    return max(optimizer.best_fitness - float(function.f_global), SMALLEST_ERROR), seconds


def run(setting: Setting) -> dict[str, Any]:
    """All functions, methods and seeds of a setting; prints the table as it grows."""
    print(
        f"\n{setting.name}: {setting.dimensions} dimensions, {setting.evaluations} evaluations, population "
        f"{setting.population}, {setting.seeds} seeds; median error"
    )
    print("     " + "".join(f"{method:>12}" for method in METHODS), flush=True)
    errors: dict[str, dict[str, list[float]]] = {}
    seconds = dict.fromkeys(METHODS, 0.0)
    for number in setting.functions:
        row = errors[f"F{number}"] = {}
        for method in METHODS:
            runs = [best_error(method, number, setting, seed) for seed in range(setting.seeds)]
            row[method] = [error for error, _ in runs]
            seconds[method] += sum(spent for _, spent in runs)
        cells = "".join(f"{statistics.median(row[method]):12.4g}" for method in METHODS)
        print(f"F{number:<4}{cells}", flush=True)
    medians = {
        name: {method: statistics.median(values) for method, values in row.items()}
        for name, row in errors.items()
    }
    ratios = {
        method: math.exp(statistics.mean(math.log(row[method] / row["ncs"]) for row in medians.values()))
        for method in METHODS
    }
    wins = {method: sum(row["ncs"] < row[method] for row in medians.values()) for method in METHODS}
    generations = len(setting.functions) * setting.seeds * math.ceil(setting.evaluations / setting.population)
    cost_ms = {method: 1000 * spent / generations for method, spent in seconds.items()}
    print("x/ncs" + "".join(f"{ratios[method]:12.3g}" for method in METHODS) + "   (above 1: ncs is better)")
    print("wins " + "".join(f"{wins[method]:12d}" for method in METHODS) + f"   (of {len(medians)}, by ncs)")
    print(
        "ms   "
        + "".join(f"{cost_ms[method]:12.3f}" for method in METHODS)
        + "   (processor time of ask and tell, a generation)"
    )
    return {
        "setting": asdict(setting),
        "median_error": medians,
        "error_ratio_to_ncs": ratios,
        "functions_where_ncs_is_better": wins,
        "ask_and_tell_ms": cost_ms,
        "errors": errors,
    }


def settings_of(options: argparse.Namespace) -> tuple[Setting, ...]:
    """The tables that the options ask for."""
    chosen = QUICK if options.quick else FULL if options.full else USUAL
    given = (options.dimensions, options.evaluations, options.seeds, options.functions, options.population)
    if given == (None,) * len(given):
        return chosen
    usual = chosen[-1]
    dimensions = options.dimensions or usual.dimensions
    has = tuple(range(1, 26)) if dimensions in (10, 30, 50) else ANY_DIMENSIONS
    if options.functions == ["all"]:
        functions = has
    elif options.functions:
        functions = tuple(int(number) for number in options.functions)
    else:
        functions = tuple(number for number in usual.functions if number in has)
    if missing := sorted(set(functions) - set(has)):
        names = ", ".join(f"F{number}" for number in missing)
        raise SystemExit(f"search_cec2005: opfunu has no {names} in {dimensions} dimensions")
    return (
        Setting(
            "as asked",
            dimensions,
            options.evaluations or usual.evaluations,
            options.seeds or usual.seeds,
            functions,
            options.population or usual.population,
        ),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search_cec2005",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few seconds")
    size.add_argument("--full", action="store_true", help="30 dimensions, 300,000 evaluations: hours")
    parser.add_argument("--dimensions", type=int)
    parser.add_argument("--evaluations", type=int)
    parser.add_argument("--seeds", type=int, help="runs of each method on each function")
    parser.add_argument("--population", type=int)
    parser.add_argument("--functions", nargs="+", metavar="N", help="numbers such as 1 9 10, or all")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="where the JSON goes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    tables = [run(setting) for setting in settings_of(options)]
    report = {
        "command": [
            "python",
            "-m",
            "benchmarks.search_cec2005",
            *(sys.argv[1:] if arguments is None else arguments),
        ],
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "cmaes", "opfunu")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time(), 1),
        "tables": tables,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{report['seconds']} s ({report['processor_seconds']} s of processor time), {options.out}")


if __name__ == "__main__":
    main()
