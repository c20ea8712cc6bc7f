"""How spectral volumes compare: pure functions of complex coefficients S [K, 2, H, W] in pixels
(docs/maths.md, 12 to 14, 34 and 35), and how well a loop closes (22). `model/evaluate/motion.py`
has those of displacements.

The phase of a sway is not to be seen in a photograph, so a sample is measured against the truth by
what does not depend on it.
"""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from pipeline.motion.spectrum import to_motion

_MIN_SWAY_PX = 0.01
"""Amplitude of a sway that no estimator of flow tells from rest."""


def normalized_amplitude(
    spectrum: Complex[np.ndarray, "freq 2 height width"], scale: Float[np.ndarray, "freq 2 1 1"]
) -> Float[np.ndarray, "freq 2 height width"]:
    """sqrt(|S_k(p)| / s_k), the normalised length of a coefficient: 1 at the scale of its frequency
    (docs/maths.md, 12).
    """
    return np.sqrt(np.abs(spectrum) / scale)


def amplitude_distance(
    found: Float[np.ndarray, "freq 2 height width"], true: Float[np.ndarray, "freq 2 height width"]
) -> float:
    """Mean absolute difference of two amplitudes, 0 or more; of no motion at all it is the mean of
    the true ones.
    """
    return float(np.abs(found - true).mean())


def shape_coherence(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
) -> Float[np.ndarray, " pairs"]:
    """How alike neighbouring bands sway, 0 to 1: |<S_k, S_k+1>| / (|S_k| |S_k+1|) for k = 1 .. K-2
    (docs/maths.md, 13).

    A band in which nothing moves is like no other. Raises ValueError for fewer than three
    frequencies.
    """
    bands = _band_vectors(spectrum)
    product = np.abs((bands[:-1].conj() * bands[1:]).sum(axis=1))
    length = np.linalg.norm(bands, axis=1)
    of_both = length[:-1] * length[1:]
    return np.divide(product, of_both, out=np.zeros_like(product), where=of_both > 0)


def phase_coherence(spectrum: Complex[np.ndarray, "freq 2 height width"]) -> float:
    """How alike the turns of phase from band to band are all over the picture, 0 to 1, whatever the
    lengths (docs/maths.md, 35).

    Strong bands count for more; 0 where nothing moves. Raises ValueError for fewer than three
    frequencies.
    """
    bands = _band_vectors(spectrum)
    products = bands[:-1].conj() * bands[1:]
    return safe_ratio(float(np.abs(products.sum(axis=1)).sum()), float(np.abs(products).sum()))


def _band_vectors(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
) -> Complex[np.ndarray, "bands values"]:
    """All bands but the constant one, each as a vector. Raises ValueError where there are no two."""
    if len(spectrum) < 3:
        raise ValueError(
            f"there are {len(spectrum)} frequencies, expected at least 3: of two bands beside the constant one"
        )
    return spectrum[1:].reshape(len(spectrum) - 1, -1)


def log_spectral_distance(
    found: Complex[np.ndarray, "freq 2 height width"],
    true: Complex[np.ndarray, "freq 2 _ _"],
    frames: int,
) -> Float[np.ndarray, " bands"]:
    """|10 log10 (P_k + e) / (P'_k + e)| for k = 1 .. K-1, dB, of powers averaged over pixels
    (docs/maths.md, 34).

    e is the power of a sway of 0.01 px, so that what stands still is far from a sway, but not
    infinitely. The pictures may differ in size. Raises ValueError for one frequency.
    """
    if len(found) < 2:
        raise ValueError(
            f"there are {len(found)} frequencies, expected at least 2: one band beside the constant one"
        )
    least = (_MIN_SWAY_PX * frames / 2) ** 2
    powers = [
        np.square(np.abs(one[1:])).sum(axis=1).mean(axis=(1, 2), dtype=np.float64) + least
        for one in (found, true)
    ]
    return np.abs(10 * np.log10(powers[0] / powers[1]))


def initial_motion_ratio(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int
) -> float:
    """|F_0| over |F|, roots of mean squares over all pixels, and for |F| all T `frames`
    (docs/maths.md, 14); 0 where nothing moves.

    The motion of a photograph starts at rest in it, F_0 = 0, which is a statement about the phases
    of all frequencies together.
    """
    motion = to_motion(spectrum, frames)
    energy = np.square(motion).mean()
    return float(np.sqrt(np.square(motion[0]).mean() / energy)) if energy else 0.0


class Seam(NamedTuple):
    """How a loop closes: jumps at its seam over those between neighbouring frames inside it; 0
    where there is none.
    """

    position: float
    """Of displacement, over the greatest inside: up to about 1 where the seam is not to be seen."""
    velocity: float
    """Of the change of displacement, over the greatest inside."""
    position_typical: float
    """Of displacement, over the root mean square inside."""
    velocity_typical: float


def seam(frames: Iterable[Any]) -> Seam:
    """Of one turn of a loop, F_0 .. F_{N-1}, after which F_0 comes again (docs/maths.md, 22). Five
    frames are held at once.

    A frame is a displacement [2, height, width], pixels, or a video's picture [height, width, 3],
    of bytes or any unit.

    Raises ValueError for fewer than four frames, since none of their velocities would be inside.
    """
    source = (np.asarray(frame, np.float32) for frame in frames)
    first = list(islice(source, 2))
    steps, bends = [], []
    before: list[Any] = []
    for frame in chain(first, source, first):
        if before:
            steps.append(_root_mean_square(frame - before[-1]))
        if len(before) == 2:
            bends.append(_root_mean_square(frame - 2 * before[-1] + before[-2]))
        before = [*before, frame][-2:]
    if len(steps) < 5:
        raise ValueError(f"the loop has {max(len(steps) - 1, 0)} frames, expected at least 4")
    # the steps are 0-1, ..., (N-1)-0, 0-1, and the bends are at frames 1, ..., N-1, 0, of which the
    # last two reach over the seam
    position, velocity = (steps[-2], steps[:-2]), (max(bends[-2:]), bends[:-2])
    return Seam(
        *(safe_ratio(at, np.max(inside)) for at, inside in (position, velocity)),
        *(safe_ratio(at, _root_mean_square(inside)) for at, inside in (position, velocity)),
    )


def _root_mean_square(values: Any) -> float:
    """Over all numbers."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def safe_ratio(part: float, whole: float) -> float:
    """Their ratio; 0 for nothing over nothing, infinite for something over nothing."""
    if whole == 0:
        return 0.0 if part == 0 else float("inf")
    return float(part / whole)
