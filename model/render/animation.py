"""A photograph and a spectral volume become frames: the loop, the length and the strength of the
motion.
"""

from collections.abc import Generator, Mapping
from math import isfinite

import numpy as np
from jaxtyping import UInt8

from model.motion.series import (
    MotionSeries,
    crossfade_loop,
    extrapolate,
    mean_magnitude,
    snap_loop,
    start_at_rest,
    to_series,
)
from model.motion.series import magnify as magnify_spectrum
from model.render.warp import animate_frames
from pipeline.images.photo import check_rgb, crop_to_aspect
from schemas.sample import channels_to_complex
from schemas.spectral_volume import SpectralVolume

LOOP_METHODS = ("none", "snap", "crossfade", "guided")
_LOOP_BLEND_SHARES = {"crossfade": 0.25, "guided": 0.1}
"""Share of a loop over which it is faded into itself: after guidance little is left to close."""


def animate(
    photo: np.ndarray,
    volume: SpectralVolume,
    *,
    seconds: float | None = None,
    fps: float = 30.0,
    loop: str = "none",
    magnify: float = 1.0,
) -> Generator[UInt8[np.ndarray, "rows columns 3"]]:
    """Frames of the photograph, uint8 [height, width, 3], RGB, moved by softmax splatting.

    The photograph is cropped to the aspect of the motion and keeps its resolution; the first frame
    is the photograph itself. `seconds` is the length, by default that of the volume; motion longer
    than the volume goes on without repeating. With `loop` "snap" every wave turns in whole cycles
    and with "crossfade" the end is faded into the beginning, so that the last frame leads to the
    first; "guided" is a short crossfade for motion that was sampled as a loop. `magnify` multiplies
    the displacements. Raises ValueError if a value is out of range, or the photograph is smaller
    than the motion.
    """
    seconds = volume.frames / volume.fps if seconds is None else seconds
    if not (isfinite(seconds) and isfinite(fps) and min(seconds, fps) > 0):
        raise ValueError(f"seconds is {seconds:g} and fps {fps:g}, expected finite numbers over 0")
    if loop not in LOOP_METHODS or not isfinite(magnify):
        raise ValueError(
            f"loop is {loop!r} and magnify {magnify:g}, expected one of "
            f"{', '.join(LOOP_METHODS)} and a finite number"
        )
    height, width = volume.spectrum.shape[2:]
    shown = crop_to_aspect(check_rgb(photo), (width, height))
    series = build_motion_series(volume, seconds, loop, magnify)
    times = np.arange(max(2, round(seconds * fps))) / fps
    return animate_frames(shown, series, mean_weight(series, times), times)


def build_motion_series(
    volume: SpectralVolume,
    seconds: float,
    loop: str,
    magnify: float = 1.0,
    bands: Mapping[tuple[float, float], float] | None = None,
) -> MotionSeries:
    """Motion of this length, which begins at rest in the photograph; `bands` magnify ranges of
    frequencies, in Hz.
    """
    window = volume.frames, volume.fps
    spectrum = magnify_spectrum(
        channels_to_complex(volume.spectrum), *window, magnify, bands=bands or {}
    )
    if loop == "snap":
        series = snap_loop(spectrum, *window, seconds)
    elif loop == "none":
        fits = seconds * volume.fps <= volume.frames
        series = (to_series if fits else extrapolate)(spectrum, *window)
    else:
        series = crossfade_loop(spectrum, *window, seconds, _LOOP_BLEND_SHARES[loop] * seconds)
    return start_at_rest(series)


def mean_weight(series: MotionSeries, times: np.ndarray) -> np.ndarray:
    """W of the motion [height, width], pixels, from about a hundred of these times."""
    return mean_magnitude(series, times[:: max(1, len(times) // 100)])
