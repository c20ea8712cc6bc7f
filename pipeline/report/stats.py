"""Computes the numbers behind the report's figures: pure functions of columns and counts."""

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
"""Lines of a log belong to one start of the command if their start times differ by less."""
FAN_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Quantiles of |S| that are drawn beside the scales."""


class Rule(NamedTuple):
    """One threshold of the filters."""

    threshold: str
    """Its field in Thresholds."""
    measure: str
    """The field of FilterMeasures that it is compared with."""
    reason: Reason
    rejects_above: bool
    """Whether it rejects windows over the threshold, or those under it."""

    @property
    def off_value(self) -> float:
        """The threshold that never rejects."""
        return inf if self.rejects_above else -inf

    @property
    def option(self) -> str:
        """The option of quiver extract-flow and quiver refilter that sets it."""
        return f"--{self.threshold.replace('_', '-')}"


THRESHOLD_RULES = (
    Rule("no_sway_px", "sway_px", Reason.NO_MOTION, False),
    Rule("too_much_sway_px", "sway_px", Reason.TOO_MUCH_MOTION, True),
    Rule("no_motion_px", "mean_motion_px", Reason.NO_MOTION, False),
    Rule("too_much_motion_px", "mean_motion_px", Reason.TOO_MUCH_MOTION, True),
    Rule("large_motion_px", "large_motion_px", Reason.TOO_MUCH_MOTION, True),
    Rule("camera_share", "camera_share", Reason.CAMERA_MOTION, True),
    Rule("camera_motion", "moving_share", Reason.CAMERA_MOTION, True),
    Rule("drift_share", "trend_share", Reason.DRIFT, True),
    Rule("drift_share_alone", "trend_share", Reason.DRIFT, True),
    Rule("drift_px", "drift_px", Reason.DRIFT, True),
    Rule("reversing_share", "reversing_share", Reason.DRIFT, False),
    Rule("passing_share", "passing_share", Reason.PASSING, True),
    Rule("moving_confidence", "moving_confidence", Reason.UNRELIABLE_FLOW, False),
    Rule("unexplained_share", "unexplained_share", Reason.UNRELIABLE_FLOW, True),
    Rule("unexplained_share_fast", "unexplained_share", Reason.UNRELIABLE_FLOW, True),
    Rule("inconsistent_share", "inconsistent_share", Reason.UNRELIABLE_FLOW, True),
    Rule("cut_correlation", "cut_correlation", Reason.CUT, False),
    Rule("cut_histogram", "cut_histogram", Reason.CUT, True),
    Rule("light_change", "light_change", Reason.FADE, True),
    Rule("contrast_change", "contrast_change", Reason.FADE, True),
    Rule("frozen_share", "frozen_share", Reason.FROZEN, True),
    Rule("low_frame_rate", "frame_rate", Reason.LOW_FRAME_RATE, False),
    Rule("longest_gap_s", "longest_gap_s", Reason.LOW_FRAME_RATE, True),
)
"""A rule for every field of Thresholds, in the order of the report."""
LOG_AXIS_MEASURES = {
    *("sway_px", "mean_motion_px", "large_motion_px", "drift_px", "longest_gap_s"),
}
"""Measures drawn on a logarithmic axis: they span orders of magnitude, and are never 0 in a moving
picture.
"""


def bin_frequencies_hz(frequencies: int, fps: float, frames: int) -> Float64[np.ndarray, " freq"]:
    """The frequency k fps / T of each coefficient, Hz."""
    return np.arange(frequencies) * fps / frames


def _frequency_energies(
    power: Float64[np.ndarray, "*windows all_freq"], frames: int
) -> Float64[np.ndarray, "*windows all_freq"]:
    """Contribution of each frequency to sum_t |F_t|^2, px^2 (docs/design/maths.md, 11). Every
    frequency stands for two coefficients, except 0 and, if T is even, T/2.
    """
    weights = np.full(frames // 2 + 1, 2.0)
    weights[0] = 1.0
    if frames % 2 == 0:
        weights[-1] = 1.0
    return power * weights / frames


def truncation_errors(
    power: Float64[np.ndarray, "windows all_freq"], frames: int
) -> tuple[Any, Any]:
    """Error of keeping the first K = 1 .. T/2 + 1 frequencies of each window (docs/design/maths.md,
    11).

    Returns two arrays, float64 [windows, T/2 + 1]: the root mean square error over time and pixels
    as a share of the motion's own root mean square, 0 to 1, and in pixels. `power` is that of x and
    y together. A window without motion has error 0.
    """
    energies = _frequency_energies(power, frames)
    from_here_on = np.cumsum(energies[:, ::-1], axis=1)[:, ::-1]
    lost = np.concatenate([from_here_on[:, 1:], np.zeros((len(energies), 1))], axis=1)
    total = np.maximum(from_here_on[:, :1], np.finfo(np.float64).tiny)
    return np.sqrt(lost / total), np.sqrt(lost / frames)


def rebin(
    counts: Int64[np.ndarray, " bins"], edges: Float64[np.ndarray, " edges"]
) -> Float64[np.ndarray, " cells"]:
    """Share of the counted values between every two neighbors of the rising `edges` (pixels). A
    bin that an edge cuts is split evenly; values outside the edges are left out.
    """
    below = np.concatenate([[0.0], np.cumsum(counts[: histogram.FINITE_BINS], dtype=np.float64)])
    inside = np.interp(edges, histogram.edges(), below)
    if edges[0] == 0:
        inside[0] = 0.0
    return np.diff(inside) / max(float(counts.sum()), 1.0)


def amplitude_shares(
    counts: Int64[np.ndarray, "2 bins"], edges: Float64[np.ndarray, " edges"], pixels: Any
) -> Float64[np.ndarray, " cells"]:
    """Share of the coefficients of x and y whose normalized amplitude lies between every two
    neighbors of `edges`. `pixels[c]` converts amplitudes of component c to pixels.
    """
    of_component = [rebin(counts[c], pixels[c](edges)) * counts[c].sum() for c in range(2)]
    return np.sum(of_component, axis=0) / max(float(counts.sum()), 1.0)


def resolution_scalings(size: tuple[int, int]) -> list[Any]:
    """Functions that convert shares of the picture's width (x) and height (y) to pixels."""
    return [lambda a, side=side: a * side for side in size]


def adaptive_scalings(scale: float | tuple[float, float]) -> list[Any]:
    """Functions that convert amplitudes sqrt(|S| / s_f) of x and y to pixels."""
    x, y = scale if isinstance(scale, tuple) else (scale, scale)
    return [lambda a, s=s: a * a * s for s in (x, y)]


def quantile_fan(counts: Int64[np.ndarray, "freq 2 bins"]) -> Float64[np.ndarray, "quantiles freq"]:
    """Quantiles FAN_QUANTILES of |S_k| of x and y together, pixels."""
    totals = [frequency.sum(axis=0) for frequency in counts]
    return np.array([[histogram.quantile(total, q) for total in totals] for q in FAN_QUANTILES])


class ShardLogEntry(NamedTuple):
    """One line of a run's log: a shard that was finished."""

    elapsed_s: float
    """Seconds since the command was started."""
    windows: int
    seconds: float
    """Seconds that its worker took."""
    waiting_share: float
    start_time: float
    """When the command was started, seconds since 1970."""


@dataclass(frozen=True)
class MeasuredWindows:
    """Windows that are judged by the same thresholds."""

    measures: Any
    """A column for each field of FilterMeasures, float64 [windows]."""
    thresholds: Thresholds
    is_stored: Bool[np.ndarray, " windows"]
    """Whether the window's sample is in a shard."""


class _ThresholdSweep(NamedTuple):
    """How many windows each value of one threshold would keep."""

    values: list[float]
    kept: list[int]
    stored: list[int]
    """How many of those have their samples in a shard already."""
    start: int
    """Index of the current threshold in `values`."""


def sweep_threshold(
    groups: Sequence[MeasuredWindows], rule: Rule, ends: tuple[float, float]
) -> _ThresholdSweep:
    """Counts for about a hundred values of one threshold between `ends`, and for `off`; all other
    thresholds stay as they are.

    If the groups have different thresholds, each keeps its others; the current one is that of the
    first group.
    """
    current = getattr(groups[0].thresholds, rule.threshold)
    values = _slider_values(rule, ends, current)
    kept, stored = np.zeros(len(values), int), np.zeros(len(values), int)
    other_reasons = [reason for reason in RULES if reason != rule.reason]
    for group in groups:
        rejections = [RULES[reason](group.measures, group.thresholds) for reason in other_reasons]
        passes_others = ~np.any(rejections, axis=0)
        for i, value in enumerate(values):
            thresholds = replace(group.thresholds, **{rule.threshold: value})
            passes = passes_others & ~RULES[rule.reason](group.measures, thresholds)
            kept[i] += np.count_nonzero(passes)
            stored[i] += np.count_nonzero(passes & group.is_stored)
    return _ThresholdSweep(values, kept.tolist(), stored.tolist(), values.index(current))


def _slider_values(rule: Rule, ends: tuple[float, float], current: float) -> list[float]:
    """Values evenly spaced over the axis of a measure, the nearest of which is replaced by the
    current threshold, and `off`.
    """
    space = np.geomspace if rule.measure in LOG_AXIS_MEASURES else np.linspace
    spaced = space(*ends, _SLIDER_STEPS)
    values = [float(f"{value:.3g}") for value in spaced]
    if isfinite(current):
        values[int(np.abs(spaced - current).argmin())] = current
    return sorted({*values, current, rule.off_value})


def axis_limits(
    measure: str, values: Float64[np.ndarray, " windows"], thresholds: Sequence[float]
) -> tuple[float, float]:
    """Ends of the axis of a measure, such that all but the outermost hundredth of its values and
    every finite threshold lie inside, with room.
    """
    finite = [threshold for threshold in thresholds if isfinite(threshold)]
    inner = np.quantile(values, [0.005, 0.995]) if len(values) else np.array([0.0, 1.0])
    low, high = float(min([inner[0], *finite])), float(max([inner[1], *finite]))
    if measure in LOG_AXIS_MEASURES:
        low = max(low, high / 1e4, 1e-6)
        return low / 1.3, max(high, 2 * low) * 1.3
    room = 0.06 * max(high - low, 0.05 * abs(high), 1e-3)
    return (low - room if low < 0 or low > room else 0.0), high + room


class _RunHistory(NamedTuple):
    """The progress of a run over all starts of its command."""

    minutes: Float64[np.ndarray, " shards"]
    """When each shard was committed; the starts follow each other without a pause."""
    windows: Int64[np.ndarray, " shards"]
    """How many windows were decided until then."""
    restarts: list[float]
    """Minutes at which the command was started again."""
    waiting_share: float
    """Share of the workers' time spent waiting, 0 to 1."""
    worker_minutes: float
    rate: float
    """Windows per second."""


def merge_logs(logs: Sequence[Sequence[ShardLogEntry]]) -> _RunHistory | None:
    """The history in several logs, one after the other; None if they are empty. Lines of one start
    of the command have the same start time.
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
