"""The numbers behind the report's figures: pure functions of columns and counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from pipeline.dataset import histogram
from pipeline.filters import RULES, Thresholds
from schemas.outcome import Reason

_SLIDER_STEPS = 100
_START_TOLERANCE_S = 2.0
"""Lines of a log are of one start of the command where it began at the same time to within this."""
FAN_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Quantiles of the modulus that are drawn beside the scales."""


class Rule(NamedTuple):
    """One threshold of the filters."""

    threshold: str
    """Its name in Thresholds."""
    measure: str
    """Its name in Measures."""
    reason: Reason
    rejects_above: bool
    """Whether windows whose measure is over the threshold are rejected, or those under it."""

    @property
    def off_value(self) -> float:
        """The threshold that never rejects."""
        return inf if self.rejects_above else -inf

    @property
    def option(self) -> str:
        """Of quiver extract-flow and quiver refilter."""
        return f"--{self.threshold.replace('_', '-')}"


THRESHOLD_RULES = (
    Rule("no_motion_px", "mean_motion_px", Reason.NO_MOTION, False),
    Rule("too_much_motion_px", "mean_motion_px", Reason.TOO_MUCH_MOTION, True),
    Rule("camera_motion", "moving_share", Reason.CAMERA_MOTION, True),
    Rule("drift_share", "trend_share", Reason.DRIFT, True),
    Rule("drift_share_alone", "trend_share", Reason.DRIFT, True),
    Rule("drift_px", "drift_px", Reason.DRIFT, True),
    Rule("inconsistent_share", "inconsistent_share", Reason.UNRELIABLE_FLOW, True),
    Rule("cut_correlation", "cut_correlation", Reason.CUT, False),
    Rule("cut_histogram", "cut_histogram", Reason.CUT, True),
    Rule("fade_levels", "fade_levels", Reason.FADE, True),
    Rule("frozen_share", "frozen_share", Reason.FROZEN, True),
    Rule("low_frame_rate", "frame_rate", Reason.LOW_FRAME_RATE, False),
    Rule("longest_gap_s", "longest_gap_s", Reason.LOW_FRAME_RATE, True),
)
"""Every field of Thresholds, with the measure that it is compared with, in the order of the report.
"""
LOG_AXIS_MEASURES = {"mean_motion_px", "drift_px", "longest_gap_s"}
"""Measures that are drawn on a logarithmic axis: they span orders of magnitude, and are never 0 in
a moving picture.
"""


def bin_frequencies_hz(frequencies: int, fps: float, frames: int) -> Float64[np.ndarray, " freq"]:
    """Where each frequency stands, Hz."""
    return np.arange(frequencies) * fps / frames


def _frequency_energies(
    power: Float64[np.ndarray, "*windows all_freq"], frames: int
) -> Float64[np.ndarray, "*windows all_freq"]:
    """The part of each frequency in sum_t |F_t|^2, px^2 (docs/maths.md, 11): every frequency stands
    for two coefficients, but 0 and, where T is even, T/2.
    """
    weights = np.full(frames // 2 + 1, 2.0)
    weights[0] = 1.0
    if frames % 2 == 0:
        weights[-1] = 1.0
    return power * weights / frames


def truncation_errors(
    power: Float64[np.ndarray, "windows all_freq"], frames: int
) -> tuple[Any, Any]:
    """Error of keeping the first K = 1 .. T/2 + 1 frequencies of each window, float64 [windows, T/2
    + 1] each (docs/maths.md, 11).

    Root of the mean square over time and pixels: as a share of the motion's own, 0 to 1, and in
    pixels. `power` is that of x and y together. A window without motion has error 0.
    """
    parts = _frequency_energies(power, frames)
    lost = np.cumsum(parts[:, ::-1], axis=1)[:, ::-1]
    left = np.concatenate([lost[:, 1:], np.zeros((len(parts), 1))], axis=1)
    total = np.maximum(lost[:, :1], np.finfo(np.float64).tiny)
    return np.sqrt(left / total), np.sqrt(left / frames)


def rebin(
    counts: Int64[np.ndarray, " bins"], edges: Float64[np.ndarray, " edges"]
) -> Float64[np.ndarray, " cells"]:
    """Share of the counted values between each two of the rising `edges` (pixels); a bin that an
    edge cuts is split evenly. What lies outside them is left out.
    """
    below = np.concatenate([[0.0], np.cumsum(counts[: histogram.FINITE_BINS], dtype=np.float64)])
    inside = np.interp(edges, histogram.edges(), below)
    if edges[0] == 0:
        inside[0] = 0.0
    return np.diff(inside) / max(float(counts.sum()), 1.0)


def amplitude_shares(
    counts: Int64[np.ndarray, "2 bins"], edges: Float64[np.ndarray, " edges"], pixels: Any
) -> Float64[np.ndarray, " cells"]:
    """Share of the coefficients of x and y whose normalised amplitude lies between each two
    `edges`.

    `pixels[c]` turns amplitudes of component c into pixels.
    """
    parts = [rebin(counts[c], pixels[c](edges)) * counts[c].sum() for c in range(2)]
    return np.sum(parts, axis=0) / max(float(counts.sum()), 1.0)


def resolution_scalings(size: tuple[int, int]) -> list[Any]:
    """Amplitudes as a share of the picture's width (x) and height (y), to pixels."""
    return [lambda a, side=side: a * side for side in size]


def adaptive_scalings(scale: float | tuple[float, float]) -> list[Any]:
    """Amplitudes sqrt(|S| / s_f), to pixels."""
    x, y = scale if isinstance(scale, tuple) else (scale, scale)
    return [lambda a, s=s: a * a * s for s in (x, y)]


def quantile_fan(counts: Int64[np.ndarray, "freq 2 bins"]) -> Float64[np.ndarray, "quantiles freq"]:
    """Quantiles FAN of |S_k| of x and y together, pixels."""
    return np.array(
        [[histogram.quantile(one.sum(axis=0), q) for one in counts] for q in FAN_QUANTILES]
    )


class ShardLogEntry(NamedTuple):
    """A shard of a run, as its log tells."""

    elapsed_s: float
    """Since the beginning of that start of the command."""
    windows: int
    seconds: float
    """That its worker took."""
    waiting_share: float
    start_time: float
    """Seconds since 1970 at which that start began."""


@dataclass(frozen=True)
class MeasuredWindows:
    """Measured windows that are kept by the same thresholds."""

    measures: Any
    """Columns by the names of Measures, float64 [windows] each."""
    thresholds: Thresholds
    is_stored: Bool[np.ndarray, " windows"]
    """Whether the window's sample is in a shard."""


class _ThresholdSweep(NamedTuple):
    """What would be kept for each value of one threshold."""

    values: list[float]
    kept: list[int]
    stored: list[int]
    """Of those, the windows whose samples are in a shard already."""
    start: int
    """Index of the present threshold."""


def sweep_threshold(
    groups: Sequence[MeasuredWindows], rule: Rule, ends: tuple[float, float]
) -> _ThresholdSweep:
    """Counts for some hundred values of one threshold between `ends`, and for `off`, with all
    others left as they are.

    Where the groups have different thresholds, each keeps its own others; the present one is the
    first's.
    """
    present = getattr(groups[0].thresholds, rule.threshold)
    values = _slider_values(rule, ends, present)
    kept, stored = np.zeros(len(values), int), np.zeros(len(values), int)
    for group in groups:
        others = ~np.any(
            [
                RULES[reason](group.measures, group.thresholds)
                for reason in RULES
                if reason != rule.reason
            ],
            axis=0,
        )
        for i, value in enumerate(values):
            passes = others & ~RULES[rule.reason](
                group.measures, replace(group.thresholds, **{rule.threshold: value})
            )
            kept[i] += np.count_nonzero(passes)
            stored[i] += np.count_nonzero(passes & group.is_stored)
    return _ThresholdSweep(values, kept.tolist(), stored.tolist(), values.index(present))


def _slider_values(rule: Rule, ends: tuple[float, float], present: float) -> list[float]:
    """Values evenly spaced over the axis of a measure, the nearest one replaced by the present
    threshold, and `off`.
    """
    spaced = (
        np.geomspace(*ends, _SLIDER_STEPS)
        if rule.measure in LOG_AXIS_MEASURES
        else np.linspace(*ends, _SLIDER_STEPS)
    )
    values = [float(f"{value:.3g}") for value in spaced]
    if isfinite(present):
        values[int(np.abs(spaced - present).argmin())] = present
    return sorted({*values, present, rule.off_value})


def axis_limits(
    measure: str, measured: Float64[np.ndarray, " windows"], thresholds: Sequence[float]
) -> tuple[float, float]:
    """Ends of the axis of a measure: all but the outermost hundredth of the windows, and every
    finite threshold, with room.
    """
    finite = [value for value in thresholds if isfinite(value)]
    inner = np.quantile(measured, [0.005, 0.995]) if len(measured) else np.array([0.0, 1.0])
    low, high = float(min([inner[0], *finite])), float(max([inner[1], *finite]))
    if measure in LOG_AXIS_MEASURES:
        low = max(low, high / 1e4, 1e-6)
        return low / 1.3, max(high, 2 * low) * 1.3
    room = 0.06 * max(high - low, 0.05 * abs(high), 1e-3)
    return (low - room if low < 0 or low > room else 0.0), high + room


class _RunHistory(NamedTuple):
    """A run, over all starts of its command."""

    minutes: Float64[np.ndarray, " shards"]
    """At which each shard was committed, with the starts put one after the other."""
    windows: Int64[np.ndarray, " shards"]
    """Decided until then."""
    restarts: list[float]
    """Minutes at which the command was started again."""
    waiting_share: float
    """Of the workers' time, 0 to 1."""
    worker_minutes: float
    rate: float
    """Windows a second."""


def merge_logs(logs: Sequence[Sequence[ShardLogEntry]]) -> _RunHistory | None:
    """What the logs say together, one after the other; None where they say nothing. A start of the
    command is known by the moment at which it began.
    """
    minutes, windows, restarts, began, last = [], [], [], 0.0, 0.0
    for log in logs:
        for i, entry in enumerate(log):
            if minutes and (
                i == 0 or abs(entry.start_time - log[i - 1].start_time) > _START_TOLERANCE_S
            ):
                began += last
                restarts.append(began / 60)
            last = entry.elapsed_s
            minutes.append((began + last) / 60)
            windows.append(entry.windows)
    entries = [entry for log in logs for entry in log]
    if not entries:
        return None
    seconds = sum(entry.seconds for entry in entries)
    waiting = sum(entry.seconds * entry.waiting_share for entry in entries) / max(seconds, 1e-9)
    return _RunHistory(
        np.array(minutes),
        np.cumsum(windows),
        restarts,
        waiting,
        seconds / 60,
        sum(windows) / max(60 * minutes[-1], 1e-9),
    )
