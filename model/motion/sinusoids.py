"""The waves in a spectral volume, at frequencies between its bands (docs/maths.md, 19).

One after another, the wave that explains most of what is left is found and taken away (matching
pursuit), and each is refined once all are known: over all pixels together in frequency, for each
pixel by itself in amplitude and phase. A wave's leakage into other bands, and its image at the
negative frequency, go with it. The search looks at the products of the bands alone, 2 (K - 1)
numbers squared, whatever the size of the picture.
"""

from math import pi, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Complex128, Float64

_MIN_CYCLES = 0.5
"""Cycles per window of the slowest wave that is looked for: what is slower cannot be told from
drift. The fastest is as far from half the frame rate, where a wave's sine is seen no more and could
be as large as it likes.
"""
_MIN_POWER_SHARE = 1e-9
"""Share of a wave's power in the bands under which its cosine or its sine is not seen in them, and
is taken as 0.
"""
_CANDIDATES_PER_BAND = 32
"""Frequencies tried per band at first; then the best one is refined, REFINED times, by 16."""
_REFINEMENT_STEPS = 4
_ROUNDS = 2
"""Times that each wave is found again once all are known."""
_RESIDUAL_POWER_SHARE = 1e-9
"""What is left is nothing when it is this share of the power."""


def matching_pursuit(
    bands: Complex[np.ndarray, "bands 2 height width"], frames: int
) -> tuple[Float64[np.ndarray, " waves"], Complex128[np.ndarray, "waves 2 height width"]]:
    """Cycles per window, and complex amplitude in pixels at t = 0, of up to as many waves as there
    are bands, k = 1 .. K-1 of T `frames`.

    F(t) about its mean is nearly Re sum_j a_j exp(2 pi i x_j t / T). Where waves explain only a
    part, one factor makes good the rest.
    """
    flat = bands.reshape(len(bands), prod(bands.shape[1:]))
    rows = np.concatenate([np.real(flat), np.imag(flat)]).astype(np.float64)
    gram = rows @ rows.T
    waves = _find_waves(gram, frames)
    real, imaginary = (
        np.array([wave.fit for wave in waves]).reshape(len(waves), 2, len(rows)).transpose(1, 0, 2)
        @ rows
    )
    amplitudes = (real + 1j * imaginary).reshape(len(waves), *bands.shape[1:])
    return np.array([wave.cycles for wave in waves], np.float64), _gain(waves, gram) * amplitudes


class _Wave(NamedTuple):
    """One that was found in bands, whose real and imaginary parts are rows."""

    cycles: float
    fit: Float64[np.ndarray, "2 rows"]
    """The real and imaginary part of its amplitude, as weights of the rows."""
    projection: Float64[np.ndarray, "rows rows"]
    """Its bands, as weights of the rows."""


def _find_waves(gram: Float64[np.ndarray, "rows rows"], frames: int) -> list[_Wave]:
    """Strongest first, as many as bands, or fewer where they explain all."""
    count = len(gram) // 2
    tried = np.linspace(
        _MIN_CYCLES, min(count + 0.5, frames / 2 - _MIN_CYCLES), count * _CANDIDATES_PER_BAND + 1
    )
    shapes = _wave_spectra(tried, count, frames)
    waves: list[_Wave] = []
    rest = np.eye(len(gram))
    for _ in range(count):
        left = rest @ gram @ rest.T
        if np.trace(left) <= _RESIDUAL_POWER_SHARE * np.trace(gram):
            break
        waves.append(
            _fit_wave(float(tried[_explained_power(shapes, left).argmax()]), rest, gram, frames)
        )
        rest = rest - waves[-1].projection
    for _ in range(_ROUNDS):
        for j, wave in enumerate(waves):
            # found again beside all the others, of which the later ones were unknown at first
            waves[j] = _fit_wave(wave.cycles, rest + wave.projection, gram, frames)
            rest = rest + wave.projection - waves[j].projection
    return waves


def _fit_wave(
    cycles: float,
    rest: Float64[np.ndarray, "rows rows"],
    gram: Float64[np.ndarray, "rows rows"],
    frames: int,
) -> _Wave:
    """The wave near `cycles` that explains most of what `rest` leaves of the bands."""
    best = _refine_frequency(cycles, rest @ gram @ rest.T, len(gram) // 2, frames)
    shape = _wave_spectra(np.array([best]), len(gram) // 2, frames)[0]
    fit = np.linalg.pinv(shape, _MIN_POWER_SHARE**0.5) @ rest
    return _Wave(best, fit, shape @ fit)


def _wave_spectra(
    cycles: Float64[np.ndarray, " tried"], count: int, frames: int
) -> Float64[np.ndarray, "tried rows 2"]:
    """Bands 1 .. `count` (real parts, then imaginary) of cos(2 pi x t / T) and of -sin(2 pi x t /
    T), the parts of a wave of amplitude 1.
    """
    bands = np.arange(1, count + 1)
    forward, backward = (phasor_sum(sign * cycles[:, None] - bands, frames) for sign in (1, -1))
    both = np.stack([(forward + backward) / 2, (forward - backward) * 0.5j], axis=-1)
    return np.concatenate([np.real(both), np.imag(both)], axis=1)


def phasor_sum(
    cycles: Float64[np.ndarray, "*shape"],
    frames: int,
) -> Complex128[np.ndarray, "*shape"]:
    """sum_t exp(2 pi i x t / T) over t = 0 .. T-1, in closed form: it costs the same for any T."""
    cycles = (cycles + frames / 2) % frames - frames / 2  # which gives the same terms
    small = np.sin(pi * cycles / frames)
    still = np.abs(small) < 1e-12  # every term is 1
    share = np.where(still, frames, np.sin(pi * cycles) / np.where(still, 1, small))
    return share * np.exp(1j * pi * cycles * (frames - 1) / frames)


def _explained_power(
    shapes: Float64[np.ndarray, "tried rows 2"], left: Float64[np.ndarray, "rows rows"]
) -> Float64[np.ndarray, " tried"]:
    """How much of the power that is left each wave would take away, fitted to every pixel: tr((M^T
    M)^-1 M^T G M).
    """
    transposed = np.swapaxes(shapes, 1, 2)
    return np.trace(
        np.linalg.pinv(transposed @ shapes, _MIN_POWER_SHARE, hermitian=True)
        @ transposed
        @ left
        @ shapes,
        axis1=1,
        axis2=2,
    )


def _refine_frequency(
    best: float, left: Float64[np.ndarray, "rows rows"], count: int, frames: int
) -> float:
    """Cycles near `best` that explain most, to 1 / (32 x 16^4) of a band."""
    reach = 1 / _CANDIDATES_PER_BAND
    for _ in range(_REFINEMENT_STEPS):
        tried = np.linspace(
            max(best - reach, _MIN_CYCLES), min(best + reach, frames / 2 - _MIN_CYCLES), 33
        )
        best = float(tried[_explained_power(_wave_spectra(tried, count, frames), left).argmax()])
        reach /= 16
    return best


def _gain(waves: list[_Wave], gram: Float64[np.ndarray, "rows rows"]) -> float:
    """What gives the waves' bands the power of those that they were found in."""
    model = sum((wave.projection for wave in waves), np.zeros_like(gram))
    power = np.trace(model @ gram @ model.T)
    return float(np.sqrt(np.trace(gram) / power)) if power > 0 else 1.0
