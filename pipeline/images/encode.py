"""Encodes frames as a file: mp4 or webm (film.py), animated gif or webp, or png for one picture.

Equal frames give equal bytes with one set of library versions. Frames are not held in memory: mp4
and webm are written as frames come; gif and webp need all frames first, and keep them in a
temporary file. Only the compressed frames of a webp are in memory.
"""

import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops
from PIL.GifImagePlugin import getdata

from pipeline.atomic_files import sync_folder
from pipeline.images.film import VP9, X264, Codec, pad_to_even, time_frames, write_film

_PALETTE_FRAMES = 16
"""Frames, spread over a gif, from which its palette is computed."""
_TEMPORARY_PREFIX = ".quiver-"
"""Prefix of the names of temporary folders."""
_Picture = UInt8[np.ndarray, "height width 3"]


def encode_animation(frames: Iterable[_Picture], fps: float, suffix: str) -> bytes:
    """Encodes frames as a file of the kind that `suffix` names (a key of ENCODERS), shown at `fps`
    frames a second; gif and webp repeat without end.

    An mp4 or webm of odd size repeats its last column or row. Raises ValueError for an unknown
    suffix, for a rate that the kind of file cannot have, if there is no frame, if frames differ in
    size, or if there are several frames for a png.
    """
    with tempfile.TemporaryDirectory(prefix="quiver-") as folder:
        return _write_into_folder(Path(folder), frames, fps, suffix).read_bytes()


def write_animation(path: Path, frames: Iterable[_Picture], fps: float) -> int:
    """Writes frames to `path`, the suffix of which names the kind of file, completely or not at
    all; replaces an existing file. Returns the number of bytes.

    Raises ValueError as `encode_animation` does, and OSError naming `path`.
    """
    with _temporary_folder_beside(path) as folder:
        temporary = _write_into_folder(folder, frames, fps, path.suffix.lower())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.absolute().parent)
        return path.stat().st_size


def _write_into_folder(folder: Path, frames: Iterable[_Picture], fps: float, suffix: str) -> Path:
    """Writes a file into a temporary folder, and returns its path."""
    if suffix not in ENCODERS:
        raise ValueError(f"suffix is {suffix!r}, expected one of {', '.join(ENCODERS)}")
    if not (isfinite(fps) and 0 < fps <= MAX_FPS[suffix]):
        raise ValueError(
            f"fps is {fps:g}, expected more than 0 and at most {MAX_FPS[suffix]} for {suffix}"
        )
    path = folder / f"made{suffix}"
    ENCODERS[suffix](path, _require_one_size(frames), fps)
    return path


def write_pictures(folder: Path, frames: Iterable[_Picture]) -> int:
    """Writes frame-0000.png and so on into `folder`, which is created completely or not at all;
    returns the number of bytes. Raises OSError if there are files in it.
    """
    with _temporary_folder_beside(folder) as temporary:
        pictures = temporary / "pictures"
        pictures.mkdir()
        for number, frame in enumerate(_require_one_size(frames)):
            Image.fromarray(frame).save(pictures / f"frame-{number:04}.png", compress_level=3)
        size = sum(path.stat().st_size for path in pictures.iterdir())
        pictures.replace(folder)
        return size


@contextmanager
def _temporary_folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, from which a file can be moved there. An OSError of writing
    into it names `path`.
    """
    parent = path.absolute().parent
    try:
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY_PREFIX, dir=parent) as folder:
            yield Path(folder)
    except OSError as error:
        name = str(error.filename or _TEMPORARY_PREFIX)
        if error.errno is None or _TEMPORARY_PREFIX not in name:  # the frames' source failed
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _require_one_size(frames: Iterable[_Picture]) -> Iterator[_Picture]:
    """The same frames. Raises ValueError at a frame of another size, or if there is no frame."""
    shape = None
    for number, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(
                f"frame {number} is {frame.shape[1]}x{frame.shape[0]},"
                f" expected {shape[1]}x{shape[0]} as those before it"
            )
        yield frame
    if shape is None:
        raise ValueError("there are 0 frames, expected at least 1")


def _encode_film(path: Path, frames: Iterator[_Picture], fps: float, codec: Codec) -> None:
    write_film(
        path,
        time_frames(map(pad_to_even, frames), fps),
        codec,
        rate=Fraction(fps).limit_denominator(1001),
        index_first=True,
    )


def encoded_size(image: _Picture, suffix: str) -> tuple[int, int]:
    """Width and height of frames like this one in a file of that kind: those of films are even."""
    padded = pad_to_even(image) if suffix in (".mp4", ".webm") else image
    return padded.shape[1], padded.shape[0]


class _SpooledFrames(Image.Image):
    """Frames in a temporary file as one multi-frame picture, which holds only the current frame.
    Raises OSError if the disk is full.
    """

    def __init__(self, path: Path, frames: Iterator[_Picture]):
        self.path, self.n_frames, self.current = path, 0, 0
        with path.open("xb") as file:
            for frame in frames:
                self.n_frames, self.shape = self.n_frames + 1, frame.shape
                file.write(np.ascontiguousarray(frame).data)
        super().__init__()
        self.seek(0)

    def read_frame(self, number: int) -> _Picture:
        size = int(np.prod(self.shape))
        return np.fromfile(self.path, np.uint8, size, offset=number * size).reshape(self.shape)

    def seek(self, frame: int) -> None:
        image = Image.fromarray(self.read_frame(frame))
        self._mode, self._size, self.im, self.current = image.mode, image.size, image.im, frame

    def tell(self) -> int:
        return self.current


def _encode_gif(path: Path, frames: Iterator[_Picture], fps: float) -> None:
    """All frames have the same palette, so that what stands still does not flicker. Durations are
    in hundredths of a second.
    """
    spooled = _SpooledFrames(path.with_name("frames"), frames)
    numbers = np.linspace(0, spooled.n_frames - 1, _PALETTE_FRAMES).astype(int).tolist()
    examples = np.concatenate([spooled.read_frame(number) for number in numbers])
    # median cut would drop rare colors
    palette = Image.fromarray(examples).quantize(256, Image.Quantize.FASTOCTREE)
    quantized = (
        Image.fromarray(spooled.read_frame(number)).quantize(
            palette=palette, dither=Image.Dither.FLOYDSTEINBERG
        )
        for number in range(spooled.n_frames)
    )
    durations = _frame_durations(spooled.n_frames, fps, 100)
    with path.open("xb") as file:
        for chunk in _gif_chunks(_changed_rectangles(quantized, durations)):
            file.write(chunk)


class _Patch(NamedTuple):
    """A part of an animation's frame, which covers those before it."""

    image: Image.Image
    corner: tuple[int, int]
    """Its left and top in the frame."""
    duration: int
    """How long it is shown before the next patch."""


def _changed_rectangles(images: Iterator[Image.Image], durations: list[int]) -> Iterator[_Patch]:
    """The first picture, and of each later one the rectangle that has changed. Equal pictures are
    merged into one of their total duration.
    """
    previous = next(images)
    patch = _Patch(previous, (0, 0), durations[0])
    for image, duration in zip(images, durations[1:], strict=True):
        box = ImageChops.subtract_modulo(image, previous).getbbox()  # compares palette indices
        if box is None:
            patch = patch._replace(duration=patch.duration + duration)
            continue
        yield patch
        previous, patch = image, _Patch(image.crop(box), box[:2], duration)
    yield patch


def _gif_chunks(patches: Iterable[_Patch]) -> Iterator[bytes]:
    """The bytes of a gif of patches of one palette: Pillow's gif of the first, with the others
    before its last byte, the trailer. Each patch stays until it is covered.
    """
    for number, (image, corner, duration) in enumerate(patches):
        if number:
            yield b"".join(getdata(image, corner, duration=10 * duration, disposal=1))
        else:
            buffer = io.BytesIO()
            image.save(
                buffer,
                "gif",
                duration=10 * duration,
                loop=0,
                optimize=False,
                interlace=False,
                disposal=1,
            )
            yield buffer.getvalue().removesuffix(b";")
    yield b";"


def _encode_webp(path: Path, frames: Iterator[_Picture], fps: float) -> None:
    spooled = _SpooledFrames(path.with_name("frames"), frames)
    spooled.save(
        path,
        "webp",
        save_all=True,
        duration=_frame_durations(spooled.n_frames, fps, 1000),
        loop=0,
        quality=85,
        method=3,
    )


def _frame_durations(count: int, fps: float, ticks_per_second: int) -> list[int]:
    """Durations of frames in whole ticks, such that rounding errors do not add up."""
    return np.diff([round(i * ticks_per_second / fps) for i in range(count + 1)]).tolist()


def _encode_png(path: Path, frames: Iterator[_Picture], fps: float) -> None:  # noqa: ARG001 - a picture has no rate
    image, second = next(frames), next(frames, None)
    if second is not None:
        raise ValueError(
            "there are several frames, expected 1 for .png; .mp4, .webm, .gif and .webp move"
        )
    Image.fromarray(image).save(path, "png")


ENCODERS: dict[str, Callable[[Path, Iterator[_Picture], float], None]] = {
    ".mp4": partial(_encode_film, codec=X264),
    ".webm": partial(_encode_film, codec=VP9),
    ".gif": _encode_gif,
    ".webp": _encode_webp,
    ".png": _encode_png,
}
"""The function that writes each kind of file, by its suffix. It may leave files beside its path."""
MAX_FPS = {".mp4": 1000, ".webm": 1000, ".gif": 50, ".webp": 1000, ".png": 1000}
"""The highest frame rate of each kind of file. Browsers slow down a gif whose frames last less than
two hundredths of a second.
"""
