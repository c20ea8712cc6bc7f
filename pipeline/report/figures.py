"""Draws the figures of the dataset report: one function per figure, from numbers to SVG
(pipeline/report/canvas.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, NullLocator

from pipeline.report.canvas import (
    ACCENT,
    INK,
    MUTED,
    PLAIN_FORMATTER,
    SOFT,
    WIDTH,
    label_ends,
    label_log_axis,
    open_canvas,
    scale_y_axis,
    to_svg,
)
from pipeline.report.stats import FAN_QUANTILES


def plot_power(
    hz: Float64[np.ndarray, " all_freq"],
    mean: Float64[np.ndarray, "2 all_freq"],
    kept: int,
    frames: int,
) -> Markup:
    """Root of the mean power of x and y against frequency; the first `kept` frequencies are
    shaded. `frames` is T.
    """
    with open_canvas() as (figure, axes):
        amplitude = np.sqrt(mean)
        axes.axvspan(-hz[1] / 2, (kept - 0.5) * hz[1], color=ACCENT, alpha=0.10, linewidth=0)
        for values, color in zip(amplitude, (ACCENT, INK), strict=True):
            shown = np.where(values > 0, values, np.nan)
            axes.plot(hz, shown, color=color)
            axes.plot(hz[:kept], shown[:kept], ".", color=color, markersize=5)
        scale_y_axis(axes, amplitude)
        axes.set(
            xlim=(-hz[1] / 2, hz[-1]), xlabel="frequency, Hz", ylabel="root mean square |S|, px"
        )
        right = axes.secondary_yaxis(
            "right", functions=(lambda s: s * 2 / frames, lambda a: a * frames / 2)
        )
        right.set_ylabel("as amplitude of a sway, px")
        if (amplitude > 0).any():
            label_log_axis(right.yaxis)
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
        return to_svg(figure, "power")


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
    with open_canvas(
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
        grid[-1, 0].xaxis.set_major_formatter(PLAIN_FORMATTER)
        grid[-1, 0].set_xlabel(label)
        bottom = 44 / (66 * len(hz) + 50)
        figure.subplots_adjust(0.03, bottom, 0.97, 0.99, hspace=0.16)
        return to_svg(figure, name)


def plot_scales(
    hz: Float64[np.ndarray, " freq"],
    scale: Float64[np.ndarray, "parts freq"],
    fan: Float64[np.ndarray, "quantiles freq"],
) -> Markup:
    """The scales s_f against frequency, over the quantiles `fan` of |S|."""
    with open_canvas() as (figure, axes):
        positive = np.where(fan > 0, fan, np.nan)
        for low, high, alpha in zip(
            positive[:-1], positive[1:], (0.32, 0.26, 0.20, 0.14, 0.09), strict=True
        ):
            axes.fill_between(hz, low, high, color=ACCENT, alpha=alpha, linewidth=0)
        for values in scale:
            axes.plot(
                hz, np.where(values > 0, values, np.nan), color=ACCENT, marker=".", markersize=6
            )
        scale_y_axis(axes, np.concatenate([fan, scale]))
        axes.set(xlim=(0, max(float(hz[-1]), 1e-9)), xlabel="frequency, Hz", ylabel="|S|, px")
        labels = [(f"{100 * q:g} %", MUTED) for q in FAN_QUANTILES]
        label_ends(axes, fan[:, -1], labels, min_gap=0.055)
        figure.subplots_adjust(0.145, 0.16, 0.855, 0.98)
        return to_svg(figure, "scales")


def plot_truncation_error(
    relative: Float64[np.ndarray, "lines orders"], kept: int, marked: Sequence[int]
) -> Markup:
    """Error of keeping K = 1, 2, ... frequencies as a share of the motion: the lines are 10 %
    quantile, median, 90 % quantile and mean over the windows. The orders K in `marked` get a label.
    """
    with open_canvas() as (figure, axes):
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
        axes.xaxis.set_major_formatter(PLAIN_FORMATTER)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", linewidth=0.8)
        axes.tick_params(length=0)
        figure.subplots_adjust(0.125, 0.16, 0.98, 0.98)
        return to_svg(figure, "error")


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
    with open_canvas(width=WIDTH, height=120) as (figure, axes):
        axes.stairs(kept + rejected, edges, fill=True, color=SOFT, linewidth=0)
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
        return to_svg(figure, name)


def _label_inside(axis: Any, edges: np.ndarray, log: bool) -> None:
    """Labels an axis away from its ends, where half of a label would be cut off."""
    if log:
        label_log_axis(axis)
    else:
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(PLAIN_FORMATTER)
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
    with open_canvas(height=200) as (figure, axes):
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
        return to_svg(figure, "throughput")
