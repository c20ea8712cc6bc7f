"""Finds the motion that the whole picture shares: that of the camera.

A camera that pans, zooms, turns or shakes carries the whole picture along one similarity transform
a frame; a meadow in the wind moves everywhere too, but not as one. So the similarity is fitted
robustly to the displacements of each frame (docs/design/maths.md, 45), every part of the picture
with the same weight, and asked in how many parts it explains what moves there.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from pipeline.filters.lines import drift_weights

_Motion = Float32[np.ndarray, "time 2 rows columns"]
_Mask = Bool[np.ndarray, "rows columns"]

PART_ROWS, PART_COLUMNS = 5, 8
"""The picture is divided into this many parts."""
FULL_PART_SHARE = 1 / 8
"""A part of which a smaller share is believed weighs less."""
MIN_PART_SHARE = 1 / 10
"""A part of which a smaller share is believed says nothing."""
_ITERATIONS = 6
_LEAST_SCALE_PX = 0.3
"""Residuals of this size are noise: the scale of the robust fit is never less."""
_CARRIED_PX = 0.3
"""A part of the picture that moves by less, root mean square about its mean, is at rest."""
_EXPLAINED = 0.8
"""A part moves with the camera if the fit explains more than this share of its energy."""
_DRIFTING_PX = 1.5
"""A part that drifts with the camera drifts by more than this."""
_DRIFT_TOLERANCE = 0.2
"""The drift of such a part differs from the camera's by less than this share of it."""
_FITTED_FRAMES = 50
"""Instants of a window at which the camera is fitted to judge it."""
_FITTED_COLUMNS = 32
"""Columns of the grid that are fitted, at most about: neighbors say the same."""


class CameraPath(NamedTuple):
    """A similarity transform for each frame: a pixel at (x, y) is displaced by
    (shift_x + growth x - turn y, shift_y + growth y + turn x), where x runs from -1 to 1 across
    the picture and y is in the same unit.
    """

    shift_x: Float64[np.ndarray, " frames"]
    """Pixels."""
    shift_y: Float64[np.ndarray, " frames"]
    growth: Float64[np.ndarray, " frames"]
    """Pixels at the right border; positive if the picture grows."""
    turn: Float64[np.ndarray, " frames"]
    """Pixels at the right border; positive if the picture turns clockwise."""

    def displacements(
        self, x: Float32[np.ndarray, "*pixels"], y: Float32[np.ndarray, "*pixels"]
    ) -> Float32[np.ndarray, "frames 2 *pixels"]:
        """The displacement of each frame at these places, pixels."""
        shape = (-1, *(1,) * x.ndim)
        shift_x, shift_y, growth, turn = (part.astype(np.float32).reshape(shape) for part in self)
        return np.stack([shift_x + growth * x - turn * y, shift_y + growth * y + turn * x], axis=1)


def pixel_places(
    rows: int, columns: int
) -> tuple[Float32[np.ndarray, "rows columns"], Float32[np.ndarray, "rows columns"]]:
    """x and y of each pixel in the unit of `CameraPath`."""
    x = (2 * np.arange(columns, dtype=np.float32) + 1 - columns) / columns
    y = (2 * np.arange(rows, dtype=np.float32) + 1 - rows) / columns
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


def fit_camera(
    motion: Float32[np.ndarray, "frames 2 rows columns"],
    believed: Bool[np.ndarray, "rows columns"],
) -> CameraPath:
    """Fits the similarity transform that most parts of the picture follow, frame by frame.

    Iteratively reweighted least squares with the weights of Geman and McClure, from the weighted
    median displacement; the scale is the median residual. At least one pixel must be `believed`.
    """
    all_x, all_y = pixel_places(*believed.shape)
    x, y, cells = all_x[believed], all_y[believed], picture_parts(believed.shape)[believed]
    counts = np.bincount(cells, minlength=PART_ROWS * PART_COLUMNS)
    full = FULL_PART_SHARE * believed.size / counts.size
    base = 1 / np.maximum(counts[cells], full).astype(np.float32)
    u, v = np.moveaxis(motion[:, :, believed], 1, 0)
    terms = np.stack([np.ones_like(x), x, y, x * x + y * y], axis=1)
    none = np.zeros(len(u))
    path = CameraPath(_weighted_median(u, base), _weighted_median(v, base), none, none)
    for _ in range(_ITERATIONS):
        fitted_u, fitted_v = np.moveaxis(path.displacements(x, y), 1, 0)
        squares = np.square(u - fitted_u) + np.square(v - fitted_v)
        scale = np.maximum(_LEAST_SCALE_PX**2, np.median(squares, axis=1, keepdims=True))
        weights = base / np.square(1 + squares / scale)
        total, sum_x, sum_y, sum_r = (weights @ terms).T.astype(np.float64)
        normal = np.stack(
            [
                np.stack([total, none, sum_x, -sum_y], axis=1),
                np.stack([none, total, sum_y, sum_x], axis=1),
                np.stack([sum_x, sum_y, sum_r, none], axis=1),
                np.stack([-sum_y, sum_x, none, sum_r], axis=1),
            ],
            axis=1,
        )
        wu, wv = weights * u, weights * v
        right = np.stack([wu.sum(axis=1), wv.sum(axis=1), wu @ x + wv @ y, wv @ x - wu @ y], axis=1)
        # the small diagonal keeps it solvable if all believed pixels lie in one place
        solution = np.linalg.solve(normal + 1e-6 * np.eye(4), right.astype(np.float64)[..., None])
        path = CameraPath(*solution[..., 0].T)
    return path


def camera_share(
    motion: Float32[np.ndarray, "time 2 rows columns"], believed: Bool[np.ndarray, "rows columns"]
) -> float:
    """The share of the picture's parts that move with the camera, 0 to 1: from instant to instant,
    or over the whole window, if that share is greater. A slow pan under a sway shows in the drift
    alone. Parts without believed flow and parts at rest do not move with it.
    """
    thin = max(1, round(believed.shape[1] / _FITTED_COLUMNS))
    motion, believed = motion[:, :, ::thin, ::thin], believed[::thin, ::thin]
    if not believed.any():
        return 0.0
    return max(_shaking_share(motion, believed), _panning_share(motion, believed))


def _shaking_share(motion: _Motion, believed: _Mask) -> float:
    """The share of the parts whose displacement about its mean the fit explains at all times."""
    motion = motion[:: max(1, len(motion) // _FITTED_FRAMES)]
    x, y = pixel_places(*believed.shape)
    paths = motion[:, :, believed]
    residuals = paths - fit_camera(motion, believed).displacements(x[believed], y[believed])
    energies, left = (
        _mean_of_cells(np.square(each - each.mean(axis=0)).sum(axis=1).mean(axis=0), believed)
        for each in (paths, residuals)
    )
    carried = (energies > _CARRIED_PX**2) & (left < (1 - _EXPLAINED) * energies)
    return float(carried.mean())


def _panning_share(motion: _Motion, believed: _Mask) -> float:
    """The share of the parts whose drift over the window is that of the camera."""
    drift = 2 * np.tensordot(drift_weights(len(motion)).astype(np.float32), motion, axes=1)[None]
    x, y = pixel_places(*believed.shape)
    fitted = fit_camera(drift, believed).displacements(x[believed], y[believed])[0]
    (u, v), (left_u, left_v) = (
        [_mean_of_cells(part, believed) for part in each]
        for each in (fitted, drift[0][:, believed] - fitted)
    )
    length = np.hypot(u, v)
    carried = (length > _DRIFTING_PX) & (np.hypot(left_u, left_v) < _DRIFT_TOLERANCE * length)
    return float(carried.mean())


def _mean_of_cells(values: Float32[np.ndarray, " pixels"], believed: _Mask) -> np.ndarray:
    """The mean over the believed pixels of each part of the picture; 0 for a part with too few."""
    cells, parts = picture_parts(believed.shape)[believed], PART_ROWS * PART_COLUMNS
    counts = np.bincount(cells, minlength=parts)
    enough = counts >= MIN_PART_SHARE * believed.size / parts
    return np.where(enough, np.bincount(cells, values, parts) / np.maximum(counts, 1), 0.0)


def picture_parts(shape: tuple[int, ...]) -> Int64[np.ndarray, "rows columns"]:
    """The part of the picture in which each pixel lies, 0 to PART_ROWS PART_COLUMNS - 1."""
    row, column = np.indices(shape)
    return row * PART_ROWS // shape[0] * PART_COLUMNS + column * PART_COLUMNS // shape[1]


def _weighted_median(
    values: Float32[np.ndarray, "frames pixels"], weights: Float32[np.ndarray, " pixels"]
) -> Float64[np.ndarray, " frames"]:
    order = np.argsort(values, axis=1)
    sums = np.cumsum(weights[order], axis=1)
    middle = (sums >= sums[:, -1:] / 2).argmax(axis=1)
    frames = np.arange(len(values))
    return values[frames, order[frames, middle]].astype(np.float64)
