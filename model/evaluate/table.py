"""Generated videos beside real ones: every metric that can be computed with what is given, and what
each of the others needs.

A pair of videos is measured at a time (`measure`), and little is kept of it; numbers of all pairs
are then taken together (`rows`, `curves`). Which frames are looked at, how many, and by
what is part of each number's protocol. Metrics are those of docs/maths.md, 30 to 42.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from model.evaluate.distributions import (
    Distance,
    bootstrap,
    estimate_mean,
    frechet,
    kid,
    sliding_distances,
)
from model.evaluate.pairs import (
    SLIDING_FID_FRAMES,
    SPECTRUM_FPS,
    Evaluators,
    FeatureExtractor,
    PairMetrics,
    iter_feature_windows,
)
from model.evaluate.upper_bound import MAX_PSNR_DB
from pipeline.motion.spectrum import GRID_STEP

_SLIDING_STRIDE = 10


class MetricRow(NamedTuple):
    """A line of the table."""

    key: str
    name: str
    unit: str
    better: str
    """higher, lower, or nearer: to the real videos' own."""
    value: float | None
    low: float | None
    high: float | None
    """Of the 95 % interval; None of a single pair."""
    real: float | None
    generated: float | None
    """Means, of what each video has by itself."""
    needs: str | None
    """What to give where there is no value."""
    protocol: Mapping[str, Any]


_DISTRIBUTIONS: tuple[tuple[str, str, str, Distance, float], ...] = (
    ("fid", "FID", "inception", frechet, 1.0),
    ("kid", "KID x 100", "inception", kid, 100.0),
    ("fvd", "FVD", "i3d16", frechet, 1.0),
    ("fvd32", "FVD32", "i3d32", frechet, 1.0),
    ("dt_fvd", "DT-FVD", "dt-i3d16", frechet, 1.0),
    ("dt_fvd32", "DT-FVD32", "dt-i3d32", frechet, 1.0),
    ("colours_frechet", "Frechet distance of colours x 100", "colours", frechet, 100.0),
    ("colours_kernel", "Kernel distance of colours x 100", "colours", kid, 100.0),
    ("changes_frechet", "Frechet distance of changes x 10,000", "changes16", frechet, 1e4),
    (
        "changes32_frechet",
        "Frechet distance of changes x 10,000, 32 frames",
        "changes32",
        frechet,
        1e4,
    ),
)
"""Key, name, look, distance, and by what it is multiplied."""
_SLIDING_METRICS: tuple[tuple[str, str, str, int, int, float], ...] = (
    ("sliding_fid", "FID of 30 frames", "inception", SLIDING_FID_FRAMES, _SLIDING_STRIDE, 1.0),
    ("sliding_dt_fvd", "DT-FVD of 16 frames", "dt-i3d16", 1, 1, 1.0),
    (
        "sliding_colours",
        "Frechet distance of colours x 100, of 30 frames",
        "colours",
        SLIDING_FID_FRAMES,
        _SLIDING_STRIDE,
        100.0,
    ),
    (
        "sliding_changes",
        "Frechet distance of changes x 10,000, of 16 frames",
        "changes16",
        1,
        1,
        1e4,
    ),
)
"""Key, name, look, samples of a window and from window to window, and by what it is multiplied."""
PAIRED_METRICS = (
    ("psnr_db", "PSNR", "dB", "higher"),
    ("ssim", "SSIM", "", "higher"),
    ("lpips", "LPIPS, AlexNet", "", "lower"),
)
PER_VIDEO_METRICS = (
    ("flicker", "Flicker", "grey levels"),
    ("warping_error", "Warping error", ""),
    ("oscillation_share", "Oscillation share", ""),
    ("spatial_coherence", "Spatial coherence", ""),
    ("phase_coherence", "Phase coherence", ""),
    ("seam", "Seam", ""),
    ("motion_px", "Mean motion", "px"),
)
"""What each video has by itself; two are the nearer the less they differ."""


def build_table(
    found: Sequence[PairMetrics], given: Evaluators, rounds: int = 100
) -> list[MetricRow]:
    """The table; intervals are over pairs: Student's of means, and of distributions drawn `rounds`
    times from a fixed seed (docs/maths.md, 32).
    """
    return [
        *(_build_paired_row(found, given, *names) for names in PAIRED_METRICS),
        *(_build_per_video_row(found, *names) for names in PER_VIDEO_METRICS),
        *_build_spectral_rows(found),
        *(_build_distribution_row(found, given, *names, rounds) for names in _DISTRIBUTIONS),
    ]


def _build_paired_row(
    found: Sequence[PairMetrics], given: Evaluators, key: str, name: str, unit: str, better: str
) -> MetricRow:
    """Of frames beside the real ones."""
    values = [getattr(one, key) for one in found]
    protocol = dict(
        per="frame",
        frames=sum(len(one.times) - 1 for one in found),
        pairs=len(found),
        mean="over the frames after the first, then over pairs",
    )
    protocol |= dict(same_frame_db=MAX_PSNR_DB) if key == "psnr_db" else {}
    protocol |= (
        dict(weights=given.lpips.files, device="cpu") if key == "lpips" and given.lpips else {}
    )
    if any(value is None for value in values):
        return MetricRow(
            key,
            name,
            unit,
            better,
            None,
            None,
            None,
            None,
            None,
            "--lpips FILE --alexnet FILE",
            protocol,
        )
    return build_mean_row(
        [float(value.mean()) for value in values], key, name, unit, better, protocol
    )


def _build_per_video_row(found: Sequence[PairMetrics], key: str, name: str, unit: str) -> MetricRow:
    """How much what each video has by itself differs from the real one's."""
    both = [(getattr(one.real, key), getattr(one.generated, key)) for one in found]
    protocol: dict[str, Any] = dict(value="mean over pairs of |generated - real|", pairs=len(found))
    if key == "warping_error":
        protocol |= dict(
            visible={
                side: float(np.mean([getattr(one, side).visible for one in found]))
                for side in ("real", "generated")
            }
        )
    if blind := [one.name for one, values in zip(found, both, strict=True) if None in values]:
        return MetricRow(
            key,
            name,
            unit,
            "nearer",
            None,
            None,
            None,
            None,
            None,
            f"pixels that the flow finds again, {blind[0]} has none",
            protocol,
        )
    row = build_mean_row([abs(b - a) for a, b in both], key, name, unit, "nearer", protocol)
    return row._replace(
        real=float(np.mean([a for a, _ in both])), generated=float(np.mean([b for _, b in both]))
    )


def _build_spectral_rows(found: Sequence[PairMetrics]) -> list[MetricRow]:
    """Of displacements: distance of spectra, and of how far things move."""
    window = sorted({one.window for one in found})
    protocol = dict(
        window=window,
        fps=SPECTRUM_FPS,
        frequencies=sorted({len(one.spectral_db) + 1 for one in found}),
        pairs=len(found),
    )
    if len({len(one.spectral_db) for one in found}) == 1:
        protocol["by_band_db"] = np.mean([one.spectral_db for one in found], axis=0).tolist()
    spectra = build_mean_row(
        [float(one.spectral_db.mean()) for one in found],
        "log_spectral_db",
        "Log-spectral distance",
        "dB",
        "lower",
        protocol,
    )
    protocol = dict(window=window, fps=SPECTRUM_FPS, every_pixel=GRID_STEP, pairs=len(found))
    return [
        spectra,
        build_mean_row(
            [one.magnitude_px for one in found],
            "magnitude_px",
            "Wasserstein distance of motion",
            "px",
            "lower",
            protocol,
        ),
    ]


def build_mean_row(
    values: Sequence[float],
    key: str,
    name: str,
    unit: str,
    better: str,
    protocol: Mapping[str, Any],
) -> MetricRow:
    """The mean over pairs, with its interval, which begins nowhere below what the metric can be."""
    value, low, high = estimate_mean(values) if len(values) > 1 else (float(values[0]), None, None)
    low = None if low is None else max(low, -1.0 if key == "ssim" else 0.0)
    return MetricRow(
        key,
        name,
        unit,
        better,
        value,
        low,
        high,
        None,
        None,
        None,
        dict(protocol) | dict(interval="Student's t over pairs"),
    )


def _build_distribution_row(
    found: Sequence[PairMetrics],
    given: Evaluators,
    key: str,
    name: str,
    of: str,
    distance: Distance,
    scale: float,
    rounds: int,
) -> MetricRow:
    """A distance of all videos' features."""
    look = next(look for look in given.extractors if look.name == of)
    protocol = dict(window=look.length, stride=look.stride, pairs=len(found), times=scale) | dict(
        look.protocol
    )
    if needs := _missing_input(found, look):
        return MetricRow(key, name, "", "lower", None, None, None, None, None, needs, protocol)
    real, generated = (
        [getattr(one, which).features[of] for one in found] for which in ("real", "generated")
    )
    protocol |= dict(samples=sum(map(len, real)), dimensions=real[0].shape[1])
    if protocol["samples"] < 2:
        return MetricRow(
            key, name, "", "lower", None, None, None, None, None, "at least 2 samples", protocol
        )
    protocol |= dict(interval=f"bootstrap over pairs, {rounds} rounds")
    if len(found) == 1:
        return MetricRow(
            key,
            name,
            "",
            "lower",
            scale * distance(real[0], generated[0]),
            None,
            None,
            None,
            None,
            None,
            protocol,
        )
    value, low, high = (
        scale * one for one in bootstrap(distance, real, generated, rounds, pairs=True)
    )
    return MetricRow(key, name, "", "lower", value, low, high, None, None, None, protocol)


def _missing_input(found: Sequence[PairMetrics], look: FeatureExtractor) -> str | None:
    """What a look needs that is not there."""
    if look.function is None:
        return look.weights_option
    shortest = min(found, key=lambda one: len(one.times))
    return (
        f"at least {look.length} frames, {shortest.name} has {len(shortest.times)}"
        if len(shortest.times) < look.length
        else None
    )


class _Curve(NamedTuple):
    """Numbers over time, or over frequency."""

    key: str
    name: str
    seconds: Sequence[float]
    """At the middle of each window."""
    values: Sequence[float]
    needs: str | None = None
    protocol: Mapping[str, Any] = {}


def build_frame_curves(found: Sequence[PairMetrics]) -> list[_Curve]:
    """Of each frame after the first beside the real one, averaged over pairs, as long as all last,
    at the instants of the pair that has the fewest a second.
    """
    clock = min(found, key=frame_rate).times[1:]
    clock = clock[clock <= min(one.times[-1] for one in found) + 1e-6]
    made = [
        (key, name, [(one.times[1:], getattr(one, key)) for one in found])
        for key, name, *_ in PAIRED_METRICS
        if getattr(found[0], key) is not None
    ]
    return [
        _Curve(
            key,
            name,
            clock.tolist(),
            np.mean([np.interp(clock, *course) for course in courses], axis=0).tolist(),
        )
        for key, name, courses in made
    ]


def frame_rate(one: PairMetrics) -> float:
    """Frames a second."""
    return float((len(one.times) - 1) / one.times[-1])


def describe_rate_mismatch(found: Sequence[PairMetrics]) -> str | None:
    """At which rates, where frames of one number are not shown at one time in all pairs, by half a
    frame at most.
    """
    count = min(len(one.times) for one in found)
    first = found[0].times[:count]
    late = max(np.abs(one.times[:count] - first).max() for one in found)
    rates = sorted(map(frame_rate, found))
    return (
        f"{rates[0]:.4g} to {rates[-1]:.4g} frames a second"
        if late > np.median(np.diff(first)) / 2
        else None
    )


def build_sliding_curves(found: Sequence[PairMetrics], given: Evaluators) -> list[_Curve]:
    """Distances of windows that slide over the videos, as long as all last."""
    return [_build_sliding_curve(found, given, *names) for names in _SLIDING_METRICS]


def _build_sliding_curve(
    found: Sequence[PairMetrics],
    given: Evaluators,
    key: str,
    name: str,
    of: str,
    length: int,
    stride: int,
    scale: float,
) -> _Curve:
    look = next(look for look in given.extractors if look.name == of)
    protocol = dict(
        window=length * look.length, stride=stride * look.stride, pairs=len(found), times=scale
    ) | dict(look.protocol)
    sets = [
        [getattr(one, which).features.get(of, np.empty((0, 1))) for one in found]
        for which in ("real", "generated")
    ]
    samples = min(map(len, sets[0]))
    needs = (
        _missing_input(found, look)
        or _missing_samples(samples, length, len(found))
        or _missing_alignment(found)
    )
    if needs:
        return _Curve(key, name, [], [], needs, protocol)
    windows = [
        iter_feature_windows(np.stack([one[:samples] for one in part]), length, stride)
        for part in sets
    ]
    values = [scale * value for value in sliding_distances(frechet, *windows)]
    last = (length - 1) * look.stride + look.length - 1
    ends = [
        found[0].times[[start, start + last]]
        for start in range(0, len(values) * stride * look.stride, stride * look.stride)
    ]
    return _Curve(key, name, [float(one.mean()) for one in ends], values, None, protocol)


def _missing_samples(samples: int, length: int, pairs: int) -> str | None:
    """What a sliding distance needs beside features."""
    if samples < length:
        return f"at least {length} frames, there are {samples}"
    return "at least 2 pairs" if pairs * length < 2 else None


def _missing_alignment(found: Sequence[PairMetrics]) -> str | None:
    rates = describe_rate_mismatch(found)
    return (
        f"pairs whose frames are shown at the same instants, these have {rates}" if rates else None
    )


def amplitude_spectra(
    found: Sequence[PairMetrics],
) -> tuple[Float[np.ndarray, " freq"], Float[np.ndarray, "2 freq"]]:
    """Hz, and the root mean square over pairs of the amplitudes of real and generated motion,
    pixels, at the frequencies of the shortest.
    """
    shortest = min(found, key=lambda one: one.window)
    hz = np.arange(len(shortest.real.amplitude)) * SPECTRUM_FPS / shortest.window
    each = [
        [
            np.interp(hz, np.arange(len(one.amplitude)) * SPECTRUM_FPS / pair.window, one.amplitude)
            for one in (pair.real, pair.generated)
        ]
        for pair in found
    ]
    return hz, np.sqrt(np.square(each).mean(axis=0))
