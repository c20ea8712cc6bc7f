"""A sample and its members in a shard (docs/data-format.md)."""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float, Float16, Float32, UInt8
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save

FORMAT_VERSION = 2
KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""A sample's name: no dot, since readers end the name at the first one; short enough for a plain tar header."""
IMAGE, META, MOTION = "image.png", "json", "motion.safetensors"
MEMBERS = (IMAGE, META, MOTION)
"""Members of a sample in the order in which they stand in the tar."""
RUN_LENGTHS = 3
"""zlib's strategy for filtered pictures: half the time of its default, and no larger."""
HALF_EXPONENT = np.uint16(0x7C00)
ARRAYS = ("spectrum", "weight", "confidence", "pair_time", "pair_flow", "pair_image")
"""Arrays of its motion member."""


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
    """How far each pixel's displacement is to be believed, 0 to 255 (docs/maths.md, 9)."""
    pair_time: Float32[np.ndarray, " pairs"]
    """Seconds after the start frame."""
    pair_flow: Float16[np.ndarray, "pairs 2 height width"]
    """Displacement (x, y) from the start frame, pixels."""
    pair_image: UInt8[np.ndarray, "pairs height width 3"]
    meta: dict[str, Any]
    """Clip, start frame and time, working resolution and rate, estimator, measures, format version."""


def sample_key(clip_id: str, start_frame: int) -> str:
    """The key of a window: the clip's id where that is a plain name, else a plain name made of it, then the frame."""
    name = clip_id
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,72}", clip_id):
        digest = hashlib.sha256(clip_id.encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", clip_id)[:60] + "-" + digest
    return f"{name}-{start_frame:06d}"


def to_channels(spectrum: Complex64[np.ndarray, "freq 2 height width"]) -> Float32[np.ndarray, "freq 4 height width"]:
    """Complex coefficients of (x, y) as the channels re x, im x, re y, im y."""
    pairs = np.stack([np.real(spectrum), np.imag(spectrum)], axis=2)
    return pairs.reshape(len(spectrum), 4, *spectrum.shape[2:])


def from_channels(channels: Float[np.ndarray, "freq 4 height width"]) -> Complex64[np.ndarray, "freq 2 height width"]:
    """Inverse of `to_channels`."""
    pairs = channels.astype(np.float32).reshape(len(channels), 2, 2, *channels.shape[2:])
    return pairs[:, :, 0] + 1j * pairs[:, :, 1]


def encode(sample: Sample) -> dict[str, bytes]:
    """The members of `sample` by name, in order; equal samples give equal bytes."""
    image = io.BytesIO()
    Image.fromarray(sample.image).save(image, "png", compress_type=RUN_LENGTHS)
    arrays = {n: np.ascontiguousarray(getattr(sample, n)) for n in ARRAYS}
    meta = json.dumps(sample.meta, sort_keys=True, allow_nan=False).encode()
    return {IMAGE: image.getvalue(), META: meta, MOTION: save(arrays)}


def decode(key: str, members: dict[str, bytes]) -> Sample:
    """Inverse of `encode`. Raises ValueError naming the key where a member is missing, damaged or of another shape."""
    try:
        arrays, meta = load(members[MOTION]), json.loads(members[META])
        arrays = {"image": picture(members[IMAGE], arrays["spectrum"].shape[2:])} | arrays
        check(arrays, meta)
    except (KeyError, TypeError, AttributeError, OSError, SyntaxError, ValueError, SafetensorError, RecursionError, Image.DecompressionBombError) as error:
        raise ValueError(f"sample {key!r} cannot be read: {error}") from error
    return Sample(key=key, meta=meta, **arrays)


def picture(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """A PNG of (height, width), which it says of itself before room is made for it. Raises ValueError for another."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.size != shape[::-1]:
            raise ValueError(f"spectrum is of {tuple(shape)}, expected {(image.height, image.width)}, as the image")
        return np.asarray(image)


def check(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Raises ValueError unless just the arrays of a sample are there, of one size, finite, and of this format."""
    if meta.get("format") != FORMAT_VERSION:
        raise ValueError(f"format is {meta.get('format')!r}, expected {FORMAT_VERSION}")
    (height, width), freq, pairs = arrays["image"].shape[:2], len(arrays["spectrum"]), len(arrays["pair_time"])
    expected = {
        "image": (np.uint8, (height, width, 3)),
        "spectrum": (np.float16, (freq, 4, height, width)),
        "weight": (np.float16, (height, width)),
        "confidence": (np.uint8, (height, width)),
        "pair_time": (np.float32, (pairs,)),
        "pair_flow": (np.float16, (pairs, 2, height, width)),
        "pair_image": (np.uint8, (pairs, height, width, 3)),
    }
    if arrays.keys() != expected.keys():
        raise ValueError(f"arrays are {sorted(arrays)}, expected {sorted(expected)}")
    for name, (dtype, shape) in expected.items():
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, expected {np.dtype(dtype)}{list(shape)}")
        if not is_finite(arrays[name]):
            raise ValueError(f"{name} has values that are not finite")


def is_finite(array: np.ndarray) -> bool:
    """Whether every number is; float16, which is slow to compute with, by its bits: an exponent of all ones is inf or NaN."""
    if array.dtype != np.float16:
        return bool(np.isfinite(array).all())
    return not ((np.ascontiguousarray(array).view(np.uint16) & HALF_EXPONENT) == HALF_EXPONENT).any()
