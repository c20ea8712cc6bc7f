"""Opening a file that may be hostile: only by the demuxers and codecs listed here, and only if it
is not too large.

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

from pipeline.decode.config import DecodeConfig
from pipeline.decode.media_file import looks_like_video, quarantine_error
from schemas.outcome import Reason

_ALLOWED_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf,gif,dv"
"""Demuxers that may open a file."""
ALLOWED_CODECS = frozenset(
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

# FFmpeg's errors are collected and not printed: which packet they are about is what `decoded` asks.
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

    return sorted(filter(is_missing, ALLOWED_CODECS))


@contextmanager
def open_container(path: str) -> Iterator[InputContainer]:
    """The container, opened by the listed demuxers only, to be decoded by one thread; what cannot
    be opened or demuxed is Quarantined (not_media, truncated).
    """
    try:
        container = av.open(
            path, options={"format_whitelist": _ALLOWED_DEMUXERS, "protocol_whitelist": "file"}
        )
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        cut_off = looks_like_video(path)
        words = "begins like a video but has no complete index" if cut_off else "is not a video"
        raise quarantine_error(Reason.TRUNCATED if cut_off else Reason.NOT_MEDIA, words) from error
    with container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.codec_context.thread_count = 1
        try:
            yield container
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            raise quarantine_error(
                Reason.TRUNCATED, f"cannot be read to its end ({type(error).__name__})"
            ) from error


def best_stream(container: InputContainer) -> VideoStream:
    """The video stream to show. Raises Quarantined (no_video, no_frames) if there is none."""
    stream = container.streams.best("video")
    if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
        return stream
    shown = [
        one for one in container.streams.video if not one.disposition & Disposition.attached_pic
    ]
    if shown:
        return shown[0]
    if container.streams.audio:
        raise quarantine_error(Reason.NO_VIDEO, "the file has sound but no picture that moves")
    raise quarantine_error(Reason.NO_FRAMES, "the file has no stream with frames")


_FLAGGED_CORRUPT, _BEFORE_FIRST_KEYFRAME = (
    "FFmpeg flags it as corrupt",
    "it comes before the first key frame",
)
"""What is wrong with a frame of which no error was reported."""
HARMLESS_PREFIXES = ("SEI type", "Overread ")
"""How errors begin that say nothing of the picture: of what stands beside it in the stream."""


class DecodedFrame(NamedTuple):
    """A frame as the decoder gives it."""

    frame: VideoFrame
    damage: str | None
    """Why its content may be wrong; None if FFmpeg had no complaint about what it is made of."""
    is_first_group: bool
    """Whether it was sent before the second key frame since decoding began: FFmpeg may complain
    then about pictures before the first, though nothing needs them.
    """


@dataclass
class _SentPacket:
    """What is known of a packet that was sent to the decoder."""

    damage: str | None
    group: int
    """How many key frames were sent up to it."""
    is_leading: bool
    """Whether it is shown before the last key frame that was sent."""


class _DamageTracker:
    """Which packets give frames that may be wrong.

    A damaged packet damages what is decoded after it up to the next key frame; and the pictures
    which are shown before that one but sent after it, since they refer to both.
    """

    def __init__(self) -> None:
        self.damage: str | None = None
        """Since the last key frame."""
        self.damage_before_key: str | None = None
        """Of what was sent before the last key frame, or after it to be shown before."""
        self.key_pts: int | None = None
        self.group = 0
        self.flagged: set[int] = set()
        """Groups of which FFmpeg flagged a frame."""
        self.has_begun = False

    def record_packet(self, packet: Packet) -> _SentPacket:
        if packet.is_keyframe:
            self.damage_before_key, self.damage = self.damage, None
            self.key_pts, self.group = packet.pts, self.group + 1
        is_leading = (
            packet.pts is not None and self.key_pts is not None and packet.pts < self.key_pts
        )
        known = (self.damage_before_key or self.damage) if is_leading else self.damage
        return _SentPacket(known, self.group, is_leading)

    def mark_damaged(self, sent: _SentPacket, complaint: str) -> None:
        sent.damage = sent.damage or complaint
        if sent.is_leading:
            self.damage_before_key = sent.damage
        else:
            self.damage = sent.damage

    def find_damage(self, frame: VideoFrame, sent: _SentPacket) -> str | None:
        """What is wrong with a frame of that packet. What comes before the first key frame is made
        of nothing, unless the decoder finds that it is one itself.
        """
        self.has_begun = self.has_begun or frame.key_frame or sent.group > 0
        if frame.is_corrupt and not sent.is_leading:
            self.flagged.add(sent.group)
        groups = {sent.group, sent.group - 1} if sent.is_leading else {sent.group}
        if sent.damage:
            return sent.damage
        if frame.is_corrupt or groups & self.flagged:
            return _FLAGGED_CORRUPT
        return None if self.has_begun else _BEFORE_FIRST_KEYFRAME


def decode_frames(container: InputContainer) -> Iterator[DecodedFrame]:
    """Frames of the best stream from here on, each with what is wrong with it. Never raises for a
    packet that cannot be decoded, of which no frame comes.

    A packet is damaged if it is incomplete, if FFmpeg reports an error as it reads or decodes it,
    or if it flags its frame as corrupt.
    """
    stream = best_stream(container)
    stream.codec_context.copy_opaque = True
    packets, tracker = container.demux(stream), _DamageTracker()
    while True:
        with av.logging.Capture() as log:
            packet = next(packets, None)
        if packet is None:
            return
        sent = packet.opaque = tracker.record_packet(packet)
        misread = _first_error(log, container.format.name)
        frames, complaint = _decode_packet(packet, stream.codec_context.name)
        if misread:
            complaint = f"the container reports an error before it ({misread})"
        if complaint:
            tracker.mark_damaged(sent, complaint)
        for frame in frames:
            origin = frame.opaque if isinstance(frame.opaque, _SentPacket) else sent
            yield DecodedFrame(frame, tracker.find_damage(frame, origin), origin.group <= 1)


def _decode_packet(packet: Packet, codec: str) -> tuple[list[VideoFrame], str | None]:
    """The frames that come out when this packet goes in, and what is wrong with it, if anything."""
    with av.logging.Capture() as log:
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            return [], f"the decoder gave up ({_first_error(log, codec) or type(error).__name__})"
    if packet.is_corrupt and packet.size:
        return frames, "a part of it is missing in the file"  # pyright: ignore[reportReturnType]
    message = _first_error(log, codec)
    # pyright: ignore[reportReturnType]
    return frames, message and f"the decoder reports an error in it ({message})"


def _first_error(log: list[tuple[int, str, str]], speaker: str) -> str | None:
    """The first message of that part of FFmpeg about the picture: what the parser or another stream
    says is no complaint.
    """
    texts = (message.strip()[:80] for _, name, message in log if name == speaker)
    return next((text for text in texts if not text.startswith(HARMLESS_PREFIXES)), None)


def codec_name(stream: VideoStream) -> str:
    """The codec, not the library that decodes it."""
    return "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def check_stream(stream: VideoStream, config: DecodeConfig) -> None:
    """Raises Quarantined (unsupported_codec, too_many_pixels) before anything is decoded."""
    if codec_name(stream) not in ALLOWED_CODECS:
        raise quarantine_error(
            Reason.UNSUPPORTED_CODEC,
            f"codec {codec_name(stream)} is not on the list of those that are decoded",
        )
    check_pixel_count(stream, config.max_pixels)


def check_pixel_count(picture: VideoStream | VideoFrame, most: int) -> None:
    """Raises Quarantined (too_many_pixels)."""
    if picture.width * picture.height > most:
        raise quarantine_error(
            Reason.TOO_MANY_PIXELS, f"{picture.width} x {picture.height} pixels, at most {most}"
        )
