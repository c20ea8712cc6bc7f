"""Measures whether the flow explains what changes in the picture where it claims motion.

Sway displaces what is there, so that a later frame, fetched back along the flow, is the start frame
again. Falling water, flames, a person who turns round and what a passing car uncovers are not.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from pipeline.filters.frames import LIGHT_OFFSET
from pipeline.flow.consistency import BELIEVED, pixel_grid, texture_confidence
from schemas.arrays import Flow

_BLUR_PX = 3.0
"""Pictures are compared without detail finer than this: a blade of grass that is missed by a pixel
is no failure of the flow, a person who walks into the picture is.
"""
_CONTRAST_WINDOW = (31, 31)
_CONTRAST_FLOOR = 2.0
"""Added to the contrast, gray levels: noise of a plain area is not unexplained."""
_LEAST_MOTION_PX = 0.3
_TEXTURED = 0.2
"""Pixels with at least this confidence by texture count as textured."""


def measure_flow_quality(
    gray: UInt8[np.ndarray, "height width"],
    later: Sequence[tuple[UInt8[np.ndarray, "height width"], Flow]],
    disagreements: Float32[np.ndarray, "checks height width"],
    weight: Float32[np.ndarray, "height width"],
    confidence: UInt8[np.ndarray, "height width"],
) -> dict[str, float]:
    """The fields of FilterMeasures that say whether the flow can be believed where it claims
    motion; 0 if it claims none that is believed.

    `gray` is the start frame, `later` some later frames with the flow to them, `disagreements` are
    relative to the tolerance and NaN outside the image (docs/design/maths.md, 7), `weight` is W.
    """
    believed = confidence >= BELIEVED
    if not believed.any():
        return dict(unexplained_share=0.0, inconsistent_share=0.0)
    least = max(_LEAST_MOTION_PX, float(np.percentile(weight[believed], 95)) / 2)
    moving = believed & (weight > least)
    textured = (weight > least) & (texture_confidence(gray) > _TEXTURED)
    return dict(
        unexplained_share=unexplained_share(gray, later, moving),
        inconsistent_share=inconsistent_share(disagreements, textured),
    )


def unexplained_share(
    gray: UInt8[np.ndarray, "height width"],
    later: Sequence[tuple[UInt8[np.ndarray, "height width"], Flow]],
    moving: Bool[np.ndarray, "height width"],
) -> float:
    """What the flow leaves unexplained of the picture at the moving pixels, as a share of the local
    contrast: the mean of |G (I_t(p + F_t(p)) / g_t - I_0(p))| / (deviation of G I_0 around p),
    where G is a Gaussian of 3 px and g_t the median of I_t(p + F_t(p)) / I_0(p) over the whole
    picture: light that changes everywhere is no motion. About 1 if the pictures have nothing to do
    with each other; 0 without a moving pixel. Pixels that leave the image do not count.
    """
    if not moving.any():
        return 0.0
    start = gray.astype(np.float32)
    height, width = gray.shape
    blurred = cv2.GaussianBlur(start, (0, 0), _BLUR_PX)
    mean, square = (cv2.blur(each, _CONTRAST_WINDOW) for each in (blurred, blurred * blurred))
    contrast = (np.sqrt(np.maximum(square - mean * mean, 0)) + np.float32(_CONTRAST_FLOOR))[moving]
    x, y = pixel_grid(height, width)
    total, count = 0.0, 0
    for later_gray, (u, v) in later:
        fetched = cv2.remap(
            later_gray, x + u, y + v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        gain = np.median((fetched[::4, ::4] + LIGHT_OFFSET) / (start[::4, ::4] + LIGHT_OFFSET))
        change = (fetched + LIGHT_OFFSET) / np.float32(gain) - LIGHT_OFFSET - start
        error = np.abs(cv2.GaussianBlur(change, (0, 0), _BLUR_PX))[moving] / contrast
        target_x, target_y = (x + u)[moving], (y + v)[moving]
        inside = (target_x >= 0) & (target_x <= width - 1) & (target_y >= 0)
        inside &= target_y <= height - 1
        total += float(error[inside].sum(dtype=np.float64))
        count += int(np.count_nonzero(inside))
    return total / count if count else 1.0


def inconsistent_share(
    disagreements: Float32[np.ndarray, "checks height width"],
    counted: Bool[np.ndarray, "height width"],
) -> float:
    """Share of the counted pixels where forward and backward flow disagree by more than is
    tolerated, averaged over the checks (docs/design/maths.md, 7); 0 if no pixel is counted.

    `disagreements` are relative to the tolerance, and NaN where a pixel leaves the image. Such
    pixels do not count; a check in which all pixels leave has share 1.
    """
    if not counted.any():
        return 0.0
    shares = [
        (check[inside] > 1).mean() if inside.any() else 1.0
        for check in disagreements[:, counted]
        for inside in [~np.isnan(check)]
    ]
    return float(np.mean(shares))
