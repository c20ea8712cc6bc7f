"""Probes a video file: its properties, and the presentation time of each of its frames.

The times come from the packets, without decoding, if these can be trusted.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

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
"""Containers whose packets have the presentation time of their frame, whatever their order."""
_UNBOUNDED_CONTAINERS = ("mpegts", "mpeg")
"""Containers that do not say where they end: a part that is missing at the end is no different from
one in the middle.
"""
_MAX_GAP_S = 10.0
"""A longer gap in a broadcast is taken for the beginning of another recording."""
_RESTART_FRAMES = 10
"""A time stamp that goes back by more than this many frames begins another recording."""


def probe(path: str, config: DecodeConfig) -> Source:
    """Times of all frames of the best video stream, from the first that can be decoded on, and all
    that its readers need.

    Raises Quarantined: missing, unreadable, not_media, no_video, no_frames, unsupported_codec,
    too_many_pixels, too_many_frames, truncated, decode_error.
    """
    check_readable(path)
    signature = file_signature(path)
    with open_container(path) as container:
        stream = best_stream(container)
        check_stream(stream, config)
        packets = list(_read_packets(container, stream, config.max_frames))
        if not packets:
            raise quarantine_error(Reason.NO_FRAMES, "the video stream has no frames with a time")
        first = _decode_first_frame(path)
        check_pixel_count(first, config.max_pixels)
        timeline = _find_frame_times(path, container, packets, first)
        time_base = float(stream.time_base or 0)
        times = timeline.pts * time_base
        _check_frame_rate(times, config.max_frame_rate)
        duration = _last_frame_duration(packets, timeline.pts)
        orientation = read_orientation(first)
        video = VideoInfo(
            times=times,
            end_s=float((timeline.pts[-1] + duration) * time_base),
            aspect=_display_aspect(stream, first, orientation),
            height=first.width if is_transposed(orientation) else first.height,
            keyframes=_keyframe_indices(packets, timeline),
            decoder=PYAV_NAME,
            decoder_reason="",
            signature=signature or (0, 0, 0),
        )
        source = Source(
            path=path,
            video=video,
            pts=timeline.pts,
            is_seekable=timeline.is_seekable,
            ordinals=timeline.ordinals,
            is_limited_range=first.color_range != ColorRange.JPEG,
            orientation=orientation,
            max_pixels=config.max_pixels,
        )
        return choose_decoder(source, container, packets, first, config)


def _read_packets(
    container: InputContainer, stream: VideoStream, most: int
) -> Iterator[PacketInfo]:
    """The packets of the stream. Raises Quarantined (too_many_frames, truncated)."""
    count, end_s, is_corrupt = 0, 0.0, False
    time_bases = [float(stream.time_base or 0) for stream in container.streams]
    for packet in container.demux():  # one at a time: all together they are the whole file
        if not packet.size:
            continue
        is_corrupt = packet.is_corrupt
        if packet.pts is not None:
            packet_end = packet.pts + (packet.duration or 0)
            end_s = max(end_s, packet_end * time_bases[packet.stream.index])
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
    """Raises Quarantined (truncated) if the content ends long before the container says that it
    does.
    """
    duration = (container.duration or 0) / av.time_base
    if not container.format.name.startswith(("mov", "matroska")):
        return
    if duration - end_s > max(1.0, 0.02 * duration):
        raise quarantine_error(
            Reason.TRUNCATED, f"content ends at {end_s:.2f} s of {duration:.2f} s"
        )


class _Timeline(NamedTuple):
    """The frames that are shown, in order; see Source."""

    pts: Int64[np.ndarray, " frames"]
    ordinals: Int64[np.ndarray, " frames"]
    is_seekable: bool


def _find_frame_times(
    path: str, container: InputContainer, packets: list[PacketInfo], first: VideoFrame
) -> _Timeline:
    """The timeline, from the packets if they can be trusted and otherwise by decoding. A recording
    that begins in the middle of a group begins at `first`.
    """
    stamps = [p.pts for p in packets if not p.is_discarded]
    times = sorted({pts for pts in stamps if pts is not None})
    if (
        len(times) == len(stamps) > 0
        and first.pts is not None
        and _is_one_recording(container, packets)
        and (
            container.format.name.startswith(_FRAME_TIME_CONTAINERS)
            or not _has_reordered_frames(container, packets)
        )
    ):
        pts = np.array(times, np.int64)
        pts = pts[pts >= first.pts]
        return _Timeline(pts, np.arange(len(pts)), True)
    return _times_by_decoding(path, packets)


def _is_one_recording(container: InputContainer, packets: list[PacketInfo]) -> bool:
    """Whether packets are sent in the order of their decoding times, so that no new recording
    begins; and in a transport stream whether there is no long gap, at which FFmpeg guesses other
    times after a seek.
    """
    decoding_times = [p.dts for p in packets if p.dts is not None]
    presentation_times = sorted(p.pts for p in packets if p.pts is not None)
    max_gap = np.inf
    if container.format.name.startswith(_UNBOUNDED_CONTAINERS):
        max_gap = _MAX_GAP_S / float(best_stream(container).time_base or 1)
    return all(a <= b for a, b in pairwise(decoding_times)) and all(
        b - a <= max_gap for a, b in pairwise(presentation_times)
    )


def _has_reordered_frames(container: InputContainer, packets: list[PacketInfo]) -> bool:
    """Whether frames are shown in another order than that of their packets."""
    return best_stream(container).codec_context.has_b_frames or any(p.pts != p.dts for p in packets)


def _keyframe_indices(
    packets: list[PacketInfo], timeline: _Timeline
) -> Int64[np.ndarray, " keyframes"]:
    """Indices of the frames at which decoding can begin; only 0 if seeking cannot be trusted."""
    if not timeline.is_seekable:
        return np.zeros(1, np.int64)
    pts = [p.pts for p in packets if p.is_keyframe and p.pts is not None and not p.is_discarded]
    keys = np.array(sorted(pts), np.int64)
    return np.unique(np.searchsorted(timeline.pts, keys[keys >= timeline.pts[0]]))


def _times_by_decoding(path: str, packets: list[PacketInfo]) -> _Timeline:
    """The timeline by decoding the whole file, from the first undamaged frame on.

    The times are the decoder's own if they increase (frames without one are skipped), otherwise
    those of the packets in order if each packet gave a frame, otherwise those of recordings that
    were joined. Raises Quarantined (decode_error) if none of these is possible.
    """
    with open_container(path) as container:
        output = [(frame.pts, damage is None) for frame, damage, _ in decode_frames(container)]
    first = next((i for i, (_, is_intact) in enumerate(output) if is_intact), 0)
    timed = [(i, pts) for i, (pts, _) in enumerate(output) if pts is not None and i >= first]
    ordinals, pts = np.array(timed, np.int64).reshape(-1, 2).T
    regular = ~_find_stray_times(pts)
    ordinals, pts = ordinals[regular], pts[regular]
    if len(pts) and (np.diff(pts) > 0).all():
        return _Timeline(pts, ordinals, False)
    try:
        times = _times_from_packets(packets, len(output))
        return _Timeline(times[first:], np.arange(first, len(times)), False)
    except Quarantined:
        if len(joined := _join_recordings(pts)):
            return _Timeline(joined, ordinals, False)
        raise


def _find_stray_times(pts: Int64[np.ndarray, " frames"]) -> Bool[np.ndarray, " frames"]:
    """Whether each time stamp is far from those before and after it, while these are near each
    other: some of its bits have changed, and the frame is skipped like one without a time.
    """
    stray = np.zeros(len(pts), bool)
    if len(pts) > 2:
        limit = _RESTART_FRAMES * np.median(np.abs(np.diff(pts)))
        is_far, is_return = np.abs(np.diff(pts)) > limit, np.abs(pts[2:] - pts[:-2]) <= limit
        stray[1:-1] = is_far[:-1] & is_far[1:] & is_return
    return stray


def _join_recordings(pts: Int64[np.ndarray, " frames"]) -> Int64[np.ndarray, " frames"]:
    """Time stamps of joined recordings as a player shows them: each recording begins one frame
    after the end of the one before. Empty unless the stamps increase, except for steps far back.
    """
    steps = np.diff(pts)
    if not (steps > 0).any():
        return np.zeros(0, np.int64)
    usual, is_back = np.median(steps[steps > 0]).astype(np.int64), steps <= 0
    if (steps[is_back] > -_RESTART_FRAMES * usual).any():
        return np.zeros(0, np.int64)
    return pts[0] + np.concatenate([[0], np.cumsum(np.where(is_back, usual, steps))])


def _times_from_packets(packets: list[PacketInfo], count: int) -> Int64[np.ndarray, " frames"]:
    """Times of `count` frames from their packets: the distinct times that these have, or, if some
    are doubled as in program streams, equal steps from the first to the last if these fit.

    Raises Quarantined (decode_error) if they do not.
    """
    stamps = [p.dts if p.pts is None else p.pts for p in packets]
    distinct = np.unique(np.array([stamp for stamp in stamps if stamp is not None], np.int64))
    if len(distinct) == count:
        return distinct
    step = int(np.median(np.diff(distinct))) if len(distinct) > 1 else 0
    if not step or distinct[0] + step * (count - 1) != distinct[-1]:
        raise quarantine_error(
            Reason.DECODE_ERROR, f"{count} frames have {len(distinct)} different times"
        )
    return distinct[0] + step * np.arange(count)


def _check_frame_rate(times: Float64[np.ndarray, " frames"], most: int) -> None:
    """Raises Quarantined (too_many_frames) if more than `most` frames are within a second."""
    densest = int((np.searchsorted(times, times + 1) - np.arange(len(times))).max())
    if densest > most:
        raise quarantine_error(
            Reason.TOO_MANY_FRAMES, f"{densest} frames within a second, at most {most}"
        )


def _last_frame_duration(packets: list[PacketInfo], pts: Int64[np.ndarray, " frames"]) -> float:
    """Duration of the last frame in ticks: the container's, or else the median of all frames."""
    duration = next((p.duration for p in packets if p.pts == pts[-1]), 0)
    return float(duration or (np.median(np.diff(pts)) if len(pts) > 1 else 0))


def _decode_first_frame(path: str) -> VideoFrame:
    """The first frame whose content can be trusted. Raises Quarantined (decode_error,
    too_many_pixels) if there is none.
    """
    damage = None
    with av.logging.Capture() as log, open_container(path) as container:
        for decoded in decode_frames(container):
            if decoded.damage is None:
                return decoded.frame
            damage = decoded.damage
    damage = damage or (log[-1][2].strip() if log else None)
    if size := re.search(r"Picture size (\d+)x(\d+) is invalid", damage or ""):
        raise quarantine_error(
            Reason.TOO_MANY_PIXELS, f"{size[1]} x {size[2]} pixels, more than any decoder takes"
        )
    raise quarantine_error(
        Reason.DECODE_ERROR, f"no frame can be decoded{f': {damage}' if damage else ''}"
    )


def _display_aspect(stream: VideoStream, frame: VideoFrame, orientation: Orientation) -> float:
    """Width over height as the video is shown."""
    aspect = frame.width / frame.height * float(stream.sample_aspect_ratio or 1)
    return 1 / aspect if is_transposed(orientation) else aspect
