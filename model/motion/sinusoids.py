"""Matching pursuit: finds the sinusoids in a spectral volume, at frequencies between its bands
(docs/design/maths.md, 19).

The wave that explains most of the residual is found and subtracted, one after another, and each is
refined once all are known. Its frequency is one for all pixels; amplitude and phase are those of
each pixel. The model of a wave includes its leakage into other bands and its image at the negative
frequency. The search needs only the products of the bands, a matrix of 2 (K - 1) rows, whatever the
size of the picture.
"""

from math import pi, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Complex128, Float64

_MIN_CYCLES = 0.5
"""Cycles per window of the slowest wave: slower ones look like drift. The fastest is as far below
half the frame rate, at which a sine is 0 in every frame and its amplitude would be arbitrary.
"""
_MIN_POWER_SHARE = 1e-9
"""The cosine or sine of a wave is taken as 0 if the bands show less than this share of the power of
the wave in it.
"""
_CANDIDATES_PER_BAND = 32
"""Frequencies tried per band in the first search."""
_REFINEMENT_STEPS = 4
"""Times that the best frequency is then refined, each by a factor of 16."""
_ROUNDS = 2
"""Times that every wave is fitted again once all are known."""
_RESIDUAL_POWER_SHARE = 1e-9
"""The search ends when the residual has this share of the power."""


def matching_pursuit(
    bands: Complex[np.ndarray, "bands 2 height width"], frames: int
) -> tuple[Float64[np.ndarray, " waves"], Complex128[np.ndarray, "waves 2 height width"]]:
    """The waves in bands k = 1 .. K-1 of T = `frames` frames, at most as many as there are bands:
    their cycles per window x_j, and complex amplitudes a_j at t = 0, pixels.

    F(t) about its mean is nearly Re sum_j a_j exp(2 pi i x_j t / T). One factor scales all waves
    so that they have the power of the bands.
    """
    flat = bands.reshape(len(bands), prod(bands.shape[1:]))
    rows = np.concatenate([np.real(flat), np.imag(flat)]).astype(np.float64)
    gram = rows @ rows.T
    waves = _find_waves(gram, frames)
    fits = np.array([wave.fit for wave in waves]).reshape(len(waves), 2, len(rows))
    real, imaginary = fits.transpose(1, 0, 2) @ rows
    amplitudes = (real + 1j * imaginary).reshape(len(waves), *bands.shape[1:])
    return np.array([wave.cycles for wave in waves], np.float64), _gain(waves, gram) * amplitudes


class _Wave(NamedTuple):
    """A wave, expressed by the rows: the real, then the imaginary parts of the bands."""

    cycles: float
    fit: Float64[np.ndarray, "2 rows"]
    """The real and the imaginary part of its amplitude, as weights of the rows."""
    projection: Float64[np.ndarray, "rows rows"]
    """Its part in each row, as weights of the rows."""


def _find_waves(gram: Float64[np.ndarray, "rows rows"], frames: int) -> list[_Wave]:
    """The waves, strongest first: one for each band, or fewer if those explain everything."""
    count = len(gram) // 2
    candidates = np.linspace(
        _MIN_CYCLES, min(count + 0.5, frames / 2 - _MIN_CYCLES), count * _CANDIDATES_PER_BAND + 1
    )
    shapes = _wave_spectra(candidates, count, frames)
    waves: list[_Wave] = []
    residual = np.eye(len(gram))
    for _ in range(count):
        residual_gram = residual @ gram @ residual.T
        if np.trace(residual_gram) <= _RESIDUAL_POWER_SHARE * np.trace(gram):
            break
        strongest = float(candidates[_explained_power(shapes, residual_gram).argmax()])
        waves.append(_fit_wave(strongest, residual, gram, frames))
        residual = residual - waves[-1].projection
    for _ in range(_ROUNDS):
        for j, wave in enumerate(waves):
            # When this wave was fitted at first, the later ones were not known.
            waves[j] = _fit_wave(wave.cycles, residual + wave.projection, gram, frames)
            residual = residual + wave.projection - waves[j].projection
    return waves


def _fit_wave(
    cycles: float,
    residual: Float64[np.ndarray, "rows rows"],
    gram: Float64[np.ndarray, "rows rows"],
    frames: int,
) -> _Wave:
    """The wave near `cycles` that explains most of the residual, fitted by least squares."""
    count, residual_gram = len(gram) // 2, residual @ gram @ residual.T
    reach = 1 / _CANDIDATES_PER_BAND
    for _ in range(_REFINEMENT_STEPS):
        candidates = np.linspace(
            max(cycles - reach, _MIN_CYCLES), min(cycles + reach, frames / 2 - _MIN_CYCLES), 33
        )
        power = _explained_power(_wave_spectra(candidates, count, frames), residual_gram)
        cycles = float(candidates[power.argmax()])
        reach /= 16
    shape = _wave_spectra(np.array([cycles]), count, frames)[0]
    fit = np.linalg.pinv(shape, _MIN_POWER_SHARE**0.5) @ residual
    return _Wave(cycles, fit, shape @ fit)


def _wave_spectra(
    cycles: Float64[np.ndarray, " candidates"], count: int, frames: int
) -> Float64[np.ndarray, "candidates rows 2"]:
    """M(x): bands 1 .. `count`, real parts, then imaginary, of cos(2 pi x t / T) and of
    -sin(2 pi x t / T), the two parts of a wave of amplitude 1.
    """
    bands = np.arange(1, count + 1)
    forward, backward = (phasor_sum(sign * cycles[:, None] - bands, frames) for sign in (1, -1))
    shapes = np.stack([(forward + backward) / 2, (forward - backward) * 0.5j], axis=-1)
    return np.concatenate([np.real(shapes), np.imag(shapes)], axis=1)


def phasor_sum(
    cycles: Float64[np.ndarray, "*shape"],
    frames: int,
) -> Complex128[np.ndarray, "*shape"]:
    """sum_t exp(2 pi i x t / T) over t = 0 .. T-1 in closed form: the cost does not depend on T."""
    cycles = (cycles + frames / 2) % frames - frames / 2  # the sum has period T
    sine = np.sin(pi * cycles / frames)
    is_constant = np.abs(sine) < 1e-12  # every term is 1
    total = np.where(is_constant, frames, np.sin(pi * cycles) / np.where(is_constant, 1, sine))
    return total * np.exp(1j * pi * cycles * (frames - 1) / frames)


def _explained_power(
    shapes: Float64[np.ndarray, "candidates rows 2"],
    residual_gram: Float64[np.ndarray, "rows rows"],
) -> Float64[np.ndarray, " candidates"]:
    """The residual power that each wave would take away if it were fitted to every pixel:
    tr((M^T M)^-1 M^T G M).
    """
    transposed = np.swapaxes(shapes, 1, 2)
    inverse = np.linalg.pinv(transposed @ shapes, _MIN_POWER_SHARE, hermitian=True)
    return np.trace(inverse @ transposed @ residual_gram @ shapes, axis1=1, axis2=2)


def _gain(waves: list[_Wave], gram: Float64[np.ndarray, "rows rows"]) -> float:
    """The factor that gives the waves together the power of the bands."""
    model = sum((wave.projection for wave in waves), np.zeros_like(gram))
    power = np.trace(model @ gram @ model.T)
    return float(np.sqrt(np.trace(gram) / power)) if power > 0 else 1.0
