"""Metrics of spectral volumes: pure functions of complex coefficients S [K, 2, H, W] in pixels
(docs/design/maths.md, 12 to 14, 34 and 35), and of the seam of a loop (22).
`model/evaluate/motion.py` has the metrics of displacements.

A photograph does not show the phase of a sway, so samples are compared with the truth by quantities
that do not depend on the phase.
"""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from pipeline.motion.spectrum import to_motion

MIN_SWAY_PX = 0.01
"""Amplitude of a sway that no flow estimator can tell from rest."""


def normalized_amplitude(
    spectrum: Complex[np.ndarray, "freq 2 height width"], scale: Float[np.ndarray, "freq 2 1 1"]
) -> Float[np.ndarray, "freq 2 height width"]:
    """sqrt(|S_k(p)| / s_k), the normalized magnitude of a coefficient: 1 at the scale of its
    frequency (docs/design/maths.md, 12).
    """
    return np.sqrt(np.abs(spectrum) / scale)


def amplitude_distance(
    generated: Float[np.ndarray, "freq 2 height width"],
    true: Float[np.ndarray, "freq 2 height width"],
) -> float:
    """Mean absolute difference of two amplitudes; without generated motion it is the mean of the
    true ones.
    """
    return float(np.abs(generated - true).mean())


def shape_coherence(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
) -> Float[np.ndarray, " pairs"]:
    """Similarity of the shapes of neighboring bands, 0 to 1: |<S_k, S_k+1>| / (|S_k| |S_k+1|) for
    k = 1 .. K-2 (docs/design/maths.md, 13).

    It is 0 for a band without motion. Raises ValueError for fewer than three frequencies.
    """
    bands = _band_vectors(spectrum)
    product = np.abs((bands[:-1].conj() * bands[1:]).sum(axis=1))
    length = np.linalg.norm(bands, axis=1)
    lengths = length[:-1] * length[1:]
    return np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)


def phase_coherence(spectrum: Complex[np.ndarray, "freq 2 height width"]) -> float:
    """How consistent the phase shifts from band to band are over the picture, 0 to 1, whatever the
    magnitudes (docs/design/maths.md, 35).

    Strong bands have more weight. It is 0 if nothing moves. Raises ValueError for fewer than three
    frequencies.
    """
    bands = _band_vectors(spectrum)
    products = bands[:-1].conj() * bands[1:]
    return safe_ratio(float(np.abs(products.sum(axis=1)).sum()), float(np.abs(products).sum()))


def _band_vectors(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
) -> Complex[np.ndarray, "bands values"]:
    """All bands but the constant one, each as a vector. Raises ValueError for fewer than two."""
    if len(spectrum) < 3:
        raise ValueError(
            f"there are {len(spectrum)} frequencies, expected at least 3: two bands beside the "
            "constant one"
        )
    return spectrum[1:].reshape(len(spectrum) - 1, -1)


def log_spectral_distance(
    generated: Complex[np.ndarray, "freq 2 height width"],
    true: Complex[np.ndarray, "freq 2 _ _"],
    frames: int,
) -> Float[np.ndarray, " bands"]:
    """|10 log10 (P_k + e) / (P'_k + e)| for k = 1 .. K-1, dB, where P is the power averaged over
    pixels (docs/design/maths.md, 34).

    e is the power of a sway of 0.01 px, which keeps the distance between rest and a sway finite.
    The pictures may differ in size. Raises ValueError for one frequency.
    """
    if len(generated) < 2:
        raise ValueError(
            f"there are {len(generated)} frequencies, expected at least 2: one band beside the "
            "constant one"
        )
    min_power = (MIN_SWAY_PX * frames / 2) ** 2
    powers = [
        np.square(np.abs(spectrum[1:])).sum(axis=1).mean(axis=(1, 2), dtype=np.float64) + min_power
        for spectrum in (generated, true)
    ]
    return np.abs(10 * np.log10(powers[0] / powers[1]))


def initial_motion_ratio(
    spectrum: Complex[np.ndarray, "freq 2 height width"], frames: int
) -> float:
    """|F_0| / |F|, root mean squares over all pixels, and for |F| over all T `frames`
    (docs/design/maths.md, 14); 0 if nothing moves.

    The motion of a photograph starts at rest, F_0 = 0, which constrains the phases of all
    frequencies together.
    """
    motion = to_motion(spectrum, frames)
    energy = np.square(motion).mean()
    return float(np.sqrt(np.square(motion[0]).mean() / energy)) if energy else 0.0


class Seam(NamedTuple):
    """How well a loop closes: the jump at its seam relative to the steps between the frames inside
    it; 0 without a jump.
    """

    position: float
    """Jump of displacement over the largest step inside: up to about 1 for an invisible seam."""
    velocity: float
    """Jump of velocity over the largest change of velocity inside."""
    position_typical: float
    """Jump of displacement over the root mean square of the steps inside."""
    velocity_typical: float
    """Jump of velocity over the root mean square of its changes inside."""


def seam(frames: Iterable[Any]) -> Seam:
    """The seam of a loop with the frames F_0 .. F_{N-1}, after which F_0 follows
    (docs/design/maths.md, 22).

    A frame is a displacement [2, height, width], pixels, or a picture [height, width, 3] in any
    unit. At most five frames are held in memory. Raises ValueError for fewer than four frames,
    which have no change of velocity inside.
    """
    source = (np.asarray(frame, np.float32) for frame in frames)
    first = list(islice(source, 2))
    steps, bends = [], []
    previous: list[Any] = []
    for frame in chain(first, source, first):
        if previous:
            steps.append(_root_mean_square(frame - previous[-1]))
        if len(previous) == 2:
            bends.append(_root_mean_square(frame - 2 * previous[-1] + previous[-2]))
        previous = [*previous, frame][-2:]
    if len(steps) < 5:
        raise ValueError(f"the loop has {max(len(steps) - 1, 0)} frames, expected at least 4")
    # The steps are 0-1, ..., (N-1)-0, 0-1. The bends are at frames 1, ..., N-1, 0; the last two
    # cross the seam.
    position, velocity = (steps[-2], steps[:-2]), (max(bends[-2:]), bends[:-2])
    return Seam(
        *(safe_ratio(jump, np.max(inside)) for jump, inside in (position, velocity)),
        *(safe_ratio(jump, _root_mean_square(inside)) for jump, inside in (position, velocity)),
    )


def _root_mean_square(values: Any) -> float:
    """The root mean square of all numbers."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def safe_ratio(part: float, whole: float) -> float:
    """part / whole; for a whole of 0 it is 0 if the part is 0 too, and infinite otherwise."""
    if whole == 0:
        return 0.0 if part == 0 else float("inf")
    return float(part / whole)
