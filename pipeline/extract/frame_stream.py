"""Stretches of videos as windows of frames, each frame decoded and prepared once, ahead of the one
who needs it.

A stretch is the windows of one video that stand together in a shard. A frame is dropped when the
last window that needs it is past.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from pipeline import filters
from pipeline.decode.media_file import PictureResult, file_signature
from pipeline.decode.pool import DecoderPool, Prefetcher, damaged_frame_error, prefetch_depth
from pipeline.extract.config import PlanConfig
from pipeline.extract.plan import clip_from_row, times_since_first, window_span
from pipeline.filters import FrameDelta, FrameStats
from pipeline.flow.estimator import FlowEstimator
from schemas.clip import Clip, FileSignature, VideoInfo
from schemas.outcome import Quarantined, Reason, Stage
from schemas.records import PlanRow

_FRAMES_PER_BATCH = 16
"""Frames that are prepared together."""


_TIME_TOLERANCE_S = 1e-5
"""Times of a frame that differ by less are equal: an hour of float64 subtractions, and far under
any frame's duration.
"""


class ChunkInfo(NamedTuple):
    """A stretch whose video was probed: which frames each window needs, and which decoder reads
    them.
    """

    spans: list[range]
    decoder_reason: str
    """Why the video's decoder is the one that it is."""


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
    """From the frame before it in the stretch."""


class ChunkStream:
    """The frames of several stretches, decoded one stretch after the other in the background.

    Iterating gives each stretch's rows and a stream: first Found, then its frames in order; reading
    it raises Quarantined where the video gives out. The next stretch is decoded while this one's
    frames are worked on.
    """

    def __init__(
        self,
        stretches: Sequence[Sequence[PlanRow]],
        pool: DecoderPool,
        plan: PlanConfig,
        size: tuple[int, int],
    ):
        self.chunks = stretches
        self.prefetcher = Prefetcher(
            _decode_chunks(stretches, pool, plan, size), prefetch_depth(size)
        )

    def __iter__(self) -> Iterator[tuple[Sequence[PlanRow], Iterator[Any]]]:
        for number, items in groupby(self.prefetcher, key=itemgetter(0)):
            yield self.chunks[number], map(_raise_quarantined, map(itemgetter(1), items))

    def close(self) -> None:
        """Stops decoding."""
        self.prefetcher.close()


def _decode_chunks(
    stretches: Sequence[Sequence[PlanRow]],
    pool: DecoderPool,
    plan: PlanConfig,
    size: tuple[int, int],
) -> Iterator[tuple[int, Any]]:
    """(number of the stretch, what its stream gives); Quarantined as an item, since the next
    stretch goes on. Raises OSError where the folder of a video is gone, or its file system fails:
    that is no clip's fault, and would be every clip's end. In a round of `quiver retry` that is an
    outcome too: these windows have failed so before, and without an end the round would lock the
    data set.
    """
    for number, rows in enumerate(stretches):
        try:
            for item in decode_chunk(rows, pool, plan, size):
                yield number, item
        except (OSError, Quarantined) as error:
            if lost := _find_folder_error(rows[0].uri):
                if not rows[0].round:
                    raise lost from error
                yield (
                    number,
                    Quarantined(Stage.DECODE, Reason.MISSING, f"its folder: {lost.strerror}"),
                )
            elif isinstance(error, Quarantined):
                yield number, error
            else:
                raise


def _find_folder_error(path: str) -> OSError | None:
    """The error if the folder of a file is gone, or its file system fails."""
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
    """Found, then every frame that a window of these rows needs. Raises Quarantined where the video
    is not the one planned.
    """
    clip = clip_from_row(rows[0])
    video = probe_planned_video(clip, rows, pool)
    spans = [window_span(clip, video, row.window(), plan) for row in rows]
    indices, times = sorted({index for span in spans for index in span}), times_since_first(video)
    yield ChunkInfo(spans, video.decoder_reason)
    for index, picture in zip(indices, pool.pictures(clip.uri, video, indices, size), strict=True):
        yield Frame(index, float(times[index]), picture)


def probe_planned_video(clip: Clip, rows: Sequence[PlanRow], pool: DecoderPool) -> VideoInfo:
    """The video, probed again. Raises Quarantined (missing, hash_mismatch) where it is not the one
    that was planned.
    """
    found = file_signature(clip.uri)
    if found is None:
        raise Quarantined(Stage.DECODE, Reason.MISSING, "the file is gone")
    if (sha256 := _cached_sha256(clip.uri, found)) != (planned := rows[0].sha256):
        raise Quarantined(
            Stage.DECODE,
            Reason.HASH_MISMATCH,
            f"the file has sha256 {sha256[:12]}..., and {str(planned)[:12]}... when it was planned",
        )
    video = pool.probe(clip.uri)
    if video.signature != found:
        raise Quarantined(
            Stage.DECODE, Reason.HASH_MISMATCH, "the file was replaced while it was read"
        )
    times = dict(enumerate(times_since_first(video)))
    windows = [row.window() for row in rows]
    starts = [(times.get(window.start_frame, np.inf), window.start_time_s) for window in windows]
    if any(
        abs(now - then) > _TIME_TOLERANCE_S for now, then in starts
    ):  # as another library sees it
        raise Quarantined(
            Stage.DECODE, Reason.HASH_MISMATCH, "the file has other frames than when it was planned"
        )
    return video


@lru_cache(4096)
def _cached_sha256(path: str, found: FileSignature) -> str:  # noqa: ARG001 - part of the key
    """sha256 of a file, hexadecimal; read once while the file is the same, however many stretches
    and cuts are of it. Raises OSError.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def iter_windows(
    found: ChunkInfo, frames: Iterator[Frame], estimator: FlowEstimator
) -> Iterator[list[PreparedFrame] | Quarantined]:
    """The frames of each window, the start frame first; of a window that touches a damaged frame,
    that.

    Raises Quarantined if the video cannot be read any further.
    """
    stream = _prepare_frames(frames, estimator)
    seen: dict[int, PreparedFrame | Quarantined] = {}
    for span in found.spans:
        seen = {index: one for index, one in seen.items() if index >= span.start}
        while span[-1] not in seen:
            index, one = next(stream)
            seen[index] = one
        window = [seen[index] for index in span]
        refusal = next((one for one in window if isinstance(one, Quarantined)), None)
        yield refusal or [one for one in window if isinstance(one, PreparedFrame)]


def _prepare_frames(
    frames: Iterator[Frame], estimator: FlowEstimator
) -> Iterator[tuple[int, PreparedFrame | Quarantined]]:
    """Every frame, by its index, with what is computed once for it, or its refusal if it is
    damaged.
    """
    before: FrameStats | None = None
    for together in _batch_frames(frames, _FRAMES_PER_BATCH):
        images = [frame.image for frame in together if not frame.picture.damage]
        all_prepared = iter(estimator.prepare(images) if images else [])
        for frame in together:
            if frame.picture.damage:
                yield (
                    frame.number,
                    damaged_frame_error(frame.number, frame.time, frame.picture.damage),
                )
                before = None
                continue
            look = filters.compute_frame_stats(frame.image)
            step = None if before is None else filters.compute_frame_delta(before, look)
            yield (
                frame.number,
                PreparedFrame(
                    frame.image, frame.time, frame.picture.decoder, next(all_prepared), look, step
                ),
            )
            before = look


def _batch_frames(frames: Iterator[Frame], count: int) -> Iterator[list[Frame]]:
    """Lists of `count` frames; if the video cannot be read any further, those before that first."""
    batch, end = [], None
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == count:
                yield batch
                batch = []
    except Quarantined as error:
        end = error
    if batch:
        yield batch
    if end:
        raise end
