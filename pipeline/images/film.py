"""Encodes films: H.264 in mp4 and VP9 in webm.

Frames are written as they come. Equal frames give equal bytes with one set of library versions.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import UInt8

_Picture = UInt8[np.ndarray, "height width 3"]

TICKS_PER_SECOND = 90_000
"""The unit of presentation times: a frame lasts whole ticks at 24, 25, 30 and 50 frames a second.
"""
_BT709_CODE, _LIMITED_RANGE_CODE = 1, 1
"""Codes of the color space in H.264, and of its range, where gray is 16 to 235."""


class Codec(NamedTuple):
    """A container, an encoder and its options."""

    container: str
    name: str
    options: dict[str, str]


X264 = Codec("mp4", "libx264", {"crf": "14", "preset": "fast"})
VP9 = Codec(
    "webm",
    "libvpx-vp9",
    {
        "crf": "20",
        "b": "0",
        "deadline": "good",
        "cpu-used": "4",
        "row-mt": "1",
        "lag-in-frames": "0",
    },
)
DETERMINISTIC_OPTIONS = {
    "libx264": {"bf": "0", "threads": "1", "mbtree": "0"},
    "libvpx-vp9": {"threads": "4"},
}
"""Options of each encoder that make equal frames give equal bytes, in order: x264's macroblock tree
reads memory that it never wrote; VP9's bits do not depend on its number of threads.
"""


class TimedFrame(NamedTuple):
    """A frame with its presentation time and its duration in ticks (TICKS_PER_SECOND)."""

    image: _Picture
    pts: int
    duration: int


def time_frames(frames: Iterable[_Picture], fps: float) -> Iterator[TimedFrame]:
    """Frames at a constant rate, each at its time rounded to the nearest tick."""
    for number, frame in enumerate(frames):
        begin, end = (round(i * TICKS_PER_SECOND / fps) for i in (number, number + 1))
        yield TimedFrame(frame, begin, end - begin)


def pad_to_even(image: _Picture) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture with its last row or column repeated if their number is odd, because yuv420p has
    one color for 2 x 2 pixels.
    """
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write_h264(
    path: Path,
    frames: Iterable[TimedFrame],
    *,
    rate: Fraction | int,
    options: dict[str, str],
    index_first: bool,
) -> None:
    """Writes an mp4 (`write_film`); `options` are x264's.

    It has no B-frames, so presentation order is decoding order, and the file needs no edit list.
    With the index first a browser can show the first frame before it has the last; with the index
    last the file is written as it grows.
    """
    write_film(path, frames, X264._replace(options=options), rate=rate, index_first=index_first)


def encode_h264(
    frames: Iterable[TimedFrame], *, rate: Fraction | int, options: dict[str, str]
) -> bytes:
    """The bytes of an mp4 whose index is first (`write_h264`)."""
    with tempfile.TemporaryDirectory(prefix="quiver-") as folder:
        path = Path(folder) / "film.mp4"
        write_h264(path, frames, rate=rate, options=options, index_first=True)
        return path.read_bytes()


def write_film(
    path: Path,
    frames: Iterable[TimedFrame],
    codec: Codec,
    *,
    rate: Fraction | int,
    index_first: bool,
) -> None:
    """Writes frames of one even size in BT.709 as they come; the same bytes each time."""
    mp4 = {"movflags": "faststart"} if index_first else {}
    webm = {"fflags": "bitexact"}  # without it the file gets a random identifier
    options = mp4 if codec.container == "mp4" else webm
    with av.open(os.path.abspath(path), "w", format=codec.container, options=options) as file:
        stream = None
        for image, pts, duration in frames:
            stream = stream or _add_stream(file, image, rate, codec)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.pts, frame.duration = pts, duration
            frame.time_base = Fraction(1, TICKS_PER_SECOND)
            file.mux(stream.encode(frame))
        if stream is not None:
            file.mux(stream.encode())


def _add_stream(file: Any, image: _Picture, rate: Fraction | int, codec: Codec) -> Any:
    height, width = image.shape[:2]
    stream = file.add_stream(
        codec.name,
        rate=rate,
        width=width,
        height=height,
        pix_fmt="yuv420p",
        options=codec.options | DETERMINISTIC_OPTIONS[codec.name],
    )
    context = stream.codec_context
    context.time_base = stream.time_base = Fraction(1, TICKS_PER_SECOND)
    context.colorspace = context.color_primaries = context.color_trc = _BT709_CODE
    context.color_range = _LIMITED_RANGE_CODE
    return stream
