"""Reading parts of a sample from its shard by offset: the image, some frequencies, a later frame.

Parts that are stored side by side are one short read, and parts that are not asked for are not
decoded. Whatever is returned was verified: the tar header and the header of the arrays against the
sample's row of the manifest, each array against its checksum in that header, its type, its shape
and for finite values.
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
from jaxtyping import Float16, Float32, UInt8

from model.data.shard_index import SampleLocation
from pipeline.dataset.shards import check_member
from pipeline.flow.consistency import BELIEVED
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
"""Largest header of arrays that is read; 16 frequencies and 4 pairs need about 1,000 bytes."""
_TYPICAL_HEADER_BYTES = 4096 - 8
"""Bytes of the header that are read together with the eight that give its length."""
_DTYPE_NAMES = {kind: name for name, kind in DTYPES.items()}
_IMREAD_RGB_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class _FramePair(NamedTuple):
    """A later frame of a sample, as it is stored."""

    later_image: UInt8[np.ndarray, "height width 3"]
    flow: Float16[np.ndarray, "2 height width"]
    """Displacement (x, y) from the start frame, pixels."""
    weight: Float16[np.ndarray, "height width"]
    """W, the mean magnitude of the motion, pixels."""


def read_image(
    files: "FileCache", location: SampleLocation, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """The start frame of a sample, RGB, of `size` (width, height). Raises ValueError if its bytes
    are not the ones that were written, or not such an image.
    """
    with _name_sample_in_errors(location):
        offset, length = location.image_span
        file = files[location.tar_path]
        file.check_range(offset - BLOCKSIZE, BLOCKSIZE + length)
        data = file.read(offset - BLOCKSIZE, np.empty(BLOCKSIZE + length, np.uint8))
        header, png = data[:BLOCKSIZE].tobytes(), data[BLOCKSIZE:]
        check_member(header, f"{location.key}.{IMAGE_MEMBER}", length, length)
        if zlib.crc32(array_bytes(png)) != location.checksums[0]:
            raise ValueError(f"{IMAGE_MEMBER} has other bytes than were written")
        return decode_png(png, size)


def decode_png(
    data: UInt8[np.ndarray, " bytes"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a PNG of `size` (width, height) with 8 bits for each of R, G and B, as the pipeline
    writes it. Raises ValueError if it is of another kind, or damaged.
    """
    width, height = size
    dimensions = width.to_bytes(4) + height.to_bytes(4)
    expected = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + dimensions + b"\x08\x02\0\0\0"
    if data[: len(expected)].tobytes() != expected:
        raise ValueError(f"{IMAGE_MEMBER} is not an RGB picture of {width}x{height} pixels")
    image = cv2.imdecode(data, _IMREAD_RGB_FLAGS)
    if image is None or image.shape != (height, width, 3):
        raise ValueError(f"{IMAGE_MEMBER} is damaged")
    return image


def read_spectrum(
    files: "FileCache", location: SampleLocation, bands: Sequence[int], size: tuple[int, int]
) -> Iterator[Float16[np.ndarray, "4 height width"]]:
    """Yields the raw coefficients, in pixels, of the frequencies `bands`. Raises ValueError if the
    bytes are not the ones that were written.

    All are yielded in the same array, which stays in the processor's cache: copy what you keep.
    """
    with _name_sample_in_errors(location):
        if max(bands) >= location.frequencies:
            raise ValueError(
                f"it has {location.frequencies} frequencies, expected {max(bands) + 1}"
            )
        arrays = _StoredArrays(files, location, size)
        channels = np.empty((4, size[1], size[0]), np.float16)
        for band in bands:
            yield arrays.read("spectrum", band, channels)


def read_believed(
    files: "FileCache", location: SampleLocation, size: tuple[int, int]
) -> Float32[np.ndarray, "height width"]:
    """1 where the flow is believed, else 0. Raises ValueError if the bytes are not the ones that
    were written.
    """
    with _name_sample_in_errors(location):
        confidence = _StoredArrays(files, location, size).read("confidence")
        return (confidence >= BELIEVED).astype(np.float32)


def read_pair(
    files: "FileCache", location: SampleLocation, fraction: float, size: tuple[int, int]
) -> _FramePair:
    """The later frame at `fraction` (0 <= fraction < 1) of the stored ones. Raises ValueError if
    there is none, or if the bytes are not the ones that were written.
    """
    with _name_sample_in_errors(location):
        arrays = _StoredArrays(files, location, size)
        if arrays.pair_count < 1:
            raise ValueError("it has no later frames, expected at least 1: extract with --pairs")
        number = int(fraction * arrays.pair_count)
        later_image = arrays.read("pair_image", number)
        return _FramePair(later_image, arrays.read("pair_flow", number), arrays.read("weight"))


@contextmanager
def _name_sample_in_errors(location: SampleLocation) -> Iterator[None]:
    """Turns whatever is wrong with a sample into a ValueError that names it and its shard."""
    try:
        yield
    except (
        AttributeError,
        KeyError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        cv2.error,
    ) as error:
        raise ValueError(
            f"sample {location.key!r} of {location.tar_path} cannot be read: {error}"
        ) from error


class _StoredArrays:
    """The arrays of a sample's motion member, each read when it is asked for."""

    def __init__(self, files: "FileCache", location: SampleLocation, size: tuple[int, int]):
        """Reads the headers only. Raises ValueError unless they are the ones that were written, for
        arrays of the working `size` (width, height).
        """
        self.file, (self.offset, length) = files[location.tar_path], location.motion_span
        self.file.check_range(self.offset, length)
        data = self._read_bytes(
            self.offset - BLOCKSIZE, BLOCKSIZE + min(length, 8 + _TYPICAL_HEADER_BYTES)
        )
        tar_header, header = data[:BLOCKSIZE], data[BLOCKSIZE:]
        check_member(tar_header, f"{location.key}.{MOTION_MEMBER}", length, length)
        header_bytes = header_length(header, min(length - 8, MAX_HEADER_BYTES))
        if len(header) < header_bytes:
            header = self._read_bytes(self.offset, header_bytes)
        if zlib.crc32(header[:header_bytes]) != location.checksums[1]:
            raise ValueError(f"the header of {MOTION_MEMBER} has other bytes than were written")
        self.layout = motion_layout(header, length)
        self.pair_count = self.layout.arrays["pair_time"]["shape"][0]
        self.array_specs = array_kinds(location.frequencies, self.pair_count, size)
        for name, (dtype, shape) in self.array_specs.items():
            array, expected = self.layout.arrays[name], (_DTYPE_NAMES[dtype], [*shape])
            if (array["dtype"], array["shape"]) != expected:
                actual = f"{array['dtype']}{array['shape']}"
                raise ValueError(f"{name} is {actual}, expected {expected[0]}{expected[1]}")

    def _read_bytes(self, offset: int, length: int) -> bytes:
        return self.file.read(offset, np.empty(length, np.uint8)).tobytes()

    def read(self, name: str, index: int = 0, into: np.ndarray | None = None) -> np.ndarray:
        """An array, or for one of CHUNKED_ARRAYS an entry of its first axis, in `into` if given.

        Raises ValueError unless the bytes match their checksum and all values are finite.
        """
        dtype, shape = self.array_specs[name]
        is_chunked = name in CHUNKED_ARRAYS
        values = np.empty(shape[is_chunked:], dtype) if into is None else into
        begin = self.offset + self.layout.data_offset + self.layout.arrays[name]["data_offsets"][0]
        data = self.file.read(begin + index * values.nbytes, values.reshape(-1).view(np.uint8))
        if zlib.crc32(array_bytes(data)) != self.layout.checksums[name][index]:
            part = f"entry {index} of {name}" if is_chunked else name
            raise ValueError(f"{part} has other bytes than were written")
        if not is_finite(values):
            raise ValueError(f"{name} has values that are not finite")
        return values


class FileCache:
    """The files that were read last, kept open. A spawned process opens its own; forked ones share
    them, since reads have explicit offsets.
    """

    def __init__(self, most: int = 32):
        self.most = most
        self.open_files: OrderedDict[Path, _OpenFile] = OrderedDict()

    def __reduce__(self):
        return FileCache, (self.most,)

    def __getitem__(self, path: Path) -> "_OpenFile":
        file = self.open_files.pop(path, None) or _OpenFile(path)
        self.open_files[path] = file
        if len(self.open_files) > self.most:
            self.open_files.popitem(last=False)
        return file


class _OpenFile:
    """A file descriptor that is closed when nobody holds it any more."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def check_range(self, offset: int, size: int) -> None:
        """Raises ValueError if these bytes are not in the file."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(
                f"{size} bytes from {offset} on are not in the file, which has {self.size}"
            )

    def read(self, offset: int, into: UInt8[np.ndarray, " size"]) -> UInt8[np.ndarray, " size"]:
        """Fills `into` with the bytes from `offset` on. Raises ValueError if it is too short."""
        self.check_range(offset, len(into))
        count = os.preadv(self.descriptor, [into.data], offset)
        if count != len(into):
            raise ValueError(f"only {count} of {len(into)} bytes from {offset} on are in the file")
        return into
