"""Which decoder returns the frames of a stream exactly.

decord is the decoder wherever it was seen to be right (docs/decisions/0001-container-and-decoder.md); PyAV reads what
decord shifts, repeats, drops, discolours, or cannot open.
"""

from contextlib import suppress
from dataclasses import replace

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from pipeline.decode import DecodeConfig
from pipeline.decode.container import best_stream, codec_name, decoded, opened
from pipeline.decode.source import Packet, Source
from schemas.outcome import Quarantined

PYAV = f"PyAV {av.__version__}"
CONTAINERS, CODECS = ("mov", "matroska"), frozenset({"h264", "vp8", "vp9", "mpeg4", "mjpeg"})
"""Where decord finds the right frame after a seek. Elsewhere it does not: transport streams (the frames before the second
key frame are lost), AVI and MPEG program streams with B-frames, HEVC with open groups of pictures.
"""
FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""Pixel formats in which decord's colours were measured."""
HD_LINES = 720
"""A picture of this height that does not name its colours has those of BT.709, a smaller one BT.601's, as players do.
decord takes BT.601 always.
"""
UNSPECIFIED = 2
"""H.273: the matrix coefficients are unknown."""
KEYFRAMES_TRIED = 3
MAX_TIME_ERROR_S = 0.001


def choose_decoder(source: Source, container: InputContainer, packets: list[Packet], first: VideoFrame, config: DecodeConfig) -> Source:
    """The source with decord as its decoder where decord is exact, else as it came."""
    if config.decoder != "auto" or not source.seekable:
        return source
    plain = is_plain(container, packets) and first.format.name in FORMATS and not untold_hd(first)
    if not plain or not starts_at_keyframes(source):
        return source
    import decord  # a machine without its wheel reads everything with decoder=pyav

    decord.logging.set_level(decord.logging.QUIET)
    return replace(source, video=replace(source.video, decoder=f"decord {decord.__version__}")) if agrees(decord, source) else source


def is_plain(container: InputContainer, packets: list[Packet]) -> bool:
    """A single video stream of a trusted kind, of which an edit list cuts nothing away."""
    codec = codec_name(best_stream(container))
    return (
        len(container.streams.video) == 1
        and container.format.name.startswith(CONTAINERS)
        and codec in CODECS
        and not any(p.is_discarded for p in packets)
        and (codec == "h264" or all(p.pts == p.dts for p in packets))
    )


def untold_hd(frame: VideoFrame) -> bool:
    """Whether a frame's colours are BT.709's without its saying so."""
    return frame.colorspace == UNSPECIFIED and frame.height >= HD_LINES


def starts_at_keyframes(source: Source) -> bool:
    """Whether decoding can truly begin at what the container calls key frames; with a gradual refresh, it cannot.

    Looks at the first, the middle and the last but for the very first frame of the file.
    """
    keys = source.pts[source.video.keyframes[1:]]
    tried = sorted({int(keys[i]) for i in np.linspace(0, len(keys) - 1, KEYFRAMES_TRIED).round().astype(int)}) if len(keys) else []
    with opened(source.path) as container:
        stream = best_stream(container)
        for pts in tried:
            container.seek(pts, stream=stream)
            with suppress(Quarantined):
                frame = next(decoded(container), None)
                if frame is not None and frame.pts is not None and frame.pts <= pts:
                    continue
            return False
    return True


def agrees(decord, source: Source) -> bool:
    """Whether decord sees the same number of frames, at the same times since the first, as the container."""
    times = source.video.times
    try:
        reader = decord.VideoReader(source.path, width=32, height=32, num_threads=1)
        found = reader.get_frame_timestamp(list(range(len(reader))))[:, 0]
    except (decord.DECORDError, RuntimeError, IndexError):
        return False
    return len(found) == len(times) and float(np.abs((found - found[0]) - (times - times[0])).max()) <= MAX_TIME_ERROR_S
