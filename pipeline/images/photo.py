"""Reads a photograph from a file, upright and in sRGB, and crops it to the working resolution.

Colors are converted to sRGB. The first of these that the file has describes them:

- code points of color (cICP) in PNG;
- an embedded ICC profile of RGB, gray, CMYK or Lab, by relative colorimetry with black point
  compensation;
- code points of color (nclx) in HEIF and AVIF;
- an sRGB chunk, or gAMA with or without cHRM, in PNG.

A file that has none is sRGB. CMYK without a profile has a red of (255 - C) (255 - K) / 255, and so
on; Lab without one is CIE Lab of D50. HDR (PQ, HLG) and profiles that cannot be used are rejected.

Samples of 16 bits are divided by 65535, or by 1023, 4095 or 16383 if TIFF's MaxSampleValue says so;
those of 12 bits by 4095; those of 32-bit floating point must be 0 to 1; all others are rejected. A
gray or RGB file of 16 bits without MaxSampleValue that is nowhere brighter than a quarter is
rejected too, unless it is black, because it has fewer bits than it claims. Transparent parts are
laid on white.
"""

import io
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, UnidentifiedImageError, features

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Formats that are always read. HEIF needs the extra `heif`, AVIF needs Pillow 11.3, which `heif`
brings.
"""
_MAX_PIXELS = 150_000_000
"""A larger picture is rejected before it is decoded; Pillow's own limits are higher."""
_HEAD_BYTES = 1 << 16
"""The beginning of a file that has its format and its code points of color."""
_HEIF_BRAND = re.compile(rb".{4}ftyp(avi[fs]|hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_CODE_POINTS = re.compile(rb"\0\0\0\x04cICP(?P<png>..)|colrnclx(?P<heif>....)", re.DOTALL)
"""Color primaries and transfer characteristics (ITU-T H.273), of one byte each or of two."""
_SRGB_CHROMATICITY = (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
"""White, red, green and blue of sRGB as CIE x, y."""
_CHROMATICITIES = {
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""White and primaries of BT.2020 and Display P3, by code point; all others are read as sRGB."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Parameters g, a, b, c, d of ICC's parametric curve of type 3."""
_GAMMA_EXPONENTS = {4: (2.2,), 8: (1.0,)}
"""Exponents by code point; other curves of video are read as sRGB, as players do."""
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_BRADFORD = np.array(
    [
        [0.8951, 0.2664, -0.1614],
        [-0.7502, 1.7135, 0.0367],
        [0.0389, -0.0685, 1.0296],
    ]
)
"""The Bradford matrix from CIE XYZ to cone responses, for chromatic adaptation."""
_D50_WHITE = np.array([0.9642, 1.0, 0.8249])
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
"""Pillow's mode of the pictures that a profile of each color space applies to."""
_ORIENTATION_TRANSFORMS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by EXIF's orientation."""
_TIFF_MAX_SAMPLES = (1023, 4095, 16383)
"""Values of TIFF's MaxSampleValue for samples of 10, 12 or 14 bits that are stored as 16."""
_ORIENTATION_TAG, _PHOTOMETRIC_TAG, _MAX_SAMPLE_TAG = 274, 262, 281
"""Tags of EXIF and TIFF."""
_IMAGE_ERRORS = (
    SyntaxError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    AttributeError,
    struct.error,
    zlib.error,
)
"""Errors that Pillow and its plugins raise for damaged or hostile files."""

Picture = UInt8[np.ndarray, "_ _ 3"]


class _PhotographRejected(Exception):
    """Its message is the predicate of a sentence that begins with the name of the file."""


def read_photograph(path: Path) -> Picture:
    """The picture in sRGB, turned upright as EXIF says; the first frame if there are several.

    Raises ValueError, naming the file, if it is no regular file, cannot be read as a picture, has
    more than _MAX_PIXELS, or if its colors or samples are rejected as this module's docstring says.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for a writer
            raise _PhotographRejected("is not a file, expected a photograph")
        with path.open("rb") as file:
            return _read(file)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing, expected a photograph") from None
    except _PhotographRejected as error:
        raise ValueError(f"{path} {error}") from error
    except Image.DecompressionBombError as error:
        limit = f"expected at most {_MAX_PIXELS:,} in all"
        raise ValueError(f"{path} has too many pixels, {limit} ({error})") from error
    except _IMAGE_ERRORS as error:
        says_nothing = isinstance(error, UnidentifiedImageError) or not str(error)
        why = "" if says_nothing else f" ({error})"
        formats = ", ".join((*_FORMATS, "HEIF", "AVIF"))
        raise ValueError(
            f"{path} cannot be read as a picture{why}, expected one of {formats}"
        ) from error


def _read(file: BinaryIO) -> Picture:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    with warnings.catch_warnings(action="ignore"):  # Pillow's, about size and broken metadata
        image = Image.open(file, formats=_formats(head))
        if image.width * image.height > _MAX_PIXELS:
            size = f"{image.width}x{image.height}"
            raise _PhotographRejected(f"has {size} pixels, expected at most {_MAX_PIXELS:,} in all")
        packed = str(image.tile)  # Pillow forgets it when it loads the picture
        image.load()
        transform = _ORIENTATION_TRANSFORMS.get(image.getexif().get(_ORIENTATION_TAG, 1))
        color, alpha = _to_eight_bits(image, packed)
        color = _to_srgb(color, _profile(image, head))
    if alpha is not None:
        color.putalpha(alpha)
        color = Image.alpha_composite(Image.new("RGBA", color.size, "white"), color).convert("RGB")
    return np.array(color if transform is None else color.transpose(transform))


def _formats(head: bytes) -> tuple[str, ...]:
    """Pillow's formats to try for a file with this beginning."""
    if not _HEIF_BRAND.match(head):
        return _FORMATS
    if b"avi" in head[8 : int.from_bytes(head[:4])]:  # among the brands
        if not features.check("avif"):
            raise _PhotographRejected(
                "is an AVIF picture, which needs Pillow 11.3: pip install '.[heif]'"
            )
        return ("AVIF",)
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError:
        raise _PhotographRejected(
            "is a HEIF picture (HEIC), which needs pip install '.[heif]'"
        ) from None
    register_heif_opener()
    return ("HEIF",)


def _to_eight_bits(image: Image.Image, packed: str) -> tuple[Image.Image, Image.Image | None]:
    """The picture as L, RGB, CMYK or LAB, and its alpha, if it has any.

    `packed` contains Pillow's name for the samples in the file, such as `I;12`, `RGB;16B`, `F;32F`.
    """
    alpha, has_16_bits = None, ";16" in packed
    if image.mode.startswith(("I", "F")):
        tags = dict(getattr(image, "tag_v2", {}))
        samples = np.asarray(image)
        white = _white_level(image, packed, samples, tags.get(_MAX_SAMPLE_TAG))
        has_16_bits = white == 65535
        if isinstance(key := image.info.get("transparency"), int):
            alpha = Image.fromarray(np.where(samples == key, np.uint8(0), np.uint8(255)))
        levels = np.rint(samples.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
        color = Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC_TAG) == 0 else levels)
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        color = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    elif image.mode in ("L", "RGB", "CMYK", "LAB"):
        color = image
    else:
        color = image.convert("L" if image.mode == "1" else "RGB")
    brightest = int(np.asarray(color).max()) if has_16_bits and color.mode in ("L", "RGB") else 255
    if 0 < brightest < 64:
        raise _PhotographRejected(
            f"has samples of 16 bits that are nowhere brighter than {brightest} of 255:"
            " it seems to have fewer bits, expected those scaled to 16"
        )
    return color, alpha


def _white_level(image: Image.Image, packed: str, samples: np.ndarray, declared: object) -> int:
    """The sample that is white in a picture of mode I or F. Raises _PhotographRejected if its kind
    of samples is not supported.
    """
    low, high = samples.min(), samples.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise _PhotographRejected(
                f"has floating-point samples of {low:g} to {high:g}, expected 0 to 1"
            )
        return 1
    if image.mode == "I" and image.format != "PNG":  # old versions of Pillow open 16-bit PNG as I
        raise _PhotographRejected(
            f"has samples of mode I, integers with a sign or of 32 bits, of {low} to {high},"
            " expected unsigned ones of 8, 12 or 16 bits"
        )
    if ";12" in packed:
        return 4095
    for maximum in _TIFF_MAX_SAMPLES:
        if declared in (maximum, (maximum,)) and high <= maximum:
            return maximum
    return 65535


def _profile(image: Image.Image, head: bytes) -> bytes | None:
    """The ICC profile of a picture whose file begins with `head`, or None if it is sRGB."""
    embedded = image.info.get("icc_profile") or None
    if image.format in ("PNG", "HEIF", "AVIF") and (points := _CODE_POINTS.search(head)):
        if points["png"]:
            return _profile_from_code_points(*points["png"])
        if not embedded:
            return _profile_from_code_points(*struct.unpack(">HH", points["heif"]))
    if embedded or image.format != "PNG" or "srgb" in image.info:
        return embedded
    gamma, corners = image.info.get("gamma", 0), image.info.get("chromaticity", _SRGB_CHROMATICITY)
    has_srgb_corners = np.allclose(corners, _SRGB_CHROMATICITY, rtol=0, atol=0.005)
    is_srgb = has_srgb_corners and abs(gamma * 2.2 - 1) < 0.05
    if is_srgb or not 0.1 <= gamma <= 3:
        return None
    try:
        return _matrix_profile(corners, (1 / gamma,))
    except (ArithmeticError, ValueError, struct.error):  # chunks without sense are ignored
        return None


def _profile_from_code_points(primaries: int, transfer: int) -> bytes | None:
    """The profile of these code points, or None if they are those of sRGB or unknown."""
    if transfer in _HDR_TRANSFERS:
        raise _PhotographRejected(
            f"is HDR ({_HDR_TRANSFERS[transfer]}), expected a picture of standard dynamic range"
        )
    if primaries not in _CHROMATICITIES and transfer not in _GAMMA_EXPONENTS:
        return None
    return _matrix_profile(
        _CHROMATICITIES.get(primaries, _SRGB_CHROMATICITY),
        _GAMMA_EXPONENTS.get(transfer, _SRGB_CURVE),
    )


def _matrix_profile(corners: Sequence[float], curve: Sequence[float]) -> bytes:
    """An ICC profile of RGB with this white, red, green and blue (CIE x, y) and parametric curve.

    Raises ValueError, ArithmeticError or struct.error if no profile can have these numbers.
    """
    pairs = zip(corners[::2], corners[1::2], strict=True)
    white, *primaries = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in pairs)
    columns = np.stack(primaries, axis=1)
    cones = np.diag(_BRADFORD @ _D50_WHITE / (_BRADFORD @ white))
    columns = (
        np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ columns * np.linalg.solve(columns, white)
    )

    def fixed(*numbers: float) -> bytes:
        return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))

    shape = b"para" + struct.pack(">IHH", 0, 3 if len(curve) > 1 else 0, 0) + fixed(*curve)
    tags = {f"{name}TRC".encode(): shape for name in "rgb"}
    for name, column in zip("rgb", columns.T, strict=True):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(*column)
    start, table = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags))
    data = b"".join(tags.values())
    for name, tag in tags.items():
        table += name + struct.pack(">II", start, len(tag))
        start += len(tag)
    size, kind = struct.pack(">I", 128 + len(table) + len(data)), b"\x04\x20\0\0mntrRGB XYZ "
    header = size + bytes(4) + kind + bytes(12) + b"acsp" + bytes(28) + fixed(*_D50_WHITE)
    return header.ljust(128, b"\0") + table + data


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of mode L, RGB, CMYK or LAB in RGB. Raises _PhotographRejected if its profile
    cannot be used.
    """
    if profile is None and image.mode != "LAB":
        return image.convert("RGB")
    lab = ImageCms.createProfile("LAB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile) if profile else lab)
        space = (profile or b"")[16:20].decode("ascii", "replace").strip() or "Lab"
        if space == "RGB" and image.mode == "L":  # a gray picture with the profile of a screen
            image = image.convert("RGB")
        if _PROFILE_MODES.get(space) != image.mode:
            raise ValueError(f"it is for {space}, and the samples are {image.mode}")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if image.mode != "RGB":  # an optimized grid of colors is wrong by ten levels in dark gray
            flags |= ImageCms.Flags.NOOPTIMIZE
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        modes = (image.mode, "RGB")
        return ImageCms.ImageCmsTransform(source, srgb, *modes, intent, flags=flags).apply(image)
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        raise _PhotographRejected(
            f"has an embedded color profile that cannot be used ({error}):"
            " remove it, or convert the picture to sRGB"
        ) from error


def crop_to_aspect(image: Picture, size: tuple[int, int]) -> Picture:
    """The largest part around the center of the picture that has the aspect of `size` (width,
    height). Raises ValueError if the picture is smaller than `size`.
    """
    (width, height), (rows, columns) = size, image.shape[:2]
    scale = max(width / columns, height / rows)
    if scale > 1:
        raise ValueError(
            f"the picture has {columns}x{rows} pixels,"
            f" expected at least {width}x{height}, the working size"
        )
    crop_width, crop_height = min(columns, round(width / scale)), min(rows, round(height / scale))
    left, top = (columns - crop_width) // 2, (rows - crop_height) // 2
    return np.ascontiguousarray(image[top : top + crop_height, left : left + crop_width])


def crop_and_resize(image: Picture, size: tuple[int, int]) -> Picture:
    """The part of the picture that `crop_to_aspect` returns, at `size` (width, height). Raises
    ValueError if the picture is smaller.
    """
    return cv2.resize(crop_to_aspect(image, size), size, interpolation=cv2.INTER_AREA)


def image_correlation(first: Picture, second: Picture, size: tuple[int, int]) -> float:
    """Correlation of the gray levels of two pictures at `size` (width, height), -1 to 1; 1 if one
    of them has a single level.
    """
    levels = np.stack(
        [
            cv2.cvtColor(crop_and_resize(picture, size), cv2.COLOR_RGB2GRAY).ravel()
            for picture in (first, second)
        ]
    ).astype(np.float64)
    deviations = levels - levels.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(deviations, axis=1)
    return float(deviations[0] @ deviations[1] / lengths.prod()) if lengths.all() else 1.0


def shrink_to_width(image: Picture, width: int) -> Picture:
    """The picture, shrunk to `width` if it is wider."""
    rows, columns = image.shape[:2]
    if columns <= width:
        return image
    return cv2.resize(
        image, (width, max(1, round(rows * width / columns))), interpolation=cv2.INTER_AREA
    )
