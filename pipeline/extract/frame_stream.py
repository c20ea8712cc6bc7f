"""Stretches of videos as windows of frames, each frame decoded and prepared once, ahead of the one who needs it.

A stretch is the windows of one video that stand together in a shard. A frame is dropped when the last window that
needs it is past.
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
from pipeline.decode.media_file import Picture, signature
from pipeline.decode.pool import Ahead, DecoderPool, damaged, depth
from pipeline.extract.plan import PlanConfig, clip_of, since_first, window_of, window_span
from pipeline.filters import Look, Step
from pipeline.flow import FlowEstimator
from schemas.clip import Clip, Signature, Video
from schemas.outcome import Quarantined, Reason, Stage

TOGETHER = 16
"""Frames that are prepared together."""


SAME_S = 1e-5
"""Times of a frame that differ by less are equal: an hour of float64 subtractions, and far under
any frame's duration.
"""


class Found(NamedTuple):
    """A stretch whose video was probed: which frames each window needs, and which decoder reads them."""

    spans: list[range]
    decoder_reason: str
    """Why the video's decoder is the one that it is."""


class Frame(NamedTuple):
    """A decoded source frame."""

    number: int
    """Its index in the video."""
    time: float
    """Seconds after the first frame of the video."""
    picture: Picture

    @property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """Its image. Raises Quarantined (decode_error) if it is damaged."""
        if self.picture.image is None:
            raise damaged(self.number, self.time, self.picture.damage)
        return self.picture.image


class Seen(NamedTuple):
    """A frame with everything that is computed once for it."""

    image: UInt8[np.ndarray, "height width 3"]
    time: float
    decoder: str
    """Name and version of the decoder that gave the image."""
    prepared: Any
    look: Look
    step: Step | None
    """From the frame before it in the stretch."""


class Stretches:
    """The frames of several stretches, decoded one stretch after the other in the background.

    Iterating gives each stretch's rows and a stream: first Found, then its frames in order; reading it raises
    Quarantined where the video gives out. The next stretch is decoded while this one's frames are worked on.
    """

    def __init__(self, stretches: Sequence[Sequence[dict]], pool: DecoderPool, plan: PlanConfig, size: tuple[int, int]):
        self.stretches = stretches
        self.items = Ahead(_tagged(stretches, pool, plan, size), depth(size))

    def __iter__(self) -> Iterator[tuple[Sequence[dict], Iterator[Any]]]:
        for number, items in groupby(self.items, key=itemgetter(0)):
            yield self.stretches[number], map(_raise_quarantined, map(itemgetter(1), items))

    def close(self) -> None:
        """Stops decoding."""
        self.items.close()


def _tagged(stretches: Sequence[Sequence[dict]], pool: DecoderPool, plan: PlanConfig, size: tuple[int, int]) -> Iterator[tuple[int, Any]]:
    """(number of the stretch, what its stream gives); Quarantined as an item, since the next stretch goes on. Raises OSError where the
    folder of a video is gone, or its file system fails: that is no clip's fault, and would be every clip's end. In a round of
    `quiver retry` that is an outcome too: these windows have failed so before, and without an end the round would lock the data set.
    """
    for number, rows in enumerate(stretches):
        try:
            for item in decode_stretch(rows, pool, plan, size):
                yield number, item
        except (OSError, Quarantined) as error:
            if lost := _lost_folder(rows[0]["uri"]):
                if not rows[0].get("round"):
                    raise lost from error
                yield number, Quarantined(Stage.DECODE, Reason.MISSING, f"its folder: {lost.strerror}")
            elif isinstance(error, Quarantined):
                yield number, error
            else:
                raise


def _lost_folder(path: str) -> OSError | None:
    """The error if the folder of a file is gone, or its file system fails."""
    try:
        signature(path)
    except OSError as error:
        return error
    return None


def _raise_quarantined(item: Any) -> Any:
    if isinstance(item, Quarantined):
        raise item
    return item


def decode_stretch(rows: Sequence[dict], pool: DecoderPool, plan: PlanConfig, size: tuple[int, int]) -> Iterator[Found | Frame]:
    """Found, then every frame that a window of these rows needs. Raises Quarantined where the video is not the one planned."""
    clip = clip_of(rows[0])
    video = planned_video(clip, rows, pool)
    spans = [window_span(clip, video, window_of(row), plan) for row in rows]
    indices, times = sorted({index for span in spans for index in span}), since_first(video)
    yield Found(spans, video.decoder_reason)
    for index, picture in zip(indices, pool.pictures(clip.uri, video, indices, size), strict=True):
        yield Frame(index, float(times[index]), picture)


def planned_video(clip: Clip, rows: Sequence[dict], pool: DecoderPool) -> Video:
    """The video, probed again. Raises Quarantined (missing, hash_mismatch) where it is not the one
    that was planned.
    """
    found = signature(clip.uri)
    if found is None:
        raise Quarantined(Stage.DECODE, Reason.MISSING, "the file is gone")
    if (sha256 := content(clip.uri, found)) != (planned := rows[0]["sha256"]):
        raise Quarantined(Stage.DECODE, Reason.HASH_MISMATCH, f"the file has sha256 {sha256[:12]}..., and {planned[:12]}... when it was planned")
    video = pool.probe(clip.uri)
    if video.signature != found:
        raise Quarantined(Stage.DECODE, Reason.HASH_MISMATCH, "the file was replaced while it was read")
    times = dict(enumerate(since_first(video)))
    starts = [(times.get(row["start_frame"], np.inf), row["start_time_s"]) for row in rows]
    if any(abs(now - then) > SAME_S for now, then in starts):  # as another library sees it
        raise Quarantined(Stage.DECODE, Reason.HASH_MISMATCH, "the file has other frames than when it was planned")
    return video


@lru_cache(4096)
def content(path: str, found: Signature) -> str:  # noqa: ARG001 - part of the key
    """sha256 of a file, hexadecimal; read once while the file is the same, however many stretches and cuts are of it. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def windows(found: Found, frames: Iterator[Frame], estimator: FlowEstimator) -> Iterator[list[Seen] | Quarantined]:
    """The frames of each window, the start frame first; of a window that touches a damaged frame, that.

    Raises Quarantined if the video cannot be read any further.
    """
    stream = look_at(frames, estimator)
    seen: dict[int, Seen | Quarantined] = {}
    for span in found.spans:
        seen = {index: one for index, one in seen.items() if index >= span.start}
        while span[-1] not in seen:
            index, one = next(stream)
            seen[index] = one
        window = [seen[index] for index in span]
        refusal = next((one for one in window if isinstance(one, Quarantined)), None)
        yield refusal or [one for one in window if isinstance(one, Seen)]


def look_at(frames: Iterator[Frame], estimator: FlowEstimator) -> Iterator[tuple[int, Seen | Quarantined]]:
    """Every frame, by its index, with what is computed once for it, or its refusal if it is damaged."""
    before: Look | None = None
    for together in batched(frames, TOGETHER):
        images = [frame.image for frame in together if not frame.picture.damage]
        all_prepared = iter(estimator.prepare(images) if images else [])
        for frame in together:
            if frame.picture.damage:
                yield frame.number, damaged(frame.number, frame.time, frame.picture.damage)
                before = None
                continue
            look = filters.look(frame.image)
            step = None if before is None else filters.step(before, look)
            yield frame.number, Seen(frame.image, frame.time, frame.picture.decoder, next(all_prepared), look, step)
            before = look


def batched(frames: Iterator[Frame], count: int) -> Iterator[list[Frame]]:
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
