"""Decides whether a window is something a motion prior should learn from: measure, then judge.

Where is a clip rejected? Its windows are rejected one by one in `judge`: `RULES` compares the
measures of a window with `Thresholds`, and the first rule that applies is the reason.
pipeline/extract/build_shard calls it for each window, pipeline/dataset/views for `quiver refilter`.
(Duplicates and clips that are too short are rejected earlier, by pipeline/extract/plan. A clip that
cannot be read is not rejected but quarantined, by the code that failed to read it.)

How do I add a filter?
    1. schemas/outcome.py: a member of `Reason`, and a field of `FilterMeasures` for the number.
    2. Here: the number in `measure_frames` (pixels) or `measure_motion` (displacements), a field of
       `Thresholds`, and a line in `RULES`. Unless it is to be on by default, its threshold is inf,
       or -inf if it rejects what is below; if it is on, PRESETS["none"] switches it off.
    3. pipeline/report: a line in `stats.THRESHOLD_RULES`, and the words for it in
       `labels.MEASURE_LABELS` and `labels.REASON_TEXTS`.
    4. tests: a scene that it rejects and one that it keeps in tests/pipeline/test_filters.py, and a
       value that passes in `PASSING_MEASURES` of tests/support/datasets.py.
    5. A new measure is a new format: datasets that were written before lack it, and their records
       are refused (schemas/shard_record.py). Raise `FORMAT_VERSION` in schemas/run_contract.py.
The command line, the run contract and the views take it from there.

All functions here are pure. Every measure is taken on every window and recorded, so that another
threshold is a new judgment of old numbers and never a new computation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from threadpoolctl import ThreadpoolController

from schemas.outcome import FilterMeasures, Reason

_threads = ThreadpoolController()

_THUMBNAIL_SIZE = (64, 40)
"""Width and height at which neighboring frames are correlated; sway is too small to show there."""
_HISTOGRAM_BINS = 32
UNCHANGED_LEVELS = 0.02
"""Two consecutive source frames count as the same picture if their mean absolute difference is
under this, in gray levels.
"""
MOVING_PX = 1.0
"""A pixel moves if its mean displacement over time is over this (the paper's camera rule)."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The number at which each rule begins to reject; an infinite threshold switches its rule off.

    docs/design/decisions/0005-filters.md explains the defaults.
    """

    cut_correlation: float = 0.6
    """Cut: two neighboring frames have a lower correlation than this."""
    cut_histogram: float = 0.3
    """Cut: two neighboring frames have a larger histogram distance than this."""
    fade_levels: float = 20.0
    """Fade: the mean brightness varies by more than this many gray levels."""
    frozen_share: float = 0.6
    """Frozen: more than this share of the source frames repeats the frame before."""
    low_frame_rate: float = 12.0
    """Low frame rate: the video has fewer frames per second than this."""
    longest_gap_s: float = 0.25
    """Low frame rate: two source frames are more than this many seconds apart."""
    no_motion_px: float = 1.0
    """No motion: the mean displacement is under this many pixels."""
    too_much_motion_px: float = 8.0
    """Too much motion: the mean displacement is over this many pixels."""
    camera_motion: float = 0.95
    """Camera motion: at least this share of the pixels moves by over 1 px on average."""
    drift_share: float = inf
    """Drift: a straight line explains more than this share of the motion and is longer than
    --drift-px.
    """
    drift_px: float = 2.0
    """Drift: the length of that straight line, in pixels."""
    drift_share_alone: float = inf
    """Drift: a straight line explains more than this share of the motion, whatever its length."""
    inconsistent_share: float = inf
    """Unreliable flow: forward and backward flow disagree at more than this share of the pixels."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if isnan(value):
                raise ValueError(f"{name} is nan, expected a number, or inf to switch the rule off")


PRESETS = {
    "paper": Thresholds(),
    "subtle": Thresholds(
        no_motion_px=0.15, drift_share=0.35, drift_share_alone=0.85, inconsistent_share=0.4
    ),
    "none": Thresholds(
        cut_correlation=-inf,
        cut_histogram=inf,
        fade_levels=inf,
        frozen_share=inf,
        low_frame_rate=-inf,
        longest_gap_s=inf,
        no_motion_px=-inf,
        too_much_motion_px=inf,
        camera_motion=inf,
    ),
}
"""The choices of --filters. `paper` has the paper's motion rules, and rules against what its
hand-picked videos never had; `subtle` keeps motion of less than a pixel; `none` keeps everything.
"""

RULES: dict[Reason, Callable[[Any, Thresholds], Any]] = {
    Reason.CUT: lambda m, t: (
        (m.cut_correlation < t.cut_correlation) | (m.cut_histogram > t.cut_histogram)
    ),
    Reason.FADE: lambda m, t: m.fade_levels > t.fade_levels,
    Reason.FROZEN: lambda m, t: m.frozen_share > t.frozen_share,
    Reason.LOW_FRAME_RATE: lambda m, t: (
        (m.frame_rate < t.low_frame_rate) | (m.longest_gap_s > t.longest_gap_s)
    ),
    Reason.NO_MOTION: lambda m, t: m.mean_motion_px < t.no_motion_px,
    Reason.TOO_MUCH_MOTION: lambda m, t: m.mean_motion_px > t.too_much_motion_px,
    Reason.CAMERA_MOTION: lambda m, t: m.moving_share >= t.camera_motion,
    Reason.DRIFT: lambda m, t: (
        ((m.trend_share > t.drift_share) & (m.drift_px > t.drift_px))
        | (m.trend_share > t.drift_share_alone)
    ),
    Reason.UNRELIABLE_FLOW: lambda m, t: m.inconsistent_share > t.inconsistent_share,
}
"""The rules, in the order in which the first that applies becomes a window's reason. Each takes the
measures `m` and the thresholds `t` and says whether it rejects. `m` is the FilterMeasures of one
window, or has arrays of the same names for many windows.
"""


def judge(measures: FilterMeasures, thresholds: Thresholds) -> list[Reason]:
    """Every reason to reject a window, in the order of `RULES`; the window is kept if there is
    none.
    """
    return [reason for reason, applies in RULES.items() if applies(measures, thresholds)]


class FrameStats(NamedTuple):
    """What the frame filters remember of one source frame."""

    gray: UInt8[np.ndarray, "height width"]
    brightness: float
    """Mean of `gray`, 0 to 255."""
    thumbnail: Float32[np.ndarray, "rows columns"]
    histogram: Float64[np.ndarray, " bins"]
    """Share of the pixels in each bin of gray levels."""


class FrameDelta(NamedTuple):
    """How one source frame differs from the one before it."""

    correlation: float
    """Normalized correlation of the thumbnails, -1 to 1."""
    histogram_distance: float
    """0 (equal histograms) to 1 (disjoint ones)."""
    difference: float
    """Mean absolute difference, gray levels."""


def compute_frame_stats(image: UInt8[np.ndarray, "height width 3"]) -> FrameStats:
    """What is needed of an RGB image to compare it with its neighbors."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    counts = np.bincount(gray.ravel() // (256 // _HISTOGRAM_BINS), minlength=_HISTOGRAM_BINS)
    return FrameStats(
        gray,
        float(cv2.mean(gray)[0]),
        cv2.resize(gray, _THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA).astype(np.float32),
        counts / gray.size,
    )


def compute_frame_delta(before: FrameStats, after: FrameStats) -> FrameDelta:
    """How `after` differs from `before`.

    The histogram distance is half the L1 distance, with every three neighboring bins pooled: noise
    and a slight change of light move pixels to the next bin and must not look like a cut.
    """
    smoothed = np.convolve(before.histogram - after.histogram, np.ones(3) / 3, mode="same")
    return FrameDelta(
        correlation=_correlation(before.thumbnail, after.thumbnail),
        histogram_distance=float(np.abs(smoothed).sum()) / 2,
        difference=float(cv2.norm(before.gray, after.gray, cv2.NORM_L1)) / before.gray.size,
    )


def _correlation(
    a: Float32[np.ndarray, "rows columns"], b: Float32[np.ndarray, "rows columns"]
) -> float:
    """Normalized cross-correlation, -1 to 1; 1 if the images are so flat that there is nothing to
    correlate.
    """
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    scale = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / scale if scale > a.size else 1.0


def measure_frames(
    stats: Sequence[FrameStats],
    deltas: Sequence[FrameDelta],
    times: Float64[np.ndarray, " frames"],
) -> dict[str, float]:
    """The fields of FilterMeasures that need no flow.

    `deltas[i]` compares frames i and i + 1; `times` are in seconds.
    """
    brightness = [frame.brightness for frame in stats]
    return dict(
        cut_correlation=min(delta.correlation for delta in deltas),
        cut_histogram=max(delta.histogram_distance for delta in deltas),
        fade_levels=max(brightness) - min(brightness),
        frozen_share=float(np.mean([delta.difference < UNCHANGED_LEVELS for delta in deltas])),
        frame_rate=len(deltas) / float(times[-1] - times[0]),
        longest_gap_s=float(np.diff(times).max()),
    )


def measure_motion(
    weight: Float32[np.ndarray, "height width"], motion: Float32[np.ndarray, "time 2 rows columns"]
) -> dict[str, float]:
    """The fields of FilterMeasures that describe the displacements.

    `weight` is W, the mean displacement of every pixel (docs/design/maths.md, 5); `motion` is the
    motion texture on a coarse grid. Both are in pixels.
    """
    share, drift = trend(motion)
    return dict(
        mean_motion_px=float(weight.mean(dtype=np.float64)),
        moving_share=float((weight > MOVING_PX).mean()),
        trend_share=share,
        drift_px=drift,
    )


def trend(motion: Float32[np.ndarray, "time 2 rows columns"]) -> tuple[float, float]:
    """(share of the motion's energy about its mean in time that a straight line explains, 0 to 1;
    length of the drift, pixels) (docs/design/maths.md, 6).

    The length is that of a line fitted together with one whole oscillation over the window,
    averaged over the pixels. A sway of the slowest frequency looks like a line for a while, but it
    comes back and adds nothing to the length.
    """
    time = np.linspace(-1, 1, len(motion))
    weights = np.stack([time, drift_weights(len(motion))]).astype(np.float32)
    flat = motion.reshape(len(motion), -1)
    centered = flat - flat.mean(axis=0)
    with _threads.limit(limits=1, user_api="blas"):
        slope, drift = weights @ centered
        energy = float(np.vdot(centered, centered))
        explained = float(np.vdot(slope, slope)) / float(np.square(time).sum())
    length = float(2 * np.hypot(*drift.reshape(2, -1)).mean(dtype=np.float64))
    return explained / energy if energy > 0 else 0.0, length


def drift_weights(frames: int) -> Float64[np.ndarray, " frames"]:
    """Weights whose sum over the frames is the factor of a straight line from -1 to 1, in a
    least-squares fit together with a constant and one whole oscillation (docs/design/maths.md, 6).
    """
    time = np.linspace(-1, 1, frames)
    angle = 2 * np.pi * np.arange(frames) / frames
    columns = [time, np.ones_like(time), np.sin(angle), np.cos(angle)]
    return np.linalg.pinv(np.stack(columns, axis=1))[0]


def inconsistent_share(disagreements: Float32[np.ndarray, "checks height width"]) -> float:
    """Share of the pixels where forward and backward flow disagree by more than is tolerated,
    averaged over the checks (docs/design/maths.md, 7).

    `disagreements` are relative to the tolerance, and NaN where a pixel leaves the image. Such
    pixels do not count; a check in which all pixels leave has share 1.
    """
    inside = ~np.isnan(disagreements)
    shares = [
        (check[i] > 1).mean() if i.any() else 1.0
        for check, i in zip(disagreements, inside, strict=True)
    ]
    return float(np.mean(shares))
