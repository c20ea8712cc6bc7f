"""A photograph from a file, upright, in sRGB, and at the working resolution.

Colors become sRGB by what the file says of them. The first of these that it has decides:

- code points of color (cICP) in PNG;
- an embedded ICC profile of RGB, gray, CMYK or Lab, by relative colorimetry with black point
  compensation;
- code points of color (nclx) in HEIF and AVIF;
- an sRGB chunk, or gAMA with or without cHRM, in PNG.

A file that says nothing is sRGB. CMYK without a profile has a red of (255 - C) (255 - K) / 255, and
so on; Lab without one is CIE Lab of D50. HDR (PQ, HLG) and a profile that cannot be used are
refused.

Samples of 16 bits are divided by 65535, or by 1023, 4095 or 16383 if TIFF's MaxSampleValue says so;
of 12 bits by 4095; those of 32-bit floating point are 0 to 1; all others are refused. A gray or RGB
file of 16 bits that says nothing else and is nowhere brighter than a quarter is refused too, unless
it is black: it holds fewer bits than it says. What is transparent is laid on white.
"""

import io
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, UnidentifiedImageError, features

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Those that are always read. HEIF wants the extra `heif`, AVIF Pillow 11.3 (`heif` brings it)."""
_MAX_PIXELS = 150_000_000
"""A larger picture is refused before it is decoded; Pillow's own limits are above."""
_HEAD_BYTES = 1 << 16
"""Bytes at a file's beginning in which its kind and its code points of color stand."""
_HEIF_BRAND = re.compile(rb".{4}ftyp(avi[fs]|hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_CODE_POINTS = re.compile(rb"\0\0\0\x04cICP(?P<png>..)|colrnclx(?P<heif>....)", re.DOTALL)
"""Color primaries and transfer characteristics (ITU-T H.273), of one byte each or of two."""
_SRGB_CHROMATICITY = (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
"""White, red, green and blue as CIE x, y."""
_CHROMATICITIES = {
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""Of BT.2020 and Display P3, by code point; all others are taken for sRGB's."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Of ICC's parametric curve of type 3: g, a, b, c, d."""
_GAMMA_EXPONENTS = {4: (2.2,), 8: (1.0,)}
"""Exponents by code point; video's other curves are shown as sRGB's, which is what players do."""
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_BRADFORD = np.array(
    [
        [0.8951, 0.2664, -0.1614],
        [-0.7502, 1.7135, 0.0367],
        [0.0389, -0.0685, 1.0296],
    ]
)
"""From CIE XYZ to the cones' responses by which one white is adapted to another."""
_D50_WHITE = np.array([0.9642, 1.0, 0.8249])
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
"""The mode of a picture that a profile of this color space can be applied to."""
_ORIENTATION_TRANSFORMS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by EXIF's orientation."""
_TIFF_MAX_SAMPLES = (1023, 4095, 16383)
"""What TIFF's MaxSampleValue may say of samples of 16 bits: that they are of 10, 12 or 14."""
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
)
_IMAGE_ERRORS += (RuntimeError, AttributeError, struct.error, zlib.error)
"""What Pillow and its plugins raise for files that are damaged or hostile."""

Picture = UInt8[np.ndarray, "_ _ 3"]


class _PhotographRejected(Exception):
    """Says what is wrong with a picture, without its name."""


def read_photograph(path: Path) -> Picture:
    """The picture in sRGB, upright as EXIF says; of several frames the first.

    Raises ValueError, naming the file, if it is no regular file, no picture that can be read, of
    more than MOST_PIXELS, or if its colors or samples are refused as this module's docstring says.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for a writer
            raise _PhotographRejected("is no file, expected a photograph")
        with path.open("rb") as file:
            return _read(file)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there, expected a photograph") from None
    except _PhotographRejected as error:
        raise ValueError(f"{path} {error}") from error
    except Image.DecompressionBombError as error:
        limit = f"expected at most {_MAX_PIXELS:,} in all"
        raise ValueError(f"{path} has too many pixels, {limit} ({error})") from error
    except _IMAGE_ERRORS as error:
        nameless = isinstance(error, UnidentifiedImageError) or not str(error)
        why, kinds = "" if nameless else f" ({error})", ", ".join((*_FORMATS, "HEIF", "AVIF"))
        sentence = f"{path} is no picture that can be read{why}, expected one of {kinds}"
        raise ValueError(sentence) from error


def _read(file: BinaryIO) -> Picture:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    with warnings.catch_warnings(action="ignore"):  # of Pillow: of many pixels, of broken metadata
        image = Image.open(file, formats=_formats(head))
        if image.width * image.height > _MAX_PIXELS:
            size = f"{image.width}x{image.height}"
            raise _PhotographRejected(f"has {size} pixels, expected at most {_MAX_PIXELS:,} in all")
        packed = str(image.tile)  # which is gone once the picture is loaded
        image.load()
        turn = _ORIENTATION_TRANSFORMS.get(image.getexif().get(_ORIENTATION_TAG, 1))
        color, alpha = _to_eight_bits(image, packed)
        color = _to_srgb(color, _profile(image, head))
    if alpha is not None:
        color.putalpha(alpha)
        color = Image.alpha_composite(Image.new("RGBA", color.size, "white"), color).convert("RGB")
    return np.array(color if turn is None else color.transpose(turn))


def _formats(head: bytes) -> tuple[str, ...]:
    """Pillow's formats among which the file's is, which begins so."""
    if not _HEIF_BRAND.match(head):
        return _FORMATS
    if b"avi" in head[8 : int.from_bytes(head[:4])]:  # among the brands
        if not features.check("avif"):
            raise _PhotographRejected(
                "is an AVIF picture, which wants Pillow 11.3: pip install '.[heif]'"
            )
        return ("AVIF",)
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError:
        raise _PhotographRejected(
            "is a HEIF picture (HEIC), which wants pip install '.[heif]'"
        ) from None
    register_heif_opener()
    return ("HEIF",)


def _to_eight_bits(image: Image.Image, packed: str) -> tuple[Image.Image, Image.Image | None]:
    """The picture as L, RGB, CMYK or LAB, and its alpha, if it has any.

    `packed` has in it how Pillow calls the samples of the file, such as `I;12`, `RGB;16B`, `F;32F`.
    """
    alpha, sixteen = None, ";16" in packed
    if image.mode.startswith(("I", "F")):
        tags = dict(getattr(image, "tag_v2", {}))
        samples = np.asarray(image)
        most = _white_level(image, packed, samples, tags.get(_MAX_SAMPLE_TAG))
        sixteen = most == 65535
        if isinstance(key := image.info.get("transparency"), int):
            alpha = Image.fromarray(np.where(samples == key, np.uint8(0), np.uint8(255)))
        levels = np.rint(samples.astype(np.float32) * np.float32(255 / most)).astype(np.uint8)
        color = Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC_TAG) == 0 else levels)
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        color = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    elif image.mode in ("L", "RGB", "CMYK", "LAB"):
        color = image
    else:
        color = image.convert("L" if image.mode == "1" else "RGB")
    brightest = int(np.asarray(color).max()) if sixteen and color.mode in ("L", "RGB") else 255
    if 0 < brightest < 64:
        bits = f"has samples of 16 bits that are nowhere brighter than {brightest} of 255"
        raise _PhotographRejected(
            f"{bits}: it seems to hold fewer bits, expected those scaled to 16"
        )
    return color, alpha


def _white_level(image: Image.Image, packed: str, samples: np.ndarray, declared: object) -> int:
    """The sample that is white in a picture of mode I or F. Raises _Refused for another kind."""
    low, high = samples.min(), samples.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise _PhotographRejected(
                f"has floating-point samples of {low:g} to {high:g}, expected 0 to 1"
            )
        return 1
    if image.mode == "I" and image.format != "PNG":  # of 16 bits, as old versions of Pillow open it
        kind = f"has samples of mode I, integers with a sign or of 32 bits, of {low} to {high}"
        raise _PhotographRejected(f"{kind}, expected unsigned ones of 8, 12 or 16 bits")
    if ";12" in packed:
        return 4095
    return next(
        (most for most in _TIFF_MAX_SAMPLES if declared in (most, (most,)) and high <= most), 65535
    )


def _profile(image: Image.Image, head: bytes) -> bytes | None:
    """The ICC profile of a picture whose file begins with `head`; None if it is sRGB."""
    embedded = image.info.get("icc_profile") or None
    if image.format in ("PNG", "HEIF", "AVIF") and (points := _CODE_POINTS.search(head)):
        if points["png"]:
            return _profile_from_code_points(*points["png"])
        if not embedded:
            return _profile_from_code_points(*struct.unpack(">HH", points["heif"]))
    if embedded or image.format != "PNG" or "srgb" in image.info:
        return embedded
    gamma, corners = image.info.get("gamma", 0), image.info.get("chromaticity", _SRGB_CHROMATICITY)
    near = (
        np.allclose(corners, _SRGB_CHROMATICITY, rtol=0, atol=0.005) and abs(gamma * 2.2 - 1) < 0.05
    )
    if near or not 0.1 <= gamma <= 3:
        return None
    try:
        return _matrix_profile(corners, (1 / gamma,))
    except (ArithmeticError, ValueError, struct.error):  # chunks that make no sense say nothing
        return None


def _profile_from_code_points(primaries: int, transfer: int) -> bytes | None:
    """The profile of these code points; None for those of sRGB or not known."""
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

    Raises ValueError, ArithmeticError or struct.error if there is none of them.
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
    """A picture of mode L, RGB, CMYK or LAB, in RGB. Raises _Refused for an unusable profile."""
    if profile is None and image.mode != "LAB":
        return image.convert("RGB")
    lab = ImageCms.createProfile("LAB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile) if profile else lab)
        space = (profile or b"")[16:20].decode("ascii", "replace").strip() or "Lab"
        if space == "RGB" and image.mode == "L":  # gray in a file whose profile is a screen's
            image = image.convert("RGB")
        if _PROFILE_MODES.get(space) != image.mode:
            raise ValueError(f"it is for {space}, and the samples are {image.mode}")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if image.mode != "RGB":  # a grid of colors, between which dark gray is wrong by ten levels
            flags |= ImageCms.Flags.NOOPTIMIZE
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        modes = (image.mode, "RGB")
        return ImageCms.ImageCmsTransform(source, srgb, *modes, intent, flags=flags).apply(image)
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        words = f"has an embedded color profile that cannot be used ({error})"
        raise _PhotographRejected(f"{words}: remove it, or convert the picture to sRGB") from error


def check_rgb(image: Any) -> Picture:
    """The picture itself. Raises ValueError unless it is an array, uint8 [height, width, 3]."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"the picture is {array.dtype}{list(array.shape)}, expected uint8[height, width, 3]"
        )
    return array


def crop_to_aspect(image: Picture, size: tuple[int, int]) -> Picture:
    """The middle of the picture, as large as it can be in the aspect of `size` (width,
    height).

    Raises ValueError where it is smaller than `size`.
    """
    (width, height), (rows, columns) = size, image.shape[:2]
    scale = max(width / columns, height / rows)
    if scale > 1:
        raise ValueError(
            f"the picture has {columns}x{rows} pixels, expected at least {width}x{height}, the working size"
        )
    across, down = min(columns, round(width / scale)), min(rows, round(height / scale))
    left, top = (columns - across) // 2, (rows - down) // 2
    return np.ascontiguousarray(image[top : top + down, left : left + across])


def crop_and_resize(image: Picture, size: tuple[int, int]) -> Picture:
    """The middle of the picture, in the aspect of `size` (width, height), at that size.
    Raises ValueError as `crop_to_aspect` does.
    """
    return cv2.resize(crop_to_aspect(image, size), size, interpolation=cv2.INTER_AREA)


def shrink_to_width(image: Picture, width: int) -> Picture:
    """The picture, shrunk where it is wider than that."""
    rows, columns = image.shape[:2]
    if columns <= width:
        return image
    return cv2.resize(
        image, (width, max(1, round(rows * width / columns))), interpolation=cv2.INTER_AREA
    )
