"""How good flow is, as numbers: against the truth, against itself backwards, and against the
pictures (docs/maths.md, 50 to 53). Pure functions of arrays.

Flow and truth are displacements in pixels; a mask says where the truth is known.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Complex, Float32, UInt8

from pipeline.flow.consistency import disagreement, pixel_grid, tolerance
from pipeline.motion.spectrum import modulus
from schemas.arrays import Flow

_Mask = Bool[np.ndarray, "height width"]
_Plane = Float32[np.ndarray, "height width"]

EDGE_STEP_PX = 0.25
"""Neighbouring pixels of which the true displacements differ by more have a motion edge between
them.
"""
NEAR_PX = 5
"""A pixel this near an edge counts as near."""
_BLUR_ROOT_STEP = 0.2
_BLUR_SIGMAS_PX = np.square(np.arange(0, 5.7, _BLUR_ROOT_STEP))
"""Deviations that are tried for the blur of an estimate, pixels: to 31, evenly in their roots."""
OCTAVE_SIGMAS_PX = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Deviations of the Gaussians between which the details of each size lie, pixels."""
_MIN_TRUTH_RMS_PX = 1e-3
"""A truth with less, root mean square, has nothing to be found: what is there is rounding."""
_MIN_KNOWN_SHARE = 1e-3
"""Share of a Gaussian that must lie on known pixels."""


def end_point_error(flow: Flow, truth: Flow) -> _Plane:
    """Length of the difference, pixels."""
    return modulus(flow[0] - truth[0], flow[1] - truth[1])


def angular_error(flow: Flow, truth: Flow) -> _Plane:
    """Angle between (x, y, 1) of both, degrees (Barron, Fleet, Beauchemin, IJCV 1994): large
    displacements count less.
    """
    one, other = (
        np.concatenate([f, np.ones_like(f[:1])]).astype(np.float64) for f in (flow, truth)
    )
    across = np.linalg.norm(
        np.cross(one, other, axis=0), axis=0
    )  # by the sine too: a cosine near 1 has no digits left
    return np.degrees(np.arctan2(across, (one * other).sum(axis=0))).astype(np.float32)


def motion_edges(truth: Flow, valid: _Mask) -> _Mask:
    """Pixels that differ from the next one, to the right or below, by more than EDGE_PX in motion,
    both known.
    """
    edges = np.zeros_like(valid)
    for down, across in ((1, 0), (0, 1)):
        here, there = (
            (slice(-down or None), slice(-across or None)),
            (slice(down, None), slice(across, None)),
        )
        step = modulus(*(truth[:, *there] - truth[:, *here]))
        edges[here] |= (step > EDGE_STEP_PX) & valid[here] & valid[there]
    return edges


def dilate_edges(edges: _Mask) -> _Mask:
    """Pixels at most NEAR_PX from an edge."""
    if not edges.any():
        return edges
    return (
        cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        <= NEAR_PX
    )


def masked_mean(
    values: Float32[np.ndarray, "*shape"] | Bool[np.ndarray, "*shape"],
    mask: Bool[np.ndarray, "*shape"],
) -> float | None:
    """None where the mask has no pixel."""
    return float(values[mask].mean(dtype=np.float64)) if mask.any() else None


def blur_masked(flow: Flow, valid: _Mask, sigma: float) -> Flow:
    """Smoothed by a Gaussian over the known pixels alone: a normalised convolution. At `sigma` 0 as
    it is.
    """
    if sigma == 0:
        return flow
    share = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), sigma)
    return np.stack(
        [cv2.GaussianBlur(plane * valid, (0, 0), sigma) for plane in flow]
    ) / np.maximum(share, np.float32(_MIN_KNOWN_SHARE))


class Truth:
    """Known flow, with what every estimate of it is measured by: the pixels near its motion edges,
    it smoothed, and its details.
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
        self.details = [part[:, valid] for part in _detail_bands(flow, valid)]


def equivalent_blur(flow: Flow, truth: Truth) -> float | None:
    """Deviation, pixels, of the Gaussian by which the truth must be smoothed to come nearest to the
    flow near motion edges (docs/maths.md, 51).

    0 for a perfect estimate, and for one with noise of its own; at most the last of BLURS. None
    where the truth has no edge.
    """
    if not truth.smoothed:
        return None
    errors = np.array(
        [
            np.square(one - flow[:, truth.near_edges]).mean(dtype=np.float64)
            for one in truth.smoothed
        ]
    )
    best = int(errors.argmin())
    if best in (0, len(_BLUR_SIGMAS_PX) - 1):
        return float(_BLUR_SIGMAS_PX[best])
    before, here, after = errors[best - 1 : best + 2]
    step = (before - after) / (
        2 * (before - 2 * here + after)
    )  # to the lowest point of a parabola, in the root
    return float((np.sqrt(_BLUR_SIGMAS_PX[best]) + _BLUR_ROOT_STEP * step) ** 2)


def _detail_bands(flow: Flow, valid: _Mask) -> list[Flow]:
    """What the flow has between one of OCTAVES and the next, the finest first."""
    smooth = [blur_masked(flow * valid, valid, sigma) for sigma in OCTAVE_SIGMAS_PX]
    return [fine - coarse for fine, coarse in pairwise(smooth)]


def measure_details(flow: Flow, truth: Truth) -> list[dict[str, float] | None]:
    """Of details of each size (docs/maths.md, 52): `kept`, which share of the truth's is in the
    flow, by regression; `error`, how large what is wrong is beside the truth's;
    `amount`, how large those of the flow are beside the truth's, right or wrong. 1, 0, 1 for a
    perfect estimate, 0, 1, 0 for one that has none. None where the truth has none.
    """
    entries: list[dict[str, float] | None] = []
    for part, true in zip(_detail_bands(flow, truth.valid), truth.details, strict=True):
        both = regress(part[:, truth.valid], true)
        entries.append(
            both
            and dict(
                kept=both[0],
                error=both[1],
                amount=float(np.sqrt(max(both[1] ** 2 - 1 + 2 * both[0], 0.0))),
            )
        )
    return entries


def regress(found: np.ndarray, true: np.ndarray) -> tuple[float, float] | None:
    """Regression of `found` on `true`, and the root of the power of their difference over that of
    `true`; complex numbers too. None where `true` has less than LEAST_PX.
    """
    power = np.square(np.abs(true)).sum(dtype=np.float64)
    if power <= _MIN_TRUTH_RMS_PX**2 * true.size:
        return None
    product = np.real(np.conj(true) * found).sum(dtype=np.float64)
    return float(product / power), float(
        np.sqrt(np.square(np.abs(found - true)).sum(dtype=np.float64) / power)
    )


def band_errors(
    found: Complex[np.ndarray, "freq 2 height width"],
    truth: Complex[np.ndarray, "freq 2 height width"],
    valid: _Mask,
    frames: int,
) -> list[dict[str, float | None]]:
    """Of each frequency of a spectral volume: root mean square of the truth and of the error as
    amplitudes of a sway, pixels, over x, y and the known pixels, and the share of the truth that is
    found, by regression (docs/maths.md, 53).
    """
    entries = []
    for k, (one, true) in enumerate(zip(found[:, :, valid], truth[:, :, valid], strict=True)):
        scale = (1 if k == 0 or 2 * k == frames else 2) / frames
        both = regress(one, true)
        size, error = (
            float(scale * np.sqrt(np.square(np.abs(part)).sum(axis=0).mean(dtype=np.float64)))
            for part in (true, one - true)
        )
        entries.append(dict(truth_px=size, error_px=error, kept=both[0] if both else None))
    return entries


def stays_inside(flow: Flow) -> _Mask:
    """Pixels that the flow leads to a place in the picture."""
    x, y = (axis + part for axis, part in zip(pixel_grid(*flow.shape[1:]), flow, strict=True))
    return (x >= 0) & (x <= flow.shape[2] - 1) & (y >= 0) & (y <= flow.shape[1] - 1)


def consistency(
    pairs: Sequence[tuple[Flow, Flow]], seen: Sequence[_Mask]
) -> dict[str, float | None]:
    """Of flow forward and back: mean disagreement, pixels, and the share of pixels over the
    tolerance (docs/maths.md, 7), of those that are `seen` in each pair, none of which the flow may
    lead out of the picture. None where there is none.
    """
    apart, shown = (
        np.stack([disagreement(forward, backward) for forward, backward in pairs]),
        np.stack(seen),
    )
    over = apart > np.stack([tolerance(forward) for forward, _ in pairs])
    return dict(
        disagreement_px=masked_mean(apart, shown), inconsistent_share=masked_mean(over, shown)
    )


def photometric_error(
    source: UInt8[np.ndarray, "height width 3"],
    target: UInt8[np.ndarray, "height width 3"],
    flow: Flow,
    seen: _Mask,
) -> float | None:
    """Mean |I_t(p + F(p)) - I_0(p)| over the pixels that are `seen` and the three colours, grey
    levels; bicubic. None where there is none.
    """
    x, y = (axis + part for axis, part in zip(pixel_grid(*flow.shape[1:]), flow, strict=True))
    found = cv2.remap(target, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.absdiff(found, source)[seen].mean()) if seen.any() else None
