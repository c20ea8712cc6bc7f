"""The outcome of a window or a clip: kept, rejected by a filter, or quarantined as unreadable.

Every planned window ends as exactly one row with one of the three outcomes; nothing is dropped
silently.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    KEPT = "kept"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"


class Stage(StrEnum):
    """The stage of the pipeline that decided an outcome."""

    PROBE = "probe"
    DECODE = "decode"
    FLOW = "flow"
    FILTER = "filter"
    SPECTRUM = "spectrum"
    WRITE = "write"


class Reason(StrEnum):
    """The closed list of reasons. Of several rejections that apply, the first in this order is the
    reason of the window.
    """

    # rejected: the video is sound, its content is not what a motion prior should learn from
    LEFT_OUT = "left_out"
    DUPLICATE_CLIP = "duplicate_clip"
    TOO_SHORT = "too_short"
    CUT = "cut"
    FROZEN = "frozen"
    LOW_FRAME_RATE = "low_frame_rate"
    FADE = "fade"
    CAMERA_MOTION = "camera_motion"
    TOO_MUCH_MOTION = "too_much_motion"
    DRIFT = "drift"
    NO_MOTION = "no_motion"
    PASSING = "passing"
    UNRELIABLE_FLOW = "unreliable_flow"
    # quarantined: the input could not be turned into a sample
    MISSING = "missing"
    UNREADABLE = "unreadable"
    FORBIDDEN_PATH = "forbidden_path"
    NOT_MEDIA = "not_media"
    NO_VIDEO = "no_video"
    NO_FRAMES = "no_frames"
    UNSUPPORTED_CODEC = "unsupported_codec"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    TRUNCATED = "truncated"
    DECODE_ERROR = "decode_error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CRASH = "crash"
    HASH_MISMATCH = "hash_mismatch"
    NONFINITE = "nonfinite"
    OVERFLOW = "overflow"


ENVIRONMENTAL_REASONS = frozenset(
    [Reason.MISSING, Reason.UNREADABLE, Reason.TIMEOUT, Reason.OUT_OF_MEMORY, Reason.CRASH]
)
"""Reasons that may be the fault of the machine and not of the video. They are never final:
`quiver retry` tries again.
"""


def is_environmental(outcome: Any, reason: Any) -> bool:
    """Whether a window or a clip failed for a reason that may be the machine's fault.

    Takes the values of a row as they were read, of whatever type.
    """
    return outcome == Outcome.QUARANTINED and reason in list(ENVIRONMENTAL_REASONS)


@dataclass(frozen=True, kw_only=True)
class FilterMeasures:
    """What the filters measured on one window; recorded whatever becomes of the window.

    Displacements are in pixels of the working resolution, brightness in grey levels 0 to 255.
    """

    cut_correlation: float
    """Lowest normalised correlation of two neighbouring frames."""
    cut_histogram: float
    """Largest histogram distance of two neighbouring frames, 0 (equal) to 1 (disjoint)."""
    light_change: float
    """Share by which at least four fifths of the picture become lighter or darker, 0 to 1."""
    contrast_change: float
    """Share by which at least four fifths of the picture gain contrast or lose it, 0 to 1."""
    frozen_share: float
    """Share of the steps between source frames that change nothing."""
    frame_rate: float
    """Source frames a second: steps over the time that they span."""
    longest_gap_s: float
    """Longest time between two neighbouring source frames, seconds."""
    believed_share: float
    """Share of the pixels whose flow is believed. Only they count in the measures of motion."""
    mean_motion_px: float
    """Displacement averaged over time and pixels."""
    moving_share: float
    """Share of the pixels whose displacement, averaged over time, is over 1 px."""
    sway_px: float
    """Amplitude of what sways most: the 99th percentile of sqrt 2 times the root mean square of a
    pixel's displacement about a straight line in time.
    """
    large_motion_px: float
    """The displacement that 5 % of the pixels pass in 5 % of the time."""
    camera_share: float
    """Share of the picture's parts that move as one: with the camera."""
    trend_share: float
    """Share of the energy (about its mean in time) of what moves most that a straight line in time
    explains.
    """
    drift_px: float
    """End-to-end length of a straight line fitted beside the slowest oscillation, averaged over
    pixels.
    """
    reversing_share: float
    """Share of the energy of what moves most on paths that turn back at least twice."""
    passing_share: float
    """Share of the energy of what moves most on paths that leave their place once, briefly and to
    one side.
    """
    moving_confidence: float
    """Confidence of the flow, averaged over what moves most, 0 to 1; 1 if nothing moves."""
    unexplained_share: float
    """What the flow leaves unexplained of the picture where it moves, as a share of the local
    contrast.
    """
    inconsistent_share: float
    """Share of the moving, textured pixels where forward and backward flow disagree."""


@dataclass(frozen=True)
class WindowOutcome:
    """What became of a window, as its worker reports it; a kept window has no reason."""

    key: str
    outcome: str
    reason: str | None = None
    detail: str | None = None


class Quarantined(Exception):
    """The input cannot become a sample. `stage` and `reason` say where and why, `detail` explains
    it in at most 500 characters, `attempts` counts the tries.
    """

    def __init__(self, stage: Stage, reason: Reason, detail: str, attempts: int = 1):
        super().__init__(stage, reason, to_printable(detail), attempts)
        self.stage, self.reason, self.attempts = stage, reason, attempts
        self.detail = to_printable(detail)


def to_printable(text: str, limit: int = 500) -> str:
    """Returns text that is safe in a table, a log and a terminal: at most `limit` characters, with
    control characters as `?`.
    """
    flat = " ".join(text[: 8 * limit].split())
    return "".join(c if c.isprintable() else "?" for c in flat)[:limit]
