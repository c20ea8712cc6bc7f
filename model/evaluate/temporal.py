"""How steady the pictures of a video are from frame to frame: pure functions of frames [T, H, W,
3], bytes (docs/maths.md, 39 and 40).

Motion changes pictures too, so both are to be compared with the truth's.
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
    """Of a frame and its successor."""

    error: float | None
    """Mean squared difference where visible, colours 0 to 1; None where nothing is."""
    visible: float
    """Share of the pixels that the flow is believed to find again, 0 to 1."""


def flicker(frames: Iterable[_Frame]) -> float:
    """Mean absolute difference of neighbouring frames, grey levels 0 to 255 (docs/maths.md, 39).
    Raises ValueError for fewer than two frames.
    """
    steps = [
        float(np.abs(after.astype(np.int16) - before).mean()) for before, after in pairwise(frames)
    ]
    return float(np.mean(_check_steps(steps)))


def warping_error(
    frames: Sequence[_Frame] | UInt8[np.ndarray, "time height width 3"],
    flows: Sequence[tuple[Flow, Flow]],
) -> _WarpingResult:
    """Of a video by the flow from each frame to the next and back, averaged (docs/maths.md, 40; Lai
    et al. 2018).

    Pixels count by how many are visible in their frame. Raises ValueError for fewer than two
    frames, or another number of flows than steps.
    """
    if len(flows) != len(frames) - 1:
        raise ValueError(
            f"there are {len(flows)} flows between {len(frames)} frames, expected {len(frames) - 1}"
        )
    found = _check_steps(
        [_step_warping(*pair, *flow) for pair, flow in zip(pairwise(frames), flows, strict=True)]
    )
    visible = sum(one.visible for one in found)
    errors = [one.error * one.visible for one in found if one.error is not None]
    return _WarpingResult(sum(errors) / visible if errors else None, visible / len(found))


def _step_warping(frame: _Frame, after: _Frame, forward: Flow, backward: Flow) -> _WarpingResult:
    """One step's: the frame against its successor, drawn back by the flow where that leads back
    too.
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
    """Raises ValueError where there is no step."""
    if not steps:
        raise ValueError("the video has fewer than 2 frames, expected at least 2")
    return steps
