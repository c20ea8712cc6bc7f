"""Straight lines in time: the drift of displacements (docs/design/maths.md, 6)."""

import numpy as np
from jaxtyping import Float32, Float64
from threadpoolctl import ThreadpoolController

Paths = Float32[np.ndarray, "time 2 pixels"]
"""Displacement of some pixels over time, pixels."""

_threads = ThreadpoolController()


def trend(motion: Paths) -> tuple[float, float]:
    """(share of the motion's energy about its mean in time that a straight line explains, 0 to 1;
    length of the drift, pixels) (docs/design/maths.md, 6).

    The length is that of a line fitted together with one whole oscillation over the window,
    averaged over the pixels. A sway of the slowest frequency looks like a line for a while, but it
    comes back and adds nothing to the length.
    """
    centered = motion - motion.mean(axis=0)
    trend_energies, drifts = fit_lines(centered)
    share = energy_share(trend_energies, np.square(centered).sum(axis=(0, 1)))
    return share, float(drifts.mean(dtype=np.float64))


def fit_lines(
    centered: Paths,
) -> tuple[Float32[np.ndarray, " pixels"], Float32[np.ndarray, " pixels"]]:
    """(energy of the straight line that explains most of each path, px^2; length of its drift,
    pixels).
    """
    time = np.linspace(-1, 1, len(centered))
    weights = np.stack([time, drift_weights(len(centered))]).astype(np.float32)
    with _threads.limit(limits=1, user_api="blas"):
        slope, drift = weights @ centered.reshape(len(centered), -1)
    slope_squares = np.square(slope).reshape(2, -1).sum(axis=0)
    energies = slope_squares / np.float32(np.square(time).sum())
    return energies, 2 * np.hypot(*drift.reshape(2, -1))


def drift_weights(frames: int) -> Float64[np.ndarray, " frames"]:
    """Weights whose sum over the frames is the factor of a straight line from -1 to 1, in a
    least-squares fit together with a constant and one whole oscillation (docs/design/maths.md, 6).
    """
    time = np.linspace(-1, 1, frames)
    angle = 2 * np.pi * np.arange(frames) / frames
    columns = [time, np.ones_like(time), np.sin(angle), np.cos(angle)]
    return np.linalg.pinv(np.stack(columns, axis=1))[0]


def energy_share(
    part: Float32[np.ndarray, " pixels"], whole: Float32[np.ndarray, " pixels"]
) -> float:
    """The sum of one energy over that of another, 0 to 1; 0 if there is none."""
    total = float(whole.sum(dtype=np.float64))
    return float(part.sum(dtype=np.float64)) / total if total > 0 else 0.0
