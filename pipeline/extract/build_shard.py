"""One shard, from planned windows to a committed tar: read this file to know the pipeline.

    plan.py     which windows, in which shard
    stretch.py  the frames of each window, decoded ahead, each once
    window.py   flow, sums, measures, verdicts, sample
    dataset.py  the shard, its commit record

A window is finished while a device already computes the flow of the next one.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
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
from schemas.outcome import Outcome, Quarantined, Reason, Stage, WindowOutcome
from schemas.records import PlanRow
from schemas.run_contract import contract_provenance
from schemas.sample import Sample
from schemas.shard_record import RecordRow

_STRIP_WIDTH = 96
"""Width of one frame in a rejected window's strip."""


class PendingWindow(NamedTuple):
    """A window whose flow is measured, or on its way from a device."""

    row: PlanRow
    frames: list[PreparedFrame]
    motion: PendingMotion
    provenance: dict[str, Any]
    """What decoded it and what measured its flow."""


class WindowResult(NamedTuple):
    """What became of one window."""

    row: RecordRow
    sample: Sample | None = None
    strip: str | None = None


def build_shard(
    dataset: Dataset, shard: str, rows: Sequence[PlanRow], config: BuildConfig, decoders: int = 1
) -> Iterator[WindowOutcome | ShardTiming]:
    """Builds and commits one shard of the plan with `decoders` decoder processes; yields
    what becomes of each window as soon as it is known, and at last what it took.

    Raises OSError where the data set cannot be written, ContractMismatch where this machine's
    weights are not the run's; whatever is wrong with a video becomes its windows' outcome.
    """
    clock = ShardTimer()
    estimator = clock.wrap_estimator(make_estimator(config.flow))
    dataset.check_flow_settings(estimator.description())
    draft = ShardDraft(dataset, shard, config.frequencies, contract_provenance(dataset.contract()))
    try:
        open_rows = [row for row in rows if row.settled is None]
        results = build_windows(
            open_rows, config, estimator, shared_pool(config.decode, decoders), clock
        )
        for row in rows:
            if row.settled is not None:  # its fate is known (rounds.Settled)
                draft.add(row.settled, None, None)
                continue
            result = next(results)
            draft.add(result.row, result.sample, result.strip)
            yield WindowOutcome(
                result.row.key,
                result.row.outcome,
                result.row.reason,
                result.row.detail,
            )
        draft.commit()
        yield clock.timing()
    finally:
        draft.discard()


def build_windows(
    rows: Sequence[PlanRow],
    config: BuildConfig,
    estimator: FlowEstimator,
    pool: DecoderPool,
    clock: ShardTimer,
) -> Iterator[WindowResult]:
    """One result for each of these windows, which are in order of their clips."""
    stretches = [list(stretch) for _, stretch in groupby(rows, key=lambda row: row.clip_id)]
    with closing(ChunkStream(stretches, pool, config.plan, config.size)) as decoded:
        for stretch, stream in decoded:
            yield from _build_chunk(stretch, clock.measure_wait(stream), config, estimator)


def _build_chunk(
    rows: Sequence[PlanRow], stream: Iterator[Any], config: BuildConfig, estimator: FlowEstimator
) -> Iterator[WindowResult]:
    """One result for each of these windows of one clip, from its stream (Stretches). A window that
    touches a damaged frame is quarantined; if the video cannot be read any further, so are those
    still to come. The others are what they would have been.
    """
    done, last = 0, None
    try:
        for begun in start_windows(rows, stream, config, estimator):
            if last is not None:
                yield _finish_window(last, config)
            done, last = done + 1, begun
        left = []
    except Quarantined as error:
        left = [_quarantine_window(row, error) for row in rows[done:]]
    if last is not None:
        yield _finish_window(last, config)
    yield from left


def start_windows(
    rows: Sequence[PlanRow], stream: Iterator[Any], config: BuildConfig, estimator: FlowEstimator
) -> Iterator[PendingWindow | WindowResult]:
    """Each window with its flow under way, or its refusal. Raises Quarantined if the video cannot
    be read any further.
    """
    found: ChunkInfo = next(stream)
    for row, seen in zip(rows, iter_windows(found, stream, estimator), strict=True):
        if isinstance(seen, Quarantined):
            yield _quarantine_window(row, seen)
            continue
        decoders = " and ".join(dict.fromkeys(one.decoder for one in seen))
        described = dict(
            decoder=decoders, decoder_reason=found.decoder_reason, flow=estimator.description()
        )
        yield PendingWindow(
            row, seen, measure_flow(row.window().key, seen, config, estimator), described
        )


def _finish_window(begun: PendingWindow | WindowResult, config: BuildConfig) -> WindowResult:
    """Measures one window, judges it, and makes its sample if it is kept."""
    if isinstance(begun, WindowResult):
        return begun
    row, seen, moving, described = begun
    try:
        moved = synchronize(moving)
        measures = measure_window(seen, moved)
        kept_row = make_kept_row(row.window().key, measures, moved)
        verdicts = filters.judge(measures, config.thresholds)
        if verdicts:
            return _reject_window(kept_row, verdicts, seen)
        sample = make_sample(row, seen, moved, measures, config, **described)
    except Quarantined as error:
        return _quarantine_window(row, error)
    return WindowResult(kept_row, sample)


def _reject_window(
    kept_row: RecordRow, verdicts: Sequence[Reason], seen: Sequence[PreparedFrame]
) -> WindowResult:
    strip = _picture_strip([seen[i].image for i in (0, len(seen) // 2, len(seen) - 1)])
    row = replace(
        kept_row,
        outcome=Outcome.REJECTED,
        stage=Stage.FILTER,
        reason=verdicts[0],
        verdicts=list(verdicts),
    )
    return WindowResult(row, strip=strip)


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


def _picture_strip(images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> str:
    """Small copies side by side, as a base64 JPEG of a few kB for the report."""
    height, width = images[0].shape[:2]
    small = (_STRIP_WIDTH, max(1, round(_STRIP_WIDTH * height / width)))
    strip = Image.fromarray(
        np.hstack([np.asarray(Image.fromarray(image).resize(small)) for image in images])
    )
    buffer = io.BytesIO()
    strip.save(buffer, "jpeg", quality=75)
    return base64.b64encode(buffer.getvalue()).decode()
