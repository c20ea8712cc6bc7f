"""Reads frames with decord, and counts the errors of its FFmpeg, since decord reports no damage.

decord's threads decode ahead of what is requested, so that an error may be about a frame far ahead.
It is a reason to look closer, not a verdict.
"""

import atexit
import ctypes
import io
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.decode.container import HARMLESS_PREFIXES, best_stream, open_container
from pipeline.decode.media_file import Source
from pipeline.decode.picture import Image, undo_decord_rounding
from pipeline.decode.pyav_reader import seek
from schemas.clip import FileSignature
from schemas.outcome import Quarantined

_CHUNK_FRAMES = 16
"""Frames that are requested from decord at a time."""
_MAX_READER_USES = 8
"""Requests that one decord reader serves: it takes more memory the longer it is used."""
_AV_LOG_ERROR = 16
"""FFmpeg's AV_LOG_ERROR: messages of this level and lower ones are errors."""
_CONCEALMENT_PREFIX = b"concealing"
"""Beginning of the message, of a higher level, that a part of a picture was made up."""
_HARMLESS_BYTE_PREFIXES = (
    *(text.encode() for text in HARMLESS_PREFIXES),
    b"mmco: unref short failure",
)
"""Beginnings of errors that do not count. The last one comes after a seek into an open group, if a
picture is to be forgotten that was never read; if that picture is missed, FFmpeg reports more.
"""


class DecordFailed(Exception):
    """decord returned no frames, or its FFmpeg reported an error."""


class _ErrorCounter:
    """Counts the errors that decord's own FFmpeg reports, and the pictures that it makes up in
    part. They are no longer printed.
    """

    def __init__(self):
        self.count = 0
        callback = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        )
        self.callback = callback(self._log)
        for path in _bundled_libraries("libavutil"):
            library = ctypes.CDLL(str(path))
            library.av_log_set_callback(self.callback)
            atexit.register(library.av_log_set_callback, library.av_log_default_callback)

    def _log(self, _context, level: int, text: bytes, _arguments) -> None:
        if level <= _AV_LOG_ERROR:
            self.count += not text.startswith(_HARMLESS_BYTE_PREFIXES)
        else:
            self.count += text.startswith(_CONCEALMENT_PREFIX)


def is_decord_installed() -> bool:
    """Whether this machine has decord, which has no wheels for ARM."""
    return find_spec("decord") is not None


def decord_name() -> str:
    """Name and version of decord."""
    return f"decord {version('decord')}"


def _bundled_libraries(name: str) -> list[Path]:
    """The libraries of that name that decord's wheel contains."""
    spec = find_spec("decord")
    if spec is None or not spec.origin:
        return []
    return list((Path(spec.origin).parents[1] / "decord.libs").glob(f"{name}*"))


@lru_cache(1)
def _shared_error_counter() -> _ErrorCounter:
    """The one counter of this process."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return _ErrorCounter()


class DecordReader:
    """decord's reader of one file, whose images are scaled to `size` = (width, height). If the
    video has limited range, decord's rounding is undone. Every method raises DecordFailed.
    """

    def __init__(self, file: str | io.BytesIO, size: tuple[int, int], limited: bool):
        import decord

        self.is_limited_range = limited
        self.errors = (decord.DECORDError, RuntimeError, AssertionError, IndexError, ValueError)
        self.error_counter = _shared_error_counter()
        self.errors_before = self.error_counter.count
        self.reader: Any = self._call(
            lambda: decord.VideoReader(file, width=size[0], height=size[1], num_threads=1)
        )

    def read_times(self) -> np.ndarray:
        """Presentation time of each frame, seconds."""
        return self._call(
            lambda: self.reader.get_frame_timestamp(list(range(len(self.reader))))[:, 0]
        )

    def read_images(self, indices: Sequence[int]) -> Iterator[Image]:
        """The frames at `indices` (ascending), after a seek to the first of them."""
        self._call(lambda: self.reader.seek_accurate(int(indices[0])))
        for start in range(0, len(indices), _CHUNK_FRAMES):
            for image in self._decode([int(i) for i in indices[start : start + _CHUNK_FRAMES]]):
                yield undo_decord_rounding(image) if self.is_limited_range else image

    def _decode(self, indices: list[int]) -> np.ndarray:
        """These frames, unless an error was reported since the reader was opened: its threads go on
        between two calls.
        """
        images = self._call(lambda: self.reader.get_batch(indices).asnumpy())
        if self.error_counter.count > self.errors_before:
            raise DecordFailed("decord reports an error")
        return images

    def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except self.errors as error:  # its messages carry paths and clock times
            raise DecordFailed(f"decord gave up ({type(error).__name__})") from error


def read_decord_images(
    source: Source, indices: Sequence[int], cover: tuple[int, int]
) -> list[Image]:
    """The frames at `indices`, scaled to `cover` = (width, height), with a reader that is kept for
    the next call. Raises DecordFailed.
    """
    if _shared_reader.cache_info().hits > _MAX_READER_USES:
        _shared_reader.cache_clear()
    try:
        return list(
            _shared_reader(
                source.path, source.video.signature, cover, source.is_limited_range
            ).read_images(indices)
        )
    except DecordFailed:
        _shared_reader.cache_clear()
        raise


@lru_cache(1)
def _shared_reader(
    path: str,
    signature: FileSignature,  # noqa: ARG001 - part of the cache's key
    cover: tuple[int, int],
    limited: bool,
) -> DecordReader:
    """One reader for all requests for a file, since opening reads its whole index."""
    return DecordReader(path, cover, limited)


atexit.register(_shared_reader.cache_clear)  # its threads must not outlive the interpreter


def read_excerpt_images(
    source: Source, indices: Sequence[int], cover: tuple[int, int]
) -> list[Image]:
    """The same frames, from a copy in memory of only the packets that they need. Errors that decord
    meets beyond them, depending on how fast its threads run, then cannot change the outcome.

    Raises DecordFailed.
    """
    first = int(source.video.keyframes[source.video.keyframes <= indices[0]][-1])
    excerpt = _write_excerpt(source, first, int(indices[-1]))
    reader = DecordReader(excerpt, cover, source.is_limited_range)
    return list(reader.read_images([int(i) - first for i in indices]))


def _write_excerpt(source: Source, first: int, last: int) -> io.BytesIO:
    """A file with the packets from key frame `first` on that the frames up to `last` need.

    Raises DecordFailed if their container cannot be written.
    """
    copy, needed = io.BytesIO(), last - first + 1
    try:
        with open_container(source.path) as container:
            seek(container, int(source.pts[first]))
            stream = best_stream(container)
            format_name = "matroska" if "matroska" in container.format.name else "mov"
            with av.open(copy, "w", format=format_name) as target:
                output = target.add_stream_from_template(stream)
                output.metadata.update(stream.metadata)
                for packet in container.demux(stream):
                    if packet.size == 0 or needed == 0:
                        break
                    if packet.pts is None or packet.pts < source.pts[first]:
                        continue
                    needed -= packet.pts <= source.pts[last]
                    packet.stream = output
                    target.mux(packet)
    except (
        Quarantined,
        ValueError,
    ) as error:  # open_container turns FFmpeg's errors into Quarantined
        raise DecordFailed("decord cannot be given a part of the file") from error
    copy.seek(0)
    return copy
