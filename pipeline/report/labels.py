"""Texts of the report for measures and reasons, and its formats for numbers and names."""

import re
from collections.abc import Mapping
from math import floor, isinf, log10
from pathlib import PurePath
from typing import Any, NamedTuple

from pipeline.sizes import human_size
from schemas.outcome import to_printable

_MAX_TEXT_CHARACTERS = 120
"""Longer texts from a file are cut to this."""
_CONTENT_ID = re.compile(r"[0-9a-f]{16}")
"""The id of a clip that the user did not name: a digest of its content."""


class MeasureLabel(NamedTuple):
    """The words for a measure of the filters."""

    title: str
    unit: str
    text: str


MEASURE_LABELS = {
    "sway_px": MeasureLabel(
        "Sway",
        "px",
        "Amplitude of what sways most: the 99th percentile over the pixels. Logarithmic axis.",
    ),
    "mean_motion_px": MeasureLabel(
        "Motion",
        "px",
        "Displacement from the start frame, averaged over time and pixels. Logarithmic axis.",
    ),
    "large_motion_px": MeasureLabel(
        "Large motion",
        "px",
        "The displacement that 5 % of the pixels pass in 5 % of the time. Logarithmic axis.",
    ),
    "camera_share": MeasureLabel(
        "Camera",
        "",
        "Share of the picture's parts that move as one: then it is the camera that moves.",
    ),
    "moving_share": MeasureLabel(
        "Moving share",
        "",
        "Share of the pixels that move over 1 px on average. The paper takes nearly all of them for"
        " the camera.",
    ),
    "trend_share": MeasureLabel(
        "Trend",
        "",
        "Share of the energy of what moves most that a straight line in time explains."
        " A sway comes back, a drift does not.",
    ),
    "drift_px": MeasureLabel(
        "Drift",
        "px",
        "Length of that straight line beside the slowest sway."
        " Logarithmic axis; it counts together with --drift-share.",
    ),
    "reversing_share": MeasureLabel(
        "Turning back",
        "",
        "Share of the energy of what moves most on paths that turn back at least twice."
        " Where that is much, there is no drift.",
    ),
    "passing_share": MeasureLabel(
        "Passing",
        "",
        "Share of the energy of what moves most on paths that leave their place once and briefly:"
        " something passes.",
    ),
    "moving_confidence": MeasureLabel(
        "Confidence",
        "",
        "Confidence of the flow, averaged over what moves most. Flow that is invented has little.",
    ),
    "unexplained_share": MeasureLabel(
        "Unexplained",
        "",
        "What the flow leaves unexplained of the picture where it moves, as a share of the local"
        " contrast: falling water, flames, people.",
    ),
    "inconsistent_share": MeasureLabel(
        "Inconsistent flow",
        "",
        "Share of the moving, textured pixels where flow forward and backward disagree.",
    ),
    "believed_share": MeasureLabel(
        "Believed share",
        "",
        "Share of the pixels whose flow is believed. The measures of motion count no other.",
    ),
    "cut_correlation": MeasureLabel(
        "Frame correlation", "", "Lowest correlation of two neighbouring frames. A cut breaks it."
    ),
    "cut_histogram": MeasureLabel(
        "Histogram step", "", "Largest distance of two neighbouring frames' histograms, 0 to 1."
    ),
    "light_change": MeasureLabel(
        "Change of light",
        "",
        "Share by which at least four fifths of the picture become lighter or darker.",
    ),
    "contrast_change": MeasureLabel(
        "Change of contrast",
        "",
        "Share by which at least four fifths of the picture gain contrast or lose it.",
    ),
    "frozen_share": MeasureLabel(
        "Frozen share",
        "",
        "Share of the steps between frames that change nothing: repeated frames.",
    ),
    "frame_rate": MeasureLabel(
        "Frame rate", "frames/s", "Source frames a second. Too few cannot show fast motion."
    ),
    "longest_gap_s": MeasureLabel(
        "Longest gap", "s", "Longest time between two neighbouring source frames. Logarithmic axis."
    ),
}
"""Every measure, in the order of the report: motion first."""

REASON_TEXTS = {
    "duplicate_clip": "the same video was listed before",
    "left_out": "left out by a list",
    "too_short": "shorter than one window",
    "cut": "the scene changes within the window",
    "fade": "the light or the contrast of the whole picture changes",
    "frozen": "frames are repeated",
    "low_frame_rate": "too few frames a second, or a gap between them",
    "no_motion": "hardly anything moves",
    "too_much_motion": "more than a sway, or flow that went wrong",
    "camera_motion": "the picture moves as one",
    "drift": "what moves does not come back",
    "passing": "something passes once",
    "unreliable_flow": "the flow does not explain what changes",
    "missing": "no such file",
    "unreadable": "the file may not be read",
    "forbidden_path": "a link that leaves its folder",
    "not_media": "not a video file",
    "no_video": "sound, at most with a picture on its cover",
    "no_frames": "a video without frames",
    "unsupported_codec": "its codec is not among those that are decoded",
    "too_many_pixels": "larger than is safe to decode",
    "too_many_frames": "longer than is safe to decode",
    "truncated": "the file ends too early",
    "decode_error": "a frame is damaged, or cannot be decoded",
    "timeout": "the decoder was silent for too long",
    "out_of_memory": "the decoder used too much memory",
    "crash": "the decoder died",
    "hash_mismatch": "the file changed during the run",
    "nonfinite": "the motion is not a number",
    "overflow": "the motion is too large to store",
}


def format_threshold(value: float | int) -> str:
    """A threshold with three digits, or `off` if it is infinite."""
    return "off" if isinf(value) else f"{value:.3g}"


def _clean_text(text: Any, limit: int = _MAX_TEXT_CHARACTERS) -> str:
    """Text from a file without control characters, cut after `limit` characters."""
    printable = to_printable(str(text), limit + 1)
    return printable if len(printable) <= limit else printable[: limit - 1] + "…"


def format_number(value: float | int, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent or trailing zeros; narrow
    spaces separate thousands.
    """
    if value == 0 or not abs(value) < 1e15:
        return f"{value:g}"
    decimals = max(digits - 1 - floor(log10(abs(value))), 0)
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_count(count: int, noun: str) -> str:
    """`1 window`, `2 windows`."""
    return f"{format_number(count)} {noun}{'' if count == 1 else 's'}"


def _format_size(count: int) -> tuple[str, str]:
    """A number of bytes as text, and its unit."""
    amount, _, unit = human_size(count).partition(" ")
    return amount, unit


def format_duration(hours: float) -> tuple[str, str]:
    """A duration as text, and its unit."""
    if hours >= 1:
        return format_number(hours), "h"
    if hours * 60 >= 1:
        return format_number(hours * 60), "min"
    return format_number(hours * 3600), "s"


def clip_label(row: Mapping[str, Any]) -> str:
    """A clip's name, or that of its file if the clip is named by its content."""
    name = row["clip_id"] or ""
    if _CONTENT_ID.fullmatch(name) or not name:
        name = PurePath(row["uri"] or "").name or name
    return _clean_text(name, 60)


def _format_reason(name: Any) -> str:
    """A reason in words: `no_motion` is `no motion`."""
    return _clean_text(name).replace("_", " ")


TEMPLATE_FILTERS = dict(
    plain=_clean_text,
    label=clip_label,
    number=format_number,
    many=format_count,
    size=_format_size,
    duration=format_duration,
    reason=_format_reason,
)
"""The filters that templates use, by name."""
