"""Frames by PyAV: after a seek by their time stamps, or counted from the beginning of the file."""

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
    """A frame that was asked for, or why there is none; `damage` says why its content may be wrong."""

    frame: VideoFrame | None
    damage: str | None


def find_frames(source: Source, indices: Sequence[int]) -> Iterator[_LocatedFrame]:
    """The frames of the file at `indices` (ascending), each whole, damaged, or missing.

    Raises Quarantined (truncated, not_media) if the file cannot be opened or demuxed any more.
    """
    return _find_by_time(source, indices) if source.is_seekable else _find_by_count(source, indices)


def _find_by_count(source: Source, indices: Sequence[int]) -> Iterator[_LocatedFrame]:
    """Frames by their place in the decoder's output from the beginning of the file."""
    with open_container(source.path) as container:
        output = enumerate(decode_frames(container))
        for ordinal in source.ordinals[list(indices)]:
            found = next((one for i, one in output if i == ordinal), None)
            yield (
                _LocatedFrame(found.frame, found.damage)
                if found
                else _LocatedFrame(None, MISSING_FRAME)
            )


def _find_by_time(source: Source, indices: Sequence[int]) -> Iterator[_LocatedFrame]:
    """Frames by their time stamps, from a seek on. Begins again one key frame earlier if there is a
    complaint about a frame before the second key frame: FFmpeg complains there of references to
    pictures that were not read, which a stream with open groups has.
    """
    done, earlier = 0, 0
    while done < len(indices):
        for found, is_first_group in _match_times(source, indices[done:], earlier):
            if found.damage and is_first_group and not earlier:
                earlier = 1
                break
            yield found
            done += 1


def _match_times(
    source: Source, indices: Sequence[int], earlier: int
) -> Iterator[tuple[_LocatedFrame, bool]]:
    """Each frame with whether it was decoded before the second key frame after a seek."""
    output = _decode_from(source, indices[0], earlier)
    one = next(output, None)
    for pts in source.pts[list(indices)]:
        while one is not None and (one.frame.pts is None or one.frame.pts < pts):
            one = next(output, None)
        if one is None or one.frame.pts != pts:
            yield _LocatedFrame(None, MISSING_FRAME), one is None or one.is_first_group
        else:
            yield _LocatedFrame(one.frame, one.damage), one.is_first_group


def _decode_from(source: Source, index: int, earlier: int = 0) -> Iterator[DecodedFrame]:
    """Frames from that one, or from `earlier` key frames before the one that it needs, or from an
    earlier one on. If nothing comes out in time, as in a gradual refresh or a container whose index
    is coarse, begins 1, 3, 7, ... key frames earlier, at last at the beginning of the file.
    """
    before = source.video.keyframes[source.video.keyframes <= index][::-1]
    latest = source.pts[before[min(earlier, len(before) - 1)] if earlier and len(before) else index]
    tried = [
        int(before[i]) for i in (2**n - 1 for n in range(len(before).bit_length())) if i >= earlier
    ]
    for start in (*tried, None):
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
    """RGB at `size` = (width, height), as shown; as decord would give it with scaling
    "decord".
    """
    image = to_rgb(frame, size, source.orientation, scaling)
    return undo_decord_rounding(image) if scaling == "decord" and source.is_limited_range else image


def seek(container: InputContainer, pts: int) -> None:
    """Goes to the key frame of that time stamp or the one before it.

    The first packet is decoded before: some encoders say only there by which rules a stream was
    made (x264 its build, on which the meaning of 4:4:4 depends), and a decoder remembers it.
    """
    stream = best_stream(container)
    with suppress(av.error.FFmpegError):
        for packet in islice(container.demux(stream), 1):
            packet.decode()
    container.seek(pts, stream=stream)
