"""Fits the motion of the camera to the displacements of a window, so that it can be subtracted.

The camera is fitted at every GRID_STEP-th pixel where the start frame has texture, frame by frame
(docs/design/maths.md, 45). What the backward flow says of a pixel is not known yet at that time.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from threadpoolctl import ThreadpoolController

from pipeline.filters.camera import CameraPath, covered_share, fit_camera, pixel_places
from pipeline.flow.consistency import texture_confidence
from pipeline.motion.spectrum import GRID_STEP

_TEXTURED = 0.1
"""Pixels with at least this confidence by texture count as textured."""
_MIN_COVERED_SHARE = 0.4
"""If fewer parts of the picture have texture, what has it may well be the subject alone."""
_PATH_DIGITS = 3
"""Decimal digits of a pixel in the recorded path. What is recorded is what is subtracted."""

_threads = ThreadpoolController()


class CameraFit(NamedTuple):
    """The motion of the camera in one window, as it was subtracted from the displacements."""

    path: Float64[np.ndarray, "frames 4"]
    """The four numbers of `CameraPath` at each source frame, pixels; all 0 if none was fitted."""
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


class Stabilizer:
    """Fits the camera of one window: call `fit` block by block, then `camera_fit`."""

    def __init__(self, gray: UInt8[np.ndarray, "height width"]):
        """`gray` is the start frame."""
        self.places = pixel_places(*gray.shape)
        self.textured = texture_confidence(gray)[::GRID_STEP, ::GRID_STEP] >= _TEXTURED
        share = covered_share(self.textured)
        self.detail = (
            ""
            if share >= _MIN_COVERED_SHARE
            else f"{share:.0%} of the picture's parts have texture, "
            f"expected at least {_MIN_COVERED_SHARE:.0%} to fit the camera"
        )
        self.paths: list[np.ndarray] = []

    def fit(
        self, motion: Float32[np.ndarray, "block 2 rows columns"]
    ) -> Float32[np.ndarray, "block 2 height width"]:
        """Returns the camera's displacement of every pixel, pixels, from the displacements of the
        next frames on every GRID_STEP-th pixel. It is 0 if the camera cannot be fitted.
        """
        path = np.zeros((len(motion), 4))
        if not self.detail and np.isfinite(motion).all():  # the window is quarantined otherwise
            grid_x, grid_y = (place[::GRID_STEP, ::GRID_STEP] for place in self.places)
            with _threads.limit(limits=1, user_api="blas"):
                fitted = fit_camera(motion, self.textured, (grid_x, grid_y))
            path = np.stack(fitted, axis=1).round(_PATH_DIGITS) + 0.0  # -0 becomes 0
        self.paths.append(path)
        return CameraPath(*path.T).displacements(*self.places)

    def camera_fit(self) -> CameraFit:
        """Returns the camera's motion over all frames that were fitted."""
        path = np.concatenate(self.paths)
        x, y = self.places
        shift_x, shift_y, growth, turn = np.square(path.T)
        # x and y have mean 0 over the picture, so that the terms do not mix
        squares = shift_x + shift_y + (growth + turn) * float(np.mean(x * x + y * y))
        return CameraFit(path, round(float(np.sqrt(squares.mean())), _PATH_DIGITS), self.detail)
