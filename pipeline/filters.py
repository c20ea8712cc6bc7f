"""Is this window something a motion prior should learn from? Pure functions: measure, then judge.

Every measure is taken on every window and recorded, so that another threshold is a new judgement of
old numbers, never a new computation. A verdict is a Reason; the first in the order of `RULES` is
the window's reason.
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
"""Width and height at which neighbouring frames are correlated: small enough that sway does not
count.
"""
_HISTOGRAM_BINS = 32
UNCHANGED_LEVELS = 0.02
"""A step between source frames under this mean absolute difference, in grey levels, changes
nothing.
"""
MOVING_PX = 1.0
"""A pixel moves if its displacement, averaged over time, is over this (the paper's camera rule)."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where each rule begins to reject; an infinite threshold never does.
    docs/decisions/0005-filters.md has the why.
    """

    cut_correlation: float = 0.6
    """Cut: neighbouring frames correlate less than this."""
    cut_histogram: float = 0.3
    """Cut: the histogram distance of neighbouring frames is over this."""
    fade_levels: float = 20.0
    """Fade: the mean brightness ranges over more than this many grey levels."""
    frozen_share: float = 0.6
    """Frozen: more than this share of the source-frame steps changes nothing."""
    low_frame_rate: float = 12.0
    """Low frame rate: fewer source frames a second than this."""
    longest_gap_s: float = 0.25
    """Low frame rate: more seconds than this between two source frames."""
    no_motion_px: float = 1.0
    """No motion: mean displacement under this, pixels."""
    too_much_motion_px: float = 8.0
    """Too much motion: mean displacement over this, pixels."""
    camera_motion: float = 0.95
    """Camera motion: at least this share of the pixels moves over 1 px on average."""
    drift_share: float = inf
    """Drift: a straight line explains more than this share of the motion, and its length is over
    --drift-px.
    """
    drift_px: float = 2.0
    """Drift: length of that straight line, pixels."""
    drift_share_alone: float = inf
    """Drift: a straight line explains more than this share of the motion, whatever its length."""
    inconsistent_share: float = inf
    """Unreliable flow: forward and backward flow disagree on more than this share of the pixels."""

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
"""paper: the paper's motion rules, and what its hand-picked videos never had; subtle: motion under
a pixel; none.
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
"""Whether each rule rejects: of one window's Measures, or of columns of them (arrays, by the same
names).
"""


def judge(measures: FilterMeasures, thresholds: Thresholds) -> list[Reason]:
    """Every verdict that applies, in order; empty: the window is kept."""
    return [reason for reason, applies in RULES.items() if applies(measures, thresholds)]


class FrameStats(NamedTuple):
    """What the frame filters keep of one source frame."""

    gray: UInt8[np.ndarray, "height width"]
    brightness: float
    thumbnail: Float32[np.ndarray, "rows columns"]
    histogram: Float64[np.ndarray, " bins"]


class FrameDelta(NamedTuple):
    """How one source frame differs from the one before it."""

    correlation: float
    histogram_distance: float
    difference: float


def compute_frame_stats(image: UInt8[np.ndarray, "height width 3"]) -> FrameStats:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    counts = np.bincount(grey.ravel() // (256 // _HISTOGRAM_BINS), minlength=_HISTOGRAM_BINS)
    return FrameStats(
        grey,
        float(cv2.mean(grey)[0]),
        cv2.resize(grey, _THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA).astype(np.float32),
        counts / grey.size,
    )


def compute_frame_delta(before: FrameStats, after: FrameStats) -> FrameDelta:
    """Correlation of the thumbnails, distance of the histograms (half their L1, with neighbouring
    bins pooled), and mean absolute difference in grey levels.
    """
    return FrameDelta(
        correlation=_correlation(before.thumbnail, after.thumbnail),
        histogram_distance=_histogram_distance(before.histogram, after.histogram),
        difference=float(cv2.norm(before.gray, after.gray, cv2.NORM_L1)) / before.gray.size,
    )


def _correlation(
    a: Float32[np.ndarray, "rows columns"], b: Float32[np.ndarray, "rows columns"]
) -> float:
    """Normalised cross-correlation, -1 to 1; 1 where both pictures are flat, since there is nothing
    to correlate.
    """
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    scale = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / scale if scale > a.size else 1.0


def _histogram_distance(a: Float64[np.ndarray, " bins"], b: Float64[np.ndarray, " bins"]) -> float:
    """Half the L1 distance, 0 to 1, of the histograms smoothed over three bins, so that noise and a
    slight change of light, which move pixels to the next bin, do not count as a cut.
    """
    smooth = np.convolve(a - b, np.ones(3) / 3, mode="same")
    return float(np.abs(smooth).sum()) / 2


def measure_frames(
    looks: Sequence[FrameStats], steps: Sequence[FrameDelta], times: Float64[np.ndarray, " frames"]
) -> dict[str, float]:
    """The measures that need no flow; `steps[i]` leads from frame i to frame i + 1, `times` in
    seconds.
    """
    brightness = [one.brightness for one in looks]
    return dict(
        cut_correlation=min(s.correlation for s in steps),
        cut_histogram=max(s.histogram_distance for s in steps),
        fade_levels=max(brightness) - min(brightness),
        frozen_share=float(np.mean([s.difference < UNCHANGED_LEVELS for s in steps])),
        frame_rate=len(steps) / float(times[-1] - times[0]),
        longest_gap_s=float(np.diff(times).max()),
    )


def measure_motion(
    weight: Float32[np.ndarray, "height width"], motion: Float32[np.ndarray, "time 2 rows columns"]
) -> dict[str, float]:
    """The measures of the displacements: W at every pixel, the motion texture on a coarse grid,
    pixels.
    """
    share, drift = trend(motion)
    return dict(
        mean_motion_px=float(weight.mean(dtype=np.float64)),
        moving_share=float((weight > MOVING_PX).mean()),
        trend_share=share,
        drift_px=drift,
    )


def trend(motion: Float32[np.ndarray, "time 2 rows columns"]) -> tuple[float, float]:
    """(share of the motion's variance over time that a straight line explains, 0 to 1; length of
    the drift, px).

    The length is that of the line fitted beside one whole oscillation over the window, averaged
    over the pixels: a sway of the slowest frequency looks like a line for a while, but it comes
    back, and leaves no length.
    """
    time = np.linspace(-1, 1, len(motion))
    fit = drift_weights(len(motion))
    flat = motion.reshape(len(motion), -1)
    moving = flat - flat.mean(axis=0)
    with _threads.limit(limits=1, user_api="blas"):
        slope, drift = np.stack([time, fit]).astype(np.float32) @ moving
        energy, explained = (
            float(np.vdot(moving, moving)),
            float(np.vdot(slope, slope)) / float(np.square(time).sum()),
        )
    return explained / energy if energy > 0 else 0.0, float(
        2 * np.hypot(*drift.reshape(2, -1)).mean(dtype=np.float64)
    )


def drift_weights(frames: int) -> Float64[np.ndarray, " frames"]:
    """Weights of frames whose sum is what a straight line from -1 to 1 is to be multiplied by,
    fitted beside one whole oscillation (docs/maths.md, 6).
    """
    time = np.linspace(-1, 1, frames)
    angle = 2 * np.pi * np.arange(frames) / frames
    return np.linalg.pinv(
        np.stack([time, np.ones_like(time), np.sin(angle), np.cos(angle)], axis=1)
    )[0]


def inconsistent_share(disagreements: Float32[np.ndarray, "checks height width"]) -> float:
    """Share of the pixels where forward and backward flow disagree by more than is tolerated,
    averaged over the checks; pixels that leave the picture do not count, and where all do the share
    is 1.
    """
    inside = ~np.isnan(disagreements)
    return float(
        np.mean(
            [
                (d[i] > 1).mean() if i.any() else 1.0
                for d, i in zip(disagreements, inside, strict=True)
            ]
        )
    )
