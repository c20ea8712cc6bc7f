"""The upper bound of frame quality, whatever predicts the motion: the first frame of a clip moved
by its true motion, complete and cut to its first K frequencies (docs/maths.md, 43).

No network takes part. What the complete motion loses is lost by the flow and by splatting; what K
frequencies lose beyond that is lost by K.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from model.evaluate.image_quality import MAX_PSNR_DB, frame_psnr_ssim
from model.motion.series import mean_magnitude, to_series
from model.render.warp import THREADS, map_in_order, warp_frame
from pipeline.decode.pool import DecoderPool
from pipeline.flow.estimator import FlowEstimator
from pipeline.images.draw import busiest_row
from pipeline.motion.spectrum import modulus, to_spectrum
from pipeline.whole_clip.first_window import MIN_VIDEO_S
from pipeline.whole_clip.flow import flow_from_start, resample_flow
from pipeline.whole_clip.frames import ClipFrames, ClipSpan, open_clip

FREQUENCY_COUNTS = (1, 2, 4, 8, 16, 24)
"""K, as in the paper's table 2, and fewer."""
WORKING_FPS = 30.0
"""The rate of the paper's spectra."""
STILL_FRAME, TRUE_MOTION = "still", "true motion"
"""Names of the first frame without motion, and of the complete measured motion."""
_SLICE_MOTIONS = (STILL_FRAME, "K = 4", "K = 16", TRUE_MOTION)
"""The motions of which the page shows X-t slices."""

Frames = UInt8[np.ndarray, "time height width 3"]
_Flows = Float32[np.ndarray, "time 2 height width"]


class _CandidateMotion(NamedTuple):
    """Displacements from the first frame to every other one."""

    name: str
    displacement_to: Callable[[int], Float32[np.ndarray, "2 height width"]]
    """Displacement to frame i, pixels."""
    weight: Float32[np.ndarray, "height width"]
    """W: pixels of larger W are in front."""
    frequencies: int | None = None


class UpperBound(NamedTuple):
    """How close frames 1 .. N-1 come to the true ones under one motion."""

    name: str
    frequencies: int | None
    """K; None if the motion is not cut."""
    psnr_db: Float[np.ndarray, " later"]
    """MAX_PSNR_DB for a frame that equals the true one."""
    ssim: Float[np.ndarray, " later"]
    error_px: float
    """Root mean square error of the displacements, over frames and pixels."""
    error_share: float
    """`error_px` relative to the root mean square of the true motion; 0 if nothing moves."""
    frames: Frames
    """All frames, also the first."""

    def record(self) -> dict[str, Any]:
        """The numbers as ceiling.json has them."""
        return dict(
            name=self.name,
            frequencies=self.frequencies,
            psnr_db=float(self.psnr_db.mean()),
            ssim=float(self.ssim.mean()),
            error_px=self.error_px,
            error_share=self.error_share,
            psnr_db_of_frames=self.psnr_db.tolist(),
            ssim_of_frames=self.ssim.tolist(),
        )


def open_beginning(
    path: Path, pool: DecoderPool, seconds: float, frequencies: Sequence[int]
) -> tuple[ClipSpan, int]:
    """The first `seconds` of a clip, or as much as there is, not decoded yet, and T, the number of
    displacements at WORKING_FPS that they cover.

    Raises ValueError if the clip cannot be used, or is too short for these frequencies.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, expected a video or a folder of videos")
    span = open_clip(path, pool)
    window = int(
        min(round(seconds * WORKING_FPS), np.floor(span.times[-1] * WORKING_FPS + 1e-6) + 1)
    )
    if window < MIN_VIDEO_S * WORKING_FPS:
        raise ValueError(
            f"{path} has {len(span.times)} frames in {span.times[-1]:.2f} s, expected at least "
            f"{MIN_VIDEO_S:g} s"
        )
    if max(frequencies) > window // 2 + 1:
        raise ValueError(
            f"--frequencies has {max(frequencies)}, expected 1 to {window // 2 + 1} for the "
            f"{window / WORKING_FPS:.2f} s of {path}"
        )
    # The last frame may come after the end of the window.
    count = int(np.searchsorted(span.times, (window - 1) / WORKING_FPS - 1e-6)) + 1
    return span.truncate(count), window


def measure_clip(
    clip: ClipFrames, window: int, estimator: FlowEstimator, frequencies: Sequence[int]
) -> tuple[dict[str, Any], dict[str, UInt8[np.ndarray, "time width 3"]]]:
    """The record of a clip in ceiling.json, without its name, and its X-t slices by motion.

    Only the slices of its frames are kept, so that many clips fit into memory.
    """
    flows = flow_from_start(clip.frames, estimator)
    bounds = measure_upper_bounds(
        clip.frames, flows, clip.times, window=window, fps=WORKING_FPS, counts=frequencies
    )
    count, row = count_frames_in_window(clip.times, window, WORKING_FPS), busiest_row(flows)
    motions, slices = [], {"real frames": clip.frames[:count, row].copy()}
    for bound in bounds:
        motions.append(bound.record())
        if bound.name in _SLICE_MOTIONS:
            slices[bound.name] = bound.frames[:, row].copy()
    height, width = clip.frames.shape[1:3]
    record = dict(
        sha256=clip.sha256,
        size=list(clip.size),
        working_size=[width, height],
        decoder=clip.decoder,
        window=window,
        seconds=clip.times[:count].tolist(),
        motion_px=float(modulus(flows[:, 0], flows[:, 1]).mean()),
        motions=motions,
    )
    return record, slices


def mean_over_clips(clips: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """PSNR, SSIM and error of each motion, averaged over the records of clips with equal weights;
    empty for a single clip.
    """
    if len(clips) < 2:
        return []
    return [
        dict(name=motions[0]["name"])
        | {key: fmean(motion[key] for motion in motions) for key in ("psnr_db", "ssim", "error_px")}
        for motions in zip(*(clip["motions"] for clip in clips), strict=True)
    ]


def measure_upper_bounds(
    frames: Frames,
    flows: _Flows,
    times: Float64[np.ndarray, " time"],
    *,
    window: int,
    fps: float,
    counts: Sequence[int] = FREQUENCY_COUNTS,
) -> Iterator[UpperBound]:
    """The upper bounds without motion, for each K in `counts`, and with the complete true motion.

    `flows` are the displacements from the first frame to each, pixels; `times`, in seconds, begin
    at 0. The spectrum is that of T = `window` displacements at `fps`, as in a dataset
    (docs/maths.md, 1 to 3). Frames are compared at their own times, those after (T - 1) / fps not
    at all. Raises ValueError if T frames do not have K frequencies, or if there are fewer than two
    frames to compare.
    """
    count = count_frames_in_window(times, window, fps)
    if count < 2:
        raise ValueError(f"there are {count} frames within the window, expected at least 2")
    return (
        _score_candidate(motion, frames[:count], flows[:count])
        for motion in _iter_candidates(flows, times, window, fps, counts)
    )


def count_frames_in_window(times: Float64[np.ndarray, " time"], window: int, fps: float) -> int:
    """How many frames lie within a window of that many displacements at `fps`."""
    return int(np.searchsorted(times, (window - 1) / fps + 1e-6, side="right"))


def _iter_candidates(
    flows: _Flows,
    times: Float64[np.ndarray, " time"],
    window: int,
    fps: float,
    counts: Sequence[int],
) -> Iterator[_CandidateMotion]:
    """The motions to compare; the spectrum is computed once."""
    nothing = np.zeros_like(flows[0])
    yield _CandidateMotion(STILL_FRAME, lambda _: nothing, nothing[0])
    spectrum = to_spectrum(resample_flow(flows, times, window, fps), max(counts)).astype(
        np.complex64
    )
    for count in counts:
        series = to_series(spectrum[:count], window, fps)
        weight = mean_magnitude(series, np.arange(window) / fps)
        yield _CandidateMotion(
            f"K = {count}", lambda i, series=series: series.at(float(times[i])), weight, count
        )
    weight = modulus(flows[:, 0], flows[:, 1]).mean(axis=0)
    yield _CandidateMotion(TRUE_MOTION, lambda i: flows[i], weight)


def _score_candidate(motion: _CandidateMotion, frames: Frames, flows: _Flows) -> UpperBound:
    """Compares the first frame, moved by a motion, with the true frames."""
    errors = np.array(
        [
            np.square(motion.displacement_to(i) - flow, dtype=np.float64).sum(axis=0).mean()
            for i, flow in enumerate(flows)
        ]
    )
    error_px = float(np.sqrt(errors.mean()))
    energy = np.square(flows, dtype=np.float64).sum(axis=1).mean()

    def warp_to_frame(i: float) -> UInt8[np.ndarray, "height width 3"]:
        return warp_frame(frames[0], motion.displacement_to(int(i)), motion.weight)

    warped = np.stack(list(map_in_order(warp_to_frame, map(float, range(len(frames))), THREADS)))
    psnr_db, ssim = frame_psnr_ssim(warped[1:], frames[1:])
    return UpperBound(
        name=motion.name,
        frequencies=motion.frequencies,
        psnr_db=np.minimum(psnr_db, MAX_PSNR_DB),
        ssim=ssim,
        error_px=error_px,
        error_share=float(np.sqrt(errors.mean() / energy)) if energy else 0.0,
        frames=warped,
    )
