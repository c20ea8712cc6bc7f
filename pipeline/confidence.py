"""How far each pixel's flow is to be believed, and a spectrum in which what is not is replaced (docs/maths.md, 9).

Flow estimators invent motion where the picture has nothing to follow: on plain and on dark areas. Two signs give it
away. The start frame has no texture there, and flow to a later frame and back does not return. Both are needed: fine
grain looks like texture, and smoothed-over flow is consistent with itself.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, Inexact, UInt8

Flow = Float32[np.ndarray, "2 height width"]

WINDOW_PX = 2.0
"""Deviation of the Gaussian window over which texture is gathered."""
TEXTURE = 4.0
"""Texture at which half the confidence is left, (grey levels per pixel)^2."""
AGREE_PX, AGREE_SHARE = 0.3, 0.05
"""Disagreement at which 1/e of the confidence is left: pixels, plus a share of the displacement."""
CELL = 4
"""Confident motion is spread on a grid of cells this many pixels wide."""
REACH_PX = 8.0
"""Deviation of the Gaussian by which it is spread."""
PULL = 0.05
"""Confidence, as a mean over the Gaussian, that halves the spread motion: the weight of the belief that nothing moves."""


def confidence(grey: UInt8[np.ndarray, "height width"], flows: Sequence[tuple[Flow, Flow]]) -> UInt8[np.ndarray, "height width"]:
    """0 (nothing to go by) to 255, from the start frame and pairs of flow, forward to a later frame and backward from it."""
    return np.rint(255 * textured(grey) * consistent(flows)).astype(np.uint8)


def textured(grey: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """0 on a plain area to 1 where texture is far above TEXTURE."""
    strength = texture(grey)
    return strength / (strength + TEXTURE)


def texture(grey: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """The smaller eigenvalue of the structure tensor, (grey levels per pixel)^2: how much the picture changes along the
    direction in which it changes least (Shi and Tomasi 1994). An edge has little, a corner or a leaf has much.
    """
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), WINDOW_PX) for product in (dx * dx, dy * dy, dx * dy))
    return np.maximum((xx + yy) / 2 - np.hypot((xx - yy) / 2, xy), 0)


def consistent(flows: Sequence[tuple[Flow, Flow]]) -> Float32[np.ndarray, "height width"]:
    """0 to 1: exp(-(disagreement / tolerance)^2), averaged over the pairs in which the pixel stays in the picture."""
    agreement = np.stack([np.square(disagreement(f, b) / (AGREE_PX + AGREE_SHARE * np.hypot(*f))) for f, b in flows])
    known = ~np.isnan(agreement)
    total = np.exp(-agreement, where=known, out=np.zeros_like(agreement)).sum(axis=0)
    return total / np.maximum(known.sum(axis=0), 1).astype(np.float32)


def disagreement(forward: Flow, backward: Flow) -> Float32[np.ndarray, "height width"]:
    """|F(p) + B(p + F(p))|, pixels; NaN where p + F(p) is outside the picture."""
    height, width = forward.shape[1:]
    x, y = _pixels(height, width)
    x, y = x + forward[0], y + forward[1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    back = np.stack([cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for b in backward])
    return np.where(inside, np.hypot(*(forward + back)), np.float32(np.nan))


@cache
def _pixels(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def damp(planes: Inexact[np.ndarray, "*planes height width"], certain: UInt8[np.ndarray, "height width"]) -> Inexact[np.ndarray, "*planes height width"]:
    """Each plane with c x + (1 - c) y for its x, where y is the confident motion around, c the confidence, 0 to 1.

    y = G (c x) / (G c + PULL), a normalised convolution (Knutsson and Westin 1993) with a Gaussian G and a pull to 0: a
    hole amid confident motion takes that motion, an area with none nearby comes to rest, and where c is 1 the plane
    keeps its bits. Linear in `planes`, so that damping a spectrum damps the motion: complex64 or float32, any leading
    shape; W damped with it is an upper bound of the damped motion's W.
    """
    weight = certain.astype(np.float32) / 255
    share = (1 - weight) / (around(weight) + PULL)
    out = np.empty_like(planes)
    for index in np.ndindex(planes.shape[:-2]):
        trusted = weight * planes[index]
        out[index] = trusted + share * around(trusted)
    return out


def around(plane: Inexact[np.ndarray, "height width"]) -> Inexact[np.ndarray, "height width"]:
    """Gaussian mean, taken over cells of CELL x CELL pixels and interpolated between them."""
    height, width = plane.shape
    parts = plane.view(np.float32).reshape(height, width, -1)
    cells = cv2.resize(parts, (-(-width // CELL), -(-height // CELL)), interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(cv2.GaussianBlur(cells, (0, 0), REACH_PX / CELL), (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth.reshape(height, -1).view(plane.dtype)
