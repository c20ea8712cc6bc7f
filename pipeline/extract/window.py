"""One window, from its frames to its sample: flow, sums, measures, verdicts."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float16, Float32

from pipeline import filters
from pipeline.extract.config import BuildConfig
from pipeline.extract.frame_stream import PreparedFrame
from pipeline.flow.consistency import confidence, damp, relative_disagreements
from pipeline.flow.estimator import FlowEstimator
from pipeline.motion import spectrum
from pipeline.motion.spectrum import BLOCK_FRAMES, RunningSpectrum
from schemas.outcome import FilterMeasures, Outcome, Quarantined, Reason, Stage
from schemas.records import PlanRow
from schemas.sample import FORMAT_VERSION, Sample
from schemas.shard_record import RecordRow

_MEASURE_DIGITS = 6
"""Significant digits of every recorded measure; verdicts are made from the recorded number."""
_HALF_MAX = float(np.finfo(np.float16).max)


class PendingMotion(NamedTuple):
    """The motion of a window, which may still be on its way from a device."""

    sums: RunningSpectrum
    forward: dict[int, Any]
    """Flow [2, H, W] from the start frame to the renderer's target frames and the frames to check,
    by index.
    """
    backward: dict[int, Any]
    """Flow [2, H, W] from each frame to check to the start frame, by index."""


class _WindowMotion(NamedTuple):
    """The motion of a window, in this process."""

    sums: RunningSpectrum
    coarse_motion: Float32[np.ndarray, "time 2 rows columns"]
    """The motion texture on a coarse grid."""
    forward: dict[int, Float32[np.ndarray, "2 height width"]]
    disagreements: Float32[np.ndarray, "checks height width"]
    """Of forward and backward flow, over what is tolerated."""


def synchronize(moving: PendingMotion) -> _WindowMotion:
    """Waits for the device. Raises Quarantined (nonfinite)."""
    sums = moving.sums
    sums.synchronize()
    if not sums.is_finite():
        raise Quarantined(Stage.FLOW, Reason.NONFINITE, "the flow has values that are not finite")
    forward, backward = (
        {i: to_array(flow) for i, flow in flows.items()}
        for flows in (moving.forward, moving.backward)
    )
    return _WindowMotion(
        sums,
        sums.grid_motion(),
        forward,
        relative_disagreements([(forward[i], back) for i, back in backward.items()]),
    )


def to_array(flow: Any) -> Float32[np.ndarray, "*pairs 2 height width"]:
    """The same in this process's memory."""
    return flow if isinstance(flow, np.ndarray) else flow.cpu().numpy()


def measure_flow(
    key: str, seen: Sequence[PreparedFrame], config: BuildConfig, estimator: FlowEstimator
) -> PendingMotion:
    """Flow from the start frame to every frame, consumed block by block as it is produced, and back
    from some.
    """
    checks = backward_frame_indices(len(seen), config.checks)
    wanted = {*choose_pair_frames(key, len(seen), config.pairs), *checks}
    sums, forward = _running_sums(seen, config, estimator), {}
    for first in range(0, len(seen), BLOCK_FRAMES):
        block = estimator.displace(
            [(seen[0].flow_input, one.flow_input) for one in seen[first : first + BLOCK_FRAMES]]
        )
        sums.add(block)
        forward |= {
            i: block[i - first] + 0 for i in wanted if first <= i < first + BLOCK_FRAMES
        }  # a copy: the block is dropped
    backward = estimator.displace([(seen[i].flow_input, seen[0].flow_input) for i in checks])
    return PendingMotion(sums, forward, dict(zip(checks, backward, strict=True)))


def _running_sums(
    seen: Sequence[PreparedFrame], config: BuildConfig, estimator: FlowEstimator
) -> RunningSpectrum:
    """Empty sums for a window of these frames, where the estimator's results are."""
    times = np.array([one.time for one in seen]) - seen[0].time
    shape: dict[str, Any] = dict(
        time=config.plan.frames,
        fps=config.plan.fps,
        frequencies=config.frequencies,
        size=config.size,
    )
    if estimator.device is None:
        return RunningSpectrum(times, **shape)
    from pipeline.motion.spectrum_gpu import DeviceSpectrum

    return DeviceSpectrum(times, device=estimator.device, **shape)


def choose_pair_frames(key: str, frames: int, pairs: int) -> list[int]:
    """Indices of `pairs` later frames, in order, drawn at random from a seed that is the key's;
    repeated if too few.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).choice(
        np.arange(1, frames), pairs, replace=frames - 1 < pairs
    )
    return sorted(int(i) for i in drawn)


def backward_frame_indices(frames: int, checks: int) -> list[int]:
    """Indices of the frames on which backward flow is computed: evenly spread, the last one
    included.
    """
    return sorted({round(i) for i in np.linspace(0, frames - 1, checks + 1)[1:]})


def measure_window(seen: Sequence[PreparedFrame], moved: _WindowMotion) -> FilterMeasures:
    """All measures of a window, rounded as they are recorded."""
    times = np.array([one.time for one in seen])
    values = filters.measure_frames(
        [one.stats for one in seen], [one.delta for one in seen[1:] if one.delta], times
    )
    values |= filters.measure_motion(moved.sums.weight(), moved.coarse_motion)
    values["inconsistent_share"] = filters.inconsistent_share(moved.disagreements)
    return FilterMeasures(**{name: _round_measure(value) for name, value in values.items()})


def _round_measure(value: float) -> float:
    """The number as it is recorded."""
    return float(f"{value:.{_MEASURE_DIGITS}g}")


def make_sample(
    row: PlanRow,
    seen: Sequence[PreparedFrame],
    moved: _WindowMotion,
    measures: FilterMeasures,
    config: BuildConfig,
    **described: Any,
) -> Sample:
    """Raises Quarantined (overflow) where a coefficient does not fit into float16."""
    targets = choose_pair_frames(row.window().key, len(seen), config.pairs)
    certain, channels, weight = (
        confidence(seen[0].stats.gray, moved.disagreements),
        moved.sums.channels(),
        moved.sums.weight(),
    )
    if config.damp:
        channels, weight = damp(channels, certain), damp(weight, certain)
    return Sample(
        key=row.window().key,
        image=seen[0].image,
        spectrum=_to_float16(channels),
        weight=_to_float16(weight),
        confidence=certain,
        pair_time=np.array([seen[i].time - seen[0].time for i in targets], np.float32),
        pair_flow=_to_float16(np.stack([moved.forward[i] for i in targets])),
        pair_image=np.stack([seen[i].image for i in targets]),
        meta=_sample_meta(row, measures, config, **described),
    )


def _to_float16(array: Float32[np.ndarray, "*shape"]) -> Float16[np.ndarray, "*shape"]:
    """float16, or Quarantined (overflow)."""
    largest = max(float(array.max()), -float(array.min()))
    if largest > _HALF_MAX:
        raise Quarantined(
            Stage.SPECTRUM, Reason.OVERFLOW, f"a value of {largest:g} passes float16's range"
        )
    rows = cv2.add(
        array.reshape(-1, array.shape[-1]), 0.0, dtype=cv2.CV_16F
    )  # numpy's astype takes ten times as long  # pyright: ignore
    return rows.reshape(array.shape)


def _sample_meta(
    row: PlanRow, measures: FilterMeasures, config: BuildConfig, **described: Any
) -> dict[str, Any]:
    """What KEY.json says of a sample; `described` says what decoded it and what measured its flow.

    Nothing is null: a reader that takes the kinds of columns from the first samples would take it
    for a kind of its own.
    """
    return dict(
        format=FORMAT_VERSION,
        key=row.key,
        clip={
            name: getattr(row, name) or "" for name in ("clip_id", "sha256", "source", "licence")
        },
        split=row.split,
        start_frame=row.start_frame,
        start_time_s=row.start_time_s,
        source_frame_rate=measures.frame_rate,
        frames=config.plan.frames,
        fps=config.plan.fps,
        size=list(config.size),
        damped=config.damp,
        measures=asdict(measures),
        **described,
    )


def make_kept_row(key: str, measures: FilterMeasures, motion: _WindowMotion) -> RecordRow:
    """The record's row of a window that every filter keeps, with all that was measured on it."""
    power_x, power_y = (
        [_round_measure(p) for p in row] for row in spectrum.power_spectrum(motion.coarse_motion)
    )
    energy_x, energy_y = (_round_measure(e) for e in motion.sums.total_energy())
    return RecordRow(
        key=key,
        outcome=Outcome.KEPT,
        stage=Stage.WRITE,
        measures=measures,
        power_x=power_x,
        power_y=power_y,
        energy_x=energy_x,
        energy_y=energy_y,
    )
