"""A video file becomes frames at the working resolution, with their own presentation times.

PyAV looks at the container first (what is it, is it whole, when is each frame shown); decord decodes the pictures.
Only containers of the list below are opened: a playlist or a script named .mp4 must never reach a demuxer that would
follow it to other files.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import av
import av.error
import decord
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8

from schemas.clip import Video
from schemas.outcome import Quarantined, Reason, Stage

DECODER = f"decord {decord.__version__}"
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf"
"""Demuxers that may open a file."""
CODECS = frozenset({"h264", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "cinepak", "theora", "msmpeg4v3"})
"""Video codecs for which decord returns the right frames after a seek; it does not for HEVC with open GOPs."""
MAX_PIXELS = 8192 * 8192
MAX_TIME_ERROR_S = 0.001
CHUNK = 16
"""Frames asked of the decoder at a time."""


def probe(path: str) -> Video:
    """The presentation times of every frame of the best video stream, without decoding one.

    Raises Quarantined: missing, unreadable, not_media, no_video, no_frames, unsupported_codec, too_many_pixels, truncated.
    """
    check_readable(path)
    try:
        with av.open(path, options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}) as container:
            return _inspect(container)
    except (av.error.FFmpegError, ValueError) as error:
        cut_off = looks_like_video(path)
        reason = Reason.TRUNCATED if cut_off else Reason.NOT_MEDIA
        words = "begins like a video but has no complete index" if cut_off else "is not a video"
        raise _refused(reason, f"{words} ({type(error).__name__})") from error


def check_readable(path: str) -> None:
    """Raises Quarantined (missing, unreadable, not_media) unless `path` is a file with bytes that we may read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise _refused(Reason.UNREADABLE, "not a regular file")
        with open(path, "rb") as file:
            if not file.read(1):
                raise _refused(Reason.NOT_MEDIA, "the file is empty")
    except FileNotFoundError as error:
        raise _refused(Reason.MISSING, "there is no such file") from error
    except OSError as error:
        raise _refused(Reason.UNREADABLE, error.strerror or "cannot be opened") from error


def looks_like_video(path: str) -> bool:
    """Whether the first bytes are those of an ISO, RIFF or Matroska file: what cannot be opened then was cut off."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or head[:4] in (b"RIFF", b"\x1a\x45\xdf\xa3")


def _inspect(container: InputContainer) -> Video:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise _no_stream(container)
    _check_stream(stream)
    shown, end_s = [], 0.0
    for packet in container.demux():  # one at a time: together they are the whole file
        if packet.is_corrupt:
            raise _refused(Reason.TRUNCATED, "the file ends in the middle of a frame")
        if packet.size and packet.pts is not None:
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * (packet.time_base or 0)))
            if packet.stream.index == stream.index:
                shown.append((packet.pts, packet.duration or 0))
    _check_whole(container, end_s)
    shown.sort()
    if not shown:
        raise _refused(Reason.NO_FRAMES, "the video stream has no frames with a time")
    pts, time_base = np.array([p for p, _ in shown], np.float64), float(stream.time_base or 0)
    duration = shown[-1][1] or (np.median(np.diff(pts)) if len(pts) > 1 else 0)
    return Video(times=pts * time_base, end_s=float((pts[-1] + duration) * time_base), aspect=_aspect(container, stream))


def _aspect(container: InputContainer, stream: VideoStream) -> float:
    container.seek(0)
    frame = next(container.decode(stream), None)
    if frame is None:
        raise _refused(Reason.DECODE_ERROR, "no frame can be decoded")
    aspect = frame.width / frame.height * float(stream.sample_aspect_ratio or 1)
    return 1 / aspect if frame.rotation % 180 else aspect


def _no_stream(container: InputContainer) -> Quarantined:
    if container.streams.audio:
        return _refused(Reason.NO_VIDEO, "the file has sound but no picture")
    return _refused(Reason.NO_FRAMES, "the file has no stream with frames")


def _check_stream(stream: VideoStream) -> None:
    if stream.codec_context.name not in CODECS:
        raise _refused(Reason.UNSUPPORTED_CODEC, f"codec {stream.codec_context.name} cannot be decoded exactly")
    if stream.width * stream.height > MAX_PIXELS:
        raise _refused(Reason.TOO_MANY_PIXELS, f"{stream.width} x {stream.height} pixels, at most {MAX_PIXELS}")


def _check_whole(container: InputContainer, end_s: float) -> None:
    """Content that ends long before the container says means that the file was cut off."""
    said = (container.duration or 0) / av.time_base
    if container.format.name.startswith(("mov", "matroska")) and said - end_s > max(1.0, 0.02 * said):
        raise _refused(Reason.TRUNCATED, f"content ends at {end_s:.2f} s of {said:.2f} s")


def frames(path: str, video: Video, indices: Sequence[int], size: tuple[int, int]) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames at `indices` (ascending), scaled to cover `size` = (width, height) and cropped about the centre.

    Rotation is applied. Raises Quarantined (decode_error) where the decoder gives up or disagrees with the probe.
    """
    width, height = cover_size(video.aspect, size)
    with _guarded():
        reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
        _check_times(reader, video, indices)
        for start in range(0, len(indices), CHUNK):
            for image in reader.get_batch(list(indices[start : start + CHUNK])).asnumpy():
                yield centre_crop(image, size)


def _check_times(reader: decord.VideoReader, video: Video, indices: Sequence[int]) -> None:
    """decord's frame i must be the probe's frame i: an edit list or a damaged index can part them."""
    if len(reader) != len(video.times):
        raise _refused(Reason.DECODE_ERROR, f"the decoder sees {len(reader)} frames, the container {len(video.times)}", Stage.DECODE)
    times = reader.get_frame_timestamp(list(indices))[:, 0]
    apart = np.abs(times - video.times[list(indices)]).max()
    if apart > MAX_TIME_ERROR_S:
        raise _refused(Reason.DECODE_ERROR, f"decoder and container disagree by {apart:.3f} s about a frame's time", Stage.DECODE)


@contextmanager
def _guarded() -> Iterator[None]:
    """decord's errors as Quarantined; its messages carry machine paths and clock times, which must not reach a record."""
    try:
        yield
    except (decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
        raise _refused(Reason.DECODE_ERROR, f"the decoder gave up ({type(error).__name__})", Stage.DECODE) from error


def _refused(reason: Reason, detail: str, stage: Stage = Stage.PROBE) -> Quarantined:
    return Quarantined(stage, reason, detail)


def cover_size(aspect: float, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest (width, height) of that aspect that covers `size`."""
    width, height = size
    return max(width, round(height * aspect)), max(height, round(width / aspect))


def centre_crop(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The middle of `image`, `size` = (width, height)."""
    top, left = (image.shape[0] - size[1]) // 2, (image.shape[1] - size[0]) // 2
    return np.ascontiguousarray(image[top : top + size[1], left : left + size[0]])
