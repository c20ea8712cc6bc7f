"""Motion at any time, from a spectral volume: slow motion, magnification, motion that goes on for
ever, loops (docs/maths.md, 18 to 21).

A spectral volume becomes a `MotionSeries`, a mean and waves, from which a frame is drawn at a time;
no motion texture is ever held:

    series_of       the volume as it is: T-periodic
    unrepeated      each wave at the frequency that it has by itself: does not repeat
    snap            a loop of any length: each wave in whole cycles
    crossfade       a loop of any length: the motion faded into itself

Times are seconds of the motion. Slow motion is other times: frame i of a film at 30 frames a
second, slowed twice, is at i / 60.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, pi
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Complex64, Complex128, Float, Float32, Float64

from model.motion.sinusoids import matching_pursuit, phasor_sum
from pipeline.motion.spectrum import check_frequencies, modulus

_MIN_CORRELATION = -0.5
"""A fade through motion in opposite phase is not amplified further than for this: by 2."""


_ENERGY_BATCH_TIMES, _MAX_ENERGY_TIMES = 1 << 12, 1 << 17
"""Instants whose energy is added up at once, and at most in all: an hour at 30 frames a second."""


class _Fade(NamedTuple):
    """How a series is faded into itself (docs/maths.md, 21)."""

    period: float
    """L, seconds."""
    blend: float
    """B, seconds, 0 < B <= L."""
    correlation: float
    """r, of the motion with itself L later."""


@dataclass(frozen=True, kw_only=True)
class MotionSeries:
    """F(t) = mean + Re sum_j waves_j exp(2 pi i hz_j t), pixels; t in seconds (docs/maths.md, 18)."""

    mean: Float32[np.ndarray, "2 height width"]
    waves: Complex64[np.ndarray, "waves 2 height width"]
    hz: Float64[np.ndarray, " waves"]
    fade: _Fade | None = None

    def weights(self, times: Float[np.ndarray, " time"]) -> Complex128[np.ndarray, "time waves"]:
        """What each wave is multiplied by, of which the real part is then taken."""
        times = times.astype(np.float64)
        if self.fade is None:
            return _phasor(np.outer(times, self.hz))
        period, blend, correlation = self.fade
        since = times % period
        later, now = _fade_weights(np.clip(since / blend, 0, 1), correlation)
        return _phasor(np.outer(since, self.hz)) * (
            now[:, None] + later[:, None] * _phasor(self.hz * period)
        )

    def at(self, time: float) -> Float32[np.ndarray, "2 height width"]:
        """F at one time."""
        weights = self.weights(np.array([time]))[0].astype(np.complex64)
        flat = self.waves.reshape(len(weights), self.mean.size)
        return self.mean + (weights @ flat).real.reshape(self.mean.shape)

    def frames(self, times: Iterable[float]) -> Iterator[Float32[np.ndarray, "2 height width"]]:
        """F at each time, one held at once."""
        return (self.at(float(time)) for time in times)


def _phasor(cycles: Float64[np.ndarray, "*shape"]) -> Complex128[np.ndarray, "*shape"]:
    """exp(2 pi i cycles); whole cycles are taken off first, so that it is exact for any number of
    them.
    """
    return np.exp(2j * pi * (cycles % 1))


def to_series(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int, fps: float
) -> MotionSeries:
    """The Fourier series of coefficients of `frames` = T frames at `fps`:
    `pipeline.motion.spectrum.to_motion` at t = 0, 1 / fps, ... (docs/maths.md, 18).

    T / fps-periodic. Raises ValueError unless a window of T frames has so many coefficients, and
    fps is over 0.
    """
    check_frequencies(len(spectrum), frames)
    if not (isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps:g}, expected over 0")
    k = np.arange(1, len(spectrum))
    terms = np.where(2 * k == frames, 1, 2) / frames
    waves = (terms[:, None, None, None] * spectrum[1:]).astype(np.complex64)
    return MotionSeries(
        mean=(spectrum[0].real / frames).astype(np.float32), waves=waves, hz=k * fps / frames
    )


def motion_at(
    series: MotionSeries, times: Iterable[float]
) -> Float32[np.ndarray, "time 2 height width"]:
    """The motion texture at these times, all at once; `MotionSeries.frames` gives a frame at a
    time.
    """
    return np.stack(list(series.frames(times)))


_Bands = Sequence[float] | Mapping[tuple[float, float], float]
"""K factors, one for each frequency, k = 0 with them; or factors of ranges in Hz, both ends
included, where k = 0 is in none.
"""


def magnify(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
    frames: int,
    fps: float,
    factor: float = 1.0,
    *,
    bands: _Bands = (),
    mean: float | None = None,
) -> Complex[np.ndarray, "freq 2 height width"]:
    """Coefficients times `factor`, and times that of their band; band k is at k fps / T Hz
    (docs/maths.md, 18).

    The mean offset, k = 0, is multiplied like the rest, so that motion which begins at rest in the
    photograph still does, unless `mean` says by how much. Raises ValueError where there are not K
    factors, a factor is not finite, or a range holds no band or meets another.
    """
    factors = factor * _band_factors(bands, len(spectrum), fps / frames)
    factors[0] = factors[0] if mean is None else mean
    if not np.isfinite(factors).all():
        raise ValueError(f"factors are {factors.tolist()}, expected finite numbers")
    return spectrum * factors.astype(np.real(spectrum).dtype)[:, None, None, None]


def _band_factors(bands: _Bands, count: int, hz: float) -> Float64[np.ndarray, " freq"]:
    """Of each frequency; 1 where nothing is said. Raises ValueError as `magnify` does."""
    if not isinstance(bands, Mapping):
        if len(bands) not in (0, count):
            raise ValueError(
                f"there are {len(bands)} factors, expected one for each of {count} frequencies"
            )
        return np.array(bands, np.float64) if len(bands) else np.ones(count)
    factors = np.full(count, np.nan)
    for (low, high), factor in bands.items():
        # a band's frequency may be a rounding away from the end that was meant to include it
        inside = (
            (np.arange(count) * hz >= low - 1e-9)
            & (np.arange(count) * hz <= high + 1e-9)
            & (np.arange(count) > 0)
        )
        if not inside.any() or not np.isnan(factors[inside]).all():
            raise ValueError(
                f"{low:g} to {high:g} Hz holds no band of its own, expected a part of {hz:g} to {(count - 1) * hz:g} Hz that no other range has"
            )
        factors[inside] = factor
    return np.nan_to_num(factors, nan=1.0)


def start_at_rest(series: MotionSeries, time: float = 0.0) -> MotionSeries:
    """The motion less what it is at `time`, so that the frame at that time is the photograph
    itself.

    Extracted motion begins there by itself but for what K coefficients leave out; loops, and
    volumes that were sampled, need not.
    """
    return replace(series, mean=series.mean - series.at(time))


def extrapolate(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int, fps: float
) -> MotionSeries:
    """Motion that goes on past T frames without repeating: each wave at the frequency that it has
    by itself (docs/maths.md, 19).

    The frequencies are those of the whole picture, so that neighbours keep step. Raises ValueError
    as `to_series` does.
    """
    series = to_series(spectrum, frames, fps)
    cycles, waves = matching_pursuit(spectrum[1:], frames)
    free = replace(series, waves=waves.astype(np.complex64), hz=cycles * fps / frames)
    # a wave that does not turn a whole number of times in the window has a part in its mean, which
    # it keeps no longer
    weights = phasor_sum(cycles, frames) / frames
    return replace(
        free, mean=series.mean - np.real(np.tensordot(weights, waves, 1)).astype(np.float32)
    )


def mean_magnitude(
    series: MotionSeries, times: Float[np.ndarray, " time"]
) -> Float32[np.ndarray, "height width"]:
    """W: mean over these times of |F|, pixels, a frame at a time (docs/maths.md, 5). For a volume
    that has none stored, and for other motion.
    """
    total = np.zeros(series.mean.shape[1:], np.float64)
    for x, y in series.frames(times):
        total += modulus(x, y)
    return (total / len(times)).astype(np.float32)


def energy(series: MotionSeries, times: Float[np.ndarray, " time"]) -> float:
    """Mean square of the motion about its mean over these times, px^2, over all pixels and x plus
    y; holds no motion texture.
    """
    flat = series.waves.reshape(len(series.waves), series.mean.size)
    rows = np.concatenate([np.real(flat), np.imag(flat)]).astype(np.float64)
    total, products = np.zeros(len(rows)), np.zeros((len(rows), len(rows)))
    for first in range(0, len(times), _ENERGY_BATCH_TIMES):
        weights = series.weights(times[first : first + _ENERGY_BATCH_TIMES])
        basis = np.concatenate([np.real(weights), -np.imag(weights)], axis=1)
        total, products = total + basis.sum(axis=0), products + basis.T @ basis
    products -= np.outer(total, total) / len(times)
    return float((products * (rows @ rows.T)).sum() / len(times) / series.mean[0].size)


def parseval_energy(series: MotionSeries, frames: int) -> float:
    """`energy` of `to_series` over its T frames, by Parseval: it costs the same for any T."""
    parts = (np.real(series.waves), np.imag(series.waves))
    real, imaginary = (np.square(part, dtype=np.float64).sum(axis=(1, 2, 3)) for part in parts)
    nyquist = 2 * np.arange(1, len(real) + 1) == frames
    return float(np.where(nyquist, real, (real + imaginary) / 2).sum() / series.mean[0].size)


def snap_loop(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int, fps: float, period: float
) -> MotionSeries:
    """A loop of `period` seconds: each wave of `extrapolate` moved to the nearest whole number of
    cycles, at least 1 (docs/maths.md, 20).

    Waves that meet are added in step, with their energy kept. Raises ValueError as `to_series`
    does, and where the period is not over 0 and at least two frames.
    """
    _check_period(period, fps)
    free = extrapolate(spectrum, frames, fps)
    cycles = np.maximum(np.rint(free.hz * period), 1)
    whole = np.unique(cycles)
    waves = [sum_in_phase(free.waves[cycles == number]) for number in whole]
    loop = replace(free, waves=np.stack(waves) if waves else free.waves, hz=whole / period)
    return _scale_to_energy(
        loop, period, fps, parseval_energy(to_series(spectrum, frames, fps), frames)
    )


def sum_in_phase(
    waves: Complex64[np.ndarray, "waves 2 height width"],
) -> Complex64[np.ndarray, "2 height width"]:
    """One wave of the energy of all: the weaker are turned, each as a whole, into step with the
    stronger, so that none cancels another.
    """
    powers = np.square(np.abs(waves)).sum(axis=(1, 2, 3), dtype=np.float64)
    first, *others = np.argsort(-powers)
    total = waves[first]
    for other in others:
        product = np.vdot(waves[other], total)
        total = total + waves[other] * (product / abs(product) if product else 1)
    power = np.square(np.abs(total)).sum(dtype=np.float64)
    return total * np.float32(np.sqrt(powers.sum() / power)) if power else total


def crossfade_loop(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
    frames: int,
    fps: float,
    period: float,
    blend: float,
) -> MotionSeries:
    """A loop of `period` seconds: over its first `blend` seconds the motion comes from that of
    `period` later (docs/maths.md, 21).

    As it was recorded where period and blend lie within the window, else as `extrapolate` goes on.
    Raises ValueError as `snap_loop` does, and unless blend is over 0 and at most the period.
    """
    _check_period(period, fps)
    if not 0 < blend <= period:
        raise ValueError(
            f"blend is {blend:g} s, expected over 0 and at most the loop's {period:g} s"
        )
    recorded = to_series(spectrum, frames, fps)
    base = recorded if (period + blend) * fps <= frames else extrapolate(spectrum, frames, fps)
    powers = np.square(np.abs(base.waves)).sum(axis=(1, 2, 3), dtype=np.float64)
    total = powers.sum()
    correlation = float(powers @ np.cos(2 * pi * base.hz * period) / total) if total else 0.0
    loop = replace(base, fade=_Fade(period, blend, max(correlation, _MIN_CORRELATION)))
    return _scale_to_energy(loop, period, fps, parseval_energy(recorded, frames))


def _fade_weights(
    share: Float64[np.ndarray, " time"], correlation: float
) -> tuple[Float64[np.ndarray, " time"], Float64[np.ndarray, " time"]]:
    """Of the motion that goes and of the one that comes, at a share of the blend: of unit energy
    for motions so correlated.

    Both change at rate 0 at the ends, so that velocity does not jump.
    """
    comes = share * share * (3 - 2 * share)
    goes = 1 - comes
    length = np.sqrt(goes**2 + comes**2 + 2 * correlation * goes * comes)
    return goes / length, comes / length


def _scale_to_energy(loop: MotionSeries, period: float, fps: float, wanted: float) -> MotionSeries:
    """The loop with waves multiplied by one number, so that it has the energy `wanted` over the
    frames of one period.
    """
    count = round(period * fps)
    step = 1 / fps if count <= _MAX_ENERGY_TIMES else period / _MAX_ENERGY_TIMES
    found = energy(loop, np.arange(min(count, _MAX_ENERGY_TIMES)) * step)
    # what is left where nothing moves is rounding
    return (
        replace(loop, waves=loop.waves * np.float32(np.sqrt(wanted / found)))
        if found > 1e-12
        else loop
    )


def _check_period(period: float, fps: float) -> None:
    """Raises ValueError unless a loop of that many seconds has at least two frames."""
    if not (isfinite(period) and period * fps >= 2):
        raise ValueError(
            f"a loop of {period:g} s was asked for, expected at least two frames, {2 / fps:g} s"
        )
