"""Opening a file that may be hostile: only by the demuxers and codecs listed here, and only if it is not too large.

A playlist or a script named .mp4 must never reach a demuxer that would follow it to other files.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import av
import av.error
import av.logging
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decode import DecodeConfig
from pipeline.decode.source import looks_like_video, refused
from schemas.outcome import Reason

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf,gif,dv"
"""Demuxers that may open a file."""
CODECS = frozenset(
    [
        "h264",
        "hevc",
        "av1",
        "vp8",
        "vp9",
        "mpeg4",
        "mpeg1video",
        "mpeg2video",
        "mjpeg",
        "prores",
        "dnxhd",
        "ffv1",
        "theora",
        "h263",
        "flv1",
        "msmpeg4v1",
        "msmpeg4v2",
        "msmpeg4v3",
        "wmv1",
        "wmv2",
        "wmv3",
        "vc1",
        "cinepak",
        "dvvideo",
        "gif",
        "rawvideo",
        "huffyuv",
        "ffvhuff",
        "utvideo",
        "png",
        "qtrle",
    ]
)
"""Codecs that may decode a stream."""

# Each error that FFmpeg reports is counted, and none is printed: which packet it belongs to is what
# `decoded` has to know.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())
logging.getLogger("libav").propagate = False


def missing_codecs() -> list[str]:
    """Those of CODECS that the libraries of this PyAV cannot decode."""

    def is_missing(name: str) -> bool:
        try:
            return not av.Codec(name, "r")
        except UnknownCodecError:
            return True

    return sorted(filter(is_missing, CODECS))


@contextmanager
def opened(path: str) -> Iterator[InputContainer]:
    """The container, opened by the listed demuxers only, to be decoded by one thread; what cannot be
    opened or demuxed is Quarantined (not_media, truncated).
    """
    try:
        container = av.open(path, options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        cut_off = looks_like_video(path)
        words = "begins like a video but has no complete index" if cut_off else "is not a video"
        raise refused(Reason.TRUNCATED if cut_off else Reason.NOT_MEDIA, words) from error
    with container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.codec_context.thread_count = 1
        try:
            yield container
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            raise refused(Reason.TRUNCATED, f"cannot be read to its end ({type(error).__name__})") from error


def best_stream(container: InputContainer) -> VideoStream:
    """The video stream to show. Raises Quarantined (no_video, no_frames) if there is none."""
    stream = container.streams.best("video")
    if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
        return stream
    shown = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if shown:
        return shown[0]
    if container.streams.audio:
        raise refused(Reason.NO_VIDEO, "the file has sound but no picture that moves")
    raise refused(Reason.NO_FRAMES, "the file has no stream with frames")


FLAGGED, HEADLESS = "FFmpeg flags it as corrupt", "it comes before the first key frame"
"""What is wrong with a frame of which no error was reported."""


class Decoded(NamedTuple):
    """A frame as the decoder gives it."""

    frame: VideoFrame
    damage: str | None
    """Why its content may be wrong; None if FFmpeg had no complaint about what it is made of."""
    is_first_group: bool
    """Whether it was sent before the second key frame since decoding began: FFmpeg may complain then
    about pictures before the first, though nothing needs them.
    """


@dataclass
class _Sent:
    """What is known of a packet that was sent to the decoder."""

    damage: str | None
    group: int
    """How many key frames were sent up to it."""


def decoded(container: InputContainer) -> Iterator[Decoded]:
    """Frames of the best stream from here on. Never raises for a packet that cannot be decoded, of
    which no frame comes.

    A packet that is incomplete, or at which FFmpeg reports an error as it reads or decodes it, damages
    what is decoded after it up to the next key frame; and the pictures which are shown before that one but sent after it, since
    they refer to both. What comes before the first key frame is made of nothing, unless the decoder
    finds that it is one itself. Yields a frame with the damage that was known when its packet was
    sent, or that was found in decoding that packet.
    """
    stream = best_stream(container)
    stream.codec_context.copy_opaque = True
    damage = damage_before_key = key_pts = None
    group, has_begun, errors = 0, False, error_count()
    for packet in container.demux(stream):
        if packet.is_keyframe:
            damage_before_key, damage, key_pts, group = damage, None, packet.pts, group + 1
        is_leading = packet.pts is not None and key_pts is not None and packet.pts < key_pts
        sent = packet.opaque = _Sent(damage_before_key if is_leading else damage, group)
        misread = last_error(errors)
        frames, complaint = _decode(packet)
        errors = error_count()
        complaint = f"the container reports an error before it ({misread})" if misread else complaint
        if complaint:
            sent.damage = sent.damage or complaint
            if is_leading:
                damage_before_key = sent.damage
            else:
                damage = sent.damage
        for frame in frames:
            origin = frame.opaque if isinstance(frame.opaque, _Sent) else sent
            has_begun = has_begun or frame.key_frame or origin.group > 0
            found = origin.damage or (FLAGGED if frame.is_corrupt else None) or (None if has_begun else HEADLESS)
            yield Decoded(frame, found, origin.group <= 1)


def _decode(packet: Packet) -> tuple[list[VideoFrame], str | None]:
    """The frames that come out when this packet goes in, and what is wrong with it, if anything."""
    errors = error_count()
    try:
        frames = packet.decode()
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        return [], f"the decoder gave up ({last_error(errors) or type(error).__name__})"
    if packet.is_corrupt and packet.size:
        return frames, "a part of it is missing in the file"  # pyright: ignore[reportReturnType]
    message = last_error(errors)
    return frames, message and f"the decoder reports an error in it ({message})"  # pyright: ignore[reportReturnType]


def error_count() -> int:
    """How many errors FFmpeg has reported in this process."""
    return av.logging.get_last_error()[0]


def last_error(since: int) -> str | None:
    """What FFmpeg said last; None if it has reported none since the count was `since`."""
    count, last = av.logging.get_last_error()
    return last[2].strip()[:80] if last and count > since else None


def codec_name(stream: VideoStream) -> str:
    """The codec, not the library that decodes it."""
    return "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def check_stream(stream: VideoStream, config: DecodeConfig) -> None:
    """Raises Quarantined (unsupported_codec, too_many_pixels) before anything is decoded."""
    if codec_name(stream) not in CODECS:
        raise refused(Reason.UNSUPPORTED_CODEC, f"codec {codec_name(stream)} is not on the list of those that are decoded")
    check_pixels(stream, config.max_pixels)


def check_pixels(picture: VideoStream | VideoFrame, most: int) -> None:
    """Raises Quarantined (too_many_pixels)."""
    if picture.width * picture.height > most:
        raise refused(Reason.TOO_MANY_PIXELS, f"{picture.width} x {picture.height} pixels, at most {most}")
