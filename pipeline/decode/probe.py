"""When each frame of a file is shown. The container is demuxed without decoding, where its packets
can be trusted.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from jaxtyping import Bool, Float64, Int64

from pipeline.decode.config import DecodeConfig
from pipeline.decode.container import (
    best_stream,
    check_pixel_count,
    check_stream,
    decode_frames,
    open_container,
)
from pipeline.decode.media_file import (
    PacketInfo,
    Source,
    check_readable,
    file_signature,
    quarantine_error,
)
from pipeline.decode.picture import Orientation, is_transposed, read_orientation
from pipeline.decode.select_decoder import PYAV_NAME, choose_decoder
from schemas.clip import VideoInfo
from schemas.outcome import Quarantined, Reason

_FRAME_TIME_CONTAINERS = ("mov", "matroska", "mpegts", "flv", "gif")
"""Containers whose packets carry the time at which their frame is shown, whatever the order of the
packets.
"""
_UNBOUNDED_CONTAINERS = ("mpegts", "mpeg")
"""Containers that do not say where they end: a part that is missing at the end is as one in the
middle.
"""
_MAX_GAP_S = 10.0
"""No recording that is sent over the air leaves its viewers alone for so long."""
_RESTART_FRAMES = 10
"""A time stamp that goes back by more than so many frames begins another recording."""


def probe(path: str, config: DecodeConfig) -> Source:
    """Times of all frames of the best video stream from the first that can be decoded on, and how
    to read them.

    Raises Quarantined: missing, unreadable, not_media, no_video, no_frames, unsupported_codec,
    too_many_pixels, too_many_frames, truncated, decode_error.
    """
    check_readable(path)
    found = file_signature(path)
    with open_container(path) as container:
        stream = best_stream(container)
        check_stream(stream, config)
        packets = list(_read_packets(container, stream, config.max_frames))
        if not packets:
            raise quarantine_error(Reason.NO_FRAMES, "the video stream has no frames with a time")
        first = _decode_first_frame(path)
        check_pixel_count(first, config.max_pixels)
        pts, ordinals, timed = _find_frame_times(path, container, packets, first)
        time_base = float(stream.time_base or 0)
        _check_frame_rate(pts * time_base, config.max_frame_rate)
        keys = np.array(
            sorted(
                p.pts for p in packets if p.is_keyframe and p.pts is not None and not p.is_discarded
            ),
            np.int64,
        )
        keys = (
            np.unique(np.searchsorted(pts, keys[keys >= pts[0]]))
            if timed
            else np.zeros(1, np.int64)
        )
        shown = read_orientation(first)
        video = VideoInfo(
            times=pts * time_base,
            end_s=float((pts[-1] + _last_frame_duration(packets, pts)) * time_base),
            aspect=_display_aspect(stream, first, shown),
            height=first.width if is_transposed(shown) else first.height,
            keyframes=keys,
            decoder=PYAV_NAME,
            decoder_reason="",
            signature=found or (0, 0, 0),
        )
        source = Source(
            path=path,
            video=video,
            pts=pts,
            is_seekable=timed,
            ordinals=ordinals,
            is_limited_range=first.color_range != ColorRange.JPEG,
            orientation=shown,
            max_pixels=config.max_pixels,
        )
        return choose_decoder(source, container, packets, first, config)


def _read_packets(
    container: InputContainer, stream: VideoStream, most: int
) -> Iterator[PacketInfo]:
    """The packets of the stream. Raises Quarantined (too_many_frames, truncated)."""
    count, end_s, ticks = 0, 0.0, [float(one.time_base or 0) for one in container.streams]
    is_corrupt = False
    for packet in container.demux():  # one at a time: together they are the whole file
        if not packet.size:
            continue
        is_corrupt = packet.is_corrupt
        if packet.pts is not None:
            end_s = max(end_s, (packet.pts + (packet.duration or 0)) * ticks[packet.stream.index])
        if packet.stream.index == stream.index:
            count += 1
            if count > most:
                raise quarantine_error(Reason.TOO_MANY_FRAMES, f"more than {most} frames")
            yield PacketInfo(
                packet.pts,
                packet.dts,
                packet.duration or 0,
                packet.is_keyframe,
                packet.is_discard,
                packet.is_corrupt,
            )
    if is_corrupt and not container.format.name.startswith(_UNBOUNDED_CONTAINERS):
        raise quarantine_error(Reason.TRUNCATED, "the file ends in the middle of a frame")
    _check_not_truncated(container, end_s)


def _check_not_truncated(container: InputContainer, end_s: float) -> None:
    """Content that ends long before the container says means that the file was cut off."""
    said = (container.duration or 0) / av.time_base
    if container.format.name.startswith(("mov", "matroska")) and said - end_s > max(
        1.0, 0.02 * said
    ):
        raise quarantine_error(Reason.TRUNCATED, f"content ends at {end_s:.2f} s of {said:.2f} s")


def _find_frame_times(
    path: str, container: InputContainer, packets: list[PacketInfo], first: VideoFrame
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(time stamp of every shown frame, its place in the decoder's output, whether seeking by time
    stamps can be trusted). A recording that begins in the middle of a group begins at `first`.
    """
    shown = [p.pts for p in packets if not p.is_discarded]
    complete = None not in shown and len(set(shown)) == len(shown) > 0 and first.pts is not None
    if (
        complete
        and _is_one_recording(container, packets)
        and (
            container.format.name.startswith(_FRAME_TIME_CONTAINERS)
            or not _has_reordered_frames(container, packets)
        )
    ):
        pts = np.array(sorted(shown), np.int64)  # pyright: ignore[reportArgumentType]
        pts = pts[pts >= (first.pts or 0)]
        return pts, np.arange(len(pts)), True
    return *_times_by_decoding(path, packets), False


def _is_one_recording(container: InputContainer, packets: list[PacketInfo]) -> bool:
    """Whether packets are sent in the order of their decoding times, so that none begins anew; and
    in a transport stream without a leap, at which FFmpeg guesses other times after a seek.
    """
    sent = [p.dts for p in packets if p.dts is not None]
    shown = sorted(p.pts for p in packets if p.pts is not None)
    most = (
        _MAX_GAP_S / float(best_stream(container).time_base or 1)
        if container.format.name.startswith(_UNBOUNDED_CONTAINERS)
        else np.inf
    )
    return all(a <= b for a, b in pairwise(sent)) and all(b - a <= most for a, b in pairwise(shown))


def _has_reordered_frames(container: InputContainer, packets: list[PacketInfo]) -> bool:
    """Whether frames are shown in another order than that of their packets."""
    return best_stream(container).codec_context.has_b_frames or any(p.pts != p.dts for p in packets)


def _times_by_decoding(path: str, packets: list[PacketInfo]) -> tuple[np.ndarray, np.ndarray]:
    """(time stamps, places in the decoder's output), by decoding the whole file from the first
    frame that is whole on: the decoder's own stamps where they increase (frames without one are
    passed over), otherwise those of the packets in order, if each packet gave a frame, otherwise
    those of recordings that were put one after the other.

    Raises Quarantined (decode_error) if none of these hold.
    """
    with open_container(path) as container:
        stamps = [(one.frame.pts, one.damage is None) for one in decode_frames(container)]
    begin = next((i for i, (_, whole) in enumerate(stamps) if whole), 0)
    timed = [(i, pts) for i, (pts, _) in enumerate(stamps) if pts is not None and i >= begin]
    ordinals, pts = (
        (np.array(column, np.int64) for column in zip(*timed, strict=True))
        if timed
        else 2 * (np.zeros(0, np.int64),)
    )
    sensible = ~_find_stray_times(pts)
    ordinals, pts = ordinals[sensible], pts[sensible]
    if len(pts) and (np.diff(pts) > 0).all():
        return pts, ordinals
    try:
        times = _times_from_packets(packets, len(stamps))
        return times[begin:], np.arange(begin, len(times))
    except Quarantined:
        if len(joined := _join_recordings(pts)):
            return joined, ordinals
        raise


def _find_stray_times(pts: Int64[np.ndarray, " frames"]) -> Bool[np.ndarray, " frames"]:
    """Which time stamps leap far from those before and after, which do not leap from each other: a
    bit of them has changed, and the frame is passed over as one without a time.
    """
    stray = np.zeros(len(pts), bool)
    if len(pts) > 2:
        most = _RESTART_FRAMES * np.median(np.abs(np.diff(pts)))
        steps, across = np.abs(np.diff(pts)) > most, np.abs(pts[2:] - pts[:-2]) <= most
        stray[1:-1] = steps[:-1] & steps[1:] & across
    return stray


def _join_recordings(pts: Int64[np.ndarray, " frames"]) -> Int64[np.ndarray, " frames"]:
    """Time stamps of recordings that were put one after the other, as a player shows them: each
    begins one frame after the end of the one before. Empty unless the stamps increase, but for
    steps far back.
    """
    steps = np.diff(pts)
    if not (steps > 0).any():
        return np.zeros(0, np.int64)
    usual, back = np.median(steps[steps > 0]).astype(np.int64), steps <= 0
    if (steps[back] > -_RESTART_FRAMES * usual).any():
        return np.zeros(0, np.int64)
    return pts[0] + np.concatenate([[0], np.cumsum(np.where(back, usual, steps))])


def _times_from_packets(packets: list[PacketInfo], count: int) -> Int64[np.ndarray, " frames"]:
    """Times of `count` frames from their packets: the different ones that these have, or, where
    some are doubled as in program streams, equal steps from the first to the last, if as many fit.

    Raises Quarantined (decode_error).
    """
    given = np.unique(
        np.array(
            [p.dts if p.pts is None else p.pts for p in packets if (p.pts, p.dts) != (None, None)],
            np.int64,
        )
    )
    if len(given) == count:
        return given
    step = int(np.median(np.diff(given))) if len(given) > 1 else 0
    if not step or given[0] + step * (count - 1) != given[-1]:
        raise quarantine_error(
            Reason.DECODE_ERROR, f"{count} frames have {len(given)} different times"
        )
    return given[0] + step * np.arange(count)


def _check_frame_rate(times: Float64[np.ndarray, " frames"], most: int) -> None:
    """Raises Quarantined (too_many_frames)."""
    densest = int((np.searchsorted(times, times + 1) - np.arange(len(times))).max())
    if densest > most:
        raise quarantine_error(
            Reason.TOO_MANY_FRAMES, f"{densest} frames within a second, at most {most}"
        )


def _last_frame_duration(packets: list[PacketInfo], pts: Int64[np.ndarray, " frames"]) -> float:
    """How long the last frame is shown, in ticks: as the container says, else as the median one."""
    said = next((p.duration for p in packets if p.pts == pts[-1]), 0)
    return float(said or (np.median(np.diff(pts)) if len(pts) > 1 else 0))


def _decode_first_frame(path: str) -> VideoFrame:
    """The first frame whose content can be trusted. Raises Quarantined (decode_error,
    too_many_pixels) if there is none.
    """
    damage = None
    with av.logging.Capture() as log, open_container(path) as container:
        for one in decode_frames(container):
            if one.damage is None:
                return one.frame
            damage = one.damage
    damage = damage or (log[-1][2].strip() if log else None)
    if size := re.search(r"Picture size (\d+)x(\d+) is invalid", damage or ""):
        raise quarantine_error(
            Reason.TOO_MANY_PIXELS, f"{size[1]} x {size[2]} pixels, more than any decoder takes"
        )
    raise quarantine_error(
        Reason.DECODE_ERROR, f"no frame can be decoded{f': {damage}' if damage else ''}"
    )


def _display_aspect(stream: VideoStream, frame: VideoFrame, shown: Orientation) -> float:
    """Width over height as shown."""
    shape = frame.width / frame.height * float(stream.sample_aspect_ratio or 1)
    return 1 / shape if is_transposed(shown) else shape
