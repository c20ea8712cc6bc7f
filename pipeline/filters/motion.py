"""Measures of a window's displacements: how much sways, and what does not come back.

They are taken over the pixels whose flow is believed. Those that move most, at least half as much
as the 95th percentile, decide what kind of motion it is: means over the whole picture would dilute
what crosses it, grows in it, or swings in a corner of it.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.filters.camera import camera_share
from pipeline.filters.lines import Paths, energy_share, fit_lines
from pipeline.flow.consistency import BELIEVED
from pipeline.motion.spectrum import GRID_STEP

MOVING_PX = 1.0
"""A pixel moves if its mean displacement over time is over this (the paper's camera rule)."""
_LEAST_SWAY_PX = 0.2
"""Pixels that sway by less never count as those that move most."""
_MIN_BELIEVED_PIXELS = 40
"""With fewer believed pixels on the grid, nothing is said about their motion."""
_MAX_PATHS = 400
"""Paths of that many of the pixels that move most are followed for how they turn back."""
_TURN_SHARE = 0.3
"""A path turns back if it returns by this share of its range."""
_SMOOTHED_FRAMES = 5
"""Frames over which a path is averaged first: noise is no turning back."""


def measure_motion(
    weight: Float32[np.ndarray, "height width"],
    motion: Float32[np.ndarray, "time 2 rows columns"],
    confidence: UInt8[np.ndarray, "height width"],
) -> dict[str, float]:
    """The fields of FilterMeasures that describe the displacements; 0 if next to nothing of the
    flow is believed. If what is believed does not move, there is no motion to doubt, and
    `moving_confidence` is 1.

    `weight` is W, the mean displacement of every pixel (docs/design/maths.md, 5); `motion` is the
    motion texture on every GRID_STEP-th pixel. Both are in pixels. `confidence` is 0 to 255
    (docs/design/maths.md, 9).
    """
    believed = confidence[::GRID_STEP, ::GRID_STEP] >= BELIEVED
    everywhere = weight[confidence >= BELIEVED]
    measures = dict(
        believed_share=float(believed.mean()),
        mean_motion_px=float(everywhere.mean(dtype=np.float64)) if everywhere.size else 0.0,
        moving_share=float((everywhere > MOVING_PX).mean()) if everywhere.size else 0.0,
    )
    if np.count_nonzero(believed) < _MIN_BELIEVED_PIXELS:
        names = ["sway_px", "large_motion_px", "camera_share", "trend_share", "drift_px"]
        names += ["reversing_share", "passing_share", "moving_confidence"]
        return measures | dict.fromkeys(names, 0.0)
    paths = motion[:, :, believed]
    centered = paths - paths.mean(axis=0)
    energies = np.square(centered).sum(axis=(0, 1))
    amplitudes = np.sqrt(2 * energies / len(paths))
    moving = amplitudes > max(_LEAST_SWAY_PX, float(np.percentile(amplitudes, 95)) / 2)
    certainties = confidence[::GRID_STEP, ::GRID_STEP][believed] / np.float64(255)
    trend_energies, drifts = fit_lines(centered)
    sways = np.sqrt(2 * np.maximum(energies - trend_energies, 0) / len(paths))
    reversing, passing = _turning_shares(centered[:, :, moving], energies[moving])
    return measures | dict(
        sway_px=float(np.percentile(sways, 99)),
        large_motion_px=_large_motion(paths),
        camera_share=camera_share(motion, believed),
        trend_share=energy_share(trend_energies[moving], energies[moving]),
        drift_px=float(drifts.mean(dtype=np.float64)),
        moving_confidence=float(certainties[moving].mean()) if moving.any() else 1.0,
        reversing_share=reversing,
        passing_share=passing,
    )


def _large_motion(paths: Paths) -> float:
    """The displacement that 5 % of the pixels pass in 5 % of the time, pixels."""
    squares = np.square(paths[::2]).sum(axis=1)
    rank = int(0.95 * (len(squares) - 1))
    return float(np.sqrt(np.percentile(np.partition(squares, rank, axis=0)[rank], 95)))


def _turning_shares(
    centered: Paths, energies: Float32[np.ndarray, " pixels"]
) -> tuple[float, float]:
    """(share of the energy on paths that turn back at least twice; share on paths that leave their
    place once, for a short while and to one side).

    The first is sway about a mean. The second is what a background seems to do while something
    passes before it.
    """
    if not energies.size:
        return 0.0, 0.0
    chosen = np.linspace(0, energies.size - 1, min(energies.size, _MAX_PATHS)).astype(int)
    (x, y), energies = np.moveaxis(centered[:, :, chosen], 1, 0), energies[chosen]
    angle = np.arctan2(2 * (x * y).sum(axis=0), (x * x - y * y).sum(axis=0)) / 2
    path = x * np.cos(angle) + y * np.sin(angle)
    smoothed = cv2.blur(path, (1, _SMOOTHED_FRAMES), borderType=cv2.BORDER_REPLICATE)
    path = smoothed.reshape(path.shape)
    turns = _count_turns(path)
    offsets = path - np.median(path, axis=0)
    squares = np.square(offsets)
    square_sums = np.maximum(np.square(squares).sum(axis=0), np.float32(1e-12))
    active = np.square(squares.sum(axis=0)) / (len(path) * square_sums)
    cubes = np.maximum((np.abs(offsets) * squares).sum(axis=0), np.float32(1e-12))
    one_sided = np.abs((offsets * squares).sum(axis=0)) / cubes
    passing = (turns <= 2) & (active < 0.15) & (one_sided > 0.6)
    return energy_share(energies * (turns >= 2), energies), energy_share(
        energies * passing, energies
    )


def _count_turns(path: Float32[np.ndarray, "time pixels"]) -> np.ndarray:
    """How often each path turns back by at least _TURN_SHARE of its range."""
    step = _TURN_SHARE * (path.max(axis=0) - path.min(axis=0))
    low, high = path[0].copy(), path[0].copy()
    direction = np.zeros(path.shape[1], np.int8)
    turns = np.zeros(path.shape[1], int)
    for position in path:
        np.maximum(high, position, out=high)
        np.minimum(low, position, out=low)
        falls = (direction >= 0) & (position < high - step)
        rises = (direction <= 0) & (position > low + step) & ~falls
        turned = falls | rises
        turns += turned & (direction != 0)
        direction[falls], direction[rises] = -1, 1
        low[turned], high[turned] = position[turned], position[turned]
    return turns
