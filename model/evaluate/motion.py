"""Metrics of motion: pure functions of displacements F [T, 2, H, W], pixels, from the first frame
to every frame (docs/design/maths.md, 36 to 38).
"""

import numpy as np
from jaxtyping import Float
from scipy.stats import wasserstein_distance

from model.evaluate.spectral import safe_ratio
from pipeline.filters.lines import drift_weights

Motion = Float[np.ndarray, "_ 2 _ _"]
"""[time, x and y, height, width]."""


def magnitude_distance(generated: Motion, true: Motion) -> float:
    """Wasserstein-1 distance, pixels, between the magnitudes of all displacements
    (docs/design/maths.md, 36). The motions may differ in size and length.
    """
    magnitudes = (np.hypot(motion[:, 0], motion[:, 1]).ravel() for motion in (generated, true))
    return float(wasserstein_distance(*magnitudes))


def spatial_coherence(motion: Motion) -> float:
    """How similarly neighboring pixels move about their means: 1 together, 0 unrelated, -1
    opposite; 0 if nothing moves (docs/design/maths.md, 37).
    """
    moving = (motion - motion.mean(axis=0)).astype(np.float64)
    pairs = [(moving[..., 1:, :], moving[..., :-1, :]), (moving[..., 1:], moving[..., :-1])]
    product = sum(np.vdot(a, b) for a, b in pairs)
    energy = sum(np.vdot(a, a) + np.vdot(b, b) for a, b in pairs)
    return safe_ratio(float(product), float(energy) / 2)


def oscillation_share(motion: Motion, frequencies: int = 16) -> float:
    """The share of the energy about the mean over time that is in bands 1 .. K-1, 0 to 1; the rest
    is drift and jitter (docs/design/maths.md, 38).

    It is 0 if nothing moves. Raises ValueError unless there are T > 4 frames and 2 <= K <= T / 2.
    """
    time = len(motion)
    if not (time > 4 and 2 <= frequencies <= time // 2):
        raise ValueError(
            f"frequencies is {frequencies}, expected 2 to {time // 2} for a motion of {time} "
            "frames, of which it takes 5 or more"
        )
    moving = (motion - motion.mean(axis=0)).reshape(time, -1).astype(np.float64)
    drift = np.outer(np.linspace(-1, 1, time), drift_weights(time) @ moving)
    sway = np.abs(np.fft.rfft(moving - drift, axis=0)) ** 2
    inside = 2 * float(sway[1:frequencies].sum()) / time
    return safe_ratio(
        inside, float(np.vdot(moving - drift, moving - drift) + np.vdot(drift, drift))
    )
