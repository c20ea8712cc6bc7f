"""Motion at any time, from a spectral volume: slow motion, magnification, endless motion and loops
(docs/maths.md, 18 to 21).

A spectral volume becomes a `MotionSeries`, a mean and a few waves, which gives the displacements at
any time in seconds. No motion texture is ever held in memory. Slow motion needs nothing more than
other times: frame i of a film at 30 frames a second, slowed down twice, shows the motion at i / 60.

    to_series        the recorded motion, which repeats after T frames
    extrapolate      the motion goes on and does not repeat: each wave gets its own frequency
    snap_loop        a loop: each wave of `extrapolate` is moved to a whole number of cycles
    crossfade_loop   a loop: its beginning is blended with the motion one period later

How a loop of L seconds is closed, F(t + L) = F(t), in position and in velocity:

    snap_loop        A wave at f Hz turns max(1, round(f L)) times per loop instead of f L times.
                     The whole loop moves evenly; each frequency is slightly off.
    crossfade_loop   The motion F(L), F(L + dt), ... would follow the last frame of the loop. The
                     loop begins with it and fades to F(t) within `blend` seconds. Frequencies are
                     kept; while the loop fades, two motions are mixed.

Both loops are scaled so that they keep the energy of the recorded motion.
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
"""A fade between motions in opposite phase is amplified at most as for this correlation: by 2."""
_ENERGY_BATCH_TIMES, _MAX_ENERGY_TIMES = 1 << 12, 1 << 17
"""How many instants are added to an energy at once, and at most: an hour at 30 frames a second."""


class _Crossfade(NamedTuple):
    """How a loop fades from the motion one period later to the motion (docs/maths.md, 21)."""

    period: float
    """L, seconds."""
    blend: float
    """B, seconds, 0 < B <= L."""
    correlation: float
    """r, of the motion with itself L later."""

    def weights(
        self, since: Float64[np.ndarray, " time"]
    ) -> tuple[Float64[np.ndarray, " time"], Float64[np.ndarray, " time"]]:
        """The weights of the motion and of the motion one period later, `since` seconds after the
        loop began.

        They have unit energy for motions of this correlation, and change at rate 0 at both ends of
        the blend, so that velocity does not jump.
        """
        share = np.clip(since / self.blend, 0, 1)
        now = share * share * (3 - 2 * share)
        later = 1 - now
        length = np.sqrt(later**2 + now**2 + 2 * self.correlation * later * now)
        return now / length, later / length


@dataclass(frozen=True, kw_only=True)
class MotionSeries:
    """F(t) = mean + Re sum_j waves_j exp(2 pi i hz_j t), pixels; t in seconds (docs/maths.md, 18).

    With a `fade` it is the loop of docs/maths.md, 21, of this motion.
    """

    mean: Float32[np.ndarray, "2 height width"]
    waves: Complex64[np.ndarray, "waves 2 height width"]
    hz: Float64[np.ndarray, " waves"]
    fade: _Crossfade | None = None

    def weights(self, times: Float[np.ndarray, " time"]) -> Complex128[np.ndarray, "time waves"]:
        """The factor of each wave at each time: F is the mean plus the real part of their sum."""
        times = times.astype(np.float64)
        if self.fade is None:
            return _phasor(np.outer(times, self.hz))
        since = times % self.fade.period
        now, later = self.fade.weights(since)
        return _phasor(np.outer(since, self.hz)) * (
            now[:, None] + later[:, None] * _phasor(self.hz * self.fade.period)
        )

    def at(self, time: float) -> Float32[np.ndarray, "2 height width"]:
        """F at one time."""
        weights = self.weights(np.array([time]))[0].astype(np.complex64)
        flat = self.waves.reshape(len(weights), self.mean.size)
        return self.mean + (weights @ flat).real.reshape(self.mean.shape)

    def frames(self, times: Iterable[float]) -> Iterator[Float32[np.ndarray, "2 height width"]]:
        """F at each time; only one frame is held in memory."""
        return (self.at(float(time)) for time in times)


def _phasor(cycles: Float64[np.ndarray, "*shape"]) -> Complex128[np.ndarray, "*shape"]:
    """exp(2 pi i cycles), exact for any number of cycles: whole cycles are taken off first."""
    return np.exp(2j * pi * (cycles % 1))


def to_series(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int, fps: float
) -> MotionSeries:
    """The Fourier series of the coefficients of T = `frames` frames at `fps` (docs/maths.md, 18).

    At t = 0, 1 / fps, ... it equals `pipeline.motion.spectrum.to_motion`; it repeats after T / fps
    seconds. Raises ValueError if T frames do not have that many coefficients, or fps is not over 0.
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
    """The motion texture at these times in one array; `MotionSeries.frames` gives one frame at a
    time.
    """
    return np.stack(list(series.frames(times)))


def extrapolate(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int, fps: float
) -> MotionSeries:
    """Motion that goes on past T frames without repeating: each wave gets its own frequency, which
    may lie between two bands (docs/maths.md, 19).

    One set of frequencies holds for the whole picture, so that neighboring pixels keep step. Raises
    ValueError as `to_series` does.
    """
    series = to_series(spectrum, frames, fps)
    cycles, waves = matching_pursuit(spectrum[1:], frames)
    endless = replace(series, waves=waves.astype(np.complex64), hz=cycles * fps / frames)
    # The mean over the window of a wave that does not turn a whole number of times is not 0. It is
    # part of the recorded mean, so it is taken out of the mean here.
    weights = phasor_sum(cycles, frames) / frames
    return replace(
        endless, mean=series.mean - np.real(np.tensordot(weights, waves, 1)).astype(np.float32)
    )


def snap_loop(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int, fps: float, period: float
) -> MotionSeries:
    """A loop of `period` seconds: each wave of `extrapolate` is moved to the nearest whole number
    of cycles, at least 1 (docs/maths.md, 20).

    Waves that are moved to the same number are added in phase and keep their energy. Raises
    ValueError as `to_series` does, and if the period is not finite or shorter than two frames.
    """
    _check_period(period, fps)
    endless = extrapolate(spectrum, frames, fps)
    cycles = np.maximum(np.rint(endless.hz * period), 1)
    distinct = np.unique(cycles)
    waves = [sum_in_phase(endless.waves[cycles == number]) for number in distinct]
    loop = replace(endless, waves=np.stack(waves) if waves else endless.waves, hz=distinct / period)
    recorded = to_series(spectrum, frames, fps)
    return _scale_to_energy(loop, period, fps, parseval_energy(recorded, frames))


def sum_in_phase(
    waves: Complex64[np.ndarray, "waves 2 height width"],
) -> Complex64[np.ndarray, "2 height width"]:
    """One wave with the energy of all `waves`: from the strongest down, each is turned as a whole
    into phase with the sum so far, so that no wave cancels another (docs/maths.md, 20).
    """
    powers = np.square(np.abs(waves)).sum(axis=(1, 2, 3), dtype=np.float64)
    strongest, *weaker = np.argsort(-powers)
    total = waves[strongest]
    for index in weaker:
        product = np.vdot(waves[index], total)
        total = total + waves[index] * (product / abs(product) if product else 1)
    power = np.square(np.abs(total)).sum(dtype=np.float64)
    return total * np.float32(np.sqrt(powers.sum() / power)) if power else total


def crossfade_loop(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
    frames: int,
    fps: float,
    period: float,
    blend: float,
) -> MotionSeries:
    """A loop of `period` seconds, which within its first `blend` seconds fades from the motion one
    period later to the motion (docs/maths.md, 21).

    The motion is the recorded one if period and blend together fit into the window, and else that
    of `extrapolate`. Raises ValueError as `snap_loop` does, and unless 0 < blend <= period.
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
    loop = replace(base, fade=_Crossfade(period, blend, max(correlation, _MIN_CORRELATION)))
    return _scale_to_energy(loop, period, fps, parseval_energy(recorded, frames))


def _check_period(period: float, fps: float) -> None:
    """Raises ValueError unless a loop of `period` seconds has at least two frames."""
    if not (isfinite(period) and period * fps >= 2):
        raise ValueError(
            f"the loop's period is {period:g} s, expected at least two frames, {2 / fps:g} s"
        )


def _scale_to_energy(loop: MotionSeries, period: float, fps: float, target: float) -> MotionSeries:
    """The loop with its waves multiplied by one number, so that its frames have the energy
    `target`.
    """
    count = round(period * fps)
    step = 1 / fps if count <= _MAX_ENERGY_TIMES else period / _MAX_ENERGY_TIMES
    unscaled = energy(loop, np.arange(min(count, _MAX_ENERGY_TIMES)) * step)
    if unscaled <= 1e-12:  # nothing moves, and the rest is rounding
        return loop
    return replace(loop, waves=loop.waves * np.float32(np.sqrt(target / unscaled)))


def energy(series: MotionSeries, times: Float[np.ndarray, " time"]) -> float:
    """Mean square of the motion about its mean over these times, px^2, over all pixels, x plus y.

    It is computed from products of the waves, without a motion texture.
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
    """`energy` of a result of `to_series` over its T frames, by Parseval's theorem: the cost does
    not depend on T.
    """
    parts = (np.real(series.waves), np.imag(series.waves))
    real, imaginary = (np.square(part, dtype=np.float64).sum(axis=(1, 2, 3)) for part in parts)
    nyquist = 2 * np.arange(1, len(real) + 1) == frames
    return float(np.where(nyquist, real, (real + imaginary) / 2).sum() / series.mean[0].size)


def start_at_rest(series: MotionSeries, time: float = 0.0) -> MotionSeries:
    """The motion minus its displacement at `time`, so that the frame at that time is the
    photograph itself.

    Extracted motion is already at rest at 0, up to what K coefficients leave out. A loop or a
    sampled volume need not be.
    """
    return replace(series, mean=series.mean - series.at(time))


def mean_magnitude(
    series: MotionSeries, times: Float[np.ndarray, " time"]
) -> Float32[np.ndarray, "height width"]:
    """W: the mean of |F| over these times, pixels, computed one frame at a time (docs/maths.md, 5).

    Datasets store W with each sample; this is for volumes that have none, and for changed motion.
    """
    total = np.zeros(series.mean.shape[1:], np.float64)
    for x, y in series.frames(times):
        total += modulus(x, y)
    return (total / len(times)).astype(np.float32)


_Bands = Sequence[float] | Mapping[tuple[float, float], float]
"""Either K factors, one for each frequency from k = 0 on; or one factor for each range in Hz. Both
ends of a range are included, and k = 0 is in none.
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
    """The coefficients times `factor` and times the factor of their band; band k is at k fps / T Hz
    (docs/maths.md, 18).

    The mean displacement, k = 0, is multiplied like all others, so that motion which begins at rest
    in the photograph still does; `mean` gives it another factor. Raises ValueError if there are
    neither 0 nor K factors, a factor is not finite, or a range has no band or overlaps another.
    """
    factors = factor * _band_factors(bands, len(spectrum), fps / frames)
    factors[0] = factors[0] if mean is None else mean
    if not np.isfinite(factors).all():
        raise ValueError(f"factors are {factors.tolist()}, expected finite numbers")
    return spectrum * factors.astype(np.real(spectrum).dtype)[:, None, None, None]


def _band_factors(bands: _Bands, count: int, hz: float) -> Float64[np.ndarray, " freq"]:
    """The factor of each of `count` frequencies, `hz` apart; 1 for those without one. Raises
    ValueError as `magnify` does.
    """
    if not isinstance(bands, Mapping):
        if len(bands) not in (0, count):
            raise ValueError(
                f"there are {len(bands)} factors, expected one for each of {count} frequencies"
            )
        return np.array(bands, np.float64) if len(bands) else np.ones(count)
    factors, frequencies = np.full(count, np.nan), np.arange(count) * hz
    for (low, high), factor in bands.items():
        # Rounding may put a band just outside of an end that is meant to include it.
        inside = (frequencies >= low - 1e-9) & (frequencies <= high + 1e-9) & (np.arange(count) > 0)
        if not inside.any() or not np.isnan(factors[inside]).all():
            raise ValueError(
                f"{low:g} to {high:g} Hz holds no band of its own, expected a part of {hz:g} to "
                f"{(count - 1) * hz:g} Hz that no other range has"
            )
        factors[inside] = factor
    return np.nan_to_num(factors, nan=1.0)
