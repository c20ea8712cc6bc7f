"""Reads pairs of images with known flow, in the format of the Middlebury benchmark (Baker et al.,
IJCV 2011).

A `.flo` file is the float32 202021.25, width and height as int32, and x and y of each pixel's
displacement as float32, row by row, all little-endian. A number over 1e9, or NaN, means that the
displacement is not known. Files may be hostile: sizes are checked before memory is allocated.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from pipeline.images.photo import read_photograph

FLO_TAG = 202021.25
_UNKNOWN_FLOW_LIMIT = 1e9
_MAX_SIDE_PX = 8192
"""Pixels a side."""

_Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, kw_only=True)
class KnownPair:
    """A pair of images, and the displacement from the first to the second at each pixel of the
    first, pixels. The displacement is 0 where it is not known, that is, where `valid` is False.
    """

    name: str
    source: _Picture
    target: _Picture
    flow: Float32[np.ndarray, "2 height width"]
    valid: Bool[np.ndarray, "height width"]
    digest: str
    """SHA-256 of the file of flow, hex."""


def find_known_pairs(folder: Path) -> list[tuple[str, Path]]:
    """Name and flow file of each pair below a folder: flowNN.flo beside frameNN.png and the frame
    with the next number.

    Raises ValueError if there is no such folder, or no pair in it.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing, "
            "expected a folder with flow10.flo, frame10.png and frame11.png for each pair"
        )
    files = sorted(folder.rglob("flow*.flo"))
    if not files:
        raise ValueError(
            f"{folder} has no flow*.flo in it, "
            "expected flow10.flo, frame10.png and frame11.png for each pair"
        )
    return [(_pair_name(path, folder), path) for path in files]


def _pair_name(path: Path, folder: Path) -> str:
    """A name that is unique below `folder`: that of the pair's folder, and that of its file if the
    folder has several pairs.
    """
    several = len(list(path.parent.glob("flow*.flo"))) > 1
    parts = [*path.parent.relative_to(folder).parts, *([path.stem] if several else [])]
    return "/".join(parts) or path.stem


def read_known_pair(name: str, path: Path) -> KnownPair:
    """Reads a pair of `find_known_pairs`. Raises ValueError if the number in the file's name or an
    image is missing, if a file is malformed, or if the sizes differ.
    """
    digits = path.stem.removeprefix("flow")
    if not (digits.isdecimal() and digits.isascii()):
        raise ValueError(f"{path} has no number in its name, expected one such as flow10.flo")
    source, target = (
        read_photograph(path.with_name(f"frame{number:0{len(digits)}}.png"))
        for number in (int(digits), int(digits) + 1)
    )
    with path.open("rb") as file:
        data = file.read(12 + 8 * _MAX_SIDE_PX**2 + 1)
    try:
        flow, valid = parse_flo(data)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    if not (source.shape[:2] == target.shape[:2] == valid.shape):
        shapes = (source.shape, target.shape, valid.shape)
        sizes = ", ".join(f"{shape[1]}x{shape[0]}" for shape in shapes)
        raise ValueError(f"{path} and its pictures are of {sizes} pixels, expected one size")
    return KnownPair(
        name=name,
        source=source,
        target=target,
        flow=flow,
        valid=valid,
        digest=hashlib.sha256(data).hexdigest(),
    )


def parse_flo(
    data: bytes,
) -> tuple[Float32[np.ndarray, "2 height width"], Bool[np.ndarray, "height width"]]:
    """Flow of a .flo file, and the mask of the pixels at which it is known.

    Raises ValueError, whose message continues a sentence that begins with the file's name.
    """
    if len(data) < 12 or struct.unpack("<f", data[:4])[0] != FLO_TAG:
        raise ValueError(f"is no file of flow, expected one that begins with the number {FLO_TAG}")
    width, height = struct.unpack("<ii", data[4:12])
    if not (1 <= width <= _MAX_SIDE_PX and 1 <= height <= _MAX_SIDE_PX):
        raise ValueError(
            f"says that it is {width}x{height}, expected 1 to {_MAX_SIDE_PX} pixels a side"
        )
    if len(data) != 12 + 8 * width * height:
        raise ValueError(
            f"has {len(data)} bytes, expected {12 + 8 * width * height} for {width}x{height}"
        )
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1)
    valid = np.asarray((np.abs(flow) <= _UNKNOWN_FLOW_LIMIT).all(axis=0))
    if not valid.any():
        raise ValueError("knows the flow of no pixel, expected some")
    return np.where(valid, flow, 0).astype(np.float32), valid


def encode_flo(
    flow: Float32[np.ndarray, "2 height width"], valid: Bool[np.ndarray, "height width"]
) -> bytes:
    """Inverse of `parse_flo`."""
    numbers = np.where(valid, flow, 2 * _UNKNOWN_FLOW_LIMIT).transpose(1, 2, 0).astype("<f4")
    return struct.pack("<fii", FLO_TAG, flow.shape[2], flow.shape[1]) + numbers.tobytes()
