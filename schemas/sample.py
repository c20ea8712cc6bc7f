"""A sample and its members in a shard (docs/reference/data-format.md)."""

import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex64, Float, Float16, Float32, UInt8
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save

FORMAT_VERSION = 3
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""A sample's name: no dot, since readers end the name at the first one; short enough for a plain
tar header.
"""
IMAGE_MEMBER, META_MEMBER, MOTION_MEMBER = "image.png", "json", "motion.safetensors"
MEMBERS = (IMAGE_MEMBER, META_MEMBER, MOTION_MEMBER)
"""Members of a sample in the order in which they stand in the tar."""
_PNG_COMPRESS_TYPE = 3
"""zlib's strategy for filtered pictures: half the time of its default, and no larger."""
_HALF_EXPONENT = np.uint16(0x7C00)
MOTION_ARRAYS = ("spectrum", "weight", "confidence", "pair_time", "pair_flow", "pair_image")
"""Arrays of its motion member."""
CHUNKED_ARRAYS = frozenset({"spectrum", "pair_flow", "pair_image"})
"""Arrays with a checksum for each entry of their first axis, which is read alone; others have one.
"""
_METADATA, _CHECKSUMS = "__metadata__", "crc32"
"""Where the header of the motion member holds the checksums of its arrays: one entry, since
safetensors writes several in no fixed order.
"""
DTYPES: dict[str, type] = {"F16": np.float16, "F32": np.float32, "U8": np.uint8}
"""By safetensors' names."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One start frame, its spectral volume, and a few true later frames with their flow."""

    key: str
    image: UInt8[np.ndarray, "height width 3"]
    """Start frame, RGB."""
    spectrum: Float16[np.ndarray, "freq 4 height width"]
    """Raw coefficients in pixels: re x, im x, re y, im y."""
    weight: Float16[np.ndarray, "height width"]
    """Mean over time of the displacement's length, pixels."""
    confidence: UInt8[np.ndarray, "height width"]
    """How far each pixel's displacement is to be believed, 0 to 255 (docs/design/maths.md, 9)."""
    pair_time: Float32[np.ndarray, " pairs"]
    """Seconds after the start frame."""
    pair_flow: Float16[np.ndarray, "pairs 2 height width"]
    """Displacement (x, y) from the start frame, pixels."""
    pair_image: UInt8[np.ndarray, "pairs height width 3"]
    meta: dict[str, Any]
    """Clip, start frame and time, working resolution and rate, estimator, measures, format version.
    """


def sample_key(clip_id: str, start_frame: int) -> str:
    """The key of a window: the clip's id where that is a plain name, else a plain name made of it,
    then the frame.
    """
    name = clip_id
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,72}", clip_id):
        digest = hashlib.sha256(clip_id.encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", clip_id)[:60] + "-" + digest
    return f"{name}-{start_frame:06d}"


def complex_to_channels(
    spectrum: Complex64[np.ndarray, "freq 2 height width"],
) -> Float32[np.ndarray, "freq 4 height width"]:
    """Complex coefficients of (x, y) as the channels re x, im x, re y, im y."""
    pairs = np.stack([np.real(spectrum), np.imag(spectrum)], axis=2)
    return pairs.reshape(len(spectrum), 4, *spectrum.shape[2:])


def channels_to_complex(
    channels: Float[np.ndarray, "freq 4 height width"],
) -> Complex64[np.ndarray, "freq 2 height width"]:
    """Inverse of `complex_to_channels`."""
    pairs = channels.astype(np.float32).reshape(len(channels), 2, 2, *channels.shape[2:])
    return pairs[:, :, 0] + 1j * pairs[:, :, 1]


def checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """CRC-32 of the bytes of each array, or of each entry of its first axis (CHUNKED_ARRAYS)."""
    checksums_by_name = {}
    for name in MOTION_ARRAYS:
        parts = arrays[name] if name in CHUNKED_ARRAYS else [arrays[name]]
        checksums_by_name[name] = [zlib.crc32(array_bytes(part)) for part in parts]
    return checksums_by_name


def array_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array, copied only if they do not lie side by side."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """The members of `sample` by name, in order; equal samples give equal bytes."""
    image = io.BytesIO()
    Image.fromarray(sample.image).save(image, "png", compress_type=_PNG_COMPRESS_TYPE)
    arrays = {n: np.ascontiguousarray(getattr(sample, n)) for n in MOTION_ARRAYS}
    meta = json.dumps(sample.meta, sort_keys=True, allow_nan=False).encode()
    crcs = {
        name: "".join(f"{crc:08x}" for crc in values) for name, values in checksums(arrays).items()
    }
    motion = save(arrays, {_CHECKSUMS: json.dumps(crcs, separators=(",", ":"))})
    return {IMAGE_MEMBER: image.getvalue(), META_MEMBER: meta, MOTION_MEMBER: motion}


def decode_sample(key: str, members: dict[str, bytes]) -> Sample:
    """Inverse of `encode`. Raises ValueError naming the key where a member is missing, damaged or
    of another shape.
    """
    try:
        motion = members[MOTION_MEMBER]
        arrays, meta = load(motion), json.loads(members[META_MEMBER])
        arrays = {
            "image": _decode_image(members[IMAGE_MEMBER], arrays["spectrum"].shape[2:])
        } | arrays
        _check_arrays(arrays, meta)
        if checksums(arrays) != motion_layout(motion, len(motion)).checksums:
            raise ValueError(
                f"{MOTION_MEMBER} has other arrays than the checksums in its header say"
            )
    except (
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        SyntaxError,
        ValueError,
        SafetensorError,
        RecursionError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"sample {key!r} cannot be read: {error}") from error
    return Sample(key=key, meta=meta, **arrays)


def _decode_image(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """A PNG of (height, width), which it says of itself before room is made for it. Raises
    ValueError for another.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.size != shape[::-1]:
            raise ValueError(
                f"spectrum is of {tuple(shape)}, expected {(image.height, image.width)}, as the "
                "image"
            )
        return np.asarray(image)


def array_kinds(
    frequencies: int,
    pairs: int,
    size: tuple[int, int],
) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape of each array of a motion member at a working `size` (width, height)."""
    width, height = size
    return {
        "spectrum": (np.float16, (frequencies, 4, height, width)),
        "weight": (np.float16, (height, width)),
        "confidence": (np.uint8, (height, width)),
        "pair_time": (np.float32, (pairs,)),
        "pair_flow": (np.float16, (pairs, 2, height, width)),
        "pair_image": (np.uint8, (pairs, height, width, 3)),
    }


class _MotionLayout(NamedTuple):
    """Where the arrays of a motion member stand in it, and what their bytes are."""

    data_offset: int
    """Bytes of the header, after which the arrays begin."""
    arrays: dict[str, dict[str, Any]]
    """By name: `dtype`, `shape`, `data_offsets` counted from `data_offset`, as safetensors
    says it."""
    checksums: dict[str, list[int]]
    """As `checksums` gives them."""


def header_length(head: bytes, most: int) -> int:
    """Bytes of the header at the beginning of a motion member, with the eight that say its length.

    Raises ValueError for one that is not of 2 to `most` bytes.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or not 2 <= length <= most:
        raise ValueError(f"its header says that it has {length} bytes, expected 2 to {most}")
    return 8 + length


def header_checksum(motion: bytes) -> int:
    """CRC-32 of the header of a motion member, which holds the checksums of all that follows it."""
    return zlib.crc32(motion[: header_length(motion, len(motion) - 8)])


def motion_layout(head: bytes, size: int) -> _MotionLayout:
    """The header at the beginning of `head`, of a motion member of `size` bytes.

    Raises ValueError, KeyError or TypeError unless its arrays are those of a sample, fill the
    member without gap or overlap, and each has its checksums; RecursionError for JSON nested too
    deeply.
    """
    begin = header_length(head, len(head) - 8)
    arrays = json.loads(head[8:begin])
    if not isinstance(arrays, dict) or arrays.keys() != {_METADATA, *MOTION_ARRAYS}:
        raise ValueError(
            f"arrays are {sorted(arrays)}, expected {sorted(MOTION_ARRAYS)} and {_METADATA}"
        )
    texts = json.loads(arrays.pop(_METADATA)[_CHECKSUMS])
    end = 0
    for name, array in sorted(arrays.items(), key=lambda item: item[1]["data_offsets"]):
        (first, after), shape = array["data_offsets"], array["shape"]
        if not all(type(number) is int and number >= 0 for number in (first, after, *shape)):
            words = f"{name} has offsets {first}, {after} and shape {shape}"
            raise ValueError(f"{words}, expected whole numbers")
        length = np.dtype(DTYPES[array["dtype"]]).itemsize * prod(shape)
        if first != end or after - first != length:
            words = f"{name} is {array['dtype']}{shape} from {first} to {after}"
            raise ValueError(f"{words}, expected it to begin at {end} and to have its length")
        end = after
    if end != size - begin:
        raise ValueError(f"its arrays end at {end}, expected {size - begin}")
    checksums_by_name = {name: _parse_checksums(texts[name]) for name in MOTION_ARRAYS}
    for name, parts in checksums_by_name.items():
        expected = arrays[name]["shape"][0] if name in CHUNKED_ARRAYS else 1
        if len(parts) != expected:
            raise ValueError(f"{name} has {len(parts)} checksums, expected {expected}")
    return _MotionLayout(begin, arrays, checksums_by_name)


def _parse_checksums(text: str) -> list[int]:
    """Parses checksums of eight hexadecimal digits each."""
    return [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]


def _check_arrays(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Raises ValueError unless just the arrays of a sample are there, of one size, finite, and of
    this format.
    """
    if meta.get("format") != FORMAT_VERSION:
        raise ValueError(f"format is {meta.get('format')!r}, expected {FORMAT_VERSION}")
    height, width = arrays["image"].shape[:2]
    kinds = array_kinds(len(arrays["spectrum"]), len(arrays["pair_time"]), (width, height))
    expected = {"image": (np.uint8, (height, width, 3))} | kinds
    if arrays.keys() != expected.keys():
        raise ValueError(f"arrays are {sorted(arrays)}, expected {sorted(expected)}")
    for name, (dtype, shape) in expected.items():
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            raise ValueError(
                f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, expected "
                f"{np.dtype(dtype)}{list(shape)}"
            )
        if not is_finite(arrays[name]):
            raise ValueError(f"{name} has values that are not finite")


def is_finite(array: np.ndarray) -> bool:
    """Whether every number is; float16, which is slow to compute with, by its bits: an exponent of
    all ones is inf or NaN.
    """
    if array.dtype != np.float16:
        return bool(np.isfinite(array).all())
    return not (
        (np.ascontiguousarray(array).view(np.uint16) & _HALF_EXPONENT) == _HALF_EXPONENT
    ).any()
