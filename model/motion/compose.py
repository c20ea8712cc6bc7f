"""Composes the motion of a film: magnified, looped or continued, and at rest in its first frame."""

from collections.abc import Mapping
from typing import Literal

from model.motion.series import (
    MotionSeries,
    crossfade_loop,
    extrapolate,
    magnify,
    snap_loop,
    start_at_rest,
    to_series,
)
from schemas.sample import channels_to_complex
from schemas.spectral_volume import SpectralVolume

LoopMethod = Literal["none", "snap", "crossfade", "guided"]
_LOOP_BLEND_SHARES = {"crossfade": 0.25, "guided": 0.1}
"""Share of a loop over which it is faded into itself; guidance leaves little to close."""


def compose_motion(
    volume: SpectralVolume,
    seconds: float,
    loop: LoopMethod,
    factor: float = 1.0,
    bands: Mapping[tuple[float, float], float] | None = None,
) -> MotionSeries:
    """The motion of a film of `seconds`, at rest at time 0.

    It is magnified by `factor`, and in each of the `bands` (LOW, HIGH), Hz, by a factor of its own.
    Loops are `seconds` long; without a loop, motion longer than the volume is extrapolated. Raises
    ValueError as the functions of model/motion/series.py do.
    """
    frames, fps = volume.frames, volume.fps
    spectrum = channels_to_complex(volume.spectrum)
    spectrum = magnify(spectrum, frames, fps, factor, bands=bands or {})
    if loop == "snap":
        series = snap_loop(spectrum, frames, fps, seconds)
    elif loop != "none":
        blend = _LOOP_BLEND_SHARES[loop] * seconds
        series = crossfade_loop(spectrum, frames, fps, seconds, blend)
    elif seconds * fps <= frames:
        series = to_series(spectrum, frames, fps)
    else:
        series = extrapolate(spectrum, frames, fps)
    return start_at_rest(series)
