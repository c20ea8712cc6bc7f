"""Opening a file that may be hostile: only by the demuxers and codecs listed here, and only if it is not too large.

A playlist or a script named .mp4 must never reach a demuxer that would follow it to other files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile

import av
import av.error
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decode import DecodeConfig
from pipeline.decode.source import looks_like_video, refused
from schemas.outcome import Reason, Stage

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf,gif"
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
        "msmpeg4v3",
        "wmv1",
        "wmv2",
        "wmv3",
        "vc1",
        "cinepak",
        "dvvideo",
        "gif",
    ]
)
"""Codecs that may decode a stream."""


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
    """The container, opened by the listed demuxers only, to be decoded by one thread; what cannot be opened or demuxed is
    Quarantined.
    """
    try:
        with av.open(path, options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}) as container:
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    stream.codec_context.thread_count = 1
            yield container
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        cut_off = looks_like_video(path)
        reason = Reason.TRUNCATED if cut_off else Reason.NOT_MEDIA
        words = "begins like a video but has no complete index" if cut_off else "is not a video"
        raise refused(reason, words) from error


def best_stream(container: InputContainer) -> VideoStream:
    """The video stream to show. Raises Quarantined (no_video, no_frames) where there is none."""
    stream = container.streams.best("video")
    if isinstance(stream, VideoStream):
        return stream
    if container.streams.audio:
        raise refused(Reason.NO_VIDEO, "the file has sound but no picture")
    raise refused(Reason.NO_FRAMES, "the file has no stream with frames")


def decoded(container: InputContainer) -> Iterator[VideoFrame]:
    """Frames of the best stream from the next key frame on: what a decoder gives before it is made of nothing.

    Raises Quarantined (decode_error) where the decoder gives up.
    """
    packets = container.demux(best_stream(container))
    try:
        for packet in dropwhile(lambda packet: not packet.is_keyframe, packets):
            yield from packet.decode()  # pyright: ignore[reportReturnType]
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise refused(Reason.DECODE_ERROR, f"the decoder gave up ({type(error).__name__})", Stage.DECODE) from error


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
