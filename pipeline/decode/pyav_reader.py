"""Reads frames with PyAV, by time stamp after a seek or counted from the file's beginning."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import NamedTuple

import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame

from pipeline.decode.container import DecodedFrame, best_stream, decode_frames, open_container
from pipeline.decode.media_file import Source
from pipeline.decode.picture import Image, Scaling, to_rgb, undo_decord_rounding

MISSING_FRAME = "the decoder gives no frame there"


class _LocatedFrame(NamedTuple):
    """A requested frame."""

    frame: VideoFrame | None
    """None if it is missing."""
    damage: str | None
    """Why its content may be wrong, or why it is missing."""


def find_frames(source: Source, indices: Sequence[int]) -> Iterator[_LocatedFrame]:
    """The frames of the file at `indices` (ascending), each intact, damaged or missing.

    Raises Quarantined (truncated, not_media) if the file cannot be opened or demuxed any more.
    """
    return _find_by_time(source, indices) if source.is_seekable else _find_by_count(source, indices)


def _find_by_count(source: Source, indices: Sequence[int]) -> Iterator[_LocatedFrame]:
    """Frames by their position in the decoder's output from the beginning of the file."""
    with open_container(source.path) as container:
        output = enumerate(decode_frames(container))
        for ordinal in source.ordinals[list(indices)]:
            decoded = next((decoded for i, decoded in output if i == ordinal), None)
            if decoded is None:
                yield _LocatedFrame(None, MISSING_FRAME)
            else:
                yield _LocatedFrame(decoded.frame, decoded.damage)


def _find_by_time(source: Source, indices: Sequence[int]) -> Iterator[_LocatedFrame]:
    """Frames by their time stamps after a seek.

    If a frame before the second key frame seems damaged, the search starts again one key frame
    earlier: in a stream with open groups FFmpeg reports references there to frames that were not
    read.
    """
    done, earlier = 0, 0
    while done < len(indices):
        for located, is_first_group in _match_times(source, indices[done:], earlier):
            if located.damage and is_first_group and not earlier:
                earlier = 1
                break
            yield located
            done += 1


def _match_times(
    source: Source, indices: Sequence[int], earlier: int
) -> Iterator[tuple[_LocatedFrame, bool]]:
    """Each frame, and whether it was decoded before the second key frame after the seek."""
    output = _decode_from(source, indices[0], earlier)
    decoded = next(output, None)
    for pts in source.pts[list(indices)]:
        while decoded is not None and (decoded.frame.pts is None or decoded.frame.pts < pts):
            decoded = next(output, None)
        if decoded is None or decoded.frame.pts != pts:
            yield _LocatedFrame(None, MISSING_FRAME), decoded is None or decoded.is_first_group
        else:
            yield _LocatedFrame(decoded.frame, decoded.damage), decoded.is_first_group


def _decode_from(source: Source, index: int, earlier: int = 0) -> Iterator[DecodedFrame]:
    """Decoded frames that begin at frame `index`, or at most there.

    The seek goes to the key frame that the frame needs, or `earlier` key frames before it. If the
    first frame that comes out is too late, as in a gradual refresh or with a coarse index of the
    container, it goes 1, 3, 7, ... key frames back, and finally to the beginning of the file.
    """
    before = source.video.keyframes[source.video.keyframes <= index][::-1]
    latest = source.pts[before[min(earlier, len(before) - 1)] if earlier and len(before) else index]
    steps = (2**n - 1 for n in range(len(before).bit_length()))
    for start in (*(int(before[i]) for i in steps if i >= earlier), None):
        with open_container(source.path) as container:
            if start is not None:
                seek(container, int(source.pts[start]))
            output = decode_frames(container)
            first = next(output, None)
            if start is None or (
                first is not None and first.frame.pts is not None and first.frame.pts <= latest
            ):
                yield from chain([first] if first else [], output)
                return


def to_image(frame: VideoFrame, source: Source, size: tuple[int, int], scaling: Scaling) -> Image:
    """RGB of `size` = (width, height), oriented as it is shown. Scaling "decord" gives the image
    that decord's reader would.
    """
    image = to_rgb(frame, size, source.orientation, scaling)
    return undo_decord_rounding(image) if scaling == "decord" and source.is_limited_range else image


def seek(container: InputContainer, pts: int) -> None:
    """Seeks to the key frame of that time stamp or the last one before it.

    The first packet is decoded before that: some encoders tell only there how the stream was made
    (x264 its build, on which the meaning of 4:4:4 depends), and the decoder remembers it.
    """
    stream = best_stream(container)
    with suppress(av.error.FFmpegError):
        for packet in islice(container.demux(stream), 1):
            packet.decode()
    container.seek(pts, stream=stream)
