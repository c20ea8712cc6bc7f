"""Masks that say which parts of a photograph move."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.images.photo import crop_to_aspect, read_photograph

_MARGIN_SHARE = 1 / 64
"""Share of the picture's longer side over which motion fades out beside what a mask keeps still."""

_Picture = UInt8[np.ndarray, "_ _ 3"]


def read_mask(path: Path, photo: _Picture) -> _Picture:
    """Reads a mask for a photograph. Raises ValueError if it is no picture, or if its aspect is not
    that of the photograph.
    """
    mask, (rows, columns) = read_photograph(path), photo.shape[:2]
    if not 0.95 < mask.shape[1] / mask.shape[0] * rows / columns < 1.05:
        raise ValueError(
            f"--mask is {path} of {mask.shape[1]}x{mask.shape[0]} pixels,"
            f" expected the shape of the photograph, {columns}x{rows}"
        )
    return mask


def motion_mask(
    path: Path, photo: _Picture, size: tuple[int, int], crop: _Picture
) -> Float32[np.ndarray, "rows columns"]:
    """How much each pixel of `crop` moves, 0 to 1, by the mask of the whole photograph.

    `crop` is the part of the photograph with the aspect of the motion's `size` (width, height), at
    any size. Beside what stands still motion fades out, so that nothing tears there.
    """
    mask = cv2.resize(read_mask(path, photo), photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(crop_to_aspect(mask, size), crop.shape[1::-1], interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(mask, cv2.COLOR_RGB2GRAY)
    moves = (gray > 0).astype(np.uint8)
    margin = _MARGIN_SHARE * max(crop.shape)
    distance = cv2.distanceTransform(moves, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / margin
    return gray.astype(np.float32) / 255 * np.minimum(distance, 1).astype(np.float32)


def mask_weight(
    weight: Float32[np.ndarray, "height width"], mask: Float32[np.ndarray, "rows columns"]
) -> Float32[np.ndarray, "height width"]:
    """The mean displacement W, pixels, of motion that the mask reduces; the mask may be larger."""
    return weight * cv2.resize(mask, weight.shape[::-1], interpolation=cv2.INTER_AREA)
