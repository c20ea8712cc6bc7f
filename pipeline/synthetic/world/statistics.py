"""How much real clips sway, how fast, and what their photographs are like: numbers by which painted
scenes are drawn and checked.
"""

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from schemas.outcome import FilterMeasures

PERCENTILES = (5, 25, 50, 75, 95)
FRAME_BINS = slice(1, 16)
"""Frequencies of 0.2 to 3 Hz in a window of 5 s."""


REAL: dict[str, tuple[float, ...]] = dict(
    sway_px=(0.629, 1.54, 2.74, 5.72, 12.1),
    mean_motion_px=(0.0825, 0.327, 0.599, 1.2, 3.71),
    quiet_share=(0.18, 0.385, 0.751, 0.806, 0.859),
    power_slope=(-1.96, -1.59, -0.949, -0.39, 0.0569),
    peak_hz=(0.2, 0.2, 0.233, 1, 3),
    dc_share=(0.183, 0.453, 0.577, 0.765, 0.895),
    x_share=(0.368, 0.549, 0.625, 0.763, 0.976),
    brightness=(28.6, 91.4, 109, 151, 190),
    contrast=(28.6, 37.3, 47, 58.8, 64.3),
    saturation=(12.6, 61.5, 83.6, 98.1, 150),
    detail_slope=(-3.72, -3.02, -2.65, -2.39, -1.07),
)
"""The PERCENTILES over 44 clips of nature, at 256 x 160, flow by DIS: `python -m
benchmarks.real_statistics DATASET` on 161 windows that the default filters keep, of a dataset that
is not part of the repository. Flow has noise, whose power is the same at all frequencies: true
slopes are steeper.
"""


def draw_real(rng: np.random.Generator, name: str) -> float:
    """Draws a number between the outer percentiles of REAL as it is distributed there."""
    return float(np.interp(rng.uniform(PERCENTILES[0], PERCENTILES[-1]), PERCENTILES, REAL[name]))


def describe_sway(
    measures: FilterMeasures,
    power: Float64[np.ndarray, " all_freq"],
    weight: Float32[np.ndarray, "height width"],
) -> dict[str, float]:
    """How much and how fast a window of 5 s sways.

    sway_px and mean_motion_px: as the filters measure them. quiet_share: of the pixels that move by
    less than a fifth of what moves most (95th percentile). power_slope: of the logarithm of power
    over that of frequency, 0.2 to 3 Hz. peak_hz: the frequency of most power. dc_share: of the
    energy in the mean displacement from the first frame.
    """
    bins = np.arange(len(power))[FRAME_BINS]
    band = power[FRAME_BINS] + 1e-9
    most = np.percentile(weight, 95)
    return dict(
        sway_px=measures.sway_px,
        mean_motion_px=measures.mean_motion_px,
        quiet_share=float((weight < most / 5).mean()),
        power_slope=float(np.polyfit(np.log(bins), np.log(band), 1)[0]),
        peak_hz=float(bins[band.argmax()] / 5),
        dc_share=float(power[0] / (power[0] + 2 * power[1:].sum() + 1e-9)),
    )


def describe_photograph(image: UInt8[np.ndarray, "height width 3"]) -> dict[str, float]:
    """What a photograph is like: mean and deviation of its gray levels, its mean saturation, and
    the slope of the logarithm of its power over that of spatial frequency, 4 to 60 cycles a height.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    height = min(gray.shape)
    square = gray[:height, (gray.shape[1] - height) // 2 :][:, :height]
    window = np.outer(np.hanning(height), np.hanning(height))
    power = np.abs(np.fft.fft2((square - square.mean()) * window)) ** 2
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(height) * height] * 2))
    rings = np.geomspace(4, 60, 12)
    means = [power[(radius >= a) & (radius < b)].mean() for a, b in pairwise(rings)]
    slope = np.polyfit(np.log(np.sqrt(rings[:-1] * rings[1:])), np.log(np.add(means, 1e-3)), 1)[0]
    return dict(
        brightness=float(gray.mean()),
        contrast=float(gray.std()),
        saturation=float(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].mean()),
        detail_slope=float(slope),
    )
