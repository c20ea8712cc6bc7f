"""The parts of a sample that a trainer reads, by offset: its picture, and some frequencies of its spectrum.

Frequencies stand one after the other in a shard, so one of them, or the first few, is a single short read. What is not
read is not decoded, but what is read is checked as `pipeline.shards.read_sample` checks it: the tar's header, the header of
the arrays against the member's bounds, type, shape and finite values.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float16, UInt8

from model.rows import Row
from pipeline.shards import check_member
from schemas.sample import ARRAYS, IMAGE, MOTION, is_finite

LONGEST_HEADER = 4096 - 8
"""Bytes; that of a sample has under 600."""
WIDTHS = {"F16": 2, "F32": 4, "U8": 1}
"""Bytes of a number, by safetensors' name of its type."""
RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class OpenFile:
    """A file that is closed when nobody reads from it any more."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def check(self, offset: int, size: int) -> None:
        """Raises ValueError where these bytes are not in the file."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"{size} bytes from {offset} on are not in the file, which has {self.size}")

    def read(self, offset: int, into: UInt8[np.ndarray, " size"]) -> UInt8[np.ndarray, " size"]:
        """The bytes from `offset` on, as many as `into` takes. Raises ValueError where they are not in the file."""
        self.check(offset, len(into))
        found = os.preadv(self.descriptor, [into.data], offset)
        if found != len(into):
            raise ValueError(f"only {found} of {len(into)} bytes from {offset} on are in the file")
        return into


class Files:
    """The files read last, kept open. Every process opens its own where one is sent to it, and may share them where it is forked."""

    def __init__(self, most: int = 32):
        self.most = most
        self.open: OrderedDict[Path, OpenFile] = OrderedDict()

    def __reduce__(self):
        return Files, (self.most,)

    def __getitem__(self, path: Path) -> OpenFile:
        file = self.open.pop(path, None) or OpenFile(path)
        self.open[path] = file
        if len(self.open) > self.most:
            self.open.popitem(last=False)
        return file


@contextmanager
def naming(row: Row) -> Iterator[None]:
    """Whatever is wrong with a sample becomes a ValueError that names it and its shard."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, cv2.error) as error:
        raise ValueError(f"sample {row.key!r} of {row.path} cannot be read: {error}") from error


def read_picture(files: Files, row: Row, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Its start frame, RGB, of `size` (width, height). Raises ValueError where the bytes are not that."""
    with naming(row):
        offset, length = row.image
        file = files[row.path]
        file.check(offset - BLOCKSIZE, BLOCKSIZE + length)
        data = file.read(offset - BLOCKSIZE, np.empty(BLOCKSIZE + length, np.uint8))
        check_member(data[:BLOCKSIZE].tobytes(), f"{row.key}.{IMAGE}", length, length)
        return decode_picture(data[BLOCKSIZE:], size)


def decode_picture(data: UInt8[np.ndarray, " bytes"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """A PNG of `size` with 8 bits for each of R, G and B, as the writer makes them; ValueError where it is another, or damaged."""
    width, height = size
    expected = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    if data[: len(expected)].tobytes() != expected:
        raise ValueError(f"{IMAGE} is not an RGB picture of {width}x{height} pixels")
    picture = cv2.imdecode(data, RGB)
    if picture is None or picture.shape != (height, width, 3):
        raise ValueError(f"{IMAGE} is damaged")
    return picture


def read_spectrum(files: Files, row: Row, bands: Sequence[int], size: tuple[int, int]) -> Iterator[Float16[np.ndarray, "4 height width"]]:
    """Its frequencies of these numbers, raw coefficients in pixels. Raises ValueError where the bytes are not that.

    One by one, each in the memory of the one before, which fits into the processor's cache.
    """
    with naming(row):
        (width, height), (offset, length) = size, row.motion
        if max(bands) >= row.frequencies:
            raise ValueError(f"it has {row.frequencies} frequencies, expected {max(bands) + 1}")
        file, one = files[row.path], 2 * 4 * height * width
        file.check(offset, length)
        head = file.read(offset - BLOCKSIZE, np.empty(BLOCKSIZE + min(length, 8 + LONGEST_HEADER), np.uint8)).tobytes()
        check_member(head[:BLOCKSIZE], f"{row.key}.{MOTION}", length, length)
        begin = offset + spectrum_offset(head[BLOCKSIZE:], length, [row.frequencies, 4, height, width])
        channels = np.empty((4, height, width), np.float16)
        for frequency in bands:
            file.read(begin + frequency * one, channels.reshape(-1).view(np.uint8))
            if not is_finite(channels):
                raise ValueError("spectrum has values that are not finite")
            yield channels


def spectrum_offset(head: bytes, size: int, shape: list[int]) -> int:
    """Where the spectrum begins in a motion member of `size` bytes, by its header at the beginning of `head`.

    Raises ValueError unless the header's arrays fill the member without gap or overlap, and the spectrum is float16 of `shape`.
    """
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= min(len(head) - 8, LONGEST_HEADER):
        raise ValueError(f"its header says that it has {length} bytes, expected 2 to {min(len(head) - 8, LONGEST_HEADER)}")
    arrays: dict[str, Any] = json.loads(head[8 : 8 + length])
    if set(arrays) != set(ARRAYS):
        raise ValueError(f"arrays are {sorted(arrays)}, expected {sorted(ARRAYS)}")
    check_layout(arrays, size - 8 - length)
    spectrum = arrays["spectrum"]
    if (spectrum["dtype"], spectrum["shape"]) != ("F16", shape):
        raise ValueError(f"spectrum is {spectrum['dtype']}{spectrum['shape']}, expected F16{shape}")
    return 8 + length + spectrum["data_offsets"][0]


def check_layout(arrays: dict[str, Any], size: int) -> None:
    """Raises ValueError unless these arrays, each of its own length, fill `size` bytes one after the other."""
    end = 0
    for name, array in sorted(arrays.items(), key=lambda item: item[1]["data_offsets"]):
        begin, after = array["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (begin, after, *array["shape"])):
            raise ValueError(f"{name} has offsets {begin}, {after} and shape {array['shape']}, expected whole numbers")
        if begin != end or after - begin != WIDTHS[array["dtype"]] * prod(array["shape"]):
            raise ValueError(f"{name} is {array['dtype']}{array['shape']} from {begin} to {after}, expected it to begin at {end} and to have its length")
        end = after
    if end != size:
        raise ValueError(f"its arrays end at {end}, expected {size}")
