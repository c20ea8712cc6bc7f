"""How good frames can get, whoever predicts the motion: the first frame moved by the true motion,
whole and cut to its first K coefficients.

There is no network in it (docs/maths.md, 43). What is lost by the true motion is lost by the flow
and by splatting; what is lost beside it is lost by K.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64

from model.evaluate.image_quality import frame_psnr_ssim
from model.motion.series import mean_magnitude, to_series
from model.render.warp import THREADS, map_in_order, warp_frame
from pipeline.motion.spectrum import modulus, to_spectrum
from pipeline.whole_clip.flow import resample_flow
from schemas.arrays import Frames, MotionField

FREQUENCY_COUNTS = (1, 2, 4, 8, 16, 24)
"""K, as in the paper's table 2 and below it."""
STILL_FRAME, TRUE_MOTION = "still", "true motion"
"""Names of the first frame that does not move, and of the motion that was measured."""
_BATCH_FRAMES = 16
"""Frames that are compared at once."""
MAX_PSNR_DB = 100.0
"""PSNR of a picture with itself: more than of two of up to 500 x 300 pixels that differ at all."""


class _CandidateMotion(NamedTuple):
    """Displacements from the first frame, to be drawn."""

    name: str
    displacement_to: Callable[[int], Float32[np.ndarray, "2 height width"]]
    """To frame i, pixels."""
    weight: Float32[np.ndarray, "height width"]
    """W: where it is larger is in front."""
    frequencies: int | None = None


class UpperBound(NamedTuple):
    """What frames 1 .. N-1 are like under a motion."""

    name: str
    frequencies: int | None
    """K; None where it is not cut."""
    psnr_db: Float[np.ndarray, " later"]
    """A frame that is the true one to the last bit counts SAME_DB."""
    ssim: Float[np.ndarray, " later"]
    error_px: float
    """Of the displacements, root mean square over frames and pixels."""
    error_share: float
    """The same over the true motion's own; 0 where nothing moves."""
    frames: Frames
    """All of them, the first included."""


def measure_upper_bounds(
    frames: Frames,
    flows: MotionField,
    times: Float64[np.ndarray, " time"],
    *,
    window: int,
    fps: float,
    counts: Sequence[int] = FREQUENCY_COUNTS,
) -> Iterator[UpperBound]:
    """Still, for each K, and by the true motion: the first frame moved, beside the true frames, at
    the frames' own times.

    `flows` lead from the first frame to each, pixels; the spectrum is that of `window` =
    T displacements at `fps`, as a data set has it (docs/maths.md, 1 to 3). `times` are seconds from
    0; frames after (T - 1) / fps are not compared. Raises ValueError where T has no K frequencies,
    or there are fewer than two frames to compare.
    """
    count = count_frames_in_window(times, window, fps)
    if count < 2:
        raise ValueError(f"there are {count} frames within the window, expected at least 2")
    return (
        _score_candidate(motion, frames[:count], flows[:count])
        for motion in _iter_candidates(flows, times, window, fps, counts)
    )


def count_frames_in_window(times: Float64[np.ndarray, " time"], window: int, fps: float) -> int:
    """How many of the frames stand within the window."""
    return int(np.searchsorted(times, (window - 1) / fps + 1e-6, side="right"))


def _iter_candidates(
    flows: MotionField,
    times: Float64[np.ndarray, " time"],
    window: int,
    fps: float,
    counts: Sequence[int],
) -> Iterator[_CandidateMotion]:
    """One after the other, of which the spectrum is shared."""
    nothing = np.zeros_like(flows[0])
    yield _CandidateMotion(STILL_FRAME, lambda _: nothing, nothing[0])
    spectrum = to_spectrum(resample_flow(flows, times, window, fps), max(counts)).astype(
        np.complex64
    )
    for count in counts:
        series = to_series(spectrum[:count], window, fps)
        yield _CandidateMotion(
            f"K = {count}",
            lambda i, series=series: series.at(float(times[i])),
            mean_magnitude(series, np.arange(window) / fps),
            count,
        )
    yield _CandidateMotion(
        TRUE_MOTION, lambda i: flows[i], modulus(flows[:, 0], flows[:, 1]).mean(axis=0)
    )


def _score_candidate(motion: _CandidateMotion, frames: Frames, flows: MotionField) -> UpperBound:
    """The frames that a motion makes of the first one, and how near they are to the true ones."""
    errors = np.array(
        [
            np.square(motion.displacement_to(i) - flow, dtype=np.float64).sum(axis=0).mean()
            for i, flow in enumerate(flows)
        ]
    )
    energy = np.square(flows, dtype=np.float64).sum(axis=1).mean()
    made = np.stack(
        list(
            map_in_order(
                partial(_warp_to_frame, frames[0], motion), map(float, range(len(frames))), THREADS
            )
        )
    )
    decibels, structure = psnr_ssim(made[1:], frames[1:])
    share = float(np.sqrt(errors.mean() / energy)) if energy else 0.0
    return UpperBound(
        motion.name,
        motion.frequencies,
        decibels,
        structure,
        float(np.sqrt(errors.mean())),
        share,
        made,
    )


def _warp_to_frame(photo: Any, motion: _CandidateMotion, i: float) -> Any:
    return warp_frame(photo, motion.displacement_to(int(i)), motion.weight)


def psnr_ssim(
    made: Frames, true: Frames
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, " time"]]:
    """PSNR (dB, at most SAME_DB) and SSIM of each frame, a few at a time."""
    found = [
        frame_psnr_ssim(made[i : i + _BATCH_FRAMES], true[i : i + _BATCH_FRAMES])
        for i in range(0, len(true), _BATCH_FRAMES)
    ]
    decibels, structure = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return np.minimum(decibels, MAX_PSNR_DB), structure
