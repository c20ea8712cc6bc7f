"""Selects the decoder of a file: decord if it returns the frames that PyAV returns, else PyAV.

decord is faster but wrong about surprisingly many files
(docs/decisions/0001-container-and-decoder.md). First the container is checked for what decord is
known to get wrong; then its frames are compared with PyAV's at the start, after a seek to the
middle, and at the end.
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
_DECORD_CONTAINERS = ("mov", "matroska")
_DECORD_CODECS = frozenset({"h264", "vp8", "vp9", "mpeg4", "mjpeg"})
"""Containers and codecs in which decord finds the right frame after a seek. It does not in
transport streams (it loses the frames before the second key frame), in AVI and MPEG program streams
with B-frames, and in HEVC.
"""
_DECORD_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""Pixel formats in which decord's colors were measured."""
_MAX_TIME_ERROR_S = 0.001
_COMPARISON_SIZE = (96, 64)
"""Frames are compared at the smallest size of their aspect that covers this one."""
_MAX_COMPARISON_PIXELS = 3e6
"""About the number of pixels that each decoder may decode to get to a frame that is compared."""
_MAX_DIFFERENCE_LEVELS = 2.0
"""Largest mean absolute difference in brightness, and in smoothed color, of two decoders' versions
of a frame, in levels of 255.

The same frame scaled in the same way by two releases of libswscale differs by 0.0 to 0.4 (measured
on 134 clips and on color noise). Colors of single pixels may differ by more, since chroma is scaled
up differently. A frame that is rotated or of another color matrix, or another frame of a moving
scene, differs by 3 to 60.
"""
_MAX_GROUP_FRAMES = 1000
"""Frames between two key frames. If decord reports an error, a group is read again from its
beginning.
"""
_NEIGHBOR_MARGIN_LEVELS = 0.25
"""Gray levels by which the frame before or after may be nearer to decord's frame than the right
one: frames of a still scene differ only by noise.
"""


def choose_decoder(
    source: Source,
    container: InputContainer,
    packets: list[PacketInfo],
    first: VideoFrame,
    config: DecodeConfig,
) -> Source:
    """The source with the decoder that reads it and the reason for that decoder."""
    if config.decoder != "auto":
        problem = "--decoder pyav"
    else:
        problem = _find_decord_problem(source, container, packets, first)
        problem = problem or _compare_decoders(source)
    decoder = PYAV_NAME if problem else decord_name()
    reason = problem or "its frames at the start, the middle and the end are PyAV's"
    return replace(source, video=replace(source.video, decoder=decoder, decoder_reason=reason))


def _find_decord_problem(
    source: Source, container: InputContainer, packets: list[PacketInfo], first: VideoFrame
) -> str | None:
    """The reason why decord cannot be trusted with a file, without comparing frames; None if there
    is no such reason.
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
    """Whether a group of pictures is open. After a seek decord counts from the first frame that
    comes out, and is then wrong by the number of frames that need the group before.
    """
    pts = [p.pts for p in packets if p.pts is not None]
    if len(pts) < len(packets):
        return True
    order = np.argsort(pts, kind="stable")
    keys = np.array([p.is_keyframe for p in packets])
    return bool((np.argsort(order)[keys] != np.flatnonzero(keys)).any())


def _longest_group_frames(source: Source) -> int:
    """The largest number of frames between two key frames."""
    return int(np.diff([*source.video.keyframes, len(source.video.times)]).max(initial=0))


def _compare_decoders(source: Source) -> str | None:
    """The way in which decord's times or frames differ from PyAV's; None if they do not."""
    if not is_decord_installed():
        return "decord is not installed"
    size = cover_size(source.video.aspect, _COMPARISON_SIZE)
    try:
        reader = DecordReader(source.path, size, source.is_limited_range)
        decord_times, times = reader.read_times(), source.video.times
        if (
            len(decord_times) != len(times)
            or np.abs((decord_times - decord_times[0]) - (times - times[0])).max()
            > _MAX_TIME_ERROR_S
        ):
            return "decord has frames at other times"
        # decord's frames are all read before PyAV's: its threads keep decoding until it is closed
        decord_images = {
            indices: _read_decord_or_excerpt(reader, source, indices, size)
            for indices in _comparison_ranges(source)
        }
        del reader
    except DecordFailed as error:
        return str(error)
    for indices, images in decord_images.items():
        pyav_images = [
            to_image(located.frame, source, size, "decord")
            for located in find_frames(source, indices)
            if located.frame
        ]
        if [image.shape for image in pyav_images] != [image.shape for image in images]:
            return f"a frame near {indices[0]} is missing, or turned"
        if not are_same_frames(pyav_images, images):
            return f"decord's frames from {indices[0]} on are not PyAV's"
    return None


def _read_decord_or_excerpt(
    reader: DecordReader, source: Source, indices: range, size: tuple[int, int]
) -> list[Image]:
    """These frames. If decord reports an error, perhaps about other frames, they are read from a
    copy of the packets that they need.
    """
    with suppress(DecordFailed):
        return list(reader.read_images(indices))
    return read_excerpt_images(source, indices, size)


def _comparison_ranges(source: Source) -> Iterator[range]:
    """Three consecutive frames near the start, the middle and the end, no further from a key frame
    than _MAX_COMPARISON_PIXELS allows.
    """
    count, keys = len(source.video.times), source.video.keyframes
    pixels = source.video.height**2 * source.video.aspect
    reach = int(np.clip(_MAX_COMPARISON_PIXELS / pixels, 3, 64))
    for target in (0, count // 2, count - 1):
        key = int(keys[keys <= target][-1])
        last = min(max(target, key + 2), key + reach - 1, count - 1)
        yield range(max(key, last - 2), last + 1)


def are_same_frames(ours: list[Image], theirs: list[Image]) -> bool:
    """Whether two lists have the same frames in the same order, up to two ways of rounding.

    The brightness of each pair must be near enough, and not much nearer to the frame before or
    after it. The colors, smoothed, must be near enough too.
    """
    our_brightness, their_brightness = map(_brightness, ours), list(map(_brightness, theirs))
    for i, (a, our_image, their_image) in enumerate(zip(our_brightness, ours, theirs, strict=True)):
        differences = [float(np.abs(a - b).mean()) for b in their_brightness[max(0, i - 1) : i + 2]]
        difference = differences[min(i, 1)]
        if difference > _MAX_DIFFERENCE_LEVELS:
            return False
        if difference > min(differences) + _NEIGHBOR_MARGIN_LEVELS:
            return False
        color_difference = np.abs(_smooth_colors(our_image) - _smooth_colors(their_image)).mean()
        if color_difference > _MAX_DIFFERENCE_LEVELS:
            return False
    return True


def _brightness(image: Image) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(int)


def _smooth_colors(image: Image) -> np.ndarray:
    image = np.ascontiguousarray(image)
    return cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).astype(int)
