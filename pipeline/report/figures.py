"""One function per figure: numbers in, an SVG out.

Colours are written as words of the page's style sheet, so that a figure follows the reader's light
or dark mode; text stays text in the page's font. Equal numbers give equal bytes. No figure holds a
word that came from a file.
"""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
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
"""Placeholders that matplotlib draws with, and the names of the colours in the page's style sheet.
"""
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
"""Of a figure, in the page's pixels before it is scaled to its column."""
_PLAIN_FORMATTER = FuncFormatter(lambda value, _: f"{value:g}")


@contextmanager
def _canvas(width: int = _WIDTH, height: int = _HEIGHT, **grid: Any):
    """A figure and its axes in the report's style."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        yield figure, figure.subplots(**grid)


def _to_svg(figure: Figure, name: str) -> Markup:
    """The figure as an element of the page; `name` keeps its ids apart from those of other figures."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = re.sub(r"^.*?(?=<svg )", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(
        r'(<svg [^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1),
        count=1,
    )
    text = re.sub(r'\bid="|url\(#|href="#', lambda found: found.group() + name + "-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for colour, variable in _COLOR_VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(re.sub(r"\n\s*", "\n", text).strip())  # noqa: S704 - drawn from numbers alone


def _label_log_axis(axis: Any) -> None:
    """Few, plainly written labels."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(
        LogLocator(10, (1,) if decades > 3 else (1, 3) if decades > 1.3 else (1, 2, 5), numticks=12)
    )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_PLAIN_FORMATTER)
    axis.set_minor_formatter(NullFormatter())


def _scale_y_axis(axes: Any, values: np.ndarray) -> None:
    """A logarithmic axis over the positive values, with lines at its labels; linear where there is
    none.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive):
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 1.4, positive.max() * 1.6)
        _label_log_axis(axes.yaxis)
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def plot_power(
    hz: Float64[np.ndarray, " all_freq"],
    mean: Float64[np.ndarray, "2 all_freq"],
    kept: int,
    frames: int,
) -> Markup:
    """Root of the mean power of x and y against frequency; the `kept` first are shaded."""
    with _canvas() as (figure, axes):
        amplitude = np.sqrt(mean)
        axes.axvspan(-hz[1] / 2, (kept - 0.5) * hz[1], color=ACCENT, alpha=0.10, linewidth=0)
        for values, colour in zip(amplitude, (ACCENT, INK), strict=True):
            axes.plot(hz, np.where(values > 0, values, np.nan), color=colour)
            axes.plot(
                hz[:kept],
                np.where(values > 0, values, np.nan)[:kept],
                ".",
                color=colour,
                markersize=5,
            )
        _scale_y_axis(axes, amplitude)
        axes.set(
            xlim=(-hz[1] / 2, hz[-1]), xlabel="frequency, Hz", ylabel="root mean square |S|, px"
        )
        other = axes.secondary_yaxis(
            "right", functions=(lambda s: s * 2 / frames, lambda a: a * frames / 2)
        )
        other.set_ylabel("as amplitude of a sway, px")
        _label_log_axis(other.yaxis) if (amplitude > 0).any() else None
        other.tick_params(length=0)
        other.spines["right"].set_visible(False)
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
    """Histograms of amplitudes, one below the other on the same axes; the height is the share of
    the coefficients.
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
    """s_f against frequency over the quantiles of the modulus."""
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
        for q, height in zip(
            FAN_QUANTILES,
            _spread_labels(
                axes.transLimits.transform(
                    [(0, axes.transScale.transform((0, v))[1]) for v in fan[:, -1]]
                )[:, 1]
            ),
            strict=True,
        ):
            axes.text(
                1.02,
                height,
                f"{100 * q:g} %",
                transform=axes.transAxes,
                va="center",
                fontsize=12,
                color=MUTED,
            )
        figure.subplots_adjust(0.145, 0.16, 0.855, 0.98)
        return _to_svg(figure, "scales")


def _spread_labels(heights: Float64[np.ndarray, " labels"], least: float = 0.055) -> list[float]:
    """Rising heights, moved up where one would stand on the one below it."""
    placed: list[float] = []
    for height in np.nan_to_num(heights, neginf=0.0, posinf=1.0):
        placed.append(max(float(height), placed[-1] + least if placed else 0.0))
    return placed


def plot_truncation_error(
    relative: Float64[np.ndarray, "lines orders"], kept: int, marked: Sequence[int]
) -> Markup:
    """Error of keeping K frequencies: 10 %, median, 90 % and mean over the windows, as a share of
    the motion.
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
    """Histogram of one measure over the windows, kept below rejected; the axis spans the whole
    width, for a slider beneath.
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
    """Labels that stay clear of the ends, where half of each would be cut off."""
    _label_log_axis(axis) if log else axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(_PLAIN_FORMATTER)
    low, high = (np.log(edges[[0, -1]])) if log else edges[[0, -1]]
    place = (lambda value: np.log(value)) if log else float
    axis.set_ticks(
        [
            t
            for t in axis.get_major_locator()()
            if (not log or t > 0) and 0.03 < (place(t) - low) / (high - low) < 0.97
        ]
    )


def plot_throughput(
    minutes: Float64[np.ndarray, " shards"],
    windows: Int64[np.ndarray, " shards"],
    restarts: Sequence[float],
) -> Markup:
    """Windows done against the time of the run, over all starts of the command."""
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
"""Of lines of one colour."""


def plot_estimators(
    name: str,
    x: Sequence[float | int],
    lines: Mapping[str, Sequence[float | None]],
    accented: Sequence[str],
    *,
    label: str,
    other: str,
    log: bool = False,
    ticks: Sequence[str] = (),
) -> Markup:
    """A line for each flow estimator, named at its end; those `accented` in colour, and `truth`
    thick. `ticks` are words for x.
    """
    with _canvas() as (figure, axes):
        ends, plain = [], 0
        for title, values in lines.items():
            found = np.array([np.nan if value is None else value for value in values], np.float64)
            colour, dashes = (
                (ACCENT, ())
                if title in accented
                else (MUTED, ())
                if title == "truth"
                else (INK, _DASH_PATTERNS[plain % len(_DASH_PATTERNS)])
            )
            plain += title not in accented and title != "truth"
            axes.plot(
                x,
                found,
                color=colour,
                dashes=dashes or (None, None),
                linewidth=4 if title == "truth" else 1.6,
                alpha=0.4 if title == "truth" else 1,
            )
            ends.append(
                (
                    float(found[np.isfinite(found)][-1]) if np.isfinite(found).any() else 0.0,
                    title,
                    colour,
                )
            )
        _scale_y_axis(
            axes,
            np.array([value for values in lines.values() for value in values if value is not None]),
        ) if log else axes.grid(axis="y", linewidth=0.8)
        axes.set_ylim(*((None, None) if log else (min(0, axes.get_ylim()[0]), None)))
        axes.set(xlim=(x[0], x[-1]), xlabel=label, ylabel=other)
        axes.tick_params(length=0)
        if ticks:
            axes.set_xticks(x, ticks)
        ends.sort()
        heights = _spread_labels(
            axes.transLimits.transform(
                [(0, axes.transScale.transform((0, value))[1]) for value, _, _ in ends]
            )[:, 1],
            0.062,
        )
        for (_, title, colour), height in zip(ends, heights, strict=True):
            axes.text(
                1.02,
                height,
                title,
                transform=axes.transAxes,
                va="center",
                fontsize=12,
                color=colour,
            )
        figure.subplots_adjust(0.145, 0.16, 0.775, 0.98)
        return _to_svg(figure, name)


class Line(NamedTuple):
    """A course of numbers, and how it is drawn; not finite where there is none."""

    values: Float64[np.ndarray, " places"]
    color: str = ACCENT
    dashes: tuple[float, float] | None = None


def plot_steps(name: str, places: Sequence[str], lines: Sequence[Line], label: str) -> Markup:
    """Values at named places from left to right, of which the last stands apart."""
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
    """Values over time, or over what `across` says."""
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


def _style_grid(axes: Any) -> None:
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def plot_intervals(
    name: str,
    names: Sequence[str],
    values: Float64[np.ndarray, " rows"],
    low: Float64[np.ndarray, " rows"],
    high: Float64[np.ndarray, " rows"],
    label: str,
    reference: int | None = None,
) -> Markup:
    """Values with their intervals, one below the other, and a line at the one that the others are
    compared with, if there is one. Not finite where there is none.
    """
    with _canvas(height=34 * len(names) + 56) as (figure, axes):
        places = np.arange(len(names))
        colours = [ACCENT if i == reference else INK for i in places]
        if reference is not None:
            axes.axvline(values[reference], color=ACCENT, linewidth=1, dashes=(4, 3))
        axes.hlines(places, low, high, color=colours, linewidth=2)
        axes.scatter(values, places, color=colours, s=26, zorder=3)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set(xlabel=label)
        axes.grid(axis="x", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        figure.subplots_adjust(0.4, 48 / (34 * len(names) + 56), 0.97, 0.99)
        return _to_svg(figure, name)
