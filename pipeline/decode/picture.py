"""Converts a decoded frame to an RGB image: upright, in its own colors, scaled and cropped."""

from typing import Literal

import cv2
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from jaxtyping import UInt8

from schemas.arrays import Image

Scaling = Literal["exact", "decord"]

_HD_HEIGHT = 720
"""A frame of at least this height that does not name its color matrix has that of BT.709, a smaller
one that of BT.601, as in players. decord always assumes BT.601.
"""
_UNSPECIFIED_MATRIX = 2
"""H.273: the matrix coefficients are unknown."""
_SWS_BICUBIC_EXACT = 0x4 | 0x40000 | 0x2000 | 0x80000
"""libswscale: bicubic, accurate rounding, chroma at full resolution at both ends; colors are right
to 1 gray level.
"""
_SWS_BILINEAR = 0x2
"""libswscale: decord's way of scaling; the same frame differs by 0.0 to 0.4 gray levels on average.
"""
_DECORD_ROUNDING_LEVELS = (2.0, 1.0, 2.0, 0.0)
"""Correction of decord's conversion from limited range, which rounds down by 2.0, 1.4 and 1.7
levels on average.
"""
_ORIENTATIONS = (
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (-1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, 1, 0),
    (0, -1, -1, 0),
)
"""Display matrices (a, b, c, d) that mirror and rotate by quarter turns: a stored point (x, y), x
to the right and y down, is shown at (a x + c y, b x + d y).
"""
_UPRIGHT = _ORIENTATIONS[0]
Orientation = tuple[int, int, int, int]


def read_orientation(frame: VideoFrame) -> Orientation:
    """The orientation that is nearest to the frame's display matrix, as ffmpeg's autorotate applies
    it; upright if the frame has none.
    """
    data = frame.side_data.get(Type.DISPLAYMATRIX)  # pyright: ignore
    if data is None:
        return _UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].astype(float)
    return max(_ORIENTATIONS, key=lambda matrix: float(np.dot(matrix, (a, b, c, d))))


def is_transposed(orientation: Orientation) -> bool:
    """Whether stored rows are shown as columns."""
    return orientation[0] == 0


def to_rgb(
    frame: VideoFrame, cover: tuple[int, int], orientation: Orientation, scaling: Scaling
) -> Image:
    """RGB of the size `cover` = (width, height), oriented as it is shown. Scaling "decord" gives
    what decord would, before its rounding is undone (`undo_decord_rounding`).
    """
    width, height = cover[::-1] if is_transposed(orientation) else cover
    colors = Colorspace.ITU709 if is_unlabeled_hd(frame) else None
    flags = _SWS_BICUBIC_EXACT if scaling == "exact" else _SWS_BILINEAR
    rgb = frame.reformat(
        width, height, "rgb24", src_colorspace=colors, dst_colorspace=colors, interpolation=flags
    )
    a, b, c, d = orientation
    image = rgb.to_ndarray()
    if is_transposed(orientation):
        image = image.transpose(1, 0, 2)
    return image[:: b + d, :: a + c]


def is_unlabeled_hd(frame: VideoFrame) -> bool:
    """Whether a frame has the color matrix of BT.709 although it does not say so."""
    return frame.colorspace == _UNSPECIFIED_MATRIX and frame.height >= _HD_HEIGHT


def undo_decord_rounding(image: Image) -> Image:
    """The image, which decord converted from limited range, without its rounding down."""
    return cv2.add(np.ascontiguousarray(image), _DECORD_ROUNDING_LEVELS)  # pyright: ignore


def cover_size(aspect: float, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest (width, height) of aspect ratio width / height = `aspect` that covers `size`."""
    width, height = size
    return max(width, round(height * aspect)), max(height, round(width / aspect))


def center_crop(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Image:
    """The middle of `image`, of `size` = (width, height)."""
    top, left = (image.shape[0] - size[1]) // 2, (image.shape[1] - size[0]) // 2
    return np.ascontiguousarray(image[top : top + size[1], left : left + size[0]])
