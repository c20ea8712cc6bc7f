"""Decodes and prepares the frames of the windows of a shard, each frame once and ahead of its use.

A chunk is the windows of one video that stand together in a shard. A frame is dropped when the
last window that needs it is past.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from pipeline import filters
from pipeline.atomic_files import file_sha256
from pipeline.decode.media_file import PictureResult, file_signature
from pipeline.decode.pool import DecoderPool, Prefetcher, damaged_frame_error, prefetch_depth
from pipeline.extract.config import PlanConfig
from pipeline.extract.plan import clip_from_row
from pipeline.extract.plan_clip import times_since_first, window_span
from pipeline.filters import FrameDelta, FrameStats
from pipeline.flow.estimator import FlowEstimator
from schemas.clip import Clip, FileSignature, VideoInfo
from schemas.outcome import Quarantined, Reason, Stage
from schemas.records import PlanRow

_FRAMES_PER_BATCH = 16
"""Frames that are prepared together."""
_TIME_TOLERANCE_S = 1e-5
"""Times of a frame that differ by less are equal. It covers the rounding of an hour of float64
subtractions, and is far below the duration of any frame.
"""


class ChunkInfo(NamedTuple):
    """What the probe of a chunk's video says."""

    spans: list[range]
    """Indices of the source frames that each window needs."""
    decoder_reason: str
    """Why the video is read by its decoder."""


class Frame(NamedTuple):
    """A decoded source frame."""

    number: int
    """Its index in the video."""
    time: float
    """Seconds after the first frame of the video."""
    picture: PictureResult

    @property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """Its image. Raises Quarantined (decode_error) if it is damaged."""
        if self.picture.image is None:
            raise damaged_frame_error(self.number, self.time, self.picture.damage)
        return self.picture.image


class PreparedFrame(NamedTuple):
    """A frame with everything that is computed once for it."""

    image: UInt8[np.ndarray, "height width 3"]
    time: float
    decoder: str
    """Name and version of the decoder that gave the image."""
    flow_input: Any
    stats: FrameStats
    delta: FrameDelta | None
    """Difference from the frame before it; None for the first one, and after a damaged one."""


class ChunkStream:
    """The frames of several chunks, decoded one chunk after the other in the background.

    Iterating yields the rows of each chunk and a stream: first its `ChunkInfo`, then each `Frame`
    in order. Reading the stream raises Quarantined if decoding fails. The next chunk is decoded
    while the frames of this one are worked on.
    """

    def __init__(
        self,
        chunks: Sequence[Sequence[PlanRow]],
        pool: DecoderPool,
        plan: PlanConfig,
        size: tuple[int, int],
    ):
        self.chunks = chunks
        self.prefetcher = Prefetcher(_decode_chunks(chunks, pool, plan, size), prefetch_depth(size))

    def __iter__(self) -> Iterator[tuple[Sequence[PlanRow], Iterator[Any]]]:
        for number, items in groupby(self.prefetcher, key=itemgetter(0)):
            yield self.chunks[number], map(_raise_quarantined, map(itemgetter(1), items))

    def close(self) -> None:
        """Stops decoding."""
        self.prefetcher.close()


def _decode_chunks(
    chunks: Sequence[Sequence[PlanRow]],
    pool: DecoderPool,
    plan: PlanConfig,
    size: tuple[int, int],
) -> Iterator[tuple[int, Any]]:
    """Yields (number of the chunk, item of its stream). Quarantined is an item, since the next
    chunk goes on.

    Raises OSError if the folder of a video is gone or its file system fails: no clip is to blame,
    and every clip would be quarantined. In a round of `quiver retry` that is an outcome too, since
    these windows have failed so before, and a round that never ends would lock the dataset.
    """
    for number, rows in enumerate(chunks):
        try:
            for item in decode_chunk(rows, pool, plan, size):
                yield number, item
        except (OSError, Quarantined) as error:
            if folder_error := _find_folder_error(rows[0].uri):
                if not rows[0].round:
                    raise folder_error from error
                detail = f"its folder: {folder_error.strerror}"
                yield number, Quarantined(Stage.DECODE, Reason.MISSING, detail)
            elif isinstance(error, Quarantined):
                yield number, error
            else:
                raise


def _find_folder_error(path: str) -> OSError | None:
    """Returns the error if the folder of a file is gone or its file system fails."""
    try:
        file_signature(path)
    except OSError as error:
        return error
    return None


def _raise_quarantined(item: Any) -> Any:
    if isinstance(item, Quarantined):
        raise item
    return item


def decode_chunk(
    rows: Sequence[PlanRow], pool: DecoderPool, plan: PlanConfig, size: tuple[int, int]
) -> Iterator[ChunkInfo | Frame]:
    """Yields the `ChunkInfo`, then every frame that a window of these rows needs.

    Raises Quarantined if the video is not the one that was planned, or cannot be read any further.
    """
    clip = clip_from_row(rows[0])
    video = probe_planned_video(clip, rows, pool)
    spans = [window_span(clip, video, row.window(), plan) for row in rows]
    indices, times = sorted({index for span in spans for index in span}), times_since_first(video)
    yield ChunkInfo(spans, video.decoder_reason)
    for index, picture in zip(indices, pool.pictures(clip.uri, video, indices, size), strict=True):
        yield Frame(index, float(times[index]), picture)


def probe_planned_video(clip: Clip, rows: Sequence[PlanRow], pool: DecoderPool) -> VideoInfo:
    """Probes a video again. Raises Quarantined (missing, hash_mismatch) if it is not the one that
    was planned.
    """
    signature = file_signature(clip.uri)
    if signature is None:
        raise Quarantined(Stage.DECODE, Reason.MISSING, "the file is gone")
    if (sha256 := _cached_sha256(clip.uri, signature)) != (planned_sha256 := rows[0].sha256):
        raise Quarantined(
            Stage.DECODE,
            Reason.HASH_MISMATCH,
            f"the file has sha256 {sha256[:12]}..., "
            f"and {str(planned_sha256)[:12]}... when it was planned",
        )
    video = pool.probe(clip.uri)
    if video.signature != signature:
        raise Quarantined(
            Stage.DECODE, Reason.HASH_MISMATCH, "the file was replaced while it was read"
        )
    times = dict(enumerate(times_since_first(video)))
    windows = [row.window() for row in rows]
    starts = [(times.get(window.start_frame, np.inf), window.start_time_s) for window in windows]
    if any(abs(time - planned_time) > _TIME_TOLERANCE_S for time, planned_time in starts):
        # another version of a library sees other frames
        raise Quarantined(
            Stage.DECODE, Reason.HASH_MISMATCH, "the file has other frames than when it was planned"
        )
    return video


@lru_cache(4096)
def _cached_sha256(path: str, signature: FileSignature) -> str:  # noqa: ARG001 - part of the key
    """sha256 of a file, hexadecimal; a file that is unchanged is read once for all its chunks and
    cuts. Raises OSError.
    """
    return file_sha256(path)


def iter_windows(
    chunk: ChunkInfo, frames: Iterator[Frame], estimator: FlowEstimator
) -> Iterator[list[PreparedFrame] | Quarantined]:
    """Yields the frames of each window, the start frame first, or the error of the first damaged
    frame that it touches.

    Raises Quarantined if the video cannot be read any further.
    """
    stream = _prepare_frames(frames, estimator)
    buffer: dict[int, PreparedFrame | Quarantined] = {}
    for span in chunk.spans:
        buffer = {index: frame for index, frame in buffer.items() if index >= span.start}
        while span[-1] not in buffer:
            index, frame = next(stream)
            buffer[index] = frame
        window = [buffer[index] for index in span]
        error = next((frame for frame in window if isinstance(frame, Quarantined)), None)
        yield error or [frame for frame in window if isinstance(frame, PreparedFrame)]


def _prepare_frames(
    frames: Iterator[Frame], estimator: FlowEstimator
) -> Iterator[tuple[int, PreparedFrame | Quarantined]]:
    """Yields the index of each frame, and the frame with what is computed once for it, or its
    error if it is damaged.
    """
    before: FrameStats | None = None
    for batch in _batch_frames(frames, _FRAMES_PER_BATCH):
        images = [frame.image for frame in batch if not frame.picture.damage]
        flow_inputs = iter(estimator.prepare(images) if images else [])
        for frame in batch:
            if damage := frame.picture.damage:
                yield frame.number, damaged_frame_error(frame.number, frame.time, damage)
                before = None
                continue
            stats = filters.compute_frame_stats(frame.image)
            prepared = PreparedFrame(
                image=frame.image,
                time=frame.time,
                decoder=frame.picture.decoder,
                flow_input=next(flow_inputs),
                stats=stats,
                delta=None if before is None else filters.compute_frame_delta(before, stats),
            )
            yield frame.number, prepared
            before = stats


def _batch_frames(frames: Iterator[Frame], count: int) -> Iterator[list[Frame]]:
    """Yields lists of `count` frames, the last one shorter, also before it raises Quarantined."""
    batch, error = [], None
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == count:
                yield batch
                batch = []
    except Quarantined as stopped:
        error = stopped
    if batch:
        yield batch
    if error:
        raise error
