"""Measures of a window's pictures alone: cuts, fades, repeated frames, gaps."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

_THUMBNAIL_SIZE = (64, 40)
"""Width and height at which neighboring frames are correlated; sway is too small to show there."""
_HISTOGRAM_BINS = 32
UNCHANGED_LEVELS = 0.02
"""Two consecutive source frames count as the same picture if their mean absolute difference is
under this, in gray levels.
"""
_TENTHS = 10
_DARK_LEVELS = 16.0
"""A pixel that is never brighter than this says nothing about the light, gray levels."""
_BLOCK = 8
"""Width and height of a block of which the contrast is taken, pixels of a thumbnail."""
_LEAST_CONTRAST = 1.0
"""Added to a contrast, gray levels: noise in a plain block is none."""
LIGHT_OFFSET = np.float32(8)
"""Added to gray levels before their ratio is taken, so that noise in the dark is no change."""


class FrameStats(NamedTuple):
    """What the frame filters remember of one source frame."""

    gray: UInt8[np.ndarray, "height width"]
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
    light, contrast = _light_and_contrast_change(np.stack([frame.thumbnail for frame in stats]))
    return dict(
        cut_correlation=min(delta.correlation for delta in deltas),
        cut_histogram=max(delta.histogram_distance for delta in deltas),
        light_change=light,
        contrast_change=contrast,
        frozen_share=float(np.mean([delta.difference < UNCHANGED_LEVELS for delta in deltas])),
        frame_rate=len(deltas) / float(times[-1] - times[0]),
        longest_gap_s=float(np.diff(times).max()),
    )


def _light_and_contrast_change(
    thumbnails: Float32[np.ndarray, "frames rows columns"],
) -> tuple[float, float]:
    """(share by which at least four fifths of the bright pixels become lighter, or all of them
    darker, than at the start; share by which at least four fifths of the blocks gain contrast, or
    lose it), both 0 to 1.

    Each instant is the median of a tenth of the window, so that a flash or flicker is no fade. The
    bright pixels are at least half of the picture, so that what moves before it, opens in it or
    foams in it is none either.
    """
    tenths = np.array_split(thumbnails, min(_TENTHS, len(thumbnails)))
    instants = np.stack([np.median(tenth, axis=0) for tenth in tenths])
    brightest = instants.max(axis=0)
    bright = instants[:, brightest >= min(_DARK_LEVELS, float(np.median(brightest)))]
    frames, rows, columns = instants.shape
    blocks = instants.reshape(frames, rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK)
    contrasts = blocks.std(axis=(2, 4)).reshape(frames, -1)
    return _common_change(bright + LIGHT_OFFSET), _common_change(contrasts + _LEAST_CONTRAST)


def _common_change(values: Float32[np.ndarray, "instants places"]) -> float:
    """The share by which four fifths of the places exceed, or fall short of, their first value."""
    low, high = np.percentile(np.log(values / values[0]), [20, 80], axis=1)
    return 1 - float(np.exp(-max(low.max(), -high.min(), 0.0)))
