"""A decoded frame becomes an RGB picture: upright, in its own colours, scaled and cropped."""

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
"""A picture of this height that does not name its colours has those of BT.709, a smaller one
BT.601's, as players do. decord takes BT.601 always.
"""
_UNSPECIFIED_MATRIX = 2
"""H.273: the matrix coefficients are unknown."""
_SWS_BICUBIC_EXACT = 0x4 | 0x40000 | 0x2000 | 0x80000
"""libswscale: bicubic, accurate rounding, chroma at full resolution within and out: colours within
1 grey level.
"""
_SWS_BILINEAR = 0x2
"""libswscale: how decord scales; the same frame differs by 0.0 to 0.4 grey levels on average."""
_DECORD_ROUNDING_LEVELS = (2.0, 1.0, 2.0, 0.0)
"""decord's conversion from limited range rounds down, by 2.0, 1.4 and 1.7 levels on average."""
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
"""Display matrices (a, b, c, d) that mirror and turn by quarters: a stored point (x, y), right and
down, is shown at (a x + c y, b x + d y).
"""
_UPRIGHT = _ORIENTATIONS[0]
Orientation = tuple[int, int, int, int]


def read_orientation(frame: VideoFrame) -> Orientation:
    """The one of ORIENTATIONS that is nearest to the frame's display matrix, as ffmpeg's autorotate
    applies it; UPRIGHT if the frame has none.
    """
    # pyright: ignore[reportArgumentType, reportCallIssue]
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return _UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].astype(float)
    return max(_ORIENTATIONS, key=lambda shown: float(np.dot(shown, (a, b, c, d))))


def is_transposed(shown: Orientation) -> bool:
    """Whether rows are shown as columns."""
    return shown[0] == 0


def _apply_orientation(image: UInt8[np.ndarray, "_ _ 3"], shown: Orientation) -> Image:
    """The stored picture as it is shown."""
    a, b, c, d = shown
    if is_transposed(shown):
        image = image.transpose(1, 0, 2)
    return image[:: b + d, :: a + c]


def to_rgb(
    frame: VideoFrame, cover: tuple[int, int], shown: Orientation, scaling: Scaling
) -> Image:
    """RGB at the size `cover` = (width, height), as shown. Scaling "decord" gives what decord
    would, before its rounding is undone (`undo_decord_rounding`).
    """
    width, height = cover[::-1] if is_transposed(shown) else cover
    colors = Colorspace.ITU709 if is_unlabeled_hd(frame) else None
    flags = _SWS_BICUBIC_EXACT if scaling == "exact" else _SWS_BILINEAR
    rgb = frame.reformat(
        width, height, "rgb24", src_colorspace=colors, dst_colorspace=colors, interpolation=flags
    )
    return _apply_orientation(rgb.to_ndarray(), shown)


def is_unlabeled_hd(frame: VideoFrame) -> bool:
    """Whether a frame's colours are BT.709's without its saying so."""
    return frame.colorspace == _UNSPECIFIED_MATRIX and frame.height >= _HD_HEIGHT


def undo_decord_rounding(image: Image) -> Image:
    """A picture of limited range with decord's rounding undone."""
    # pyright: ignore[reportArgumentType, reportCallIssue]
    return cv2.add(np.ascontiguousarray(image), _DECORD_ROUNDING_LEVELS)


def cover_size(aspect: float, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest (width, height) of that aspect that covers `size`."""
    width, height = size
    return max(width, round(height * aspect)), max(height, round(width / aspect))


def center_crop(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Image:
    """The middle of `image`, `size` = (width, height)."""
    top, left = (image.shape[0] - size[1]) // 2, (image.shape[1] - size[0]) // 2
    return np.ascontiguousarray(image[top : top + size[1], left : left + size[0]])
