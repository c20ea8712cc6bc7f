"""Measures of predicted motion beside the real motion of the same photograph: pure functions of
spectral volumes S [K, 2, H, W] in pixels (docs/design/maths.md, 55 to 60).

A photograph shows neither the phase nor the moment of a sway, so nothing here compares phases of
the two; what is compared is where, how much, how fast, and how the motion hangs together. Only
pixels whose real flow is believed count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Complex, Float
from scipy.stats import rankdata

from model.evaluate.spectral import (
    MIN_SWAY_PX,
    initial_motion_ratio,
    log_spectral_distance,
    phase_coherence,
    safe_ratio,
)

CELL_PX = 8
"""Amplitudes are compared as means over cells of so many pixels across and down: the exact outline
of what moves is the renderer's matter.
"""
MOVING_SHARE = 0.25
"""The cells that move most in the real window, which a prediction should find."""
NEIGHBOR_PX = 8
"""Distance of the pixels whose motion is compared for the coherence in space."""

_Spectrum = Complex[np.ndarray, "freq 2 height width"]
_Map = Float[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True)
class RealMotion:
    """The measured motion of a window."""

    spectrum: _Spectrum
    """S, pixels."""
    believed: Bool[np.ndarray, "height width"]
    """The pixels whose flow is believed (docs/design/maths.md, 9)."""
    frames: int
    """T."""

    @cached_property
    def amplitude(self) -> _Map:
        """The amplitude of each pixel, pixels."""
        return amplitude_map(self.spectrum, self.frames)

    @cached_property
    def itself(self) -> dict[str, float]:
        """What `measure_itself` gives."""
        return measure_itself(self.spectrum, self.believed, self.frames)


def amplitude_map(spectrum: _Spectrum, frames: int) -> _Map:
    """2 / T sqrt(sum of |S_k|^2 over k >= 1, x and y), pixels: the amplitude of a sway of one
    frequency along a line (docs/design/maths.md, 55).
    """
    return 2 / frames * np.sqrt(np.square(np.abs(spectrum[1:])).sum(axis=(0, 1)))


def measure_samples(spectra: Sequence[_Spectrum], real: RealMotion) -> dict[str, float]:
    """Every measure of predicted motion, each by itself, averaged; of several also how much they
    vary.
    """
    measured = [_measure_motion(spectrum, real) for spectrum in spectra]
    means = {key: float(np.mean([values[key] for values in measured])) for key in measured[0]}
    return means if len(spectra) < 2 else means | dict(variety=variety(spectra))


def _measure_motion(spectrum: _Spectrum, real: RealMotion) -> dict[str, float]:
    """Every measure of one predicted motion."""
    itself = measure_itself(spectrum, real.believed, real.frames)
    return (
        measure_amplitudes([spectrum], real)
        | {name: abs(value - real.itself[name]) for name, value in itself.items()}
        | {f"{name}_itself": value for name, value in itself.items()}
    )


def measure_itself(
    spectrum: _Spectrum, believed: Bool[np.ndarray, "height width"], frames: int
) -> dict[str, float]:
    """How a motion hangs together, without any other: in space, in phase from band to band
    (docs/design/maths.md, 35), and whether it starts at rest (14).
    """
    flat = _flatten(spectrum, believed)
    return dict(
        space=spatial_coherence(spectrum, believed),
        phase=phase_coherence(flat),
        rest=initial_motion_ratio(flat, frames),
    )


def measure_amplitudes(spectra: Sequence[_Spectrum], real: RealMotion) -> dict[str, float]:
    """Where, how much and how fast several predictions move together: of the mean of their
    amplitudes, and of the mean of their powers. A mean has no phases, so it has no other measure.
    """
    amplitude = np.mean([amplitude_map(spectrum, real.frames) for spectrum in spectra], axis=0)
    flat = np.concatenate([_flatten(spectrum, real.believed) for spectrum in spectra], axis=3)
    decibels = log_spectral_distance(flat, _flatten(real.spectrum, real.believed), real.frames)
    bands = zip(("low", "middle", "high"), np.array_split(decibels, 3), strict=True)
    return dict(
        where=where(amplitude, real.amplitude, real.believed),
        level=level_error(amplitude, real.amplitude, real.believed),
        spectrum=_root_mean_square(decibels),
    ) | {f"spectrum_{name}": _root_mean_square(part) for name, part in bands}


def where(predicted: _Map, real: _Map, believed: Bool[np.ndarray, "height width"]) -> float:
    """The area under the ROC curve of predicted amplitude for the quarter of the cells that move
    most in the real window: 1 if all of them are predicted to move more than the others, 0.5 by
    chance (docs/design/maths.md, 55).
    """
    predicted_cells, real_cells = (cell_means(values, believed) for values in (predicted, real))
    moving = real_cells > np.quantile(real_cells, 1 - MOVING_SHARE)
    count, others = int(moving.sum()), int((~moving).sum())
    if not (count and others):
        return 0.5
    ranks = rankdata(predicted_cells)
    return float((ranks[moving].sum() - count * (count + 1) / 2) / (count * others))


def cell_means(
    values: _Map, believed: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, " cells"]:
    """The means over the believed pixels of each cell that has any; what does not fill a cell at
    the right and below is left out. Raises ValueError if no pixel is believed.
    """
    rows, columns = (size // CELL_PX for size in values.shape)
    inside = np.s_[: rows * CELL_PX, : columns * CELL_PX]
    sums, counts = (
        part[inside].reshape(rows, CELL_PX, columns, CELL_PX).sum(axis=(1, 3), dtype=np.float64)
        for part in (np.where(believed, values, 0), believed)
    )
    if not counts.any():
        raise ValueError("no pixel's flow is believed")
    return sums[counts > 0] / counts[counts > 0]


def level_error(predicted: _Map, real: _Map, believed: Bool[np.ndarray, "height width"]) -> float:
    """|log(mean predicted amplitude / mean real amplitude)|, each at least MIN_SWAY_PX: 0.69 for
    twice or half as much (docs/design/maths.md, 56).
    """
    means = [max(float(values[believed].mean()), MIN_SWAY_PX) for values in (predicted, real)]
    return float(abs(np.log(means[0] / means[1])))


def spatial_coherence(spectrum: _Spectrum, believed: Bool[np.ndarray, "height width"]) -> float:
    """How similarly pixels move that are NEIGHBOR_PX apart, right and below: 1 together, 0
    unrelated, -1 opposite; 0 if nothing moves (docs/design/maths.md, 58).
    """
    bands, product, energy = spectrum[1:], 0.0, 0.0
    for axis in (-1, -2):
        size = bands.shape[axis]
        (a, b), (has_a, has_b) = (
            (part.take(range(NEIGHBOR_PX, size), axis), part.take(range(size - NEIGHBOR_PX), axis))
            for part in (bands, believed)
        )
        both = has_a & has_b
        a, b = a[:, :, both], b[:, :, both]
        product += np.vdot(a, b).real
        energy += (np.vdot(a, a).real + np.vdot(b, b).real) / 2
    return safe_ratio(float(product), float(energy))


def variety(spectra: Sequence[_Spectrum]) -> float:
    """The mean distance of every two volumes without k = 0, each brought to length 1: 0 if all are
    alike but for their strength, sqrt(2) if they have nothing in common (docs/design/maths.md, 60).
    A volume at rest stays 0.
    """
    volumes = [spectrum[1:] / (np.linalg.norm(spectrum[1:]) or 1) for spectrum in spectra]
    return float(np.mean([np.linalg.norm(a - b) for a, b in combinations(volumes, 2)]))


def _flatten(
    spectrum: _Spectrum, believed: Bool[np.ndarray, "height width"]
) -> Complex[np.ndarray, "freq 2 1 pixels"]:
    """The believed pixels in one row."""
    return spectrum[:, :, None, believed]


def _root_mean_square(values: Float[np.ndarray, " _"]) -> float:
    return float(np.sqrt(np.square(values).mean()))
