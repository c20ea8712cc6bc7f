"""A photograph and a spectral volume become frames: the loop, the length and the strength of the
motion.
"""

from collections.abc import Generator
from math import isfinite
from typing import cast, get_args

import numpy as np
from jaxtyping import UInt8

from model.motion.compose import LoopMethod, compose_motion
from model.motion.series import mean_magnitude
from model.render.warp import animate_frames
from pipeline.images.photo import check_rgb, crop_to_aspect
from schemas.spectral_volume import SpectralVolume


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
    if loop not in get_args(LoopMethod) or not isfinite(magnify):
        raise ValueError(
            f"loop is {loop!r} and magnify {magnify:g}, expected one of "
            f"{', '.join(get_args(LoopMethod))} and a finite number"
        )
    height, width = volume.spectrum.shape[2:]
    crop = crop_to_aspect(check_rgb(photo), (width, height))
    series = compose_motion(volume, seconds, cast(LoopMethod, loop), magnify)
    times = np.arange(max(2, round(seconds * fps))) / fps
    weight = mean_magnitude(series, times[:: max(1, len(times) // 100)])
    return animate_frames(crop, series, weight, times)
