"""The table of an evaluation: every metric that the given files allow, and what each other one
needs.

`pairs.measure_pair` measures one pair of videos at a time and keeps little of it; here the numbers
of all pairs become one row for each metric. Which frames were used, how many, and by what network
is the protocol of a row. The metrics are those of docs/design/maths.md, 30 to 42.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.evaluate.curves import describe_rate_mismatch, missing_input
from model.evaluate.distributions import bootstrap, estimate_mean
from model.evaluate.image_quality import MAX_PSNR_DB
from model.evaluate.metrics import (
    DISTRIBUTION_METRICS,
    LOG_SPECTRAL_METRIC,
    MAGNITUDE_METRIC,
    PAIRED_METRICS,
    PER_VIDEO_METRICS,
    MetricSpec,
)
from model.evaluate.pairs import SPECTRUM_FPS, Evaluators, PairMetrics, VideoMetrics, VideoPair
from pipeline.motion.spectrum import GRID_STEP
from pipeline.whole_clip.frames import ClipFrames, ClipSpan

_MIN_BOOTSTRAP_PAIRS = 10
"""With fewer pairs a remark says that bootstrap intervals are too narrow."""


class MetricRow(NamedTuple):
    """A row of the table, with the fields of evaluation.json."""

    key: str
    name: str
    unit: str
    better: str
    """higher, lower, or nearer: to the value of the real videos."""
    value: float | None = None
    low: float | None = None
    """Lower end of the 95 % interval; None for a single pair."""
    high: float | None = None
    real: float | None = None
    """Mean over the real videos, if each video has a value by itself."""
    generated: float | None = None
    """Mean over the generated videos."""
    needs: str | None = None
    """What is missing, if there is no value."""
    protocol: Mapping[str, Any] = {}


def _make_row(spec: MetricSpec, protocol: Mapping[str, Any], **values: Any) -> MetricRow:
    return MetricRow(spec.key, spec.name, spec.unit, spec.better, **values, protocol=dict(protocol))


def build_table(
    pairs: Sequence[PairMetrics], evaluators: Evaluators, rounds: int = 100
) -> list[MetricRow]:
    """One row for each metric. Intervals are over pairs: Student's for means, and for distances of
    distributions a bootstrap of `rounds` rounds with a fixed seed (docs/design/maths.md, 32).
    """
    return [
        *(_build_paired_row(pairs, evaluators, spec) for spec in PAIRED_METRICS),
        *(_build_per_video_row(pairs, spec) for spec in PER_VIDEO_METRICS),
        *_build_spectral_rows(pairs),
        *(
            _build_distribution_row(pairs, evaluators, spec, rounds)
            for spec in DISTRIBUTION_METRICS
        ),
    ]


def build_mean_row(
    values: Sequence[float], spec: MetricSpec, protocol: Mapping[str, Any]
) -> MetricRow:
    """The mean over pairs, with its interval, cut off at the metric's smallest possible value."""
    value, low, high = estimate_mean(values) if len(values) > 1 else (float(values[0]), None, None)
    low = None if low is None else max(low, -1.0 if spec.key == "ssim" else 0.0)
    protocol = dict(protocol) | dict(interval="Student's t over pairs")
    return _make_row(spec, protocol, value=value, low=low, high=high)


def _build_paired_row(
    pairs: Sequence[PairMetrics], evaluators: Evaluators, spec: MetricSpec
) -> MetricRow:
    """The row of a metric of single frames."""
    values = [getattr(pair, spec.key) for pair in pairs]
    protocol: dict[str, Any] = dict(
        per="frame",
        frames=sum(len(pair.times) - 1 for pair in pairs),
        pairs=len(pairs),
        mean="over the frames after the first, then over pairs",
    )
    if spec.key == "psnr_db":
        protocol["same_frame_db"] = MAX_PSNR_DB
    if spec.key == "lpips" and evaluators.lpips:
        protocol |= dict(weights=evaluators.lpips.files, device="cpu")
    if any(value is None for value in values):
        return _make_row(spec, protocol, needs="--lpips FILE --alexnet FILE")
    return build_mean_row([float(value.mean()) for value in values], spec, protocol)


def _build_per_video_row(pairs: Sequence[PairMetrics], spec: MetricSpec) -> MetricRow:
    """The row of a metric of single videos: the mean difference of generated and real ones."""
    values = [(getattr(pair.real, spec.key), getattr(pair.generated, spec.key)) for pair in pairs]
    protocol: dict[str, Any] = dict(value="mean over pairs of |generated - real|", pairs=len(pairs))
    if spec.key == "warping_error":
        protocol["visible"] = {
            side: float(np.mean([getattr(pair, side).visible for pair in pairs]))
            for side in ("real", "generated")
        }
    unmeasured = [
        pair.name for pair, video_values in zip(pairs, values, strict=True) if None in video_values
    ]
    if unmeasured:
        needs = f"pixels that the flow finds again, {unmeasured[0]} has none"
        return _make_row(spec, protocol, needs=needs)
    row = build_mean_row([abs(generated - real) for real, generated in values], spec, protocol)
    real, generated = (float(np.mean(side)) for side in zip(*values, strict=True))
    return row._replace(real=real, generated=generated)


def _build_spectral_rows(pairs: Sequence[PairMetrics]) -> list[MetricRow]:
    """The rows of the displacements: distance of their spectra, and of their magnitudes."""
    window = sorted({pair.window for pair in pairs})
    spectral: dict[str, Any] = dict(
        window=window,
        fps=SPECTRUM_FPS,
        frequencies=sorted({len(pair.spectral_db) + 1 for pair in pairs}),
        pairs=len(pairs),
    )
    if len(spectral["frequencies"]) == 1:
        spectral["by_band_db"] = np.mean([pair.spectral_db for pair in pairs], axis=0).tolist()
    magnitude = dict(window=window, fps=SPECTRUM_FPS, every_pixel=GRID_STEP, pairs=len(pairs))
    return [
        build_mean_row(
            [float(pair.spectral_db.mean()) for pair in pairs], LOG_SPECTRAL_METRIC, spectral
        ),
        build_mean_row([pair.magnitude_px for pair in pairs], MAGNITUDE_METRIC, magnitude),
    ]


def _build_distribution_row(
    pairs: Sequence[PairMetrics], evaluators: Evaluators, spec: MetricSpec, rounds: int
) -> MetricRow:
    """The row of a distance between the features of all real and of all generated videos."""
    extractor = evaluators.extractor(spec.extractor)
    protocol: dict[str, Any] = dict(
        window=extractor.length, stride=extractor.stride, pairs=len(pairs), times=spec.scale
    )
    protocol |= dict(extractor.protocol)
    if needs := missing_input(pairs, extractor):
        return _make_row(spec, protocol, needs=needs)
    real, generated = (
        [getattr(pair, side).features[spec.extractor] for pair in pairs]
        for side in ("real", "generated")
    )
    protocol |= dict(samples=sum(map(len, real)), dimensions=real[0].shape[1])
    if protocol["samples"] < 2:
        return _make_row(spec, protocol, needs="at least 2 samples")
    protocol["interval"] = f"bootstrap over pairs, {rounds} rounds"
    if len(pairs) == 1:
        value = spec.scale * spec.distance(real[0], generated[0])
        return _make_row(spec, protocol, value=value)
    estimate = bootstrap(spec.distance, real, generated, rounds, pairs=True)
    value, low, high = (spec.scale * number for number in estimate)
    return _make_row(spec, protocol, value=value, low=low, high=high)


def pair_record(
    pair: VideoPair, metrics: PairMetrics, real: ClipFrames, generated: ClipFrames
) -> dict[str, Any]:
    """The metrics of one pair, as evaluation.json has them."""
    keys = [spec.key for spec in PAIRED_METRICS if getattr(metrics, spec.key) is not None]
    return dict(
        name=pair.name,
        split=pair.real.split,
        frames=pair.frames,
        window=metrics.window,
        magnitude_px=metrics.magnitude_px,
        row=metrics.slice_row,
        log_spectral_db=float(metrics.spectral_db.mean()),
        log_spectral_db_of_bands=metrics.spectral_db.tolist(),
        real=_video_record(pair.real, real, metrics.real),
        generated=_video_record(pair.generated, generated, metrics.generated),
        **{key: float(getattr(metrics, key).mean()) for key in keys},
        of_frames_after_the_first={key: getattr(metrics, key).tolist() for key in keys},
    )


def _video_record(span: ClipSpan, clip: ClipFrames, metrics: VideoMetrics) -> dict[str, Any]:
    return dict(
        frames=len(span.times),
        fps=(len(clip.times) - 1) / float(clip.times[-1]),
        size=list(clip.size),
        sha256=clip.sha256,
        decoder=clip.decoder,
        visible=metrics.visible,
    ) | {spec.key: getattr(metrics, spec.key) for spec in PER_VIDEO_METRICS}


def list_remarks(pairs: Sequence[PairMetrics], splits: Sequence[str | None]) -> list[str]:
    """What limits the numbers of these pairs: too few, of different frame rates, or windows of the
    training split. `splits` has the split of each real video; None if it is of no dataset.
    """
    remarks = []
    if 1 < len(pairs) < _MIN_BOOTSTRAP_PAIRS:
        remarks.append(
            f"Intervals of distances (FID, KID, FVD, colours, changes) over {len(pairs)} pairs are "
            "too narrow: few, drawn anew, vary too little; take "
            f"{_MIN_BOOTSTRAP_PAIRS} or more"
        )
    if rates := describe_rate_mismatch(pairs):
        remarks.append(
            f"Pairs have {rates}: excerpts of so many frames (FVD, DT-FVD, changes) do not all "
            "last as long, and no distance slides over time"
        )
    if count := splits.count("train"):
        remarks.append(
            f"{count} of {len(splits)} real videos are windows of the split train: what was "
            "learnt from is no held-out result"
        )
    return remarks
