"""How far each pixel's flow is to be believed, and a spectrum in which what is not is replaced
(docs/maths.md, 9).

Flow estimators invent motion where the picture has nothing to follow: on plain and on dark areas.
Two signs give it away. The start frame has no texture there, and flow to a later frame and back
does not return. Neither does alone: invented motion can be smooth and return, and flow can be lost
on texture. docs/decisions/0006-flow-confidence.md has what each is worth.
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
"""Forward and backward flow agree within this many pixels or this share of the displacement,
whichever is more.
"""
_TEXTURE_SIGMA_PX = 2.0
"""Deviation of the Gaussian window over which texture is gathered."""
HALF_CONFIDENCE_TEXTURE = 1.5
"""Texture at which half of the confidence is left, (grey levels per pixel)^2."""
_CELL_PX = 4
"""Confident motion is spread on a grid of cells this wide."""
_SPREAD_SIGMA_PX = 8.0
"""Deviation of the Gaussian by which it is spread."""
REST_WEIGHT = 0.05
"""Mean confidence around a pixel at which the spread motion is halved: the weight of the belief
that nothing moves.
"""


def confidence(
    grey: UInt8[np.ndarray, "height width"], disagreements: _Disagreements
) -> UInt8[np.ndarray, "height width"]:
    """0 (nothing to go by) to 255, from the start frame and the disagreements of its flow with the
    flow back.
    """
    return np.rint(255 * texture_confidence(grey) * consistency_confidence(disagreements)).astype(
        np.uint8
    )


def texture_confidence(
    grey: UInt8[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """0 on a plain area to 1 where texture is well above TEXTURE."""
    strength = np.square(texture_strength(grey))
    return strength / (strength + np.float32(HALF_CONFIDENCE_TEXTURE) ** 2)


def texture_strength(
    grey: UInt8[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """The smaller eigenvalue of the structure tensor, (grey levels per pixel)^2: how much the
    picture changes along the direction in which it changes least (Shi and Tomasi 1994). A plain
    area has none, a straight edge hardly any.
    """
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (
        cv2.GaussianBlur(product, (0, 0), _TEXTURE_SIGMA_PX)
        for product in (dx * dx, dy * dy, dx * dy)
    )
    return np.maximum((xx + yy) / 2 - np.hypot((xx - yy) / 2, xy), 0)


def consistency_confidence(disagreements: _Disagreements) -> Float32[np.ndarray, "height width"]:
    """0 to 1: exp(-disagreement^4), averaged over the checks in which a pixel stays in the picture;
    a pixel that always leaves it has 0. The fourth power spares flow that is a little off: 0.94 at
    half the tolerance.
    """
    inside = ~np.isnan(disagreements)
    agreement = np.exp(
        -np.square(np.square(disagreements)), where=inside, out=np.zeros_like(disagreements)
    )
    return agreement.sum(axis=0) / np.maximum(inside.sum(axis=0), 1, dtype=np.float32)


def relative_disagreements(flows: Sequence[tuple[Flow, Flow]]) -> _Disagreements:
    """Disagreement of each pair of flow, forward to a later frame and back from it, over what is
    tolerated (docs/maths.md, 7); NaN where a pixel leaves the picture. Raises ValueError where
    there is no pair.
    """
    if not flows:
        raise ValueError("there are 0 pairs of flow, expected at least 1")
    return np.stack(
        [disagreement(forward, backward) / tolerance(forward) for forward, backward in flows]
    )


def disagreement(forward: Flow, backward: Flow) -> Float32[np.ndarray, "height width"]:
    """|F(p) + B(p + F(p))|, pixels; NaN where p + F(p) is outside the picture."""
    height, width = forward.shape[1:]
    x, y = pixel_grid(height, width)
    x, y = x + forward[0], y + forward[1]
    back = [cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for b in backward]
    error = modulus(forward[0] + back[0], forward[1] + back[1])
    error[(x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)] = np.nan
    return error


def tolerance(forward: Flow) -> Float32[np.ndarray, "height width"]:
    """Disagreement that still counts as agreement, pixels."""
    return np.maximum(np.float32(TOLERANCE_PX), np.float32(_TOLERANCE_SHARE) * modulus(*forward))


@cache
def pixel_grid(
    height: int, width: int
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """x and y of every pixel."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def damp(planes: _Planes, certain: UInt8[np.ndarray, "height width"]) -> _Planes:
    """Each plane x becomes c x + (1 - c) y, where c is the confidence, 0 to 1, and y the confident
    motion around.

    y = G(c x) / (G(c) + PULL): a normalised convolution (Knutsson and Westin 1993) with a Gaussian
    G, and a pull to 0. A hole amid confident motion takes that motion, an area with none nearby
    comes to rest, and where c is 1 a plane keeps its bits. `planes` is real or complex, single or
    double. Linear in it, so that damping a spectrum damps its motion. W damped likewise is an upper
    bound of the damped motion's W, and is it where neighbours move in step.
    """
    share = certain.astype(np.float32) / 255
    rest = (1 - share) / (_local_mean(share) + np.float32(REST_WEIGHT))
    damped = np.empty_like(planes)
    for index in np.ndindex(planes.shape[:-2]):
        trusted = share * planes[index]
        damped[index] = trusted + rest * _local_mean(trusted)
    return damped


def _local_mean(plane: Inexact[np.ndarray, "height width"]) -> Inexact[np.ndarray, "height width"]:
    """The Gaussian mean at each pixel, taken over cells of CELL_PX x CELL_PX pixels and
    interpolated between them.
    """
    height, width = plane.shape
    parts = plane.view(np.finfo(plane.dtype).dtype).reshape(height, width, -1)
    cells = cv2.resize(
        parts, (-(-width // _CELL_PX), -(-height // _CELL_PX)), interpolation=cv2.INTER_AREA
    )
    smooth = cv2.resize(
        cv2.GaussianBlur(cells, (0, 0), _SPREAD_SIGMA_PX / _CELL_PX),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )
    return smooth.reshape(height, -1).view(plane.dtype)
