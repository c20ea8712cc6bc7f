"""When each frame of a file is shown. The container is demuxed without decoding, where its packets can be trusted."""

from collections.abc import Iterator
from itertools import pairwise

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from jaxtyping import Float64, Int64

from pipeline.decode import DecodeConfig
from pipeline.decode.choice import PYAV, choose_decoder
from pipeline.decode.container import best_stream, check_stream, decoded, opened
from pipeline.decode.source import Packet, Source, check_readable, refused, signature
from schemas.clip import Video
from schemas.outcome import Reason

PACKETS_TIME_FRAMES = ("mov", "matroska", "mpegts", "flv", "gif")
"""Containers whose packets carry the time at which their frame is shown, whatever the order of the packets."""


def probe(path: str, config: DecodeConfig) -> Source:
    """Times of all frames of the best video stream, and how to read them.

    Raises Quarantined: missing, unreadable, not_media, no_video, no_frames, unsupported_codec, too_many_pixels,
    too_many_frames, truncated, decode_error.
    """
    check_readable(path)
    found = signature(path)
    with opened(path) as container:
        stream = best_stream(container)
        check_stream(stream, config)
        packets = list(shown_packets(container, stream, config.max_frames))
        if not packets:
            raise refused(Reason.NO_FRAMES, "the video stream has no frames with a time")
        pts, ordinals, timed = timeline(path, container, packets)
        time_base = float(stream.time_base or 0)
        check_rate(pts * time_base, config.max_frame_rate)
        keys = np.array(sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None and not p.is_discarded), np.int64)
        first = first_frame(path)
        video = Video(
            times=pts * time_base,
            end_s=float((pts[-1] + last_duration(packets, pts)) * time_base),
            aspect=aspect(stream, first),
            height=first.width if first.rotation % 180 else first.height,
            keyframes=np.unique(np.searchsorted(pts, keys)) if timed else np.zeros(1, np.int64),
            decoder=PYAV,
            signature=found or (0, 0, 0),
        )
        limited = first.color_range != ColorRange.JPEG
        source = Source(path=path, video=video, pts=pts, seekable=timed, ordinals=ordinals, limited=limited, max_pixels=config.max_pixels)
        return choose_decoder(source, container, packets, first, config)


def shown_packets(container: InputContainer, stream: VideoStream, most: int) -> Iterator[Packet]:
    """The packets of the stream. Raises Quarantined (too_many_frames, truncated)."""
    count, end_s, ticks = 0, 0.0, [float(one.time_base or 0) for one in container.streams]
    for packet in container.demux():  # one at a time: together they are the whole file
        if packet.is_corrupt:
            raise refused(Reason.TRUNCATED, "the file ends in the middle of a frame")
        if packet.size and packet.pts is not None:
            end_s = max(end_s, (packet.pts + (packet.duration or 0)) * ticks[packet.stream.index])
        if packet.size and packet.stream.index == stream.index:
            count += 1
            if count > most:
                raise refused(Reason.TOO_MANY_FRAMES, f"more than {most} frames")
            yield Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
    check_whole(container, end_s)


def check_whole(container: InputContainer, end_s: float) -> None:
    """Content that ends long before the container says means that the file was cut off."""
    said = (container.duration or 0) / av.time_base
    if container.format.name.startswith(("mov", "matroska")) and said - end_s > max(1.0, 0.02 * said):
        raise refused(Reason.TRUNCATED, f"content ends at {end_s:.2f} s of {said:.2f} s")


def timeline(path: str, container: InputContainer, packets: list[Packet]) -> tuple[np.ndarray, np.ndarray, bool]:
    """(time stamp of every shown frame, its place in the decoder's output, whether seeking by time stamps can be trusted)."""
    shown = [p.pts for p in packets if not p.is_discarded]
    complete = None not in shown and len(set(shown)) == len(shown) > 0
    if complete and (container.format.name.startswith(PACKETS_TIME_FRAMES) or not reordered(container, packets)):
        return np.array(sorted(shown), np.int64), np.arange(len(shown)), True  # pyright: ignore[reportArgumentType]
    return *decoded_times(path, packets), False


def reordered(container: InputContainer, packets: list[Packet]) -> bool:
    """Whether frames are shown in another order than that of their packets."""
    return best_stream(container).codec_context.has_b_frames or any(p.pts != p.dts for p in packets)


def decoded_times(path: str, packets: list[Packet]) -> tuple[np.ndarray, np.ndarray]:
    """Times by decoding the whole file: the decoder's own where they increase (frames without one are passed over),
    otherwise those of the packets in order, if each packet gave a frame.

    Raises Quarantined (decode_error) where neither holds.
    """
    with opened(path) as container:
        stamps = [frame.pts for frame in decoded(container)]
    timed = [(i, pts) for i, pts in enumerate(stamps) if pts is not None]
    if timed and all(a[1] < b[1] for a, b in pairwise(timed)):
        return np.array([pts for _, pts in timed], np.int64), np.array([i for i, _ in timed], np.int64)
    return packet_times(packets, len(stamps)), np.arange(len(stamps))


def packet_times(packets: list[Packet], count: int) -> Int64[np.ndarray, " frames"]:
    """Times of `count` frames from their packets: the different ones that these have, or, where some are doubled as in
    program streams, equal steps from the first to the last, if as many fit.

    Raises Quarantined (decode_error).
    """
    given = np.unique(np.array([p.dts if p.pts is None else p.pts for p in packets if (p.pts, p.dts) != (None, None)], np.int64))
    if len(given) == count:
        return given
    step = int(np.median(np.diff(given))) if len(given) > 1 else 0
    if not step or given[0] + step * (count - 1) != given[-1]:
        raise refused(Reason.DECODE_ERROR, f"{count} frames have {len(given)} different times")
    return given[0] + step * np.arange(count)


def check_rate(times: Float64[np.ndarray, " frames"], most: int) -> None:
    """Raises Quarantined (too_many_frames)."""
    densest = int((np.searchsorted(times, times + 1) - np.arange(len(times))).max())
    if densest > most:
        raise refused(Reason.TOO_MANY_FRAMES, f"{densest} frames within a second, at most {most}")


def last_duration(packets: list[Packet], pts: Int64[np.ndarray, " frames"]) -> float:
    """How long the last frame is shown, in ticks: as the container says, else as the median one."""
    said = next((p.duration for p in packets if p.pts == pts[-1]), 0)
    return float(said or (np.median(np.diff(pts)) if len(pts) > 1 else 0))


def first_frame(path: str) -> VideoFrame:
    with opened(path) as container:
        frame = next(decoded(container), None)
    if frame is None:
        raise refused(Reason.DECODE_ERROR, "no frame can be decoded")
    return frame


def aspect(stream: VideoStream, frame: VideoFrame) -> float:
    """Width over height as shown."""
    shape = frame.width / frame.height * float(stream.sample_aspect_ratio or 1)
    return 1 / shape if frame.rotation % 180 else shape
