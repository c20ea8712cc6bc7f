"""One shard, from planned windows to a committed tar: read this file to know the pipeline.

    frames -> flow -> running spectrum, magnitude, energy -> measures -> verdicts -> sample -> shard -> commit record

The unit of work is a stretch: the windows of one video that stand together in a shard. Each of its frames is decoded
and prepared once and serves every window that needs it; a frame is dropped when the last window is past it.
"""

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, Float32, Float64, UInt8
from PIL import Image

from pipeline import decode, filters, spectrum
from pipeline.dataset import Dataset, ShardDraft
from pipeline.filters import Look, Step, Thresholds
from pipeline.flow import FlowConfig, FlowEstimator, make_estimator
from pipeline.plan import PlanConfig, clip_of, window_of, window_span
from pipeline.spectrum import BLOCK, RunningSpectrum
from schemas.clip import Clip, Video
from schemas.outcome import Measures, Outcome, Quarantined, Reason, Stage
from schemas.sample import FORMAT_VERSION, Sample, to_channels

DIGITS = 6
"""Significant digits of every recorded measure; verdicts are made from the recorded number."""
HALF_MAX = float(np.finfo(np.float16).max)
STRIP_WIDTH = 96
"""Width of one frame in a rejected window's strip."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything that can change a byte of a shard."""

    size: tuple[int, int] = (256, 160)
    """Working resolution, width x height."""
    frequencies: int = 16
    """K: Fourier coefficients kept per displacement component."""
    pairs: int = 4
    """True later frames kept per sample, with their flow, for the renderer."""
    checks: int = 8
    """Frames of a window on which backward flow is computed too."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self):
        if min(self.size) < 32 or max(self.size) > 4096:
            raise ValueError(f"size is {self.size[0]}x{self.size[1]}, expected 32 to 4096 pixels a side")
        spectrum.check_frequencies(self.frequencies, self.plan.frames)
        for name in ("pairs", "checks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")


class Seen(NamedTuple):
    """A decoded frame with everything that is computed once for it."""

    image: UInt8[np.ndarray, "height width 3"]
    time: float
    prepared: Any
    look: Look
    step: Step | None
    """From the frame before it in the stretch."""


class Result(NamedTuple):
    """What became of one window."""

    row: dict[str, Any]
    sample: Sample | None = None
    strip: str | None = None


def build_shard(dataset: Dataset, shard: str, rows: Sequence[dict], config: BuildConfig) -> Iterator[Outcome]:
    """Builds and commits one shard of the plan; yields each window's outcome as soon as it is known.

    Raises OSError where the data set cannot be written; whatever is wrong with a video becomes its windows' outcome.
    """
    estimator = make_estimator(config.flow)
    draft = ShardDraft(dataset, shard, config.frequencies)
    try:
        for _, stretch in groupby(rows, key=lambda row: row["clip_id"]):
            for result in build_stretch(list(stretch), config, estimator):
                draft.add(result.row, result.sample, result.strip)
                yield Outcome(result.row["outcome"])
        draft.commit()
    finally:
        draft.discard()


def build_stretch(rows: Sequence[dict], config: BuildConfig, estimator: FlowEstimator) -> Iterator[Result]:
    """One result for each of these windows of one clip. Where the video gives out, the windows still to come are
    quarantined; those before are what they would have been.
    """
    done = 0
    try:
        for row, seen in stretch_windows(rows, config, estimator):
            yield build_window(row, seen, config, estimator)
            done += 1
    except Quarantined as error:
        for row in rows[done:]:
            yield quarantined(row, error)


def stretch_windows(rows: Sequence[dict], config: BuildConfig, estimator: FlowEstimator) -> Iterator[tuple[dict, list[Seen]]]:
    """Each window with its frames, the start frame first. Raises Quarantined where the video is not the one planned."""
    clip = clip_of(rows[0])
    video = planned_video(clip, rows)
    spans = [window_span(clip, video, window_of(row), config.plan) for row in rows]
    indices = sorted({index for span in spans for index in span})
    stream = zip(indices, look_at(decode.frames(clip.uri, video, indices, config.size), video.times[indices], estimator), strict=True)
    seen: dict[int, Seen] = {}
    for row, span in zip(rows, spans, strict=True):
        seen = {index: one for index, one in seen.items() if index >= span.start}
        while span[-1] not in seen:
            index, one = next(stream)
            seen[index] = one
        yield row, [seen[index] for index in span]


def planned_video(clip: Clip, rows: Sequence[dict]) -> Video:
    """The video, probed again. Raises Quarantined (hash_mismatch) where it is not the one that was planned."""
    if not os.path.exists(clip.uri) or os.path.getsize(clip.uri) != rows[0]["bytes"]:
        raise Quarantined(Stage.DECODE, Reason.HASH_MISMATCH, "the file is gone or has another size than when it was planned")
    video = decode.probe(clip.uri)
    times = dict(enumerate(video.times))
    if any(times.get(row["start_frame"]) != row["start_time_s"] for row in rows):
        raise Quarantined(Stage.DECODE, Reason.HASH_MISMATCH, "the file has other frames than when it was planned")
    return video


def look_at(images: Iterable[np.ndarray], times: Float64[np.ndarray, " frames"], estimator: FlowEstimator) -> Iterator[Seen]:
    """Every frame with what is computed once for it."""
    before: Look | None = None
    for image, time in zip(images, times, strict=True):
        look = filters.look(image)
        step = None if before is None else filters.step(before, look)
        yield Seen(image, float(time), estimator.prepare([image])[0], look, step)
        before = look


def build_window(row: dict, seen: Sequence[Seen], config: BuildConfig, estimator: FlowEstimator) -> Result:
    """Measures one window, judges it, and makes its sample where it is kept."""
    try:
        motion, targets, kept_flow = measure_flow(row["key"], seen, config, estimator)
        measures = measure(seen, motion, kept_flow, config, estimator)
        verdicts = filters.judge(measures, config.thresholds)
        if verdicts:
            return rejected(row, verdicts, measured_columns(measures, motion), seen)
        sample = make_sample(row, seen, motion, [(i, kept_flow[i]) for i in targets], measures, config)
    except Quarantined as error:
        return quarantined(row, error)
    return Result(outcome_row(row, Outcome.KEPT, Stage.WRITE, **measured_columns(measures, motion)), sample)


def measure_flow(key: str, seen: Sequence[Seen], config: BuildConfig, estimator: FlowEstimator) -> tuple[RunningSpectrum, list[int], dict[int, np.ndarray]]:
    """Flow from the start frame to every frame, consumed block by block as it is produced.

    Returns the sums, the indices of the renderer's target frames, and the flow of those and of the frames to check.
    """
    times = np.array([one.time for one in seen]) - seen[0].time
    plan = config.plan
    motion = RunningSpectrum(times, time=plan.frames, fps=plan.fps, frequencies=config.frequencies, size=config.size)
    targets = choose_targets(key, len(seen), config.pairs)
    wanted = {*targets, *check_indices(len(seen), config.checks)}
    kept: dict[int, np.ndarray] = {}
    for first in range(0, len(seen), BLOCK):
        block = displacements(estimator, seen, range(first, min(first + BLOCK, len(seen))))
        motion.add(block)
        kept |= {i: block[i - first].copy() for i in wanted if first <= i < first + BLOCK}
    return motion, targets, kept


def displacements(estimator: FlowEstimator, seen: Sequence[Seen], block: range) -> Float32[np.ndarray, "block 2 height width"]:
    """Flow from the start frame to these frames; to itself it is exactly 0."""
    flow = estimator.displace([(seen[0].prepared, seen[i].prepared) for i in block if i > 0])
    if not np.isfinite(flow).all():
        raise Quarantined(Stage.FLOW, Reason.NONFINITE, "the flow has values that are not finite")
    return flow if block.start > 0 else np.concatenate([np.zeros_like(flow[:1]), flow])


def choose_targets(key: str, frames: int, pairs: int) -> list[int]:
    """Indices of `pairs` later frames, in order, drawn at random from a seed that is the key's; repeated if too few."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).choice(np.arange(1, frames), pairs, replace=frames - 1 < pairs)
    return sorted(int(i) for i in drawn)


def check_indices(frames: int, checks: int) -> list[int]:
    """Indices of the frames on which backward flow is computed: evenly spread, the last one included."""
    return sorted({round(i) for i in np.linspace(0, frames - 1, checks + 1)[1:]})


def measure(seen: Sequence[Seen], motion: RunningSpectrum, flow: dict[int, np.ndarray], config: BuildConfig, estimator: FlowEstimator) -> Measures:
    """All measures of a window, rounded as they are recorded."""
    times = np.array([one.time for one in seen])
    backward = {i: estimator.displace([(seen[i].prepared, seen[0].prepared)])[0] for i in check_indices(len(seen), config.checks)}
    values = filters.measure_frames([one.look for one in seen], [one.step for one in seen[1:] if one.step], times)
    values |= filters.measure_motion(motion.weight(), motion.grid_motion())
    values["inconsistent_share"] = float(np.mean([filters.inconsistency(flow[i], b) for i, b in backward.items()]))
    return Measures(**{name: rounded(value) for name, value in values.items()})


def rounded(value: float) -> float:
    """The number as it is recorded."""
    return float(f"{value:.{DIGITS}g}")


def make_sample(
    row: dict, seen: Sequence[Seen], motion: RunningSpectrum, pairs: Sequence[tuple[int, np.ndarray]], measures: Measures, config: BuildConfig
) -> Sample:
    """Raises Quarantined (overflow) where a coefficient does not fit into float16."""
    return Sample(
        key=row["key"],
        image=seen[0].image,
        spectrum=to_half(to_channels(motion.spectrum())),
        weight=to_half(motion.weight()),
        pair_time=np.array([seen[i].time - seen[0].time for i, _ in pairs], np.float32),
        pair_flow=to_half(np.stack([flow for _, flow in pairs])),
        pair_image=np.stack([seen[i].image for i, _ in pairs]),
        meta=sample_meta(row, measures, config),
    )


def to_half(array: Float32[np.ndarray, "*shape"]) -> Float16[np.ndarray, "*shape"]:
    """float16, or Quarantined (overflow)."""
    largest = float(np.abs(array).max())
    if largest > HALF_MAX:
        raise Quarantined(Stage.SPECTRUM, Reason.OVERFLOW, f"a value of {largest:g} passes float16's range")
    return array.astype(np.float16)


def sample_meta(row: dict, measures: Measures, config: BuildConfig) -> dict[str, Any]:
    """What KEY.json says of a sample."""
    return dict(
        format=FORMAT_VERSION,
        key=row["key"],
        clip={name: row[name] for name in ("clip_id", "sha256", "source", "licence")},
        split=row["split"],
        start_frame=row["start_frame"],
        start_time_s=row["start_time_s"],
        source_frame_rate=measures.frame_rate,
        frames=config.plan.frames,
        fps=config.plan.fps,
        size=list(config.size),
        decoder=decode.DECODER,
        flow=asdict(config.flow),
        measures=asdict(measures),
    )


def measured_columns(measures: Measures, motion: RunningSpectrum) -> dict[str, Any]:
    """Manifest columns of everything that was measured."""
    power_x, power_y = ([rounded(p) for p in row] for row in spectrum.power(motion.grid_motion()))
    energy_x, energy_y = (rounded(e) for e in motion.total_energy())
    return asdict(measures) | dict(power_x=power_x, power_y=power_y, energy_x=energy_x, energy_y=energy_y)


def rejected(row: dict, verdicts: Sequence[Reason], measured: dict[str, Any], seen: Sequence[Seen]) -> Result:
    strip = picture_strip([seen[i].image for i in (0, len(seen) // 2, len(seen) - 1)])
    row = outcome_row(row, Outcome.REJECTED, Stage.FILTER, reason=verdicts[0], verdicts=list(verdicts), **measured)
    return Result(row, strip=strip)


def quarantined(row: dict, error: Quarantined) -> Result:
    return Result(outcome_row(row, Outcome.QUARANTINED, error.stage, reason=error.reason, detail=error.detail))


def outcome_row(row: dict, outcome: Outcome, stage: Stage, **columns: Any) -> dict[str, Any]:
    """A window's row in its shard's record. One attempt: these outcomes do not depend on the machine."""
    return dict(key=row["key"], outcome=outcome, stage=stage, attempts=1) | columns


def picture_strip(images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> str:
    """Small copies side by side, as a base64 JPEG of a few kB for the report."""
    height, width = images[0].shape[:2]
    small = (STRIP_WIDTH, max(1, round(STRIP_WIDTH * height / width)))
    strip = Image.fromarray(np.hstack([np.asarray(Image.fromarray(image).resize(small)) for image in images]))
    buffer = io.BytesIO()
    strip.save(buffer, "jpeg", quality=75)
    return base64.b64encode(buffer.getvalue()).decode()
