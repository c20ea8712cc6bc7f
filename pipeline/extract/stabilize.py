"""Fits the motion of the camera to the displacements of a window, so that it can be subtracted.

A camera carries all that is at rest along one similarity transform a frame. A fit to every frame by
itself takes what sways for the camera as soon as it fills most of the picture, since its parts lean
the same way. So the weight of a pixel is the same in all frames: the fit seeks the path without
which as much of the picture as possible is at rest all the time (docs/design/maths.md, 45). If too
little comes to rest there is nothing that tells the camera, and the motion stays as it is.

Pixels count if the start frame has texture there; what the backward flow says of them is not known
yet at this time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from threadpoolctl import ThreadpoolController

from pipeline.filters.camera import (
    FULL_PART_SHARE,
    MIN_PART_SHARE,
    PART_COLUMNS,
    PART_ROWS,
    CameraPath,
    picture_parts,
    pixel_places,
)
from pipeline.flow.consistency import texture_confidence
from pipeline.motion.spectrum import GRID_STEP

_TEXTURED = 0.1
"""Pixels with at least this confidence by texture count as textured."""
_MIN_COVERED_SHARE = 0.4
"""If fewer parts of the picture have texture, what has it may well be the subject alone."""
_SCALES_PX = (0.9, 0.9, 0.6, 0.45, 0.3, 0.3, 0.3)
"""Scales of the robust fit, one after the other: wide first, so that it finds its way."""
_REST_PX = 0.5
"""A pixel that moves by at most this much, root mean square, is at rest."""
_MIN_REST_SHARE = 0.35
"""If less of the picture comes to rest, the fitted path may be that of something that sways."""
_NOISE_PX, _LAST_ITERATIONS = (0.05, 0.3), 6
"""The last scale is what the quietest quarter of the pixels at rest moves, within these bounds."""
_SEED_STEP = 2
"""The best of many first guesses is sought on a grid that is coarser by this factor."""
_PATH_DIGITS = 3
"""Decimal digits of a pixel in the recorded path. What is recorded is what is subtracted."""

_threads = ThreadpoolController()
_Path = Float64[np.ndarray, "frames 4"]


class CameraFit(NamedTuple):
    """The motion of the camera in one window, as it is subtracted from the displacements."""

    path: _Path
    """The four numbers of `CameraPath` at each source frame, pixels; all 0 if there is no fit."""
    rms_px: float
    """Root mean square of the camera's displacement over the picture and the frames, pixels."""
    detail: str
    """Why the camera could not be fitted; empty if it was."""

    @property
    def is_fitted(self) -> bool:
        return not self.detail

    def to_meta(self) -> dict[str, Any]:
        """Returns the camera's part of a sample's metadata."""
        return dict(path=self.path.tolist(), rms_px=self.rms_px, detail=self.detail)


class _Paths(NamedTuple):
    """Displacements of some pixels, and what the camera's four numbers do to each."""

    displacements: Float64[np.ndarray, "frames both"]
    """x of all pixels, then y of all pixels."""
    basis: Float64[np.ndarray, "both 4"]
    weights: Float64[np.ndarray, " pixels"]
    """They add up to 1, and each part of the picture has the same share."""
    parts: np.ndarray
    """The part of the picture in which each pixel lies."""


def fit_window_camera(
    motion: Float32[np.ndarray, "frames 2 rows columns"], gray: UInt8[np.ndarray, "height width"]
) -> CameraFit:
    """Fits the camera of a window to its displacements on every GRID_STEP-th pixel, pixels; `gray`
    is the start frame.
    """
    textured = texture_confidence(gray)[::GRID_STEP, ::GRID_STEP] >= _TEXTURED
    if (share := _covered_share(textured)) < _MIN_COVERED_SHARE:
        return _no_fit(
            len(motion),
            f"{share:.0%} of the picture's parts have texture, expected at least "
            f"{_MIN_COVERED_SHARE:.0%}",
        )
    if not np.isfinite(motion).all():
        return _no_fit(len(motion), "the flow has values that are not finite")
    places = np.stack([place[::GRID_STEP, ::GRID_STEP] for place in pixel_places(*gray.shape)])
    with _threads.limit(limits=1, user_api="blas"):
        path, share = _find_rest(motion, textured, places)
    if share < _MIN_REST_SHARE:
        return _no_fit(
            len(motion),
            f"{share:.0%} of the picture comes to rest without the fitted motion of the camera, "
            f"expected at least {_MIN_REST_SHARE:.0%}",
        )
    path = path.round(_PATH_DIGITS) + 0.0  # -0 becomes 0
    x, y = pixel_places(*gray.shape)
    shift_x, shift_y, growth, turn = np.square(path.T)
    # x and y have mean 0 over the picture, so that the terms do not mix
    squares = shift_x + shift_y + (growth + turn) * float(np.mean(x * x + y * y))
    return CameraFit(path, round(float(np.sqrt(squares.mean())), _PATH_DIGITS), "")


def camera_displacements(
    path: _Path, shape: tuple[int, ...]
) -> Float32[np.ndarray, "frames 2 height width"]:
    """The displacement by the camera of every pixel of a picture of `shape` (height, width),
    pixels.
    """
    return CameraPath(*path.T).displacements(*pixel_places(*shape))


def _no_fit(frames: int, detail: str) -> CameraFit:
    return CameraFit(np.zeros((frames, 4)), 0.0, detail)


def _covered_share(textured: Bool[np.ndarray, "rows columns"]) -> float:
    """The share of the picture's parts that have enough texture to say something, 0 to 1."""
    count = PART_ROWS * PART_COLUMNS
    pixels = np.bincount(picture_parts(textured.shape)[textured], minlength=count)
    return float((pixels >= MIN_PART_SHARE * textured.size / count).mean())


def _find_rest(
    motion: Float32[np.ndarray, "frames 2 rows columns"],
    textured: Bool[np.ndarray, "rows columns"],
    places: Float32[np.ndarray, "2 rows columns"],
) -> tuple[_Path, float]:
    """(the path without which most of the picture is at rest; the share of it that is, 0 to 1)."""
    step = _SEED_STEP
    few = _select_paths(
        motion[:, :, ::step, ::step], textured[::step, ::step], places[:, ::step, ::step]
    )
    fits = [_refine(few, seed, _SCALES_PX) for seed in _seeds(few)]
    best = max(fits, key=lambda path: few.weights @ _closeness(_squares(few, path), _SCALES_PX[-1]))
    every = _select_paths(motion, textured, places)
    path = _refine(every, best, _SCALES_PX[-1:] * len(_SCALES_PX))
    squares = _squares(every, path)
    at_rest = squares <= _REST_PX**2
    share = float(every.weights[at_rest].sum())
    if not at_rest.any():
        return path, share
    # the quietest pixels tell the noise, so that a small sway above it hardly pulls at the fit
    noise_px = float(np.clip(np.sqrt(np.percentile(squares[at_rest], 25)), *_NOISE_PX))
    path = _refine(every, path, [noise_px] * _LAST_ITERATIONS)
    squares = _squares(every, path)
    near = squares <= (3 * noise_px) ** 2  # the others do not pull at all
    return _solve(every, every.weights * near * np.square(_closeness(squares, noise_px))), share


def _select_paths(
    motion: Float32[np.ndarray, "frames 2 rows columns"],
    textured: Bool[np.ndarray, "rows columns"],
    places: Float32[np.ndarray, "2 rows columns"],
) -> _Paths:
    """Selects the textured pixels."""
    parts = picture_parts(textured.shape)[textured]
    counts = np.bincount(parts, minlength=PART_ROWS * PART_COLUMNS)
    full = FULL_PART_SHARE * textured.size / counts.size
    weights = 1 / np.maximum(counts[parts], full)
    x, y = places[:, textured].astype(np.float64)
    one, zero = np.ones_like(x), np.zeros_like(x)
    basis = np.stack([np.stack([one, zero, x, -y], 1), np.stack([zero, one, y, x], 1)])
    displacements = motion[:, :, textured].reshape(len(motion), -1).astype(np.float64)
    return _Paths(displacements, basis.reshape(-1, 4), weights / weights.sum(), parts)


def _seeds(paths: _Paths) -> Iterator[_Path]:
    """Yields first guesses: a camera at rest, and one that goes with each part of the picture."""
    yield np.zeros((len(paths.displacements), 4))
    components = paths.displacements.reshape(len(paths.displacements), 2, -1)
    for part in np.unique(paths.parts):
        shift = np.median(components[:, :, paths.parts == part], axis=2)
        yield np.pad(shift, ((0, 0), (0, 2)))


def _refine(paths: _Paths, path: _Path, scales_px: Sequence[float]) -> _Path:
    """Iteratively reweighted least squares with the weights of Geman and McClure, which each pixel
    has in all frames alike.
    """
    for scale in scales_px:
        weights = paths.weights * np.square(_closeness(_squares(paths, path), scale))
        path = _solve(paths, weights)
    return path


def _solve(paths: _Paths, weights: Float64[np.ndarray, " pixels"]) -> _Path:
    """The weighted least squares fit to each frame."""
    weighted = paths.basis * np.tile(weights, 2)[:, None]
    # the small diagonal keeps it solvable if all weight lies in one place
    normal = paths.basis.T @ weighted + 1e-9 * np.eye(4)
    return np.linalg.solve(normal, (paths.displacements @ weighted).T).T


def _squares(paths: _Paths, path: _Path) -> Float64[np.ndarray, " pixels"]:
    """The mean square over time of what is left of each pixel's displacement, px^2."""
    left = np.square(paths.displacements - path @ paths.basis.T).mean(axis=0)
    return left.reshape(2, -1).sum(axis=0)


def _closeness(
    squares: Float64[np.ndarray, " pixels"], scale_px: float
) -> Float64[np.ndarray, " pixels"]:
    """1 for a pixel at rest, 1/2 for one that moves by the scale."""
    return 1 / (1 + squares / scale_px**2)
