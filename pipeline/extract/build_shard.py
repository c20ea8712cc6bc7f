"""Builds one shard, from planned windows to a committed tar. READ THIS FIRST to know the pipeline.

    extract/plan_clip.py     which windows a clip has (before the run)
    extract/plan.py          in which shard each window is (before the run)
    extract/frame_stream.py  the frames of each window, decoded ahead and once each
    extract/window.py        flow, spectrum, measures and sample of one window
    filters/                 whether a motion prior should learn from the window
    dataset/commit.py        the tar, its histogram and its record, committed together

Life of a window: its frames arrive; flow from its start frame to every frame is added to a running
spectrum and dropped; the filters judge what was measured; the window is kept with its sample, or
rejected, or quarantined because it could not be read. Whatever happens, it becomes one `RecordRow`.
A window is finished while the device already computes the flow of the next one.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline import filters
from pipeline.dataset.commit import ShardDraft
from pipeline.dataset.folder import Dataset
from pipeline.decode.pool import DecoderPool, shared_pool
from pipeline.extract.config import BuildConfig
from pipeline.extract.frame_stream import ChunkInfo, ChunkStream, PreparedFrame, iter_windows
from pipeline.extract.timing import ShardTimer, ShardTiming
from pipeline.extract.window import (
    PendingMotion,
    make_kept_row,
    make_sample,
    measure_flow,
    measure_window,
    synchronize,
)
from pipeline.flow.estimator import FlowEstimator, make_estimator
from schemas.outcome import Outcome, Quarantined, Stage, WindowOutcome
from schemas.records import PlanRow
from schemas.run_contract import contract_provenance
from schemas.sample import Sample
from schemas.shard_record import RecordRow

_STRIP_WIDTH = 96
"""Width of one frame in the strip of a rejected window, pixels."""


class PendingWindow(NamedTuple):
    """A window whose flow is measured, or on its way from a device."""

    row: PlanRow
    frames: list[PreparedFrame]
    motion: PendingMotion
    provenance: dict[str, Any]
    """What decoded the frames and what measured the flow, for the sample's metadata."""


class WindowResult(NamedTuple):
    """What became of one window."""

    row: RecordRow
    sample: Sample | None = None
    """Of a kept window."""
    strip: str | None = None
    """Of a rejected window: three of its frames as a base64 JPEG."""


def build_shard(
    dataset: Dataset, shard: str, rows: Sequence[PlanRow], config: BuildConfig, decoders: int = 1
) -> Iterator[WindowOutcome | ShardTiming]:
    """Builds and commits one shard of the plan with `decoders` decoder processes.

    Yields the outcome of each window as soon as it is known, and at the end how long the shard
    took. Whatever is wrong with a video becomes the outcome of its windows.

    Raises OSError if the dataset cannot be written, ContractMismatch if the flow weights of this
    machine are not those of the run.
    """
    timer = ShardTimer()
    estimator = timer.wrap_estimator(make_estimator(config.flow))
    dataset.check_flow_settings(estimator.description())
    draft = ShardDraft(dataset, shard, config.frequencies, contract_provenance(dataset.contract()))
    try:
        pool = shared_pool(config.decode, decoders)
        to_build = [row for row in rows if row.known_result is None]
        results = build_windows(to_build, config, estimator, pool, timer)
        for row in rows:
            if row.known_result is not None:  # a retry decided it (dataset/rounds.py)
                draft.add(row.known_result, None, None)
                continue
            result = next(results)
            draft.add(result.row, result.sample, result.strip)
            yield WindowOutcome(
                result.row.key, result.row.outcome, result.row.reason, result.row.detail
            )
        draft.commit()
        yield timer.timing()
    finally:
        draft.discard()


def build_windows(
    rows: Sequence[PlanRow],
    config: BuildConfig,
    estimator: FlowEstimator,
    pool: DecoderPool,
    timer: ShardTimer,
) -> Iterator[WindowResult]:
    """Yields one result for each window; the rows stand in order of their clips.

    The rows of one clip are a chunk, whose frames are decoded once for all its windows.
    """
    chunks = [list(chunk) for _, chunk in groupby(rows, key=lambda row: row.clip_id)]
    with closing(ChunkStream(chunks, pool, config.plan, config.size)) as streams:
        for chunk, stream in streams:
            yield from _build_chunk(chunk, timer.measure_wait(stream), config, estimator)


def _build_chunk(
    rows: Sequence[PlanRow], stream: Iterator[Any], config: BuildConfig, estimator: FlowEstimator
) -> Iterator[WindowResult]:
    """Yields one result for each window of one clip, from the stream of a `ChunkStream`.

    If the video cannot be read any further, the windows still to come are quarantined. The others
    are what they would have been.
    """
    started, previous, unreadable = 0, None, []
    try:
        for window in start_windows(rows, stream, config, estimator):
            if previous is not None:  # finished only now: the device has work meanwhile
                yield _finish_window(previous, config)
            started, previous = started + 1, window
    except Quarantined as error:
        unreadable = [_quarantine_window(row, error) for row in rows[started:]]
    if previous is not None:
        yield _finish_window(previous, config)
    yield from unreadable


def start_windows(
    rows: Sequence[PlanRow], stream: Iterator[Any], config: BuildConfig, estimator: FlowEstimator
) -> Iterator[PendingWindow | WindowResult]:
    """Yields each window with its flow under way; one that touches a damaged frame as a result.

    Raises Quarantined if the video cannot be read any further.
    """
    chunk: ChunkInfo = next(stream)
    for row, frames in zip(rows, iter_windows(chunk, stream, estimator), strict=True):
        if isinstance(frames, Quarantined):
            yield _quarantine_window(row, frames)
            continue
        provenance = dict(
            decoder=" and ".join(dict.fromkeys(frame.decoder for frame in frames)),
            decoder_reason=chunk.decoder_reason,
            flow=estimator.description(),
        )
        motion = measure_flow(row.window().key, frames, config, estimator)
        yield PendingWindow(row, frames, motion, provenance)


def _finish_window(window: PendingWindow | WindowResult, config: BuildConfig) -> WindowResult:
    """Measures one window, judges it, and makes its sample if it is kept."""
    if isinstance(window, WindowResult):
        return window
    row, frames, pending, provenance = window
    try:
        motion = synchronize(pending, frames[0].stats.gray)
        measures = measure_window(frames, motion)
        kept_row = make_kept_row(row.window().key, measures, motion)
        if verdicts := filters.judge(measures, config.thresholds):
            rejected_row = replace(
                kept_row,
                outcome=Outcome.REJECTED,
                stage=Stage.FILTER,
                reason=verdicts[0],
                verdicts=verdicts,
            )
            return WindowResult(rejected_row, strip=_picture_strip(frames))
        sample = make_sample(row, frames, motion, measures, config, **provenance)
    except Quarantined as error:
        return _quarantine_window(row, error)
    return WindowResult(kept_row, sample)


def _quarantine_window(row: PlanRow, error: Quarantined) -> WindowResult:
    return WindowResult(
        RecordRow(
            key=row.window().key,
            outcome=Outcome.QUARANTINED,
            stage=error.stage,
            reason=error.reason,
            detail=error.detail,
            attempts=error.attempts,
        )
    )


def _picture_strip(frames: Sequence[PreparedFrame]) -> str:
    """The first, the middle and the last frame side by side, as a base64 JPEG of a few kB."""
    images = [frames[i].image for i in (0, len(frames) // 2, len(frames) - 1)]
    height, width = images[0].shape[:2]
    size = (_STRIP_WIDTH, max(1, round(_STRIP_WIDTH * height / width)))
    strip = np.hstack([np.asarray(Image.fromarray(image).resize(size)) for image in images])
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "jpeg", quality=75)
    return base64.b64encode(buffer.getvalue()).decode()
