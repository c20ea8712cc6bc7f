"""Measures how far each pixel's flow can be trusted, and damps what cannot (docs/design/maths.md,
7, 9).

Flow estimators invent motion if the image has nothing to follow: in plain and in dark areas. Two
signs give it away. The start frame has no texture there, and flow to a later frame and back does
not return. Neither is enough alone: invented motion can be smooth and return, and flow can be lost
on texture. docs/design/decisions/0006-flow-confidence.md says what each sign is worth.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, Inexact, UInt8

from pipeline.motion.spectrum import modulus
from schemas.arrays import Flow

_Disagreements = Float32[np.ndarray, "checks height width"]
_Planes = Inexact[np.ndarray, "*planes height width"]

TOLERANCE_PX, _TOLERANCE_SHARE = 0.5, 0.2
"""Forward and backward flow agree if they differ by at most this many pixels or this share of the
displacement, whichever is more.
"""
_TEXTURE_SIGMA_PX = 2.0
"""Standard deviation of the Gaussian window of the structure tensor."""
HALF_CONFIDENCE_TEXTURE = 1.5
"""Texture at which the confidence is one half, (gray levels per pixel)^2: l_0 in
docs/design/maths.md.
"""
_CELL_PX = 4
"""Confident motion is spread on a grid of cells of this width."""
_SPREAD_SIGMA_PX = 8.0
"""Standard deviation of the Gaussian that spreads it."""
BELIEVED = 26
"""Flow of at least this confidence, of 255, is believed: a tenth. What is not believed counts in no
measure and in no statistics.
"""
REST_WEIGHT = 0.05
"""Weight of the assumption that nothing moves, m of docs/design/maths.md, 9: at this mean
confidence around a pixel the spread motion is halved.
"""


def confidence(
    gray: UInt8[np.ndarray, "height width"], disagreements: _Disagreements
) -> UInt8[np.ndarray, "height width"]:
    """0 (the flow says nothing) to 255, from the start frame and the `relative_disagreements` of
    its flow (docs/design/maths.md, 9).
    """
    level = 255 * texture_confidence(gray) * consistency_confidence(disagreements)
    return np.rint(level).astype(np.uint8)


def texture_confidence(
    gray: UInt8[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """0 in a plain area to 1 if texture is well above HALF_CONFIDENCE_TEXTURE."""
    strength = np.square(texture_strength(gray))
    return strength / (strength + np.float32(HALF_CONFIDENCE_TEXTURE) ** 2)


def texture_strength(
    gray: UInt8[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """The smaller eigenvalue of the structure tensor, (gray levels per pixel)^2: how much the image
    changes along the direction in which it changes least (Shi and Tomasi 1994). It is 0 in a plain
    area and small on a straight edge.
    """
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (
        cv2.GaussianBlur(product, (0, 0), _TEXTURE_SIGMA_PX)
        for product in (dx * dx, dy * dy, dx * dy)
    )
    return np.maximum((xx + yy) / 2 - np.hypot((xx - yy) / 2, xy), 0)


def consistency_confidence(disagreements: _Disagreements) -> Float32[np.ndarray, "height width"]:
    """0 to 1: exp(-disagreement^4), averaged over the checks in which a pixel stays in the image; 0
    if it leaves it in all of them. The fourth power tolerates flow that is a little off: the result
    is 0.94 at half the tolerance.
    """
    inside = ~np.isnan(disagreements)
    agreement = np.exp(
        -np.square(np.square(disagreements)), where=inside, out=np.zeros_like(disagreements)
    )
    return agreement.sum(axis=0) / np.maximum(inside.sum(axis=0), 1, dtype=np.float32)


def relative_disagreements(flows: Sequence[tuple[Flow, Flow]]) -> _Disagreements:
    """`disagreement` over `tolerance` (docs/design/maths.md, 7) of each pair of flow, forward to a
    later frame and back from it; NaN at pixels that leave the image. Raises ValueError if there is
    no pair.
    """
    if not flows:
        raise ValueError("there are 0 pairs of flow, expected at least 1")
    return np.stack(
        [disagreement(forward, backward) / tolerance(forward) for forward, backward in flows]
    )


def disagreement(forward: Flow, backward: Flow) -> Float32[np.ndarray, "height width"]:
    """|F(p) + B(p + F(p))|, pixels (docs/design/maths.md, 7); NaN if p + F(p) is outside the
    image.
    """
    height, width = forward.shape[1:]
    x, y = pixel_grid(height, width)
    x, y = x + forward[0], y + forward[1]
    back = [cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for b in backward]
    error = modulus(forward[0] + back[0], forward[1] + back[1])
    error[(x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)] = np.nan
    return error


def tolerance(forward: Flow) -> Float32[np.ndarray, "height width"]:
    """The largest disagreement that counts as agreement, pixels (docs/design/maths.md, 7)."""
    return np.maximum(np.float32(TOLERANCE_PX), np.float32(_TOLERANCE_SHARE) * modulus(*forward))


@cache
def pixel_grid(
    height: int, width: int
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """x and y of every pixel."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def damp(planes: _Planes, certain: UInt8[np.ndarray, "height width"]) -> _Planes:
    """Replaces motion that cannot be trusted by the trusted motion around it (docs/design/maths.md,
    9).

    Each plane x becomes c x + (1 - c) y, where c is the confidence, 0 to 1, and
    y = G(c x) / (G(c) + m) a normalized convolution (Knutsson and Westin 1993) with a Gaussian G
    and a pull m towards 0. A hole amid confident motion takes that motion, an area without any
    nearby comes to rest, and a plane keeps its bits where c is 1.

    `planes` is real or complex, single or double; `certain` is what `confidence` returns. The
    result is linear in `planes`, so that damping a spectrum damps its motion. W damped likewise is
    an upper bound of the damped motion's W, and equal to it where neighbors move in step.
    """
    share = certain.astype(np.float32) / 255
    spread = (1 - share) / (_local_mean(share) + np.float32(REST_WEIGHT))
    damped = np.empty_like(planes)
    for index in np.ndindex(planes.shape[:-2]):
        trusted = share * planes[index]
        damped[index] = trusted + spread * _local_mean(trusted)
    return damped


def _local_mean(plane: Inexact[np.ndarray, "height width"]) -> Inexact[np.ndarray, "height width"]:
    """The Gaussian mean at each pixel, computed on cells of _CELL_PX x _CELL_PX pixels and
    interpolated between them.
    """
    height, width = plane.shape
    # re and im of a complex plane as two channels
    channels = plane.view(np.finfo(plane.dtype).dtype).reshape(height, width, -1)
    grid = -(-width // _CELL_PX), -(-height // _CELL_PX)
    cells = cv2.resize(channels, grid, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(cells, (0, 0), _SPREAD_SIGMA_PX / _CELL_PX)
    smooth = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth.reshape(height, -1).view(plane.dtype)
