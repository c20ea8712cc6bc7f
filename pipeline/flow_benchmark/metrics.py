"""Measures how good flow is: against the true flow, against flow backwards, and against the images
(docs/design/maths.md, 50 to 54). Pure functions of arrays.

Flow and truth are displacements in pixels; a mask tells where the truth is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Complex, Float32, UInt8

from pipeline.flow.consistency import disagreement, pixel_grid, tolerance
from pipeline.motion.spectrum import modulus
from schemas.arrays import Flow

_Mask = Bool[np.ndarray, "height width"]
_Plane = Float32[np.ndarray, "height width"]

EDGE_STEP_PX = 0.25
"""Two neighboring pixels have a motion edge between them if their true displacements differ by more
than this.
"""
NEAR_PX = 5
"""A pixel is near an edge if its distance is at most this."""
_BLUR_ROOT_STEP = 0.2
_BLUR_SIGMAS_PX = np.square(np.arange(0, 5.7, _BLUR_ROOT_STEP))
"""Standard deviations that are tried for the blur of an estimate, pixels: up to 31, with even steps
of their roots.
"""
OCTAVE_SIGMAS_PX = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Standard deviations of the Gaussians between which the details of each size are, pixels."""
_MIN_TRUTH_RMS_PX = 1e-3
"""A truth with a smaller root mean square has nothing to find: it is rounding."""
_MIN_KNOWN_SHARE = 1e-3
"""The smallest share of a Gaussian on known pixels."""


@dataclass(frozen=True, kw_only=True)
class DetailMeasure:
    """Flow beside the truth in details of one size (docs/design/maths.md, 52)."""

    kept: float
    """Share of the truth's details that is in the flow, by regression; 1 for a perfect estimate."""
    error: float
    """Size of the wrong details over that of the truth's; 0 for a perfect estimate."""
    amount: float
    """Size of all the flow's details, right or wrong, over that of the truth's."""


@dataclass(frozen=True, kw_only=True)
class BandError:
    """A spectral volume beside the true one at one frequency (docs/design/maths.md, 53)."""

    truth_px: float
    """Root mean square of the truth, as the amplitude of a sway."""
    error_px: float
    """Root mean square of the error, likewise."""
    kept: float | None
    """Share of the truth that is in the estimate, by regression; None if nothing truly moves."""


class Consistency(NamedTuple):
    """Agreement of forward and backward flow (docs/design/maths.md, 7); None without a visible
    pixel.
    """

    disagreement_px: float | None
    inconsistent_share: float | None


class Regression(NamedTuple):
    share: float
    """Coefficient of the regression of an estimate on the truth."""
    error: float
    """Root of the power of their difference over that of the truth."""


def end_point_error(flow: Flow, truth: Flow) -> _Plane:
    """Length of the difference, pixels."""
    return modulus(flow[0] - truth[0], flow[1] - truth[1])


def angular_error(flow: Flow, truth: Flow) -> _Plane:
    """Angle between (x, y, 1) of both, degrees (Barron, Fleet, Beauchemin, IJCV 1994). Errors count
    less at large displacements.
    """
    a, b = (np.concatenate([f, np.ones_like(f[:1])]).astype(np.float64) for f in (flow, truth))
    # the sine is needed too: a cosine near 1 has no digits left
    sine = np.linalg.norm(np.cross(a, b, axis=0), axis=0)
    return np.degrees(np.arctan2(sine, (a * b).sum(axis=0))).astype(np.float32)


def motion_edges(truth: Flow, valid: _Mask) -> _Mask:
    """Pixels whose motion differs from that of the next one, to the right or below, by more than
    EDGE_STEP_PX; both must be known.
    """
    edges = np.zeros_like(valid)
    for down, across in ((1, 0), (0, 1)):
        pixels = slice(-down or None), slice(-across or None)
        neighbors = slice(down, None), slice(across, None)
        step = modulus(*(truth[:, *neighbors] - truth[:, *pixels]))
        edges[pixels] |= (step > EDGE_STEP_PX) & valid[pixels] & valid[neighbors]
    return edges


def dilate_edges(edges: _Mask) -> _Mask:
    """Pixels at most NEAR_PX from an edge."""
    if not edges.any():
        return edges
    elsewhere = (~edges).astype(np.uint8)
    return cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= NEAR_PX


def masked_mean(
    values: Float32[np.ndarray, "*shape"] | Bool[np.ndarray, "*shape"],
    mask: Bool[np.ndarray, "*shape"],
) -> float | None:
    """Mean of the values in the mask; None if it has no pixel."""
    return float(values[mask].mean(dtype=np.float64)) if mask.any() else None


def blur_masked(flow: Flow, valid: _Mask, sigma: float) -> Flow:
    """The flow, smoothed by a Gaussian of `sigma` pixels over the known pixels alone: a normalized
    convolution. If `sigma` is 0 the flow is returned as it is.
    """
    if sigma == 0:
        return flow
    share = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), sigma)
    smooth = np.stack([cv2.GaussianBlur(plane * valid, (0, 0), sigma) for plane in flow])
    return smooth / np.maximum(share, np.float32(_MIN_KNOWN_SHARE))


class Truth:
    """Known flow, and all that its estimates are compared with: the pixels near its motion edges,
    smoothed versions there, and its details.
    """

    def __init__(self, flow: Flow, valid: _Mask):
        self.flow, self.valid = flow, valid
        self.near_edges = dilate_edges(motion_edges(flow, valid)) & valid
        self.away_from_edges = valid & ~self.near_edges
        self.smoothed = (
            [blur_masked(flow, valid, sigma)[:, self.near_edges] for sigma in _BLUR_SIGMAS_PX]
            if self.near_edges.any()
            else []
        )
        self.details = [band[:, valid] for band in _detail_bands(flow, valid)]


def equivalent_blur(flow: Flow, truth: Truth) -> float | None:
    """Standard deviation, pixels, of the Gaussian that smooths the truth to be nearest to the flow
    near motion edges (docs/design/maths.md, 51).

    It is 0 for a perfect estimate, also with noise, and at most the last of _BLUR_SIGMAS_PX. None
    if the truth has no edge.
    """
    if not truth.smoothed:
        return None
    near = flow[:, truth.near_edges]
    errors = np.array(
        [np.square(smooth - near).mean(dtype=np.float64) for smooth in truth.smoothed]
    )
    best = int(errors.argmin())
    if best in (0, len(_BLUR_SIGMAS_PX) - 1):
        return float(_BLUR_SIGMAS_PX[best])
    before, here, after = errors[best - 1 : best + 2]
    # to the lowest point of a parabola in the roots
    step = (before - after) / (2 * (before - 2 * here + after))
    return float((np.sqrt(_BLUR_SIGMAS_PX[best]) + _BLUR_ROOT_STEP * step) ** 2)


def _detail_bands(flow: Flow, valid: _Mask) -> list[Flow]:
    """The parts of the flow between each two of OCTAVE_SIGMAS_PX, the finest first."""
    smooth = [blur_masked(flow * valid, valid, sigma) for sigma in OCTAVE_SIGMAS_PX]
    return [fine - coarse for fine, coarse in pairwise(smooth)]


def measure_details(flow: Flow, truth: Truth) -> list[DetailMeasure | None]:
    """Details of each size, the finest first (docs/design/maths.md, 52); None if the truth has
    none.
    """
    measures: list[DetailMeasure | None] = []
    for band, details in zip(_detail_bands(flow, truth.valid), truth.details, strict=True):
        fit = regress(band[:, truth.valid], details)
        if fit is None:
            measures.append(None)
            continue
        amount = float(np.sqrt(max(fit.error**2 - 1 + 2 * fit.share, 0.0)))
        measures.append(DetailMeasure(kept=fit.share, error=fit.error, amount=amount))
    return measures


def regress(estimate: np.ndarray, truth: np.ndarray) -> Regression | None:
    """Regression of real or complex numbers on the true ones. None if the root mean square of the
    truth is less than _MIN_TRUTH_RMS_PX.
    """
    power = np.square(np.abs(truth)).sum(dtype=np.float64)
    if power <= _MIN_TRUTH_RMS_PX**2 * truth.size:
        return None
    product = np.real(np.conj(truth) * estimate).sum(dtype=np.float64)
    error = np.square(np.abs(estimate - truth)).sum(dtype=np.float64)
    return Regression(float(product / power), float(np.sqrt(error / power)))


def band_errors(
    estimate: Complex[np.ndarray, "freq 2 height width"],
    truth: Complex[np.ndarray, "freq 2 height width"],
    valid: _Mask,
    frames: int,
) -> list[BandError]:
    """Errors of a spectral volume of `frames` frames at each frequency, over x, y and the known
    pixels (docs/design/maths.md, 53).
    """
    bands = []
    for k, (a, b) in enumerate(zip(estimate[:, :, valid], truth[:, :, valid], strict=True)):
        scale = (1 if k == 0 or 2 * k == frames else 2) / frames
        size, error = (
            float(scale * np.sqrt(np.square(np.abs(part)).sum(axis=0).mean(dtype=np.float64)))
            for part in (b, a - b)
        )
        fit = regress(a, b)
        bands.append(BandError(truth_px=size, error_px=error, kept=fit.share if fit else None))
    return bands


def stays_inside(flow: Flow) -> _Mask:
    """Pixels that the flow moves to a place inside the image."""
    x, y = (axis + part for axis, part in zip(pixel_grid(*flow.shape[1:]), flow, strict=True))
    return (x >= 0) & (x <= flow.shape[2] - 1) & (y >= 0) & (y <= flow.shape[1] - 1)


def consistency(pairs: Sequence[tuple[Flow, Flow]], visible: Sequence[_Mask]) -> Consistency:
    """Mean disagreement of flow forward and back, pixels, and the share of pixels over the
    tolerance (docs/design/maths.md, 7), over the pixels that are `visible` in each pair. The flow
    must not move any of these out of the image.
    """
    errors = np.stack([disagreement(forward, backward) for forward, backward in pairs])
    masks = np.stack(visible)
    over = errors > np.stack([tolerance(forward) for forward, _ in pairs])
    return Consistency(masked_mean(errors, masks), masked_mean(over, masks))


def photometric_error(
    source: UInt8[np.ndarray, "height width 3"],
    target: UInt8[np.ndarray, "height width 3"],
    flow: Flow,
    visible: _Mask,
) -> float | None:
    """Mean |I_t(p + F(p)) - I_0(p)| over the `visible` pixels and the three colors, gray levels,
    with bicubic interpolation. None if there is no such pixel.
    """
    x, y = (axis + part for axis, part in zip(pixel_grid(*flow.shape[1:]), flow, strict=True))
    warped = cv2.remap(target, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.absdiff(warped, source)[visible].mean()) if visible.any() else None
