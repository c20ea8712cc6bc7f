"""A photograph from a file, upright and in RGB, and at the working resolution."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MOST_PIXELS = 150_000_000
"""A larger picture is refused before it is decoded; Pillow's own limits are above."""

Picture = UInt8[np.ndarray, "_ _ 3"]


def read_photograph(path: Path) -> Picture:
    """The picture, turned as its camera says, without transparency; of an animation the first frame.

    Raises ValueError where the file is no picture, damaged, or of more than MOST_PIXELS.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{path} has {image.width}x{image.height} pixels, expected at most {MOST_PIXELS:,} in all")
            ImageOps.exif_transpose(image, in_place=True)
            return np.array(to_rgb(image))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there, expected a photograph") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has too many pixels, expected at most {MOST_PIXELS:,} in all ({error})") from error
    except (UnidentifiedImageError, SyntaxError, OSError) as error:
        raise ValueError(f"{path} is no picture that can be read ({error}), expected one of {', '.join(FORMATS)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel; what is transparent becomes white."""
    if image.mode.startswith("I"):
        sixteen = np.asarray(image).astype(np.float64)
        image = Image.fromarray((sixteen / (257 if sixteen.max() > 255 else 1)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def middle(image: Picture, size: tuple[int, int]) -> Picture:
    """The middle of the picture, as large as it can be in the aspect of `size` (width, height).

    Raises ValueError where it is smaller than `size`.
    """
    (width, height), (rows, columns) = size, image.shape[:2]
    scale = max(width / columns, height / rows)
    if scale > 1:
        raise ValueError(f"the picture has {columns}x{rows} pixels, expected at least {width}x{height}, the working size")
    across, down = min(columns, round(width / scale)), min(rows, round(height / scale))
    left, top = (columns - across) // 2, (rows - down) // 2
    return np.ascontiguousarray(image[top : top + down, left : left + across])


def at_size(image: Picture, size: tuple[int, int]) -> Picture:
    """The middle of the picture, in the aspect of `size` (width, height), at that size. Raises ValueError as `middle` does."""
    return cv2.resize(middle(image, size), size, interpolation=cv2.INTER_AREA)


def no_larger(image: Picture, width: int) -> Picture:
    """The picture, shrunk where it is wider than that."""
    rows, columns = image.shape[:2]
    if columns <= width:
        return image
    return cv2.resize(image, (width, max(1, round(rows * width / columns))), interpolation=cv2.INTER_AREA)
