"""Metrics of temporal consistency: pure functions of the frames of a video [T, H, W, 3], bytes
(docs/design/maths.md, 39 and 40).

Motion changes frames too, so compare both metrics with those of the real video.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from pipeline.flow.consistency import disagreement, pixel_grid, tolerance
from schemas.arrays import Flow

_Frame = UInt8[np.ndarray, "height width 3"]


class _WarpingResult(NamedTuple):
    """The warping error of a step or of a video."""

    error: float | None
    """Mean squared difference of visible pixels, colors 0 to 1; None if none is visible."""
    visible: float
    """Share of the pixels that the flow finds again in the other frame, 0 to 1."""


def flicker(frames: Iterable[_Frame]) -> float:
    """Mean absolute difference of consecutive frames, gray levels 0 to 255 (docs/design/maths.md,
    39). Raises ValueError for fewer than two frames.
    """
    steps = [
        float(np.abs(after.astype(np.int16) - before).mean()) for before, after in pairwise(frames)
    ]
    return float(np.mean(_check_steps(steps)))


def warping_error(
    frames: Sequence[_Frame] | UInt8[np.ndarray, "time height width 3"],
    flows: Sequence[tuple[Flow, Flow]],
) -> _WarpingResult:
    """The mean warping error of a video (docs/design/maths.md, 40; Lai et al. 2018).

    `flows` has the flow from each frame to the next, and back. Each frame is weighted by its number
    of visible pixels. Raises ValueError for fewer than two frames, or unless there is one pair of
    flows for each step.
    """
    if len(flows) != len(frames) - 1:
        raise ValueError(
            f"there are {len(flows)} flows between {len(frames)} frames, expected {len(frames) - 1}"
        )
    steps = _check_steps(
        [_step_warping(*pair, *flow) for pair, flow in zip(pairwise(frames), flows, strict=True)]
    )
    visible = sum(step.visible for step in steps)
    errors = [step.error * step.visible for step in steps if step.error is not None]
    return _WarpingResult(sum(errors) / visible if errors else None, visible / len(steps))


def _step_warping(frame: _Frame, after: _Frame, forward: Flow, backward: Flow) -> _WarpingResult:
    """Compares a frame with its successor, warped back, at pixels whose forward and backward flow
    agree.
    """
    with np.errstate(invalid="ignore"):
        visible: Bool[np.ndarray, "height width"] = disagreement(forward, backward) <= tolerance(
            forward
        )
    x, y = pixel_grid(*frame.shape[:2])
    back = cv2.remap(
        after.astype(np.float32),
        x + forward[0],
        y + forward[1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    square = np.square((back - frame) / 255)[visible]
    return _WarpingResult(
        float(square.mean(dtype=np.float64)) if square.size else None, float(visible.mean())
    )


def _check_steps(steps: list) -> list:
    """Raises ValueError if there is no step between two frames."""
    if not steps:
        raise ValueError("the video has fewer than 2 frames, expected at least 2")
    return steps
