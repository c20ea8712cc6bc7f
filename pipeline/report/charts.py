"""Draws the figures of evaluations and benchmarks: one function per figure, from numbers to SVG
(pipeline/report/canvas.py).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup

from pipeline.report.canvas import (
    ACCENT,
    INK,
    MUTED,
    label_ends,
    open_canvas,
    scale_y_axis,
    style_grid,
    to_svg,
)

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
    with open_canvas() as (figure, axes):
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
            scale_y_axis(axes, np.concatenate(list(numbers.values())))
        else:
            axes.grid(axis="y", linewidth=0.8)
            axes.set_ylim(min(0, axes.get_ylim()[0]), None)
        axes.set(xlim=(x[0], x[-1]), xlabel=x_label, ylabel=y_label)
        axes.tick_params(length=0)
        if ticks:
            axes.set_xticks(x, ticks)
        ends.sort()
        labels = [(title, color) for _, title, color in ends]
        label_ends(axes, [end for end, _, _ in ends], labels, min_gap=0.062)
        figure.subplots_adjust(0.145, 0.16, 0.775, 0.98)
        return to_svg(figure, name)


class Line(NamedTuple):
    """The values of a curve, NaN if there is none, and how it is drawn."""

    values: Float64[np.ndarray, " places"]
    color: str = ACCENT
    dashes: tuple[float, float] | None = None


def plot_steps(name: str, places: Sequence[str], lines: Sequence[Line], label: str) -> Markup:
    """Values at named places from left to right, the last of which stands apart."""
    with open_canvas(height=250) as (figure, axes):
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
        style_grid(axes)
        figure.subplots_adjust(0.135, 0.13, 0.98, 0.97)
        return to_svg(figure, name)


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
    with open_canvas(height=250) as (figure, axes):
        for line in lines:
            axes.plot(
                seconds,
                line.values,
                color=line.color,
                linewidth=1.4,
                dashes=line.dashes or (None, None),
            )
        if log:
            scale_y_axis(axes, np.concatenate([line.values for line in lines]))
        axes.set(
            xlim=(float(seconds[0]), max(float(seconds[-1]), float(seconds[0]) + 1e-9)),
            xlabel=across,
            ylabel=label,
        )
        style_grid(axes)
        figure.subplots_adjust(0.135, 0.19, 0.98, 0.97)
        return to_svg(figure, name)


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
    with open_canvas(height=34 * len(names) + 56) as (figure, axes):
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
        return to_svg(figure, name)
