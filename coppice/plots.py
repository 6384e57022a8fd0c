"""The figures of the report: inline SVG that follows the page's colours, light or dark.

The same numbers give the same text: no dates, no random ids. Matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coppice.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Float64s = npt.NDArray[np.float64]

# Stand-ins that become the page's CSS variables.
INK, MUTED, LINE, CARD = "#0a0b0c", "#1a1b1c", "#2a2b2c", "#3a3b3c"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", CARD: "var(--card)"}
# Colours of the data: readable on white and on black, and told apart by most colour-blind people.
GREEN, RED, BLUE = "#2b9a66", "#d9534f", "#3b82c4"
SERIES = (BLUE, "#e08a1e", GREEN, "#a35fc4", "#c2497c", "#7a8c2e", "#2aa3a8", "#8a6d5a")

_WIDTH_IN = 8.2
MAX_VECTOR_POINTS = 4000
"""More points than this are drawn as an image inside the SVG, to keep the page small."""
MAX_WORKERS = 30
"""Bars in the plot of evaluators; the rest are added up."""
MAX_LINES = len(SERIES)
"""Layers that get a line of their own; more are drawn as a map."""

FARTHEST = 1e15
"""Numbers beyond are drawn there: what somebody has written into the folder may be beyond all axes."""


@dataclass(frozen=True, slots=True)
class Series:
    """The evaluations of one search, in the order in which they were told."""

    search: int
    fitness: Float64s
    """float64 (evaluations,): the fraction of parameters that remain; above 1 infeasible."""
    over: bool
    """False: the search goes on."""


def _stretches(rounds: Sequence[int], settled: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last round of each stretch in which masks stay."""
    grouped = groupby(zip(rounds, settled, strict=True), key=lambda each: each[1])
    stretches = [[number for number, _ in group] for stays, group in grouped if stays]
    return [(numbers[0], numbers[-1]) for numbers in stretches]


def rounds_plot(
    rounds: Sequence[int],
    compression: Sequence[float],
    accuracy: Sequence[float],
    feasible: Sequence[bool],
    *,
    reference: float | None,
    drops: Sequence[float],
    settled: Sequence[bool],
) -> str:
    """Compression above, accuracy on the held-out samples below, a point each round.

    `reference` is the dense network's accuracy; of each round `drops` is how much of that it may lose, and
    `settled` whether masks stay in it.
    """
    compression, accuracy = drawable(compression), drawable(accuracy)
    figure, (above, below) = make_figure(4.6, rows=2, ratios=(3, 2))
    good = np.array(feasible, dtype=np.bool_)
    stays = _stretches(rounds, settled)
    for axes, values, colour in ((above, compression, GREEN), (below, accuracy, BLUE)):
        x, y = np.array(rounds, dtype=np.float64), np.array(values, dtype=np.float64)
        axes.plot(x, y, color=colour, linewidth=1.6, zorder=2)
        axes.plot(x[good], y[good], "o", color=colour, markersize=5, zorder=3)
        axes.plot(
            x[~good], y[~good], "o", markerfacecolor=CARD, markeredgecolor=RED, markersize=5.5, zorder=3
        )
        for first, last in stays:
            axes.axvspan(first - 0.5, last + 0.5, color=LINE, alpha=0.45, linewidth=0, zorder=0)
        axes.set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)
    above.set_ylabel("times smaller")
    above.set_ylim(bottom=0)
    above.annotate(
        f"{compression[-1]:.1f}x",
        (rounds[-1], compression[-1]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        color=INK,
        fontweight="bold",
        annotation_clip=False,
    )
    if stays:
        above.text(
            stays[-1][1] + 0.4, 0.04, "masks stay, weights train ", ha="right", color=MUTED, fontsize=8.5,
            transform=above.get_xaxis_transform(),
        )  # fmt: skip
    below.set_ylabel("accuracy")
    below.set_xlabel("round")
    if reference is not None:
        allowed = [reference - drop for drop in drops]
        below.axhline(reference, color=MUTED, linewidth=1, linestyle="--", zorder=1)
        named = [(reference, "the dense network")]
        if any(drops):
            edges = [*(number - 0.5 for number in rounds), rounds[-1] + 0.5]
            below.stairs(allowed, edges, baseline=None, color=MUTED, linewidth=1, linestyle=":", zorder=1)
            named.append((allowed[-1], "lowest allowed"))
        else:
            named = [(reference, "the dense network, lowest allowed")]
        for level, text in named:
            below.annotate(
                text, (1, level), xycoords=below.get_yaxis_transform(), xytext=(-3, -3),
                textcoords="offset points", ha="right", va="top", color=MUTED, fontsize=8.5,
            )  # fmt: skip
    below.margins(y=0.2)
    _integers(below)
    return to_svg(figure, "rounds")


def drawable(values: Sequence[float]) -> list[float]:
    return [min(max(value, -FARTHEST), FARTHEST) for value in values]


def fitness_plot(searches: Sequence[Series]) -> str:
    """Every evaluation: feasible ones as points, infeasible as crosses, the best so far as a line."""
    figure, (axes,) = make_figure(3.9)
    total = sum(len(series.fitness) for series in searches)
    flat = total > MAX_VECTOR_POINTS
    first = 0
    borders: list[tuple[float, str]] = []
    for series in searches:
        y = np.clip(series.fitness, 1e-9, FARTHEST)
        x = np.arange(first, first + len(y), dtype=np.float64)
        good = y <= 1
        axes.plot(x[good], y[good], ".", color=BLUE, markersize=3.2, alpha=0.55, rasterized=flat)
        axes.plot(
            x[~good], y[~good], "x", color=RED, markersize=3.2, markeredgewidth=0.8, alpha=0.6,
            rasterized=flat,
        )  # fmt: skip
        best = np.minimum.accumulate(y)
        kept = best <= 1
        axes.plot(x[kept], best[kept], color=GREEN, linewidth=1.8, drawstyle="steps-post", zorder=4)
        if first:
            axes.axvline(first - 0.5, color=LINE, linewidth=0.9, zorder=1)
        borders.append((first + len(y) / 2, f"{series.search}" if series.over else f"{series.search} …"))
        first += len(y)
    lowest = min(float(series.fitness.min()) for series in searches)
    axes.set_yscale("log")
    axes.set_ylim(max(1e-9, lowest) * 0.8, 2.15)
    axes.axhspan(1, 2.15, color=RED, alpha=0.07, linewidth=0, zorder=0)
    axes.axhline(1, color=MUTED, linewidth=0.8, zorder=1)
    axes.set_xlim(-0.01 * first - 0.5, first * 1.01)
    _percents(axes.yaxis, crowded=lowest < 1e-4)
    axes.set_ylabel("fitness (fraction kept)")
    axes.set_xlabel("evaluation")
    step = max(1, math.ceil(len(borders) / 24))
    for middle, text in borders[::step]:
        axes.annotate(
            text, (middle, 1), xycoords=axes.get_xaxis_transform(), xytext=(0, 3),
            textcoords="offset points", ha="center", color=MUTED, fontsize=8.5,
        )  # fmt: skip
    axes.annotate(
        "search ", (0, 1), xycoords="axes fraction", xytext=(-4, 3), textcoords="offset points", ha="right",
        color=MUTED, fontsize=8.5,
    )  # fmt: skip
    return to_svg(figure, "fitness")


def crates_plot(layers: Sequence[str], searches: Sequence[int], crates: Float64s) -> str:
    """The best crates of each search, float64 (searches, layers): a line a layer, or a map of many."""
    x, crates = np.array(searches, dtype=np.float64), np.clip(crates, -FARTHEST, FARTHEST)
    if len(layers) <= MAX_LINES:
        figure, (axes,) = make_figure(2.9)
        for i, layer in enumerate(layers):
            axes.plot(x, crates[:, i], "o-", color=SERIES[i], linewidth=1.6, markersize=4, label=short(layer))
        axes.legend(
            loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, labelcolor=INK, handlelength=1.4
        )
        axes.set_ylabel("crate")
        axes.margins(x=0.03)
        axes.set_xlim(x[0] - 0.4, x[-1] + 0.4)
    else:
        figure, (axes,) = make_figure(1.0 + 0.16 * len(layers))
        shown = axes.imshow(
            crates.T, aspect="auto", cmap="viridis", interpolation="nearest",
            extent=(x[0] - 0.5, x[-1] + 0.5, len(layers) - 0.5, -0.5),
        )  # fmt: skip
        step = max(1, math.ceil(len(layers) / 60))
        axes.set_yticks(range(0, len(layers), step), [short(layer) for layer in layers[::step]], fontsize=7)
        axes.grid(False)
        bar = figure.colorbar(shown, ax=axes, label="crate", pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(color=MUTED, labelcolor=MUTED)
        bar.ax.yaxis.label.set_color(MUTED)
    axes.set_xlabel("search")
    _integers(axes)
    return to_svg(figure, "crates")


def remaining_plot(layers: Sequence[str], fractions: Sequence[float]) -> str:
    """How much of each layer remains, a bar each, on a logarithmic scale."""
    low = min([f for f in fractions if f > 0], default=1.0)
    left = 10 ** math.floor(math.log10(min(low, 0.5) * 0.9))
    texts = [f"{fraction:.2%}" for fraction in fractions]
    values = [max(fraction, left) for fraction in fractions]
    figure, axes = _bars([short(layer) for layer in layers], values, texts, GREEN, left=left)
    axes.set_xscale("log")
    axes.set_xlim(left, 1.9)
    axes.axvline(1, color=MUTED, linewidth=0.8)
    _percents(axes.xaxis, crowded=left < 1e-3)
    axes.set_xlabel("weights that remain")
    return to_svg(figure, "remaining")


def workers_plot(workers: Sequence[str], counts: Sequence[int]) -> str:
    """Evaluations of each evaluator, a bar each, most first; those beyond `MAX_WORKERS` as one."""
    order = sorted(range(len(workers)), key=lambda i: (-counts[i], workers[i]))
    shown = [(workers[i], counts[i]) for i in order[:MAX_WORKERS]]
    rest = [counts[i] for i in order[MAX_WORKERS:]]
    if rest:
        shown.append((f"{len(rest)} others", sum(rest)))
    total = max(1, sum(counts))
    texts = [f"{count:,} ({count / total:.0%})" for _, count in shown]
    figure, axes = _bars([short(name) for name, _ in shown], [c for _, c in shown], texts, BLUE)
    axes.set_xlim(0, max(count for _, count in shown) * 1.18)
    axes.set_xlabel("evaluations")
    return to_svg(figure, "workers")


# Drawing


def _bars(
    names: Sequence[str], values: Sequence[float], texts: Sequence[str], colour: str, left: float = 0.0
) -> tuple[Figure, Axes]:
    few = len(names) <= 12
    figure, (axes,) = make_figure(0.75 + (0.3 if few else 0.19) * len(names))
    y = list(range(len(names)))
    axes.barh(y, [value - left for value in values], left=left, color=colour, height=0.62, zorder=2)
    for row, value, text in zip(y, values, texts, strict=True):
        axes.annotate(
            text,
            (value, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=10 if few else 8,
        )
    axes.set_yticks(y, names, fontsize=9 if few else 8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(False, axis="y")
    return figure, axes


def make_figure(
    height_in: float,
    rows: int = 1,
    ratios: tuple[int, ...] = (1,),
    muted: str = MUTED,
    line: str = LINE,
    share_x: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` plots below each other, in the page's colours unless others are given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    grid = figure.subplots(
        rows, 1, sharex=share_x, squeeze=False, gridspec_kw={"height_ratios": list(ratios)}
    )
    every: list[Axes] = list(grid[:, 0])
    figure.patch.set_alpha(0.0)
    for axes in every:
        axes.patch.set_alpha(0.0)
        axes.grid(True, color=line, linewidth=0.7, zorder=0)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(muted)
        axes.tick_params(which="both", color=line, labelcolor=muted, labelsize=9)
        axes.xaxis.label.set_color(muted)
        axes.yaxis.label.set_color(muted)
    return figure, every


def _integers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))


def _percents(axis: Axis, crowded: bool) -> None:
    """Ticks of a logarithmic axis of fractions: 1, 2, 5, 10 %, or only powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0,) if crowded else (1.0, 2.0, 5.0), numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, position: f"{100 * value:.4g}%" if value <= 1 else "")
    )


def short(name: str, longest: int = 28) -> str:
    """A name as matplotlib text: dollar signs begin formulas, a first underscore hides an entry."""
    plain = name if len(name) <= longest else f"…{name[1 - longest :]}"
    plain = printable(plain).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element whose ids begin with `name`, so that several share a page."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "svg.image_inline": True}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1).strip()
