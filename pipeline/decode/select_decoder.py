"""Which decoder reads a file: decord if it returns the frames that PyAV returns, else PyAV.

decord is faster and is wrong about more files than one would think
(docs/decisions/0001-container-and-decoder.md). What is known of it is asked of the container first;
then its frames are compared with PyAV's at the start, after a seek to the middle, and at the end.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from pipeline.decode.config import DecodeConfig
from pipeline.decode.container import best_stream, codec_name
from pipeline.decode.decord_reader import (
    DecordFailed,
    DecordReader,
    decord_name,
    is_decord_installed,
    read_excerpt_images,
)
from pipeline.decode.media_file import PacketInfo, Source
from pipeline.decode.picture import Image, cover_size, is_unlabeled_hd
from pipeline.decode.pyav_reader import find_frames, to_image

PYAV_NAME = f"PyAV {av.__version__}"
_DECORD_CONTAINERS, _DECORD_CODECS = (
    ("mov", "matroska"),
    frozenset({"h264", "vp8", "vp9", "mpeg4", "mjpeg"}),
)
"""Where decord finds the right frame after a seek. Elsewhere it does not: transport streams (the
frames before the second key frame are lost), AVI and MPEG program streams with B-frames, HEVC.
"""
_DECORD_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""Pixel formats in which decord's colours were measured."""
_MAX_TIME_ERROR_S = 0.001
_COMPARISON_SIZE = (96, 64)
"""Frames are compared at the smallest size of their aspect that covers this one."""
_MAX_COMPARISON_PIXELS = 3e6
"""About how many pixels each decoder may decode to come to one place that is compared."""
_MAX_DIFFERENCE_LEVELS = 2.0
"""Mean absolute difference in brightness, and in smoothed color, of two decoders' frames, of 255.
The same frame scaled in the same way by two releases of libswscale differs by 0.0 to 0.4 (134
clips, and noise in color), though its single pixels' colors may by more, since color is scaled up
differently; one that is turned, of another color matrix, or another frame of a moving scene, by 3
to 60.
"""
_MAX_GROUP_FRAMES = 1000
"""Frames between two key frames: to look into a complaint of decord, a group is read from its
beginning.
"""
_NEIGHBOR_MARGIN_LEVELS = 0.25
"""By how many grey levels the frame before or after may be nearer to decord's than the one asked
for: frames of a still scene are equal but for noise.
"""


def choose_decoder(
    source: Source,
    container: InputContainer,
    packets: list[PacketInfo],
    first: VideoFrame,
    config: DecodeConfig,
) -> Source:
    """The source with the decoder that reads it, and why that one."""
    reason = (
        "--decoder pyav"
        if config.decoder != "auto"
        else _find_decord_problem(source, container, packets, first) or _compare_decoders(source)
    )
    decoder = PYAV_NAME
    if not reason:
        decoder, reason = (
            decord_name(),
            "its frames at the start, the middle and the end are PyAV's",
        )
    return replace(source, video=replace(source.video, decoder=decoder, decoder_reason=reason))


def _find_decord_problem(
    source: Source, container: InputContainer, packets: list[PacketInfo], first: VideoFrame
) -> str | None:
    """What tells before any frame is compared that decord is wrong about a file; None if nothing
    does.
    """
    codec, kind = codec_name(best_stream(container)), container.format.name.split(",")[0]
    checks = (
        (not source.is_seekable, "frames cannot be found by their time stamps"),
        (len(container.streams.video) > 1, "there are several video streams"),
        (not kind.startswith(_DECORD_CONTAINERS), f"the container is {kind}"),
        (codec not in _DECORD_CODECS, f"the codec is {codec}"),
        (
            first.format.name not in _DECORD_PIXEL_FORMATS,
            f"the pixel format is {first.format.name}",
        ),
        (is_unlabeled_hd(first), "HD that does not name its colors"),
        (any(p.is_discarded for p in packets), "an edit list cuts frames away"),
        (any(p.is_corrupt for p in packets), "a part of it is missing"),
        (
            codec != "h264" and any(p.pts != p.dts for p in packets),
            f"{codec} with reordered frames",
        ),
        (
            source.video.keyframes[:1].tolist() != [0],
            "its first frame is not marked as a key frame",
        ),
        (
            _longest_group_frames(source) > _MAX_GROUP_FRAMES,
            f"more than {_MAX_GROUP_FRAMES} frames stand between two key frames",
        ),
        (
            _has_leading_pictures(packets),
            "frames that are shown before a key frame are sent after it",
        ),
    )
    return next((reason for applies, reason in checks if applies), None)


def _has_leading_pictures(packets: list[PacketInfo]) -> bool:
    """Whether a group of pictures is open: after a seek decord counts from the first frame that
    comes out, and is wrong by those which cannot be decoded without the group before.
    """
    if any(p.pts is None for p in packets):
        return True
    order = np.argsort([p.pts for p in packets], kind="stable")  # pyright: ignore[reportArgumentType]
    keys = np.array([p.is_keyframe for p in packets])
    return bool((np.argsort(order)[keys] != np.flatnonzero(keys)).any())


def _longest_group_frames(source: Source) -> int:
    """Most frames between two key frames."""
    return int(np.diff([*source.video.keyframes, len(source.video.times)]).max(initial=0))


def _compare_decoders(source: Source) -> str | None:
    """How decord's times or frames differ from PyAV's; None if they do not."""
    if not is_decord_installed():
        return "decord is not installed"
    size = cover_size(source.video.aspect, _COMPARISON_SIZE)
    try:
        reader = DecordReader(source.path, size, source.is_limited_range)
        found, times = reader.read_times(), source.video.times
        if (
            len(found) != len(times)
            or np.abs((found - found[0]) - (times - times[0])).max() > _MAX_TIME_ERROR_S
        ):
            return "decord has frames at other times"
        # all of decord's before any of PyAV's, since it decodes on in the background until it is
        # closed
        theirs = {
            indices: _read_decord_or_excerpt(reader, source, indices, size)
            for indices in _comparison_ranges(source)
        }
        del reader
    except DecordFailed as error:
        return str(error)
    for indices, images in theirs.items():
        ours = [
            one.frame and to_image(one.frame, source, size, "decord")
            for one in find_frames(source, indices)
        ]
        if not all(a is not None and a.shape == b.shape for a, b in zip(ours, images, strict=True)):
            return f"a frame near {indices[0]} is missing, or turned"
        if not are_same_frames(ours, images):  # pyright: ignore[reportArgumentType]
            return f"decord's frames from {indices[0]} on are not PyAV's"
    return None


def _read_decord_or_excerpt(
    reader: DecordReader, source: Source, indices: range, size: tuple[int, int]
) -> list[Image]:
    """These frames; from a copy of the packets that they need if decord complains, perhaps of
    others.
    """
    with suppress(DecordFailed):
        return list(reader.read_images(indices))
    return read_excerpt_images(source, indices, size)


def _comparison_ranges(source: Source) -> Iterator[range]:
    """Three neighbouring frames each near the start, the middle and the end, no further from a key
    frame than COMPARED_PIXELS allows.
    """
    count, keys = len(source.video.times), source.video.keyframes
    pixels = source.video.height**2 * source.video.aspect
    reach = int(np.clip(_MAX_COMPARISON_PIXELS / pixels, 3, 64))
    for wanted in (0, count // 2, count - 1):
        key = int(keys[keys <= wanted][-1])
        last = min(max(wanted, key + 2), key + reach - 1, count - 1)
        yield range(max(key, last - 2), last + 1)


def are_same_frames(ours: list[Image], theirs: list[Image]) -> bool:
    """Whether these are the same frames, in the same order, but for two ways of rounding: the
    brightness of each is near enough, and no nearer to the frame before or after; so are its
    colors, smoothed.
    """
    brightness = [
        [
            cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(int)
            for image in images
        ]
        for images in (ours, theirs)
    ]
    colors = [
        [
            cv2.resize(np.ascontiguousarray(image), (8, 8), interpolation=cv2.INTER_AREA).astype(
                int
            )
            for image in images
        ]
        for images in (ours, theirs)
    ]

    def distance(place: int, other: int) -> float:
        return float(np.abs(brightness[0][place] - brightness[1][other]).mean())

    for place in range(len(ours)):
        right = distance(place, place)
        beside = [
            distance(place, other) for other in (place - 1, place + 1) if 0 <= other < len(ours)
        ]
        if right > _MAX_DIFFERENCE_LEVELS or any(
            right > one + _NEIGHBOR_MARGIN_LEVELS for one in beside
        ):
            return False
        if np.abs(colors[0][place] - colors[1][place]).mean() > _MAX_DIFFERENCE_LEVELS:
            return False
    return True
