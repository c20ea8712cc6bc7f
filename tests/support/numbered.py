"""Makes videos of every kind whose frames show their number, so that a wrong frame is noticed."""

import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream

from pipeline.decode.media_file import Source
from pipeline.decode.pool import damaged_frame_error
from pipeline.decode.readers import read_pictures

FRAME_COUNT = 150
SIZE = (128, 80)
STREAM_TIME_BASE = Fraction(1, 90000)
FRAME_DURATION = Fraction(1, 30)
INTERLACED_FLAGS = (1 << 18) | (1 << 29)
"""libavcodec: interlaced DCT and motion estimation."""
# SVT-AV1 logs errors only
os.environ.setdefault("SVT_LOG", "1")


def draw_number(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """An image with the number as eight black or white squares across the middle, low bit first,
    and with a red corner at the top left.
    """
    width, height = size
    image, side = np.full((height, width, 3), 96, np.uint8), width // 8
    rows = slice(height // 2 - height // 8, height // 2 + height // 8)
    for bit in range(8):
        image[rows, bit * side : (bit + 1) * side] = 235 if number >> bit & 1 else 16
    image[: height // 5, : width // 5] = (200, 40, 40)
    return image


def read_number(image: np.ndarray) -> int:
    """The number that an image shows."""
    squares = image[image.shape[0] // 2, image.shape[1] // 16 :: image.shape[1] // 8, 1][:8]
    return sum(1 << bit for bit, level in enumerate(squares) if level > 128)


def read_frames(
    source: Source, indices: Sequence[int], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """The images of `read_pictures`. Raises Quarantined at the first damaged one."""
    for index, picture in zip(indices, read_pictures(source, indices, size), strict=True):
        if picture.image is None:
            raise damaged_frame_error(index, source.video.times[index], picture.damage)
        yield picture.image


class NumberedVideo(NamedTuple):
    """A file, the numbers of the frames that a player shows, and their times in seconds."""

    path: Path
    numbers: Sequence[int]
    times: Sequence[float]


def encode_numbered(
    path: Path,
    codec: str = "libx264",
    *,
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    container: dict[str, str] | None = None,
    clock: Fraction | None = STREAM_TIME_BASE,
    setup: Callable[[VideoStream], Any] = lambda stream: None,
    stored: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> NumberedVideo:
    """Encodes FRAME_COUNT frames, or one for each of `times`. `setup` changes the stream before it
    is opened, `stored` each image before it is encoded.
    """
    times = np.arange(FRAME_COUNT) / 30 if times is None else times
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=30, options={"threads": "1"} | (options or {}))
        stream.height, stream.width = stored(draw_number(0, size)).shape[:2]
        stream.pix_fmt = pixels
        if clock:
            stream.time_base = stream.codec_context.time_base = clock
        setup(stream)
        ticks = stream.codec_context.time_base or FRAME_DURATION
        for i, time in enumerate(times):
            image = np.ascontiguousarray(stored(draw_number(i % 256, size)))
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = round(time / ticks), ticks
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    # SVT-AV1 gives root's processes real-time priority, and then no other process runs
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return NumberedVideo(path, [i % 256 for i in range(len(times))], times)


def copy_packets(source: Path, path: Path, *, skip: int = 0, filters: str | None = None) -> Path:
    """Copies the packets of a file, except the first `skip`, through a bit stream filter."""
    with av.open(str(source)) as file, av.open(str(path), "w") as target:
        stream = file.streams.video[0]
        copy = target.add_stream_from_template(stream)
        change = av.BitStreamFilterContext(filters, stream) if filters else None
        for packet in [packet for packet in file.demux(stream) if packet.size][skip:]:
            is_keyframe = packet.is_keyframe
            for changed in change.filter(packet) if change else [packet]:
                changed.stream, changed.is_keyframe = copy, is_keyframe
                target.mux(changed)
    return path


def encode_headless(
    path: Path,
    codec: str,
    options: dict[str, str],
    skip: int,
    first: int,
    clock: Fraction = STREAM_TIME_BASE,
) -> NumberedVideo:
    """A recording that begins between two key frames: frame `first` is the first that can be
    decoded.
    """
    complete = encode_numbered(
        path.with_name(f"complete-{path.name}"), codec, options=options, clock=clock
    )
    return NumberedVideo(
        copy_packets(complete.path, path, skip=skip),
        range(first, FRAME_COUNT),
        np.arange(FRAME_COUNT - first) / 30,
    )


def encode_rotated(path: Path) -> NumberedVideo:
    """A video that is stored on its side, with a display matrix that copying its packets keeps."""
    video = encode_numbered(
        path.with_suffix(".mp4"),
        stored=np.rot90,
        setup=lambda stream: stream.set_display_rotation(270),
    )
    return video._replace(path=copy_packets(video.path, path))


def encode_rotated_by_sei(path: Path) -> NumberedVideo:
    """A video that is stored on its side; only the stream says so, before its first picture."""
    video = encode_numbered(path.with_name("upright.mp4"), stored=np.rot90)
    rotation = "h264_metadata=display_orientation=insert:rotate=270"
    return video._replace(path=copy_packets(video.path, path, filters=rotation))


def encode_trimmed(
    path: Path, codec: str, options: dict[str, str], first: int, clock: Fraction
) -> NumberedVideo:
    """A copy of the packets whose beginning an edit list cuts away, as if it were cut without
    encoding: frame `first` is shown first.
    """
    complete = encode_numbered(path.with_name("complete.mp4"), codec, options=options, clock=clock)
    with av.open(str(complete.path)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        skipped = round(first * FRAME_DURATION / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - skipped, packet.dts - skipped
                packet.stream = copy
                target.mux(packet)
    return NumberedVideo(path, range(first, FRAME_COUNT), np.arange(FRAME_COUNT - first) / 30)


def irregular_times() -> np.ndarray:
    """Times that are 1/60 to 1/12 s apart."""
    times = np.cumsum(np.random.default_rng(0).uniform(1 / 60, 1 / 12, FRAME_COUNT))
    return times - times[0]


def times_with_gap() -> np.ndarray:
    """Times with a gap of 20 s in the middle."""
    return np.arange(FRAME_COUNT) / 30 + np.where(np.arange(FRAME_COUNT) < FRAME_COUNT // 2, 0, 20)


def late_times() -> np.ndarray:
    return np.arange(FRAME_COUNT) / 30 + 7.3


def negative_times() -> np.ndarray:
    """Times the first 30 of which are negative."""
    return np.arange(FRAME_COUNT) / 30 - 1


def x264_options(parameters: str, keyframes: int = 24) -> dict[str, str]:
    return {"g": str(keyframes), "x264-params": parameters}


def x265_options(parameters: str) -> dict[str, str]:
    return {"x265-params": f"keyint=24:log-level=none:pools=none:{parameters}"}


def skip_30_frames(numbered: NumberedVideo) -> NumberedVideo:
    """The video without the frames before time 0, which are not shown."""
    return NumberedVideo(numbered.path, range(30, FRAME_COUNT), np.arange(FRAME_COUNT - 30) / 30)


def set_interlaced(stream: VideoStream) -> None:
    stream.codec_context.flags |= INTERLACED_FLAGS


def set_wide_pixels(stream: VideoStream) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(2, 1)


LEADING_PICTURE_OPTIONS = x264_options("open-gop=1:keyint=30:bframes=3")
"""Some frames are shown before a key frame and sent after it."""
OPEN_GOP_OPTIONS = x264_options("open-gop=1:bframes=3:b-pyramid=normal:scenecut=0")
VIDEO_KINDS: dict[str, tuple[str, Callable[[Path], NumberedVideo]]] = {
    "h264_long_gop.mp4": ("decord", lambda p: encode_numbered(p, options={"g": "250"})),
    "h264_short_gop.mp4": ("decord", lambda p: encode_numbered(p, options={"g": "10"})),
    "h264_without_b_frames.mp4": ("decord", lambda p: encode_numbered(p, options={"bf": "0"})),
    "h264_open_gop.mp4": ("decord", lambda p: encode_numbered(p, options=OPEN_GOP_OPTIONS)),
    "h264_open_gop.mkv": ("decord", lambda p: encode_numbered(p, options=OPEN_GOP_OPTIONS)),
    "h264_eight_b_frames.mp4": (
        "decord",
        lambda p: encode_numbered(
            p, options=x264_options("bframes=8:b-adapt=0:b-pyramid=strict", 100)
        ),
    ),
    "h264_fragmented.mp4": (
        "decord",
        lambda p: encode_numbered(
            p, options={"g": "48"}, container={"movflags": "frag_keyframe+empty_moov"}
        ),
    ),
    "h264_without_edit_list.mp4": (
        "decord",
        lambda p: encode_numbered(p, options={"g": "48"}, container={"use_editlist": "0"}),
    ),
    "h264_leading_pictures.mp4": (
        "PyAV",
        lambda p: encode_numbered(p, options=LEADING_PICTURE_OPTIONS, times=np.arange(330) / 30),
    ),
    "h264_leading_pictures.mkv": (
        "PyAV",
        lambda p: encode_numbered(p, options=LEADING_PICTURE_OPTIONS, times=np.arange(330) / 30),
    ),
    "h264_leading_pictures.ts": (
        "PyAV",
        lambda p: encode_numbered(p, options=LEADING_PICTURE_OPTIONS, times=np.arange(330) / 30),
    ),
    "h264_leading_references.mkv": (
        "PyAV",
        lambda p: encode_numbered(
            p,
            options=x264_options(
                "open-gop=1:keyint=25:bframes=6:b-adapt=0:b-pyramid=normal:scenecut=0"
            ),
        ),
    ),
    "h264_headless.mp4": ("PyAV", lambda p: encode_headless(p, "libx264", {"g": "48"}, 25, 48)),
    "h264_headless.ts": ("PyAV", lambda p: encode_headless(p, "libx264", {"g": "48"}, 25, 48)),
    "h264_headless_open_gop.ts": (
        "PyAV",
        lambda p: encode_headless(p, "libx264", LEADING_PICTURE_OPTIONS, 25, 30),
    ),
    "mpeg4_headless.mp4": (
        "PyAV",
        lambda p: encode_headless(p, "mpeg4", {"g": "40"}, 25, 40, FRAME_DURATION),
    ),
    "vp9_headless.webm": (
        "PyAV",
        lambda p: encode_headless(
            p, "libvpx-vp9", {"g": "40", "deadline": "realtime", "cpu-used": "8"}, 25, 40
        ),
    ),
    "h264_turned.mkv": ("PyAV", encode_rotated),
    "h264_turned.mov": ("decord", encode_rotated),
    "h264_turned_by_sei.mp4": ("PyAV", encode_rotated_by_sei),
    "h264_gradual_refresh.mp4": (
        "PyAV",
        lambda p: encode_numbered(p, options=x264_options("intra-refresh=1:bframes=2")),
    ),
    "h264_interlaced.mp4": (
        "decord",
        lambda p: encode_numbered(p, options={"x264-params": "tff=1"}, setup=set_interlaced),
    ),
    "h264_10_bit.mp4": (
        "PyAV",
        lambda p: encode_numbered(p, options={"g": "48"}, pixels="yuv420p10le"),
    ),
    "h264_422.mov": ("PyAV", lambda p: encode_numbered(p, options={"g": "48"}, pixels="yuv422p")),
    "h264_odd_size.mp4": ("PyAV", lambda p: encode_numbered(p, size=(131, 83), pixels="yuv444p")),
    "h264_wide_pixels.mp4": ("decord", lambda p: encode_numbered(p, setup=set_wide_pixels)),
    "h264_variable_rate.mp4": ("decord", lambda p: encode_numbered(p, times=irregular_times())),
    "h264_variable_rate.mkv": ("decord", lambda p: encode_numbered(p, times=irregular_times())),
    "h264_long_gap.mp4": ("decord", lambda p: encode_numbered(p, times=times_with_gap())),
    "h264_long_gap.mkv": ("decord", lambda p: encode_numbered(p, times=times_with_gap())),
    "h264_late.mp4": ("decord", lambda p: encode_numbered(p, times=late_times())),
    "h264_negative.mp4": (
        "PyAV",
        lambda p: skip_30_frames(encode_numbered(p, times=negative_times())),
    ),
    "h264_negative.mkv": (
        "PyAV",
        lambda p: skip_30_frames(
            encode_numbered(p, times=negative_times(), container={"avoid_negative_ts": "disabled"})
        ),
    ),
    "h264_edit_list.mp4": (
        "PyAV",
        lambda p: encode_trimmed(p, "libx264", {"g": "250"}, 50, STREAM_TIME_BASE),
    ),
    "h264_edit_list_short_gop.mp4": (
        "PyAV",
        lambda p: encode_trimmed(p, "libx264", {"g": "10"}, 52, STREAM_TIME_BASE),
    ),
    "mpeg4_edit_list.mp4": (
        "PyAV",
        lambda p: encode_trimmed(p, "mpeg4", {"g": "40"}, 50, FRAME_DURATION),
    ),
    "h264_without_times.avi": (
        "PyAV",
        lambda p: encode_numbered(p, options={"g": "24"}, clock=FRAME_DURATION),
    ),
    "h264_open_gop.ts": ("PyAV", lambda p: encode_numbered(p, options=OPEN_GOP_OPTIONS)),
    "h264_late.ts": ("PyAV", lambda p: encode_numbered(p, times=late_times(), options={"g": "48"})),
    "h264.flv": (
        "PyAV",
        lambda p: encode_numbered(p, options={"g": "48"}, clock=Fraction(1, 1000)),
    ),
    "hevc_open_gop.mp4": (
        "PyAV",
        lambda p: encode_numbered(p, "libx265", options=x265_options("open-gop=1:bframes=3")),
    ),
    "hevc_closed_gop.mp4": (
        "PyAV",
        lambda p: encode_numbered(p, "libx265", options=x265_options("open-gop=0")),
    ),
    "hevc_10_bit.mkv": (
        "PyAV",
        lambda p: encode_numbered(
            p, "libx265", options=x265_options("open-gop=1"), pixels="yuv420p10le"
        ),
    ),
    "vp9.webm": (
        "decord",
        lambda p: encode_numbered(
            p, "libvpx-vp9", options={"g": "40", "deadline": "realtime", "cpu-used": "8"}
        ),
    ),
    "vp9_hidden_frames.webm": (
        "decord",
        lambda p: encode_numbered(
            p,
            "libvpx-vp9",
            options={"g": "40", "auto-alt-ref": "1", "lag-in-frames": "25", "cpu-used": "8"},
        ),
    ),
    "vp9.mp4": (
        "decord",
        lambda p: encode_numbered(
            p, "libvpx-vp9", options={"g": "40", "deadline": "realtime", "cpu-used": "8"}
        ),
    ),
    "vp9_odd_size.webm": (
        "decord",
        lambda p: encode_numbered(
            p, "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}, size=(131, 83)
        ),
    ),
    "vp8.webm": (
        "decord",
        lambda p: encode_numbered(p, "libvpx", options={"g": "40", "auto-alt-ref": "1"}),
    ),
    "av1.mp4": (
        "PyAV",
        lambda p: encode_numbered(p, "libsvtav1", options={"g": "40", "preset": "11"}),
    ),
    "av1.webm": (
        "PyAV",
        lambda p: encode_numbered(p, "libsvtav1", options={"g": "40", "preset": "11"}),
    ),
    "mpeg4.mp4": (
        "decord",
        lambda p: encode_numbered(p, "mpeg4", options={"g": "40"}, clock=FRAME_DURATION),
    ),
    "mpeg4_b_frames.mp4": (
        "PyAV",
        lambda p: encode_numbered(p, "mpeg4", options={"g": "40", "bf": "2"}, clock=FRAME_DURATION),
    ),
    "mpeg4_b_frames.avi": (
        "PyAV",
        lambda p: encode_numbered(p, "mpeg4", options={"g": "40", "bf": "2"}, clock=FRAME_DURATION),
    ),
    "mpeg4.avi": (
        "PyAV",
        lambda p: encode_numbered(p, "mpeg4", options={"g": "40"}, clock=FRAME_DURATION),
    ),
    "mpeg2.mpg": (
        "PyAV",
        lambda p: encode_numbered(
            p, "mpeg2video", options={"g": "15", "bf": "2"}, clock=FRAME_DURATION
        ),
    ),
    "mpeg2_interlaced.ts": (
        "PyAV",
        lambda p: encode_numbered(
            p,
            "mpeg2video",
            options={"g": "15", "bf": "2"},
            clock=FRAME_DURATION,
            setup=set_interlaced,
        ),
    ),
    "mjpeg.avi": (
        "PyAV",
        lambda p: encode_numbered(p, "mjpeg", pixels="yuvj420p", clock=FRAME_DURATION),
    ),
    "prores.mov": ("PyAV", lambda p: encode_numbered(p, "prores_ks", pixels="yuv422p10le")),
    "wmv2.asf": ("PyAV", lambda p: encode_numbered(p, "wmv2", clock=FRAME_DURATION)),
    "rawvideo.avi": (
        "PyAV",
        lambda p: encode_numbered(p, "rawvideo", pixels="bgr24", clock=FRAME_DURATION),
    ),
    "huffyuv.avi": (
        "PyAV",
        lambda p: encode_numbered(p, "huffyuv", pixels="yuv422p", clock=FRAME_DURATION),
    ),
    "ffvhuff.avi": ("PyAV", lambda p: encode_numbered(p, "ffvhuff", clock=FRAME_DURATION)),
    "utvideo.avi": ("PyAV", lambda p: encode_numbered(p, "utvideo", clock=FRAME_DURATION)),
    "png.mov": ("PyAV", lambda p: encode_numbered(p, "png", pixels="rgb24", clock=FRAME_DURATION)),
    "qtrle.mov": (
        "PyAV",
        lambda p: encode_numbered(p, "qtrle", pixels="rgb24", clock=FRAME_DURATION),
    ),
    "msmpeg4v2.avi": ("PyAV", lambda p: encode_numbered(p, "msmpeg4v2", clock=FRAME_DURATION)),
    "msmpeg4v3.avi": ("PyAV", lambda p: encode_numbered(p, "msmpeg4", clock=FRAME_DURATION)),
    "dv.dv": (
        "PyAV",
        lambda p: encode_numbered(
            p,
            "dvvideo",
            pixels="yuv411p",
            size=(720, 480),
            clock=None,
            times=np.arange(FRAME_COUNT) * 1001 / 30000,
        ),
    ),
    "animation.gif": ("PyAV", lambda p: encode_numbered(p, "gif", pixels="rgb8", clock=None)),
}
"""Which decoder reads a kind of file, and how to make it."""
