"""The thresholds of the filters, their presets, and the rules that compare measures with them."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

from schemas.outcome import FilterMeasures, Reason

FAST_MOTION_PX = 16.0
"""Motion that is larger than this (`large_motion_px`) must be explained better."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The number at which each rule begins to reject; an infinite threshold switches its rule off.

    docs/design/decisions/0005-filters.md explains the defaults.
    """

    cut_correlation: float = 0.6
    """Cut: two neighboring frames have a lower correlation than this."""
    cut_histogram: float = 0.3
    """Cut: two neighboring frames have a larger histogram distance than this."""
    light_change: float = 0.2
    """Fade: four fifths of the picture become lighter or darker by more than this share."""
    contrast_change: float = 0.5
    """Fade: four fifths of the picture gain or lose more than this share of their contrast."""
    frozen_share: float = 0.6
    """Frozen: more than this share of the source frames repeats the frame before."""
    low_frame_rate: float = 12.0
    """Low frame rate: the video has fewer frames per second than this."""
    longest_gap_s: float = 0.25
    """Low frame rate: two source frames are more than this many seconds apart."""
    no_motion_px: float = -inf
    """No motion: the mean displacement is under this many pixels; the paper's rule."""
    no_sway_px: float = 0.3
    """No motion: what sways most sways by less than this many pixels."""
    too_much_motion_px: float = 8.0
    """Too much motion: the mean displacement is over this many pixels."""
    too_much_sway_px: float = 20.0
    """Too much motion: what sways most sways by more than this many pixels."""
    large_motion_px: float = 26.0
    """Too much motion: what is displaced most is displaced by more than this many pixels."""
    camera_motion: float = inf
    """Camera motion: at least this share of the pixels moves by over 1 px on average; the paper's
    rule.
    """
    camera_share: float = 0.58
    """Camera motion: more than this share of the picture moves as one."""
    drift_share: float = 0.35
    """Drift: a straight line explains more than this share of the motion and is longer than
    --drift-px, while less than --reversing-share of the motion turns back.
    """
    drift_px: float = 2.5
    """Drift: the length of that straight line, in pixels."""
    reversing_share: float = 0.5
    """Drift: the share of the motion that turns back at least twice."""
    drift_share_alone: float = 0.97
    """Drift: a straight line explains more than this share of the motion, and more than half a
    pixel.
    """
    passing_share: float = 0.5
    """Passing: more than this share of the motion comes and goes once, like something that crosses
    the picture.
    """
    moving_confidence: float = 0.3
    """Unreliable flow: the flow of what moves most has a lower confidence than this."""
    unexplained_share: float = 0.46
    """Unreliable flow: more than this share of the picture's contrast is not explained by the flow
    where it claims motion.
    """
    unexplained_share_fast: float = 0.35
    """Unreliable flow: the same where the motion is over 16 px."""
    inconsistent_share: float = 0.75
    """Unreliable flow: forward and backward flow disagree at more than this share of the moving,
    textured pixels.
    """

    def __post_init__(self):
        for name, value in vars(self).items():
            if isnan(value):
                raise ValueError(f"{name} is nan, expected a number, or inf to switch the rule off")


_MOTION_RULES_OFF = dict(
    no_sway_px=-inf,
    too_much_sway_px=inf,
    large_motion_px=inf,
    camera_share=inf,
    drift_share=inf,
    drift_share_alone=inf,
    passing_share=inf,
    moving_confidence=-inf,
    unexplained_share=inf,
    unexplained_share_fast=inf,
    inconsistent_share=inf,
)
PRESETS = {
    "subtle": Thresholds(),
    "paper": Thresholds(no_motion_px=1.0, camera_motion=0.95, **_MOTION_RULES_OFF),
    "none": Thresholds(
        cut_correlation=-inf,
        cut_histogram=inf,
        light_change=inf,
        contrast_change=inf,
        frozen_share=inf,
        low_frame_rate=-inf,
        longest_gap_s=inf,
        too_much_motion_px=inf,
        **_MOTION_RULES_OFF,
    ),
}
"""The choices of --filters. `subtle`, the default, keeps natural sway, of less than a pixel too;
`paper` has the paper's motion rules, and rules against what its hand-picked videos never had;
`none` keeps everything.
"""

RULES: dict[Reason, Callable[[Any, Thresholds], Any]] = {
    Reason.CUT: lambda m, t: (
        (m.cut_correlation < t.cut_correlation) | (m.cut_histogram > t.cut_histogram)
    ),
    Reason.FROZEN: lambda m, t: m.frozen_share > t.frozen_share,
    Reason.LOW_FRAME_RATE: lambda m, t: (
        (m.frame_rate < t.low_frame_rate) | (m.longest_gap_s > t.longest_gap_s)
    ),
    Reason.FADE: lambda m, t: (
        (m.light_change > t.light_change) | (m.contrast_change > t.contrast_change)
    ),
    Reason.CAMERA_MOTION: lambda m, t: (
        (m.moving_share >= t.camera_motion) | (m.camera_share > t.camera_share)
    ),
    Reason.TOO_MUCH_MOTION: lambda m, t: (
        (m.mean_motion_px > t.too_much_motion_px)
        | (m.sway_px > t.too_much_sway_px)
        | (m.large_motion_px > t.large_motion_px)
    ),
    Reason.DRIFT: lambda m, t: (
        (
            (m.trend_share > t.drift_share)
            & (m.drift_px > t.drift_px)
            & (m.reversing_share < t.reversing_share)
        )
        | ((m.trend_share > t.drift_share_alone) & (m.drift_px > 0.5))
    ),
    Reason.NO_MOTION: lambda m, t: (m.mean_motion_px < t.no_motion_px) | (m.sway_px < t.no_sway_px),
    Reason.PASSING: lambda m, t: m.passing_share > t.passing_share,
    Reason.UNRELIABLE_FLOW: lambda m, t: (
        (m.moving_confidence < t.moving_confidence)
        | (m.unexplained_share > t.unexplained_share)
        | ((m.unexplained_share > t.unexplained_share_fast) & (m.large_motion_px > FAST_MOTION_PX))
        | (m.inconsistent_share > t.inconsistent_share)
    ),
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
