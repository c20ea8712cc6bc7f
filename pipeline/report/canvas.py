"""The canvas of every figure: its style, axes and labels, and its SVG.

Colors are variables of the page's style sheet, so that a figure follows the reader's light or dark
mode; text stays text in the page's font. Equal numbers give equal bytes. No figure contains text
from a file.
"""

import io
import re
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

INK, MUTED, _GRID, ACCENT, SOFT, _PAPER = (
    "#010203",
    "#040506",
    "#070809",
    "#0a0b0c",
    "#0d0e0f",
    "#101112",
)
_COLOR_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    _GRID: "--grid",
    ACCENT: "--accent",
    SOFT: "--soft",
    _PAPER: "--paper",
}
"""Placeholders that matplotlib draws with, and the variables of page.css that replace them."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quiver",
    "font.size": 13,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.6,
    "axes.labelsize": 13,
    "axes.linewidth": 1,
    "grid.color": _GRID,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "font.family": "DejaVu Sans",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
WIDTH, _HEIGHT = 460, 300
"""Size of a figure in the page's pixels, before it is scaled to its column."""
PLAIN_FORMATTER = FuncFormatter(lambda value, _: f"{value:g}")


@contextmanager
def open_canvas(width: int = WIDTH, height: int = _HEIGHT, **grid: Any):
    """A figure and its axes in the report's style."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        yield figure, figure.subplots(**grid)


def to_svg(figure: Figure, name: str) -> Markup:
    """The figure as an element of the page; `name` keeps its ids apart from those of others."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = re.sub(r"^.*?(?=<svg )", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    for attribute in ("height", "width"):  # the page sets the size
        text = re.sub(rf'(<svg [^>]*?) {attribute}="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="|url\(#|href="#', lambda match: match.group() + name + "-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for color, variable in _COLOR_VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return Markup(re.sub(r"\n\s*", "\n", text).strip())  # noqa: S704 - drawn from numbers alone


def label_log_axis(axis: Any) -> None:
    """Labels a logarithmic axis with few numbers, without exponents."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    digits = (1,) if decades > 3 else (1, 3) if decades > 1.3 else (1, 2, 5)
    axis.set_major_locator(LogLocator(10, digits, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(PLAIN_FORMATTER)
    axis.set_minor_formatter(NullFormatter())


def scale_y_axis(axes: Any, values: np.ndarray) -> None:
    """Makes the y axis logarithmic over the positive values, or linear if there are none, with
    lines at its labels.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive):
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 1.4, positive.max() * 1.6)
        label_log_axis(axes.yaxis)
    style_grid(axes)


def style_grid(axes: Any) -> None:
    """Draws horizontal lines behind the curves instead of ticks."""
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def label_ends(
    axes: Any, values: Iterable[float], labels: Iterable[tuple[str, str]], *, min_gap: float
) -> None:
    """Writes labels (text, color) right of the axes at the heights of rising values; a label that
    would overlap the one below it is moved up, to a distance of `min_gap` of the axes' height.
    """
    heights = axes.transLimits.transform(
        [(0, axes.transScale.transform((0, value))[1]) for value in values]
    )[:, 1]
    lowest = 0.0
    for (text, color), height in zip(
        labels, np.nan_to_num(heights, neginf=0.0, posinf=1.0), strict=True
    ):
        place = max(float(height), lowest)
        axes.text(
            1.02, place, text, transform=axes.transAxes, va="center", fontsize=12, color=color
        )
        lowest = place + min_gap
