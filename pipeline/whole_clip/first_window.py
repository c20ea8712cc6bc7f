"""The motion of one video's beginning, without a data set: what the shards would hold of its first
window.
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
from pipeline.extract.plan import plan_clip, plan_rows, plan_windows, times_since_first
from pipeline.extract.timing import ShardTimer
from pipeline.filters import PRESETS, judge
from pipeline.flow.estimator import make_estimator
from schemas.clip import VideoInfo
from schemas.outcome import FilterMeasures, Quarantined, Reason
from schemas.sample import Sample

MIN_VIDEO_S = 1.0
"""A shorter video says nothing about a sway."""
_MAX_ASPECT = 8
"""Aspect over which only the middle of a video is measured."""


class _VideoMotion(NamedTuple):
    sample: Sample
    frame: UInt8[np.ndarray, "rows columns 3"]
    """The start frame at the video's own size; of a video that does not cover the working size, its
    middle, enlarged to that.
    """
    frames: int
    """T."""
    size: tuple[int, int]
    """The video's own width and height, with square pixels."""
    rejection_reasons: list[Reason]
    """For which a data set of small motion would reject it."""


def motion_of_video(path: Path, config: BuildConfig) -> _VideoMotion:
    """The first window of a video; of all that there is, where that is shorter than a window.

    Measured at a size of the video's own aspect, with about as many pixels as the config's. Raises
    ValueError, in a sentence, where the video cannot be read, is shorter than a second, or is of a
    kind that the thresholds reject.
    """
    pool = shared_pool(config.decode)
    try:
        if not path.is_file():
            raise ValueError(f"{path} is not there, expected a video")
        video = pool.probe(str(path))
        own = display_size(video)
        config = replace(fit_window(config, video, path), size=match_aspect(own, config.size))
        sample = _build_sample(path, config, pool)
        (frame,) = pool.frames(
            str(path),
            video,
            [sample.meta["start_frame"]],
            own if covers_size(own, config.size) else config.size,
        )
    except Quarantined as error:
        raise ValueError(f"{path} cannot be used: {error.detail}") from error
    return _VideoMotion(
        sample,
        frame,
        config.plan.frames,
        own,
        judge(FilterMeasures(**sample.meta["measures"]), PRESETS["subtle"]),
    )


def fit_window(config: BuildConfig, video: VideoInfo, path: Path) -> BuildConfig:
    """With a window no longer than the video, of which a frame or two may be missing at the end
    (plan_windows).
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


def match_aspect(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Width and height, even as those of films, of about as many pixels as `size` and in
    the aspect of `own`, or in one of WIDEST to 1 if it is wider.
    """
    aspect = min(max(own[0] / own[1], 1 / _MAX_ASPECT), _MAX_ASPECT)
    height = sqrt(size[0] * size[1] / aspect)
    tried = range(2 * round(0.46 * height), round(1.04 * height), 2)
    return min(
        ((2 * round(down * aspect / 2), down) for down in tried),
        key=lambda found: (round(abs(found[0] / found[1] / aspect - 1), 4), abs(found[1] - height)),
    )


def covers_size(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether neither side is shorter."""
    return size[0] >= other[0] and size[1] >= other[1]
