"""Curves of an evaluation: metrics over time, and amplitude spectra over frequency."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from model.evaluate.distributions import frechet, sliding_distances
from model.evaluate.extractors import FeatureExtractor, iter_feature_windows
from model.evaluate.metrics import PAIRED_METRICS, SLIDING_METRICS, MetricSpec
from model.evaluate.pairs import SPECTRUM_FPS, Evaluators, PairMetrics
from pipeline.motion.spectrum import GRID_STEP


class _Curve(NamedTuple):
    """A metric over time."""

    key: str
    name: str
    seconds: Sequence[float]
    """The middle of each window."""
    values: Sequence[float]
    needs: str | None = None
    """What is missing, if there are no values."""
    protocol: Mapping[str, Any] = {}


def curve_records(pairs: Sequence[PairMetrics], evaluators: Evaluators) -> list[dict[str, Any]]:
    """All curves over time, as evaluation.json has them; those of single frames have a unit."""
    units = {spec.key: spec.unit for spec in PAIRED_METRICS}
    return [
        curve._asdict() | dict(unit=units.get(curve.key))
        for curve in (*build_frame_curves(pairs), *build_sliding_curves(pairs, evaluators))
    ]


def spectra_record(pairs: Sequence[PairMetrics]) -> dict[str, Any]:
    """The amplitude spectra of the motion, as evaluation.json has them."""
    hz, (real, generated) = amplitude_spectra(pairs)
    return dict(
        hz=hz.tolist(),
        real_px=real.tolist(),
        generated_px=generated.tolist(),
        every_pixel=GRID_STEP,
    )


def build_frame_curves(pairs: Sequence[PairMetrics]) -> list[_Curve]:
    """The metrics of each frame after the first, averaged over pairs, as long as all pairs last, at
    the times of the pair with the lowest frame rate.
    """
    times = min(pairs, key=_frame_rate).times[1:]
    times = times[times <= min(pair.times[-1] for pair in pairs) + 1e-6]
    curves = []
    for spec in PAIRED_METRICS:
        if getattr(pairs[0], spec.key) is None:
            continue
        values = [np.interp(times, pair.times[1:], getattr(pair, spec.key)) for pair in pairs]
        curves.append(_Curve(spec.key, spec.name, times.tolist(), np.mean(values, axis=0).tolist()))
    return curves


def build_sliding_curves(pairs: Sequence[PairMetrics], evaluators: Evaluators) -> list[_Curve]:
    """The distances of windows that slide over the videos, as long as all last."""
    return [
        _build_sliding_curve(pairs, evaluators.extractor(spec.extractor), spec)
        for spec in SLIDING_METRICS
    ]


def _build_sliding_curve(
    pairs: Sequence[PairMetrics], extractor: FeatureExtractor, spec: MetricSpec
) -> _Curve:
    step = spec.stride * extractor.stride
    protocol = dict(
        window=spec.window * extractor.length, stride=step, pairs=len(pairs), times=spec.scale
    )
    protocol |= dict(extractor.protocol)
    real, generated = (
        [getattr(pair, side).features.get(spec.extractor, np.empty((0, 1))) for pair in pairs]
        for side in ("real", "generated")
    )
    samples = min(map(len, real))
    needs = missing_input(pairs, extractor)
    if needs is None and samples < spec.window:
        needs = f"at least {spec.window} frames, there are {samples}"
    if needs is None and len(pairs) * spec.window < 2:
        needs = "at least 2 pairs"
    if needs is None and (rates := describe_rate_mismatch(pairs)):
        needs = f"pairs whose frames are shown at the same instants, these have {rates}"
    if needs:
        return _Curve(spec.key, spec.name, [], [], needs, protocol)
    windows = [
        iter_feature_windows(
            np.stack([features[:samples] for features in side]), spec.window, spec.stride
        )
        for side in (real, generated)
    ]
    values = [spec.scale * value for value in sliding_distances(frechet, *windows)]
    last = (spec.window - 1) * extractor.stride + extractor.length - 1
    seconds = [
        float(pairs[0].times[[start, start + last]].mean())
        for start in range(0, len(values) * step, step)
    ]
    return _Curve(spec.key, spec.name, seconds, values, None, protocol)


def missing_input(pairs: Sequence[PairMetrics], extractor: FeatureExtractor) -> str | None:
    """What an extractor needs but does not have: its weights, or longer videos."""
    if extractor.function is None:
        return extractor.weights_option
    shortest = min(pairs, key=lambda pair: len(pair.times))
    if len(shortest.times) >= extractor.length:
        return None
    return f"at least {extractor.length} frames, {shortest.name} has {len(shortest.times)}"


def describe_rate_mismatch(pairs: Sequence[PairMetrics]) -> str | None:
    """The range of frame rates, if frame i is not shown at the same time in all pairs, up to half a
    frame; None if it is.
    """
    count = min(len(pair.times) for pair in pairs)
    first = pairs[0].times[:count]
    difference = max(np.abs(pair.times[:count] - first).max() for pair in pairs)
    if difference <= np.median(np.diff(first)) / 2:
        return None
    rates = sorted(map(_frame_rate, pairs))
    return f"{rates[0]:.4g} to {rates[-1]:.4g} frames a second"


def _frame_rate(pair: PairMetrics) -> float:
    """Frames per second."""
    return float((len(pair.times) - 1) / pair.times[-1])


def amplitude_spectra(
    pairs: Sequence[PairMetrics],
) -> tuple[Float[np.ndarray, " freq"], Float[np.ndarray, "2 freq"]]:
    """Frequencies, Hz, of the shortest pair, and the amplitudes of real and of generated motion,
    pixels, as a root mean square over pairs.
    """
    shortest = min(pairs, key=lambda pair: pair.window)
    hz = np.arange(len(shortest.real.amplitude)) * SPECTRUM_FPS / shortest.window
    amplitudes = [
        [
            np.interp(
                hz, np.arange(len(side.amplitude)) * SPECTRUM_FPS / pair.window, side.amplitude
            )
            for side in (pair.real, pair.generated)
        ]
        for pair in pairs
    ]
    return hz, np.sqrt(np.square(amplitudes).mean(axis=0))
