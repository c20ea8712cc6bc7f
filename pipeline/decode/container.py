"""Opens a file that may be hostile, and decodes it into frames with the damage of each.

Only the demuxers and codecs listed here are used, and only for frames that are not too large: a
playlist or a script named .mp4 must never reach a demuxer that would follow it to other files.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

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
"""FFmpeg's demuxers that may open a file."""
_CODEC_NAMES = """
    h264 hevc av1 vp8 vp9 mpeg4 mpeg1video mpeg2video mjpeg prores dnxhd ffv1 theora h263
    flv1 msmpeg4v1 msmpeg4v2 msmpeg4v3 wmv1 wmv2 wmv3 vc1 cinepak dvvideo gif rawvideo
    huffyuv ffvhuff utvideo png qtrle
"""
ALLOWED_CODECS = frozenset(_CODEC_NAMES.split())
"""Codecs that may decode a stream."""

# FFmpeg's errors are collected, not printed: `decode_frames` relates them to packets.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())
logging.getLogger("libav").propagate = False


def missing_codecs() -> list[str]:
    """The allowed codecs that the libraries of this PyAV cannot decode, sorted."""

    def is_missing(name: str) -> bool:
        try:
            return not av.Codec(name, "r")
        except UnknownCodecError:
            return True

    return sorted(filter(is_missing, ALLOWED_CODECS))


@contextmanager
def open_container(path: str) -> Iterator[InputContainer]:
    """The container, opened by the allowed demuxers only and decoded by one thread.

    Raises Quarantined (not_media, truncated) if it cannot be opened, or demuxed in the block.
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
    """The video stream that a player shows, which is never cover art.

    Raises Quarantined (no_video, no_frames) if there is none.
    """
    stream = container.streams.best("video")
    if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
        return stream
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    if container.streams.audio:
        raise quarantine_error(Reason.NO_VIDEO, "the file has sound but no picture that moves")
    raise quarantine_error(Reason.NO_FRAMES, "the file has no stream with frames")


_FLAGGED_CORRUPT = "FFmpeg flags it as corrupt"
_BEFORE_FIRST_KEYFRAME = "it comes before the first key frame"
HARMLESS_PREFIXES = ("SEI type", "Overread ")
"""Beginnings of FFmpeg's errors about data that is beside the picture in the stream."""


class DecodedFrame(NamedTuple):
    """A frame as the decoder returns it."""

    frame: VideoFrame
    damage: str | None
    """Why its content may be wrong; None if FFmpeg reported no error about the packets that it is
    made of.
    """
    is_first_group: bool
    """Whether its packet came before the second key frame since decoding began. FFmpeg may then
    report errors about pictures before the first key frame, although nothing needs them.
    """


@dataclass
class _SentPacket:
    """A packet that was sent to the decoder."""

    damage: str | None
    group: int
    """Number of key frames that were sent up to and including it."""
    is_leading: bool
    """Whether it is shown before the last key frame that was sent."""


class _DamageTracker:
    """Keeps track of the frames that may be wrong.

    A damaged packet damages all frames that are decoded after it up to the next key frame, and the
    frames that are shown before that key frame but sent after it, since they refer to both sides.
    """

    def __init__(self) -> None:
        self.damage: str | None = None
        """The damage since the last key frame."""
        self.damage_before_key: str | None = None
        """The damage that concerns frames shown before the last key frame."""
        self.key_pts: int | None = None
        self.group = 0
        self.flagged: set[int] = set()
        """Groups in which FFmpeg flagged a frame as corrupt."""
        self.has_begun = False

    def record_packet(self, packet: Packet) -> _SentPacket:
        """To be called for each packet before it is decoded."""
        if packet.is_keyframe:
            self.damage_before_key, self.damage = self.damage, None
            self.key_pts, self.group = packet.pts, self.group + 1
        is_leading = (
            packet.pts is not None and self.key_pts is not None and packet.pts < self.key_pts
        )
        damage = (self.damage_before_key or self.damage) if is_leading else self.damage
        return _SentPacket(damage, self.group, is_leading)

    def mark_damaged(self, sent: _SentPacket, damage: str) -> None:
        """Records that the packet is damaged; the first damage of a packet is kept."""
        sent.damage = sent.damage or damage
        if sent.is_leading:
            self.damage_before_key = sent.damage
        else:
            self.damage = sent.damage

    def find_damage(self, frame: VideoFrame, sent: _SentPacket) -> str | None:
        """Why a frame of that packet may be wrong, or None. Frames before the first key frame lack
        what they refer to, unless the decoder finds that such a frame is a key frame itself.
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
    """Frames of the best stream from the current position on, each with its damage. A packet that
    cannot be decoded gives no frame and raises nothing.

    A packet is damaged if it is incomplete, if FFmpeg reports an error when it reads or decodes it,
    or if FFmpeg flags its frame as corrupt.
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
        frames, damage = _decode_packet(packet, stream.codec_context.name)
        if container_error := _first_error(log, container.format.name):
            damage = f"the container reports an error before it ({container_error})"
        if damage:
            tracker.mark_damaged(sent, damage)
        for frame in frames:
            origin = frame.opaque if isinstance(frame.opaque, _SentPacket) else sent
            yield DecodedFrame(frame, tracker.find_damage(frame, origin), origin.group <= 1)


def _decode_packet(packet: Packet, codec: str) -> tuple[list[VideoFrame], str | None]:
    """The frames that come out when this packet goes in, and the packet's damage, if any."""
    with av.logging.Capture() as log:
        try:
            frames: list[Any] = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            return [], f"the decoder gave up ({_first_error(log, codec) or type(error).__name__})"
    if packet.is_corrupt and packet.size:
        return frames, "a part of it is missing in the file"
    message = _first_error(log, codec)
    return frames, message and f"the decoder reports an error in it ({message})"


def _first_error(log: list[tuple[int, str, str]], speaker: str) -> str | None:
    """The first error in the log that the part of FFmpeg named `speaker` reports about the picture.
    Errors of its parser or of another stream do not count.
    """
    texts = (message.strip()[:80] for _, name, message in log if name == speaker)
    return next((text for text in texts if not text.startswith(HARMLESS_PREFIXES)), None)


def codec_name(stream: VideoStream) -> str:
    """Name of the codec, not of the library that decodes it; "unknown" if there is none."""
    return "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def check_stream(stream: VideoStream, config: DecodeConfig) -> None:
    """Checks codec and frame size before anything is decoded. Raises Quarantined
    (unsupported_codec, too_many_pixels).
    """
    if codec_name(stream) not in ALLOWED_CODECS:
        raise quarantine_error(
            Reason.UNSUPPORTED_CODEC,
            f"codec {codec_name(stream)} is not on the list of those that are decoded",
        )
    check_pixel_count(stream, config.max_pixels)


def check_pixel_count(picture: VideoStream | VideoFrame, most: int) -> None:
    """Raises Quarantined (too_many_pixels) if a frame has more than `most` pixels."""
    if picture.width * picture.height > most:
        raise quarantine_error(
            Reason.TOO_MANY_PIXELS, f"{picture.width} x {picture.height} pixels, at most {most}"
        )
