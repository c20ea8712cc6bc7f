"""The parts of a sample that a trainer reads, by offset: picture, some frequencies, a later frame.

What stands together in a shard is a single short read. What is not read is not decoded, and what
is read is checked: the tar's header and the header of the arrays are those that were written, by
the row of the manifest; each part has the checksum that the header holds, its type, its shape and
finite values. Nothing is given of a part before it is checked.
"""

import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float16, UInt8

from model.data.shard_index import SampleLocation
from pipeline.dataset.shards import check_member
from schemas.sample import (
    CHUNKED_ARRAYS,
    DTYPES,
    IMAGE_MEMBER,
    MOTION_MEMBER,
    array_bytes,
    array_kinds,
    header_length,
    is_finite,
    motion_layout,
)

MAX_HEADER_BYTES = (1 << 16) - 8
"""Bytes; that of a sample of 16 frequencies and 4 pairs has about 1,000."""
_TYPICAL_HEADER_BYTES = 4096 - 8
"""Bytes that are read at once with the eight that say how many there are."""
_DTYPE_NAMES = {kind: name for name, kind in DTYPES.items()}
_IMREAD_RGB_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class _FramePair(NamedTuple):
    """A later frame of a sample, as it stands in a shard."""

    later_image: UInt8[np.ndarray, "height width 3"]
    flow: Float16[np.ndarray, "2 height width"]
    """Displacement (x, y) from the start frame, pixels."""
    weight: Float16[np.ndarray, "height width"]
    """W, mean length of the motion, pixels."""


class _OpenFile:
    """A file that is closed when nobody reads from it any more."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def check_range(self, offset: int, size: int) -> None:
        """Raises ValueError where these bytes are not in the file."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(
                f"{size} bytes from {offset} on are not in the file, which has {self.size}"
            )

    def read(self, offset: int, into: UInt8[np.ndarray, " size"]) -> UInt8[np.ndarray, " size"]:
        """The bytes from `offset` on, as many as `into` takes. Raises ValueError where they are not
        in the file.
        """
        self.check_range(offset, len(into))
        found = os.preadv(self.descriptor, [into.data], offset)
        if found != len(into):
            raise ValueError(f"only {found} of {len(into)} bytes from {offset} on are in the file")
        return into


class FileCache:
    """The files read last, kept open. Every process opens its own where one is sent to it, and may
    share them where it is forked.
    """

    def __init__(self, most: int = 32):
        self.most = most
        self.open_files: OrderedDict[Path, _OpenFile] = OrderedDict()

    def __reduce__(self):
        return FileCache, (self.most,)

    def __getitem__(self, path: Path) -> _OpenFile:
        file = self.open_files.pop(path, None) or _OpenFile(path)
        self.open_files[path] = file
        if len(self.open_files) > self.most:
            self.open_files.popitem(last=False)
        return file


@contextmanager
def _name_sample_in_errors(row: SampleLocation) -> Iterator[None]:
    """Whatever is wrong with a sample becomes a ValueError that names it and its shard."""
    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        cv2.error,
    ) as error:
        raise ValueError(f"sample {row.key!r} of {row.tar_path} cannot be read: {error}") from error


def read_image(
    files: FileCache, row: SampleLocation, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Its start frame, RGB, of `size` (width, height). Raises ValueError where the bytes
    are not that.
    """
    with _name_sample_in_errors(row):
        offset, length = row.image_span
        file = files[row.tar_path]
        file.check_range(offset - BLOCKSIZE, BLOCKSIZE + length)
        data = file.read(offset - BLOCKSIZE, np.empty(BLOCKSIZE + length, np.uint8))
        check_member(data[:BLOCKSIZE].tobytes(), f"{row.key}.{IMAGE_MEMBER}", length, length)
        if zlib.crc32(array_bytes(data[BLOCKSIZE:])) != row.checksums[0]:
            raise ValueError(f"{IMAGE_MEMBER} has other bytes than were written")
        return decode_png(data[BLOCKSIZE:], size)


def decode_png(
    data: UInt8[np.ndarray, " bytes"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """A PNG of `size` with 8 bits for each of R, G and B, as the writer makes them;
    ValueError where it is another, or damaged.
    """
    width, height = size
    expected = (
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
        + width.to_bytes(4)
        + height.to_bytes(4)
        + b"\x08\x02\0\0\0"
    )
    if data[: len(expected)].tobytes() != expected:
        raise ValueError(f"{IMAGE_MEMBER} is not an RGB picture of {width}x{height} pixels")
    picture = cv2.imdecode(data, _IMREAD_RGB_FLAGS)
    if picture is None or picture.shape != (height, width, 3):
        raise ValueError(f"{IMAGE_MEMBER} is damaged")
    return picture


def read_spectrum(
    files: FileCache,
    row: SampleLocation,
    bands: Sequence[int],
    size: tuple[int, int],
) -> Iterator[Float16[np.ndarray, "4 height width"]]:
    """Its frequencies of these numbers, raw coefficients in pixels. Raises ValueError where the
    bytes are not that.

    One by one, each in the memory of the one before, which fits into the processor's cache.
    """
    with _name_sample_in_errors(row):
        if max(bands) >= row.frequencies:
            raise ValueError(f"it has {row.frequencies} frequencies, expected {max(bands) + 1}")
        arrays = _StoredArrays(files, row, size)
        channels = np.empty((4, size[1], size[0]), np.float16)
        for frequency in bands:
            yield arrays.read("spectrum", frequency, channels)


def read_pair(
    files: FileCache, row: SampleLocation, place: float, size: tuple[int, int]
) -> _FramePair:
    """The later frame at `place`, 0 to 1 (excluded) over all of them.

    Raises ValueError where the bytes are not that.
    """
    with _name_sample_in_errors(row):
        arrays = _StoredArrays(files, row, size)
        if arrays.pair_count < 1:
            raise ValueError("it has no later frames, expected at least 1: extract with --pairs")
        number = int(place * arrays.pair_count)
        later, flow = (arrays.read(name, number) for name in ("pair_image", "pair_flow"))
        return _FramePair(later, flow, arrays.read("weight"))


class _StoredArrays:
    """The arrays of a sample in its shard, each read when it is asked for."""

    def __init__(self, files: FileCache, row: SampleLocation, size: tuple[int, int]):
        """Reads the headers alone. Raises ValueError, or what `motion_layout` does, unless they are
        those that were written, of arrays of the working `size` (width, height).
        """
        self.file, (self.offset, length) = files[row.tar_path], row.motion_span
        self.file.check_range(self.offset, length)
        head = self._read_bytes(
            self.offset - BLOCKSIZE, BLOCKSIZE + min(length, 8 + _TYPICAL_HEADER_BYTES)
        )
        check_member(head[:BLOCKSIZE], f"{row.key}.{MOTION_MEMBER}", length, length)
        begin = header_length(head[BLOCKSIZE:], min(length - 8, MAX_HEADER_BYTES))
        head = head[BLOCKSIZE:]
        if len(head) < begin:
            head = self._read_bytes(self.offset, begin)
        if zlib.crc32(head[:begin]) != row.checksums[1]:
            raise ValueError(f"the header of {MOTION_MEMBER} has other bytes than were written")
        self.layout = motion_layout(head, length)
        self.pair_count = self.layout.arrays["pair_time"]["shape"][0]
        self.array_specs = array_kinds(row.frequencies, self.pair_count, size)
        for name, (dtype, shape) in self.array_specs.items():
            array, expected = self.layout.arrays[name], _DTYPE_NAMES[dtype]
            if (array["dtype"], array["shape"]) != (expected, [*shape]):
                found = f"{array['dtype']}{array['shape']}"
                raise ValueError(f"{name} is {found}, expected {expected}{[*shape]}")

    def _read_bytes(self, offset: int, length: int) -> bytes:
        return self.file.read(offset, np.empty(length, np.uint8)).tobytes()

    def read(self, name: str, index: int = 0, into: np.ndarray | None = None) -> np.ndarray:
        """An array, or of one of PARTED an entry of its first axis, in the memory of `into`.

        Raises ValueError unless its bytes have their checksum, and its values are finite.
        """
        dtype, shape = self.array_specs[name]
        values = np.empty(shape[name in CHUNKED_ARRAYS :], dtype) if into is None else into
        begin = self.offset + self.layout.data_offset + self.layout.arrays[name]["data_offsets"][0]
        data = self.file.read(begin + index * values.nbytes, values.reshape(-1).view(np.uint8))
        if zlib.crc32(array_bytes(data)) != self.layout.checksums[name][index]:
            part = f"entry {index} of {name}" if name in CHUNKED_ARRAYS else name
            raise ValueError(f"{part} has other bytes than were written")
        if not is_finite(values):
            raise ValueError(f"{name} has values that are not finite")
        return values
