"""Measures the motion of one video without a dataset: that of its first window, as shards would
store it.
"""

from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from pipeline.decode.pool import DecoderPool, shared_pool
from pipeline.extract.build_shard import build_windows
from pipeline.extract.config import BuildConfig
from pipeline.extract.list_clips import list_clips
from pipeline.extract.plan import plan_rows
from pipeline.extract.plan_clip import plan_clip, plan_windows, times_since_first
from pipeline.extract.timing import ShardTimer
from pipeline.filters import PRESETS, judge
from pipeline.flow.estimator import make_estimator
from schemas.clip import VideoInfo
from schemas.outcome import FilterMeasures, Quarantined, Reason
from schemas.sample import Sample
from schemas.spectral_volume import SpectralVolume

MIN_VIDEO_S = 1.0
"""A shorter video shows too little of a sway."""
_MAX_ASPECT = 8
"""Only the middle of a video is measured if its aspect is more extreme."""


class _VideoMotion(NamedTuple):
    sample: Sample
    frame: UInt8[np.ndarray, "rows columns 3"]
    """The start frame at the video's own size, or, if the video does not cover the working size,
    its middle enlarged to that.
    """
    frames: int
    """T, the number of frames of the window."""
    fps: float
    """The working frame rate."""
    size: tuple[int, int]
    """The video's own width and height, with square pixels."""
    rejection_reasons: list[Reason]
    """Why an extraction with `--filters subtle` would reject the window."""

    @property
    def volume(self) -> SpectralVolume:
        """The motion as a spectral volume, float32."""
        return SpectralVolume(
            spectrum=self.sample.spectrum.astype(np.float32),
            frames=self.frames,
            fps=self.fps,
            provenance={},
        )


def motion_of_video(path: Path, config: BuildConfig) -> _VideoMotion:
    """The motion of a video's first window, or of the whole video if it is shorter than a window.

    It is measured at a size of the video's own aspect, with about as many pixels as the config's.
    Raises ValueError if the video cannot be read, is shorter than MIN_VIDEO_S, or is rejected by
    the config's thresholds.
    """
    pool = shared_pool(config.decode)
    try:
        if not path.is_file():
            raise ValueError(f"{path} is missing, expected a video")
        video = pool.probe(str(path))
        own_size = display_size(video)
        config = replace(fit_window(config, video, path), size=match_aspect(own_size, config.size))
        sample = _build_sample(path, config, pool)
        frame_size = own_size if covers_size(own_size, config.size) else config.size
        (frame,) = pool.frames(str(path), video, [sample.meta["start_frame"]], frame_size)
    except Quarantined as error:
        raise ValueError(f"{path} cannot be used: {error.detail}") from error
    return _VideoMotion(
        sample=sample,
        frame=frame,
        frames=config.plan.frames,
        fps=config.plan.fps,
        size=own_size,
        rejection_reasons=judge(FilterMeasures(**sample.meta["measures"]), PRESETS["subtle"]),
    )


def fit_window(config: BuildConfig, video: VideoInfo, path: Path) -> BuildConfig:
    """The config with a window no longer than the video, the last frames of which may be unusable
    (plan_windows). Raises ValueError if the video is shorter than MIN_VIDEO_S.
    """
    seconds = float(video.end_s - video.times[0])
    if seconds < MIN_VIDEO_S:
        raise ValueError(f"{path} lasts {seconds:.2f} s, expected at least {MIN_VIDEO_S:g} s")
    if plan_windows(times_since_first(video), seconds, config.plan):
        return config
    frames = min(config.plan.frames, int(seconds * config.plan.fps))
    return replace(
        config,
        plan=replace(config.plan, frames=frames),
        frequencies=min(config.frequencies, frames // 2 + 1),
    )


def _build_sample(path: Path, config: BuildConfig, pool: DecoderPool) -> Sample:
    clips = [plan_clip(clip, config.plan, pool.probe) for clip in list_clips([str(path)])]
    row = plan_rows(clips, config.plan)[0]
    if row.outcome:
        raise ValueError(f"{path} has no window: {row.detail} ({row.reason})")
    (result,) = build_windows([row], config, make_estimator(config.flow), pool, ShardTimer())
    if result.sample is None:
        raise ValueError(f"{path} gives no motion: {result.row.detail or ''} ({result.row.reason})")
    return result.sample


def display_size(video: VideoInfo) -> tuple[int, int]:
    """Width and height as shown, with square pixels."""
    return round(video.height * video.aspect), video.height


def match_aspect(own_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """An even width and height with about as many pixels as `size`, in the aspect of `own_size`,
    which is limited to _MAX_ASPECT to 1.
    """
    aspect = min(max(own_size[0] / own_size[1], 1 / _MAX_ASPECT), _MAX_ASPECT)
    ideal_height = sqrt(size[0] * size[1] / aspect)

    def misfit(candidate: tuple[int, int]) -> tuple[float, float]:
        width, height = candidate
        return round(abs(width / height / aspect - 1), 4), abs(height - ideal_height)

    heights = range(2 * round(0.46 * ideal_height), round(1.04 * ideal_height), 2)
    return min(((2 * round(height * aspect / 2), height) for height in heights), key=misfit)


def covers_size(size: tuple[int, int], smaller: tuple[int, int]) -> bool:
    """Whether neither side of `size` is shorter than that of `smaller`."""
    return size[0] >= smaller[0] and size[1] >= smaller[1]
