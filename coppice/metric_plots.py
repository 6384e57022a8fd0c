"""`coppice plot`: metric logs as a picture or a page that stands alone. Matplotlib is imported to draw."""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coppice.errors import CoppiceError
from coppice.plots import FARTHEST, INK, LINE, MUTED, SERIES, Float64s, make_figure, short, to_svg
from coppice.status.metrics import MAX_LOG_BYTES, SUFFIX, BadMetricLog, Curves, read_curves
from coppice.store import Retry, TooLarge, open_store, tell_trouble
from coppice.store.urls import absolute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETRY = Retry(patience_s=60.0)
"""Somebody waits for the picture."""
_HEIGHT_IN = 3.0
_DPI = 130
_ON_PAPER = {INK: "#1c2421", MUTED: "#5d6a65", LINE: "#dde3e0"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Metrics</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c2421; --muted: #5d6a65; --line: #dde3e0; --card: #ffffff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8eeeb; --muted: #9aa8a2; --line: #34403b;
  --card: #1a211e; }} }}
body {{ margin: 0 auto; max-width: 58rem; padding: 1.5rem; background: var(--card); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
h2 {{ margin: 1.5rem 0 .4rem; font-size: 1.1rem; overflow-wrap: anywhere; }}
svg {{ display: block; width: 100%; height: auto; }}
</style>
</head>
<body>
{plots}
</body>
</html>
"""


def read_logs(places: Sequence[str]) -> list[tuple[str, Curves]]:
    """Each metric log with its name: of files, and of folders all that is named .log; also on webhdfs://.

    Raises `CoppiceError` for what is not there or no metric log.
    """
    found: list[tuple[str, Curves]] = []
    for place in places:
        if place.rstrip("/").rpartition("/")[2] in (".", ".."):
            place = absolute(place)
        folder, _, name = place.rstrip("/").rpartition("/")
        # A name is asked of the folder that holds it: a store has no files of its own outside its root.
        with open_store(
            folder or ("/" if place.startswith("/") else "."), retry=RETRY, on_trouble=tell_trouble
        ) as store:
            entry = store.stat(name)
            if entry is None:
                raise CoppiceError(f"{place}: not there; give a metric log, or a folder of them")
            paths = [name]
            if entry.is_folder:
                paths = [f"{name}/{e.name}" for e in store.list(name) if e.name.endswith(SUFFIX)]
                if not paths:
                    raise CoppiceError(f"{place}: holds no file named *{SUFFIX}")
            for path in paths:
                try:
                    data = store.read(path, MAX_LOG_BYTES)
                except TooLarge as error:
                    raise BadMetricLog(f"{path}: too large for a metric log") from error
                found.append((path.rpartition("/")[2].removesuffix(SUFFIX), read_curves(data or b"", path)))
    return found


def draw(logs: Sequence[tuple[str, Curves]], to: Path) -> None:
    """Write a .png with all logs below each other, or an .html page. Raises `CoppiceError`."""
    kind = to.suffix.lower()
    if kind not in (".png", ".html"):
        raise CoppiceError(f"{to}: cannot be drawn; end its name in .png or .html")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a browser has other fonts, too
        data = _png(logs) if kind == ".png" else _html(logs)
    try:
        to.write_bytes(data)
    except OSError as error:
        raise CoppiceError(f"{to}: cannot be written ({error.strerror})") from error


def _png(logs: Sequence[tuple[str, Curves]]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    figure = _plot(logs, titles=True, muted=_ON_PAPER[MUTED], line=_ON_PAPER[LINE], ink=_ON_PAPER[INK])
    figure.patch.set_alpha(1.0)
    figure.patch.set_facecolor("white")
    figure.set_dpi(_DPI)
    FigureCanvasAgg(figure).print_png(out)  # type: ignore[no-untyped-call]
    return out.getvalue()


def _html(logs: Sequence[tuple[str, Curves]]) -> bytes:
    parts = []
    for number, (name, curves) in enumerate(logs):
        svg = to_svg(_plot([(name, curves)], titles=False), f"log{number}")
        parts.append(f"<h2>{html.escape(name)}</h2>\n{svg}")
    return _PAGE.format(plots="\n".join(parts)).encode("utf-8", "replace")


def _drawable(values: Float64s) -> Float64s:
    """What is beyond all axes is drawn at their end; what is no number, or infinite, not at all."""
    return np.where(np.isfinite(values), np.clip(values, -FARTHEST, FARTHEST), np.nan)


def _plot(
    logs: Sequence[tuple[str, Curves]], *, titles: bool, muted: str = MUTED, line: str = LINE, ink: str = INK
) -> Figure:
    figure, every = make_figure(
        _HEIGHT_IN * len(logs), rows=len(logs), ratios=(1,) * len(logs), muted=muted, line=line, share_x=False
    )
    for axes, (name, curves) in zip(every, logs, strict=True):
        x = _drawable(curves.values[:, 0])
        for column, curve in enumerate(curves.names[1:], 1):
            y = _drawable(curves.values[:, column])
            shown = np.isfinite(x) & np.isfinite(y)
            few = "o" if 0 < np.count_nonzero(shown) <= 30 else ""
            colour = SERIES[(column - 1) % len(SERIES)]
            axes.plot(
                x[shown],
                y[shown],
                marker=few,
                color=colour,
                linewidth=1.6,
                markersize=3.5,
                label=short(curve),
            )
        axes.set_xlabel(short(curves.names[0]))
        if titles:
            axes.set_title(short(name), loc="left", color=ink, fontsize=11)
        if len(curves.names) == 2:
            axes.set_ylabel(short(curves.names[1]))
        else:
            axes.legend(frameon=False, labelcolor=ink, fontsize=9)
    return figure
