"""Which frames are looked at together: excerpts of a video, each so many frames long, begun every so many frames (docs/maths.md, 33).

Length and stride are part of an evaluation's protocol; nothing is drawn at random. Frames after the last whole excerpt are left out.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8
from numpy.lib.stride_tricks import sliding_window_view

FVD, FVD32 = 16, 32
"""Frames of an excerpt of which I3D makes one sample."""
SLIDING_FID_FRAMES, SLIDING_FVD = 30, 16
"""Frames of an excerpt of which the paper draws a distance over time."""


def cut_excerpts(frames: UInt8[np.ndarray, "time height width 3"], length: int, stride: int) -> UInt8[np.ndarray, "excerpts length height width 3"]:
    """A view of a video's frames. Raises ValueError where it is too short for one, or the stride is under 1."""
    check_excerpt_length(len(frames), length, stride)
    return np.moveaxis(sliding_window_view(frames, length, axis=0)[::stride], -1, 1)


def iter_feature_windows(features: Float[np.ndarray, "videos time dimensions"], length: int, stride: int) -> Iterator[Float[np.ndarray, "samples dimensions"]]:
    """The features of all videos within one excerpt after the other, for `distances.sliding`.

    Of frames (sliding-window FID), or of excerpts with a length of 1 (sliding FVD). Raises ValueError as `cut_excerpts`.
    """
    count, time, dimensions = features.shape
    check_excerpt_length(time, length, stride)
    starts = range(0, time - length + 1, stride)
    return (features[:, start : start + length].reshape(count * length, dimensions) for start in starts)


def check_excerpt_length(time: int, length: int, stride: int) -> None:
    if not (1 <= length <= time and stride >= 1):
        raise ValueError(f"excerpts of {length} frames every {stride} of a video of {time}, expected at least 1 and at most as many as it has")
