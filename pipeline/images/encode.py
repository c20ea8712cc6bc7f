"""Pictures that move, as the bytes of one file: H.264 in mp4, VP9 in webm, animated gif and webp,
and png for a single picture.

Equal frames give equal bytes with one set of library versions. No frames are held: mp4 and webm are
written as they come; gif and webp, which need to know of all of them, keep them in a temporary file
meanwhile. Of a webp what has been compressed is in memory.
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
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops
from PIL.GifImagePlugin import getdata

from pipeline.atomic_files import sync_folder

TICKS_PER_SECOND = 90_000
"""Ticks per second of a frame's time: whole numbers of ticks at 24, 25, 30 and 50 frames a second.
"""
_BT709_CODE, _LIMITED_RANGE_CODE = 1, 1
"""Codes of the colour space in H.264, and of its range: grey from 16 to 235."""
_PALETTE_FRAMES = 16
"""Frames, spread over a gif, from which its palette is made."""

_TEMPORARY_PREFIX = ".quiver-"
"""How the names of temporary folders begin."""

_Picture = UInt8[np.ndarray, "height width 3"]


class _Codec(NamedTuple):
    """A kind of film: its container, its encoder and what that is told."""

    container: str
    name: str
    options: dict[str, str]


X264 = _Codec("mp4", "libx264", {"crf": "14", "preset": "fast"})
_VP9 = _Codec(
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
"""What each encoder is told beside a film's options, so that equal frames give equal bytes and come
in order: of x264 the macroblock tree reads memory that it never wrote; VP9's bits do not depend on
its threads.
"""


class TimedFrame(NamedTuple):
    """A frame of a film, with its presentation time and its duration in ticks of CLOCK."""

    image: _Picture
    pts: int
    duration: int


def encode_animation(frames: Iterable[_Picture], fps: float, suffix: str) -> bytes:
    """A file of the kind that `suffix` names (ENCODERS), shown at `fps` frames a second; gif and
    webp repeat for ever.

    An mp4 or webm of odd size repeats its last column or row. Raises ValueError for an unknown
    suffix, for a rate that the kind of file cannot have, where there is no frame, frames differ in
    size, or a png is asked of more than one.
    """
    with tempfile.TemporaryDirectory(prefix="quiver-") as folder:
        return _write_into_folder(Path(folder), frames, fps, suffix).read_bytes()


def write_animation(path: Path, frames: Iterable[_Picture], fps: float) -> int:
    """Writes such a file, whole or not at all, over an older one; returns how many bytes. Raises as
    `encode` does, and OSError naming `path`.
    """
    with _temporary_folder_beside(path) as folder:
        made = _write_into_folder(folder, frames, fps, path.suffix.lower())
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        made.replace(path)
        sync_folder(path.absolute().parent)
        return path.stat().st_size


def _write_into_folder(folder: Path, frames: Iterable[_Picture], fps: float, suffix: str) -> Path:
    """Such a file in a folder."""
    _check_suffix(suffix)
    if not (isfinite(fps) and 0 < fps <= MAX_FPS[suffix]):
        raise ValueError(
            f"fps is {fps:g}, expected more than 0 and at most {MAX_FPS[suffix]} for {suffix}"
        )
    made = folder / f"made{suffix}"
    ENCODERS[suffix](made, _require_one_size(frames), fps)
    return made


def write_pictures(folder: Path, frames: Iterable[_Picture]) -> int:
    """Writes frame-0000.png and so on into a folder that is there whole or not at all; returns how
    many bytes. Raises OSError where there are files in it.
    """
    with _temporary_folder_beside(folder) as room:
        made = room / "pictures"
        made.mkdir()
        for number, frame in enumerate(_require_one_size(frames)):
            Image.fromarray(frame).save(made / f"frame-{number:04}.png", compress_level=3)
        size = sum(path.stat().st_size for path in made.iterdir())
        made.replace(folder)
        return size


@contextmanager
def _temporary_folder_beside(path: Path) -> Iterator[Path]:
    """A folder beside `path`, from which a file can be moved there, gone at the end. An OSError
    from writing in it names `path`.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix=_TEMPORARY_PREFIX, dir=path.absolute().parent
        ) as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno is None or _TEMPORARY_PREFIX not in str(
            error.filename or _TEMPORARY_PREFIX
        ):  # of something else that was done meanwhile
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _check_suffix(suffix: str) -> None:
    """Raises ValueError, naming the suffixes there are, unless `encode` knows this one."""
    if suffix not in ENCODERS:
        raise ValueError(f"suffix is {suffix!r}, expected one of {', '.join(ENCODERS)}")


def _require_one_size(frames: Iterable[_Picture]) -> Iterator[_Picture]:
    """The same frames. Raises ValueError at the first of another size than those before, or where
    there is none.
    """
    shape = None
    for number, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(
                f"frame {number} is {frame.shape[1]}x{frame.shape[0]}, expected {shape[1]}x{shape[0]} as those before it"
            )
        yield frame
    if shape is None:
        raise ValueError("there are 0 frames, expected at least 1")


def _encode_film(path: Path, frames: Iterator[_Picture], fps: float, codec: _Codec) -> None:
    write_film(
        path,
        time_frames(map(pad_to_even, frames), fps),
        codec,
        rate=Fraction(fps).limit_denominator(1001),
        index_first=True,
    )


def time_frames(frames: Iterable[_Picture], fps: float) -> Iterator[TimedFrame]:
    """Each frame at its time, to the nearest tick."""
    for number, frame in enumerate(frames):
        begin, end = (round(i * TICKS_PER_SECOND / fps) for i in (number, number + 1))
        yield TimedFrame(frame, begin, end - begin)


def pad_to_even(image: _Picture) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture with its last column or row twice where their number is odd: yuv420p has one
    colour for 2 x 2 pixels.
    """
    height, width = image.shape[:2]
    return (
        np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if height % 2 or width % 2
        else image
    )


def write_h264(
    path: Path,
    frames: Iterable[TimedFrame],
    *,
    rate: Fraction | int,
    options: dict[str, str],
    index_first: bool,
) -> None:
    """Writes an mp4 (`write_film`); `options` are x264's.

    One thread, and no B-frames: presentation order is decoding order, and the file needs no edit
    list. With the index at its beginning a browser shows the first frame before it has the last; at
    its end it is written as it grows.
    """
    write_film(path, frames, X264._replace(options=options), rate=rate, index_first=index_first)


def encode_h264(
    frames: Iterable[TimedFrame], *, rate: Fraction | int, options: dict[str, str]
) -> bytes:
    """Such an mp4, its index first."""
    with tempfile.TemporaryDirectory(prefix="quiver-") as folder:
        path = Path(folder) / "film.mp4"
        write_h264(path, frames, rate=rate, options=options, index_first=True)
        return path.read_bytes()


def write_film(
    path: Path,
    frames: Iterable[TimedFrame],
    codec: _Codec,
    *,
    rate: Fraction | int,
    index_first: bool,
) -> None:
    """Writes frames of one even size, BT.709, as they come. The same bytes each time."""
    mp4 = {"movflags": "faststart"} if index_first else {}
    webm = {"fflags": "bitexact"}  # else it has an identifier that is drawn by chance
    with av.open(
        os.path.abspath(path),
        "w",
        format=codec.container,
        options=mp4 if codec.container == "mp4" else webm,
    ) as file:
        stream = None
        for image, pts, duration in frames:
            stream = stream or _add_stream(file, image, rate, codec)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.pts, frame.duration, frame.time_base = (
                pts,
                duration,
                Fraction(1, TICKS_PER_SECOND),
            )
            file.mux(stream.encode(frame))
        if stream is not None:
            file.mux(stream.encode())


def _add_stream(file: Any, image: _Picture, rate: Fraction | int, codec: _Codec) -> Any:
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


class _SpooledFrames(Image.Image):
    """Frames in a file as one picture of many frames, of which it holds the current one. Raises
    OSError where they do not fit.
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
        shown = Image.fromarray(self.read_frame(frame))
        self._mode, self._size, self.im, self.current = shown.mode, shown.size, shown.im, frame

    def tell(self) -> int:
        return self.current


def _encode_gif(path: Path, frames: Iterator[_Picture], fps: float) -> None:
    """One palette for all frames, so that what stands still does not flicker; times in hundredths
    of a second.
    """
    kept = _SpooledFrames(path.with_name("frames"), frames)
    some = [
        kept.read_frame(i)
        for i in np.linspace(0, kept.n_frames - 1, _PALETTE_FRAMES).astype(int).tolist()
    ]
    palette = Image.fromarray(np.concatenate(some)).quantize(
        256, Image.Quantize.FASTOCTREE
    )  # median cut drops colours that are rare
    quantised = (
        Image.fromarray(kept.read_frame(i)).quantize(
            palette=palette, dither=Image.Dither.FLOYDSTEINBERG
        )
        for i in range(kept.n_frames)
    )
    with path.open("xb") as file:
        for part in _gif_chunks(
            _changed_rectangles(quantised, _frame_durations(kept.n_frames, fps, 100))
        ):
            file.write(part)


def _changed_rectangles(
    images: Iterator[Image.Image], ticks: list[int]
) -> Iterator[tuple[Image.Image, tuple[int, int], int]]:
    """The first picture, and of each later one the rectangle that has changed; with its corner, and
    how long it is shown. Equal ones are one.
    """
    before = next(images)
    waiting, corner, shown = before, (0, 0), ticks[0]
    for image, more in zip(images, ticks[1:], strict=True):
        box = ImageChops.subtract_modulo(image, before).getbbox()  # of numbers of colours
        if box is None:
            shown += more
            continue
        yield waiting, corner, shown
        before, waiting, corner, shown = image, image.crop(box), box[:2], more
    yield waiting, corner, shown


def _gif_chunks(pictures: Iterable[tuple[Image.Image, tuple[int, int], int]]) -> Iterator[bytes]:
    """A gif of pictures of one palette: Pillow's of the first, and the others in front of its last
    byte, which says that it ends. Each stays till it is covered.
    """
    for number, (image, corner, ticks) in enumerate(pictures):
        if number:
            yield b"".join(getdata(image, corner, duration=10 * ticks, disposal=1))
        else:
            buffer = io.BytesIO()
            image.save(
                buffer,
                "gif",
                duration=10 * ticks,
                loop=0,
                optimize=False,
                interlace=False,
                disposal=1,
            )
            yield buffer.getvalue().removesuffix(b";")
    yield b";"


def _encode_webp(path: Path, frames: Iterator[_Picture], fps: float) -> None:
    kept = _SpooledFrames(path.with_name("frames"), frames)
    kept.save(
        path,
        "webp",
        save_all=True,
        duration=_frame_durations(kept.n_frames, fps, 1000),
        loop=0,
        quality=85,
        method=3,
    )


def _frame_durations(count: int, fps: float, clock: int) -> list[int]:
    """How long each frame is shown, in whole ticks, such that rounding does not add up."""
    return np.diff([round(i * clock / fps) for i in range(count + 1)]).tolist()


def _encode_png(path: Path, frames: Iterator[_Picture], fps: float) -> None:  # noqa: ARG001 - a picture has no rate
    image, more = next(frames), next(frames, None)
    if more is not None:
        raise ValueError(
            "there are several frames, expected 1 for .png; .mp4, .webm, .gif and .webp move"
        )
    Image.fromarray(image).save(path, "png")


ENCODERS: dict[str, Callable[[Path, Iterator[_Picture], float], None]] = {
    ".mp4": partial(_encode_film, codec=X264),
    ".webm": partial(_encode_film, codec=_VP9),
    ".gif": _encode_gif,
    ".webp": _encode_webp,
    ".png": _encode_png,
}
"""What writes each kind of file, by its suffix; files beside it are its own."""
MAX_FPS = {".mp4": 1000, ".webm": 1000, ".gif": 50, ".webp": 1000, ".png": 1000}
"""Frames a second at most: browsers slow down a gif whose frames last less than two hundredths of a
second.
"""
