"""Draws the figures of the report and of the pages of evaluation: one function per figure, from
numbers to SVG.

Colors are variables of the page's style sheet, so that a figure follows the reader's light or dark
mode; text stays text in the page's font. Equal numbers give equal bytes. No figure contains text
from a file.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float64, Int64
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from pipeline.report.stats import FAN_QUANTILES

INK, MUTED, _GRID, ACCENT, _SOFT, _PAPER = (
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
    _SOFT: "--soft",
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
_WIDTH, _HEIGHT = 460, 300
"""Size of a figure in the page's pixels, before it is scaled to its column."""
_PLAIN_FORMATTER = FuncFormatter(lambda value, _: f"{value:g}")


@contextmanager
def _canvas(width: int = _WIDTH, height: int = _HEIGHT, **grid: Any):
    """A figure and its axes in the report's style."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        yield figure, figure.subplots(**grid)


def _to_svg(figure: Figure, name: str) -> Markup:
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


def _label_log_axis(axis: Any) -> None:
    """Labels a logarithmic axis with few numbers, without exponents."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    digits = (1,) if decades > 3 else (1, 3) if decades > 1.3 else (1, 2, 5)
    axis.set_major_locator(LogLocator(10, digits, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_PLAIN_FORMATTER)
    axis.set_minor_formatter(NullFormatter())


def _scale_y_axis(axes: Any, values: np.ndarray) -> None:
    """Makes the y axis logarithmic over the positive values, or linear if there are none, with
    lines at its labels.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive):
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 1.4, positive.max() * 1.6)
        _label_log_axis(axes.yaxis)
    _style_grid(axes)


def _style_grid(axes: Any) -> None:
    """Draws horizontal lines behind the curves instead of ticks."""
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def plot_power(
    hz: Float64[np.ndarray, " all_freq"],
    mean: Float64[np.ndarray, "2 all_freq"],
    kept: int,
    frames: int,
) -> Markup:
    """Root of the mean power of x and y against frequency; the first `kept` frequencies are
    shaded. `frames` is T.
    """
    with _canvas() as (figure, axes):
        amplitude = np.sqrt(mean)
        axes.axvspan(-hz[1] / 2, (kept - 0.5) * hz[1], color=ACCENT, alpha=0.10, linewidth=0)
        for values, color in zip(amplitude, (ACCENT, INK), strict=True):
            shown = np.where(values > 0, values, np.nan)
            axes.plot(hz, shown, color=color)
            axes.plot(hz[:kept], shown[:kept], ".", color=color, markersize=5)
        _scale_y_axis(axes, amplitude)
        axes.set(
            xlim=(-hz[1] / 2, hz[-1]), xlabel="frequency, Hz", ylabel="root mean square |S|, px"
        )
        right = axes.secondary_yaxis(
            "right", functions=(lambda s: s * 2 / frames, lambda a: a * frames / 2)
        )
        right.set_ylabel("as amplitude of a sway, px")
        if (amplitude > 0).any():
            _label_log_axis(right.yaxis)
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        axes.text(
            (kept - 0.5) * hz[1] + hz[-1] * 0.012,
            0.96,
            f"kept: K = {kept}",
            transform=axes.get_xaxis_transform(),
            color=ACCENT,
            va="top",
        )
        figure.subplots_adjust(0.145, 0.16, 0.855, 0.98)
        return _to_svg(figure, "power")


def plot_ridges(
    name: str,
    hz: Sequence[float],
    edges: Float64[np.ndarray, " edges"],
    shares: Float64[np.ndarray, "shown cells"],
    label: str,
) -> Markup:
    """Histograms of amplitudes, one below the other on equal axes; the height is the square root of
    the share of the coefficients.
    """
    with _canvas(
        height=66 * len(hz) + 50, nrows=len(hz), sharex=True, sharey=True, squeeze=False
    ) as (figure, grid):
        top = max(float(shares.max()), 1e-9)
        for axes, frequency, share in zip(grid[:, 0], hz, shares, strict=True):
            axes.stairs(
                np.sqrt(share / top), edges, fill=True, color=ACCENT, alpha=0.75, linewidth=0
            )
            axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.04), yticks=[])
            axes.spines["left"].set_visible(False)
            axes.tick_params(length=0)
            axes.text(
                0.995, 0.86, f"{frequency:.1f} Hz", transform=axes.transAxes, ha="right", va="top"
            )
        grid[-1, 0].xaxis.set_major_locator(MaxNLocator(6))
        grid[-1, 0].xaxis.set_major_formatter(_PLAIN_FORMATTER)
        grid[-1, 0].set_xlabel(label)
        bottom = 44 / (66 * len(hz) + 50)
        figure.subplots_adjust(0.03, bottom, 0.97, 0.99, hspace=0.16)
        return _to_svg(figure, name)


def plot_scales(
    hz: Float64[np.ndarray, " freq"],
    scale: Float64[np.ndarray, "parts freq"],
    fan: Float64[np.ndarray, "quantiles freq"],
) -> Markup:
    """The scales s_f against frequency, over the quantiles `fan` of |S|."""
    with _canvas() as (figure, axes):
        positive = np.where(fan > 0, fan, np.nan)
        for low, high, alpha in zip(
            positive[:-1], positive[1:], (0.32, 0.26, 0.20, 0.14, 0.09), strict=True
        ):
            axes.fill_between(hz, low, high, color=ACCENT, alpha=alpha, linewidth=0)
        for values in scale:
            axes.plot(
                hz, np.where(values > 0, values, np.nan), color=ACCENT, marker=".", markersize=6
            )
        _scale_y_axis(axes, np.concatenate([fan, scale]))
        axes.set(xlim=(0, max(float(hz[-1]), 1e-9)), xlabel="frequency, Hz", ylabel="|S|, px")
        labels = [(f"{100 * q:g} %", MUTED) for q in FAN_QUANTILES]
        _label_ends(axes, fan[:, -1], labels, min_gap=0.055)
        figure.subplots_adjust(0.145, 0.16, 0.855, 0.98)
        return _to_svg(figure, "scales")


def _label_ends(
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


def plot_truncation_error(
    relative: Float64[np.ndarray, "lines orders"], kept: int, marked: Sequence[int]
) -> Markup:
    """Error of keeping K = 1, 2, ... frequencies as a share of the motion: the lines are 10 %
    quantile, median, 90 % quantile and mean over the windows. The orders K in `marked` get a label.
    """
    with _canvas() as (figure, axes):
        order = np.arange(1, relative.shape[1] + 1)
        low, median, high, mean = 100 * relative
        axes.fill_between(order, low, high, color=ACCENT, alpha=0.15, linewidth=0)
        axes.plot(order, mean, color=INK, linewidth=1, dashes=(4, 3))
        axes.plot(order, median, color=ACCENT)
        axes.axvline(kept, color=ACCENT, linewidth=1, alpha=0.6)
        axes.text(
            kept * 1.06,
            0.98,
            f"this data set: K = {kept}",
            color=ACCENT,
            va="top",
            transform=axes.get_xaxis_transform(),
        )
        for k in marked:
            axes.plot([k], median[k - 1], "o", color=ACCENT, markersize=5)
            below = median[k - 1] > 0.12 * high.max()  # else the label would stand on the axis
            axes.annotate(
                f"{median[k - 1]:.0f} %",
                (k, median[k - 1]),
                xytext=(-3, -14) if below else (3, 14),
                textcoords="offset points",
                fontsize=12,
                ha="right" if below else "left",
            )
        axes.set_xscale("log")
        axes.set(
            xlim=(1, len(order)),
            ylim=(0, max(float(high.max()), 1.0) * 1.04),
            xlabel="K, frequencies kept",
            ylabel="error, % of the motion",
        )
        axes.set_xticks([k for k in (1, 2, 4, 8, 16, 24, 48, 96) if k <= len(order)])
        axes.xaxis.set_major_formatter(_PLAIN_FORMATTER)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", linewidth=0.8)
        axes.tick_params(length=0)
        figure.subplots_adjust(0.125, 0.16, 0.98, 0.98)
        return _to_svg(figure, "error")


def plot_measure(
    name: str,
    edges: Float64[np.ndarray, " edges"],
    kept: Int64[np.ndarray, " cells"],
    rejected: Int64[np.ndarray, " cells"],
    log: bool,
) -> Markup:
    """Histogram of one measure over the windows, kept below rejected. Its axis spans the whole
    width, so that the slider beneath it fits.
    """
    with _canvas(width=_WIDTH, height=120) as (figure, axes):
        axes.stairs(kept + rejected, edges, fill=True, color=_SOFT, linewidth=0)
        axes.stairs(kept, edges, fill=True, color=ACCENT, linewidth=0)
        axes.set_xscale("log" if log else "linear")
        axes.set(
            xlim=(edges[0], edges[-1]),
            ylim=(0, max(int((kept + rejected).max()), 1) * 1.05),
            yticks=[],
        )
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(length=3, color=MUTED)
        _label_inside(axes.xaxis, edges, log)
        figure.subplots_adjust(0, 0.2, 1, 0.99)
        return _to_svg(figure, name)


def _label_inside(axis: Any, edges: np.ndarray, log: bool) -> None:
    """Labels an axis away from its ends, where half of a label would be cut off."""
    if log:
        _label_log_axis(axis)
    else:
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(_PLAIN_FORMATTER)
    to_axis = np.log if log else float
    low, high = to_axis(edges[0]), to_axis(edges[-1])
    axis.set_ticks(
        [
            tick
            for tick in axis.get_major_locator()()
            if (not log or tick > 0) and 0.03 < (to_axis(tick) - low) / (high - low) < 0.97
        ]
    )


def plot_throughput(
    minutes: Float64[np.ndarray, " shards"],
    windows: Int64[np.ndarray, " shards"],
    restarts: Sequence[float],
) -> Markup:
    """Windows decided against the time of the run, over all starts of the command, which dashed
    lines separate.
    """
    with _canvas(height=200) as (figure, axes):
        axes.plot(
            np.concatenate([[0.0], minutes]),
            np.concatenate([[0], windows]),
            color=ACCENT,
            drawstyle="steps-post",
        )
        for restart in restarts:
            axes.axvline(restart, color=MUTED, linewidth=1, dashes=(2, 2))
        axes.set(
            xlim=(0, max(float(minutes[-1]), 1e-9) * 1.01),
            ylim=(0, max(int(windows[-1]), 1) * 1.06),
            xlabel="minutes",
            ylabel="windows decided",
        )
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y", linewidth=0.8)
        axes.tick_params(length=0)
        figure.subplots_adjust(0.135, 0.24, 0.98, 0.98)
        return _to_svg(figure, "throughput")


_DASH_PATTERNS = ((), (5, 2), (2, 2), (7, 2, 2, 2))
"""The dashes that tell lines of one color apart."""


def plot_estimators(
    name: str,
    x: Sequence[float | int],
    lines: Mapping[str, Sequence[float | None]],
    accented: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    ticks: Sequence[str] = (),
) -> Markup:
    """A line for each flow estimator, named at its end: those `accented` in color, and `truth`
    thick. `ticks` are the labels of `x`, if they are not its numbers; `y_label` is that of y.
    """
    with _canvas() as (figure, axes):
        numbers = {
            title: np.array([np.nan if value is None else value for value in values], np.float64)
            for title, values in lines.items()
        }
        dash_patterns = cycle(_DASH_PATTERNS)
        ends = []
        for title, values in numbers.items():
            color, dashes, style = INK, (), {}
            if title in accented:
                color = ACCENT
            elif title == "truth":
                color, style = MUTED, dict(linewidth=4, alpha=0.4)
            else:
                dashes = next(dash_patterns)
            axes.plot(x, values, color=color, dashes=dashes or (None, None), **style)
            finite = values[np.isfinite(values)]
            ends.append((float(finite[-1]) if len(finite) else 0.0, title, color))
        if log:
            _scale_y_axis(axes, np.concatenate(list(numbers.values())))
        else:
            axes.grid(axis="y", linewidth=0.8)
            axes.set_ylim(min(0, axes.get_ylim()[0]), None)
        axes.set(xlim=(x[0], x[-1]), xlabel=x_label, ylabel=y_label)
        axes.tick_params(length=0)
        if ticks:
            axes.set_xticks(x, ticks)
        ends.sort()
        labels = [(title, color) for _, title, color in ends]
        _label_ends(axes, [end for end, _, _ in ends], labels, min_gap=0.062)
        figure.subplots_adjust(0.145, 0.16, 0.775, 0.98)
        return _to_svg(figure, name)


class Line(NamedTuple):
    """The values of a curve, NaN if there is none, and how it is drawn."""

    values: Float64[np.ndarray, " places"]
    color: str = ACCENT
    dashes: tuple[float, float] | None = None


def plot_steps(name: str, places: Sequence[str], lines: Sequence[Line], label: str) -> Markup:
    """Values at named places from left to right, the last of which stands apart."""
    with _canvas(height=250) as (figure, axes):
        across = np.arange(len(places)) + 0.5 * (np.arange(len(places)) == len(places) - 1)
        for line in lines:
            axes.plot(
                across,
                line.values,
                color=line.color,
                marker="o",
                markersize=4,
                dashes=line.dashes or (None, None),
            )
        axes.set_xticks(across, places)
        axes.set(ylabel=label)
        _style_grid(axes)
        figure.subplots_adjust(0.135, 0.13, 0.98, 0.97)
        return _to_svg(figure, name)


def plot_curves(
    name: str,
    seconds: Float64[np.ndarray, " places"],
    lines: Sequence[Line],
    label: str,
    *,
    log: bool = False,
    across: str = "seconds",
) -> Markup:
    """Curves over time, or over what `across` says."""
    with _canvas(height=250) as (figure, axes):
        for line in lines:
            axes.plot(
                seconds,
                line.values,
                color=line.color,
                linewidth=1.4,
                dashes=line.dashes or (None, None),
            )
        if log:
            _scale_y_axis(axes, np.concatenate([line.values for line in lines]))
        axes.set(
            xlim=(float(seconds[0]), max(float(seconds[-1]), float(seconds[0]) + 1e-9)),
            xlabel=across,
            ylabel=label,
        )
        _style_grid(axes)
        figure.subplots_adjust(0.135, 0.19, 0.98, 0.97)
        return _to_svg(figure, name)


def plot_intervals(
    name: str,
    names: Sequence[str],
    values: Float64[np.ndarray, " rows"],
    low: Float64[np.ndarray, " rows"],
    high: Float64[np.ndarray, " rows"],
    label: str,
    reference: int | None = None,
) -> Markup:
    """Values with their intervals, one below the other, and a dashed line at the `reference` that
    the others are compared with, if there is one. A value or an interval that is missing is NaN.
    """
    with _canvas(height=34 * len(names) + 56) as (figure, axes):
        places = np.arange(len(names))
        colors = [ACCENT if i == reference else INK for i in places]
        if reference is not None:
            axes.axvline(values[reference], color=ACCENT, linewidth=1, dashes=(4, 3))
        axes.hlines(places, low, high, color=colors, linewidth=2)
        axes.scatter(values, places, color=colors, s=26, zorder=3)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set(xlabel=label)
        axes.grid(axis="x", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        figure.subplots_adjust(0.4, 48 / (34 * len(names) + 56), 0.97, 0.99)
        return _to_svg(figure, name)
