"""The frames of a source at the working resolution, by decord or by PyAV, as its probe decided."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from jaxtyping import UInt8

from pipeline.decode.choice import untold_hd
from pipeline.decode.container import best_stream, check_pixels, decoded, opened
from pipeline.decode.source import Source, refused
from schemas.clip import Signature
from schemas.outcome import Reason, Stage

Image = UInt8[np.ndarray, "height width 3"]
CHUNK, CHUNK_BYTES = 16, 64 << 20
"""Frames asked of decord at a time, at most, and their memory."""
HELD_BYTES = 64 << 20
"""Memory of the frames that are held back until they are known to be right."""
REOPENED_AFTER = 8
"""Pieces that one decord reader serves: it holds on to memory the longer it is used."""
BICUBIC_EXACT = 0x4 | 0x40000 | 0x2000 | 0x80000
"""libswscale: bicubic, accurate rounding, chroma at full resolution within and out: colours within 1 grey level."""
DECORD_ROUNDS_DOWN = (2.0, 1.0, 2.0, 0.0)
"""decord's conversion from limited range rounds down, by 2.0, 1.4 and 1.7 levels on average (R, G, B)."""


def frames(source: Source, indices: Sequence[int], size: tuple[int, int]) -> Iterator[Image]:
    """The frames at `indices` (ascending), scaled to cover `size` = (width, height) and cropped about the centre, RGB.

    Rotation is applied. The same pixels whichever indices were read before. Raises Quarantined (decode_error,
    too_many_pixels) where the decoder gives up.
    """
    cover = cover_size(source.video.aspect, size)
    read = decord_frames if source.video.decoder.startswith("decord") else pyav_frames
    for image in read(source, indices, cover):
        yield centre_crop(image, size)


def decord_frames(source: Source, indices: Sequence[int], cover: tuple[int, int]) -> Iterator[Image]:
    """Frames are held back until it is seen that decord lost none of them, as it does where a picture is damaged: those
    after it would be the next ones. More than HELD_BYTES are not held, and the error comes after them.
    """
    import decord

    try:
        if decord_reader.cache_info().hits > REOPENED_AFTER:
            decord_reader.cache_clear()
        reader, frame_bytes = decord_reader(source.path, source.video.signature, cover), 3 * cover[0] * cover[1]
        reader.seek_accurate(indices[0])
        images = in_turn(reader, indices, max(1, min(CHUNK, CHUNK_BYTES // frame_bytes)))
        if len(indices) * frame_bytes <= HELD_BYTES:
            images = iter(list(images))
            check_none_lost(reader, source, indices[-1])
            yield from (brightened(image, source) for image in images)
        else:
            yield from (brightened(image, source) for image in images)
            check_none_lost(reader, source, indices[-1])
    except (decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
        # its messages carry paths and clock times, which must not reach a record
        raise refused(Reason.DECODE_ERROR, f"the decoder gave up ({type(error).__name__})", Stage.DECODE) from error


def in_turn(reader, indices: Sequence[int], chunk: int) -> Iterator[Image]:
    """Frames that decord reads one after the other."""
    for start in range(0, len(indices), chunk):
        yield from reader.get_batch(list(indices[start : start + chunk])).asnumpy()


def check_none_lost(reader, source: Source, last: int) -> None:
    """Reads on from frame `last` to the next key frame, which must be what a seek to it gives. After the last key frame
    of a file there is nothing to compare with. Raises Quarantined (decode_error).
    """
    following = source.video.keyframes[source.video.keyframes > last]
    if not len(following):
        return
    key = int(following[0])
    *_, reached = in_turn(reader, range(last + 1, key + 1), 1)
    reader.seek_accurate(key)
    if not np.array_equal(reached, reader.get_batch([key]).asnumpy()[0]):
        raise refused(Reason.DECODE_ERROR, f"the decoder lost frames before frame {key}", Stage.DECODE)


def brightened(image: Image, source: Source) -> Image:
    """The image with decord's rounding undone."""
    return cv2.add(image, DECORD_ROUNDS_DOWN) if source.limited else image  # pyright: ignore[reportArgumentType, reportCallIssue]


@lru_cache(1)
def decord_reader(path: str, signature: Signature, cover: tuple[int, int]):  # noqa: ARG001 - part of the key
    """One reader for the pieces of a file: opening reads the whole index."""
    import decord

    return decord.VideoReader(path, width=cover[0], height=cover[1], num_threads=1)


def pyav_frames(source: Source, indices: Sequence[int], cover: tuple[int, int]) -> Iterator[Image]:
    found = found_by_time(source, indices) if source.seekable else found_by_count(source, indices)
    for frame in found:
        check_pixels(frame, source.max_pixels)
        yield converted(frame, cover)


def found_by_count(source: Source, indices: Sequence[int]) -> Iterator[VideoFrame]:
    """Frames by their place in the decoder's output from the beginning of the file."""
    wanted = iter(source.ordinals[list(indices)])
    ordinal = next(wanted)
    with opened(source.path) as container:
        for i, frame in enumerate(decoded(container)):
            if i == ordinal:
                yield frame
                if (ordinal := next(wanted, None)) is None:
                    return
    raise refused(Reason.DECODE_ERROR, f"the decoder ends before frame {ordinal}", Stage.DECODE)


def found_by_time(source: Source, indices: Sequence[int]) -> Iterator[VideoFrame]:
    """Frames by their time stamps, from a seek on."""
    wanted = iter(source.pts[list(indices)])
    pts = next(wanted)
    for frame in decoded_from(source, indices[0]):
        if frame.pts is None or frame.pts < pts:
            continue
        if frame.pts > pts:
            break
        yield frame
        if (pts := next(wanted, None)) is None:
            return
    raise refused(Reason.DECODE_ERROR, f"the decoder gives no frame with time stamp {pts}", Stage.DECODE)


def decoded_from(source: Source, index: int) -> Iterator[VideoFrame]:
    """Frames from that one or an earlier one on. Begins at the key frame before it; where nothing comes out in time, as
    in a gradual refresh or a container without an index, earlier and earlier, at last at the beginning of the file.
    """
    before = source.video.keyframes[source.video.keyframes <= index][::-1]
    earlier = [int(before[i]) for i in (2**n - 1 for n in range(len(before).bit_length()))]
    for start in (*earlier, None):
        with opened(source.path) as container:
            if start is not None:
                container.seek(int(source.pts[start]), stream=best_stream(container))
            output = decoded(container)
            first = next(output, None)
            if start is None or (first is not None and first.pts is not None and first.pts <= source.pts[index]):
                yield from chain([first] if first else [], output)
                return


def converted(frame: VideoFrame, cover: tuple[int, int]) -> Image:
    """RGB at the size `cover` = (width, height), turned upright."""
    turned = frame.rotation % 180 != 0
    width, height = cover[::-1] if turned else cover
    colours = Colorspace.ITU709 if untold_hd(frame) else None
    rgb = frame.reformat(width, height, "rgb24", src_colorspace=colours, dst_colorspace=colours, interpolation=BICUBIC_EXACT)
    return np.rot90(rgb.to_ndarray(), round(frame.rotation / 90))


def cover_size(aspect: float, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest (width, height) of that aspect that covers `size`."""
    width, height = size
    return max(width, round(height * aspect)), max(height, round(width / aspect))


def centre_crop(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Image:
    """The middle of `image`, `size` = (width, height)."""
    top, left = (image.shape[0] - size[1]) // 2, (image.shape[1] - size[0]) // 2
    return np.ascontiguousarray(image[top : top + size[1], left : left + size[0]])
