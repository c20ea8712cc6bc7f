"""Turns the frames of one window into its motion, its measures and its sample."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float16, Float32, UInt8

from pipeline.extract.config import BuildConfig
from pipeline.extract.frame_stream import PreparedFrame
from pipeline.extract.stabilize import CameraFit, camera_displacements, fit_window_camera
from pipeline.filters import measure_frames
from pipeline.filters.flow_quality import measure_flow_quality
from pipeline.filters.motion import measure_motion
from pipeline.flow.consistency import confidence, damp, relative_disagreements
from pipeline.flow.estimator import FlowEstimator
from pipeline.motion import spectrum
from pipeline.motion.spectrum import BLOCK_FRAMES, GRID_STEP, RunningSpectrum
from schemas.outcome import FilterMeasures, Outcome, Quarantined, Reason, Stage
from schemas.records import PlanRow
from schemas.sample import FORMAT_VERSION, Sample
from schemas.shard_record import RecordRow

_MEASURE_DIGITS = 6
"""Significant digits of every recorded measure; the filters judge the recorded number."""
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
    camera: CameraFit | None
    """The motion of the camera that `sums` are without, if the run stabilizes."""


class WindowMotion(NamedTuple):
    """The motion of a window, in the memory of this process."""

    sums: RunningSpectrum
    coarse_motion: Float32[np.ndarray, "time 2 rows columns"]
    """The motion texture on a coarse grid."""
    forward: dict[int, Float32[np.ndarray, "2 height width"]]
    disagreements: Float32[np.ndarray, "checks height width"]
    """Disagreement of forward and backward flow over what is tolerated; NaN outside the image."""
    checks: tuple[int, ...]
    """Indices of the frames of which the disagreements are."""
    confidence: UInt8[np.ndarray, "height width"]
    """How far the flow of each pixel is to be believed, 0 to 255."""
    camera: CameraFit | None


def synchronize(pending: PendingMotion, gray: UInt8[np.ndarray, "height width"]) -> WindowMotion:
    """Waits for the device; `gray` is the start frame.

    Raises Quarantined (nonfinite) if the flow is not finite.
    """
    sums = pending.sums
    sums.synchronize()
    if not sums.is_finite():
        raise Quarantined(Stage.FLOW, Reason.NONFINITE, "the flow has values that are not finite")
    forward, backward = (
        {i: to_array(flow) for i, flow in flows.items()}
        for flows in (pending.forward, pending.backward)
    )
    disagreements = relative_disagreements([(forward[i], back) for i, back in backward.items()])
    return WindowMotion(
        sums,
        sums.grid_motion(),
        forward,
        disagreements,
        tuple(backward),
        confidence(gray, disagreements),
        pending.camera,
    )


def to_array(flow: Any) -> Float32[np.ndarray, "*pairs 2 height width"]:
    """Copies a flow to the memory of this process, if it is not there."""
    return flow if isinstance(flow, np.ndarray) else flow.cpu().numpy()


def measure_flow(
    key: str, frames: Sequence[PreparedFrame], config: BuildConfig, estimator: FlowEstimator
) -> PendingMotion:
    """Computes the flow from the start frame to every frame, and back from some frames.

    The flow is added to the running spectrum block by block and dropped, except to the frames that
    the renderer or the backward check need. If the run stabilizes, all of it is held until the
    motion of the camera is known, and the spectrum is without that motion. All other flow leads
    from the start frame as it is to another as it is.
    """
    checks = backward_frame_indices(len(frames), config.checks)
    stored = {*choose_pair_frames(key, len(frames), config.pairs), *checks}
    sums, forward = _running_sums(frames, config, estimator), {}
    blocks: list[Any] = []
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = estimator.displace(
            [
                (frames[0].flow_input, frame.flow_input)
                for frame in frames[first : first + BLOCK_FRAMES]
            ]
        )
        if config.stabilize:
            blocks.append(block)
        else:
            sums.add(block)
        forward |= {
            i: block[i - first] + 0 for i in stored if first <= i < first + BLOCK_FRAMES
        }  # a copy: the block is dropped
    backward = estimator.displace([(frames[i].flow_input, frames[0].flow_input) for i in checks])
    camera = add_stabilized(sums, blocks, frames[0].stats.gray) if config.stabilize else None
    return PendingMotion(sums, forward, dict(zip(checks, backward, strict=True)), camera)


def add_stabilized(
    sums: RunningSpectrum, blocks: Sequence[Any], gray: UInt8[np.ndarray, "height width"]
) -> CameraFit:
    """Adds the displacements of a window to the sums without the motion of the camera, which it
    returns. Waits for the device.
    """
    grid = [to_array(block[:, :, ::GRID_STEP, ::GRID_STEP]) for block in blocks]
    camera = fit_window_camera(np.concatenate(grid), gray)
    for i, block in enumerate(blocks):
        first = i * BLOCK_FRAMES
        path = camera.path[first : first + len(block)]
        sums.add(block - sums.to_device(camera_displacements(path, gray.shape)))
    return camera


def _running_sums(
    frames: Sequence[PreparedFrame], config: BuildConfig, estimator: FlowEstimator
) -> RunningSpectrum:
    """Makes empty sums for a window, on the device of the estimator if it has one."""
    times = np.array([frame.time for frame in frames]) - frames[0].time
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
    """Draws the indices of `pairs` later frames, in order, with a seed from the key. Indices repeat
    if there are too few frames.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).choice(
        np.arange(1, frames), pairs, replace=frames - 1 < pairs
    )
    return sorted(int(i) for i in drawn)


def backward_frame_indices(frames: int, checks: int) -> list[int]:
    """Indices of the frames on which backward flow is computed: spread evenly, with the last."""
    return sorted({round(i) for i in np.linspace(0, frames - 1, checks + 1)[1:]})


def measure_window(frames: Sequence[PreparedFrame], motion: WindowMotion) -> FilterMeasures:
    """Computes all measures of a window, rounded as they are recorded."""
    times = np.array([frame.time for frame in frames])
    values = measure_frames(
        [frame.stats for frame in frames],
        [frame.delta for frame in frames[1:] if frame.delta],
        times,
    )
    weight = motion.sums.weight()
    values |= measure_motion(weight, motion.coarse_motion, motion.confidence)
    values |= measure_flow_quality(
        frames[0].stats.gray,
        [(frames[i].stats.gray, motion.forward[i]) for i in motion.checks],
        motion.disagreements,
        weight,
        motion.confidence,
    )
    return round_measures(values)


def round_measures(values: Mapping[str, float]) -> FilterMeasures:
    """Returns all measures of a window, rounded as they are recorded."""
    return FilterMeasures(**{name: _round_measure(value) for name, value in values.items()})


def _round_measure(value: float) -> float:
    """Rounds a number to the digits that are recorded."""
    return float(f"{value:.{_MEASURE_DIGITS}g}")


def make_sample(
    row: PlanRow,
    frames: Sequence[PreparedFrame],
    motion: WindowMotion,
    measures: FilterMeasures,
    config: BuildConfig,
    **provenance: Any,
) -> Sample:
    """Makes the sample of a kept window; `provenance` goes into its metadata.

    Raises Quarantined (overflow) if a coefficient does not fit into float16.
    """
    targets = choose_pair_frames(row.window().key, len(frames), config.pairs)
    channels, weight = motion.sums.channels(), motion.sums.weight()
    if config.damp:
        channels, weight = damp(channels, motion.confidence), damp(weight, motion.confidence)
    return Sample(
        key=row.window().key,
        image=frames[0].image,
        spectrum=_to_float16(channels),
        weight=_to_float16(weight),
        confidence=motion.confidence,
        pair_time=np.array([frames[i].time - frames[0].time for i in targets], np.float32),
        pair_flow=_to_float16(np.stack([motion.forward[i] for i in targets])),
        pair_image=np.stack([frames[i].image for i in targets]),
        meta=_sample_meta(row, measures, config, motion.camera, **provenance),
    )


def _to_float16(array: Float32[np.ndarray, "*shape"]) -> Float16[np.ndarray, "*shape"]:
    """Converts to float16. Raises Quarantined (overflow) if a value is out of its range."""
    largest = max(float(array.max()), -float(array.min()))
    if largest > _HALF_MAX:
        raise Quarantined(
            Stage.SPECTRUM, Reason.OVERFLOW, f"a value of {largest:g} passes float16's range"
        )
    # cv2, since numpy's astype takes ten times as long
    rows = cv2.add(array.reshape(-1, array.shape[-1]), 0.0, dtype=cv2.CV_16F)  # pyright: ignore
    return rows.reshape(array.shape)


def _sample_meta(
    row: PlanRow,
    measures: FilterMeasures,
    config: BuildConfig,
    camera: CameraFit | None,
    **provenance: Any,
) -> dict[str, Any]:
    """Returns the content of KEY.json; `provenance` names the decoder and the flow estimator.

    Nothing is null: a reader that infers the types of columns from the first samples would take
    null for a type of its own.
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
        stabilized=camera is not None and camera.is_fitted,
        **({} if camera is None else {"camera": camera.to_meta()}),
        measures=asdict(measures),
        **provenance,
    )


def make_kept_row(key: str, measures: FilterMeasures, motion: WindowMotion) -> RecordRow:
    """Makes the row of a kept window for the record of its shard, with all that was measured."""
    power_x, power_y = (
        [_round_measure(power) for power in powers]
        for powers in spectrum.power_spectrum(motion.coarse_motion)
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
