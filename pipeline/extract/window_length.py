"""Compares the length of a window with the lengths of the clips: how many clips are too short for
one, and which window at least 80 % of them have room for.
"""

from collections.abc import Iterable, Sequence
from math import ceil, floor
from typing import NamedTuple

from pipeline.extract.config import PlanConfig
from pipeline.extract.plan_clip import PlannedClip
from schemas.outcome import Reason

SHORTEST_AUTO_S, LONGEST_AUTO_S = 2.0, 5.0
"""The windows between which `--frames auto` chooses. The longest is the paper's."""
_WANTED_SHARE = 0.8
_ROUNDING_FRAMES = 0.1
"""The share of a frame that a duration may lack by the rounding of containers. A window may
overhang the clip by more than that (`plan_windows`).
"""


class ClipLength(NamedTuple):
    duration_s: float
    has_window: bool
    """Whether a window of the plan fits."""


def list_clip_lengths(clips: Iterable[PlannedClip]) -> list[ClipLength]:
    """Returns the lengths of the sound clips: those with windows, and those too short for one."""
    return [
        ClipLength(planned.duration_s or 0.0, bool(planned.windows))
        for planned in clips
        if planned.windows or planned.reason == Reason.TOO_SHORT
    ]


def describe_short_clips(
    lengths: Sequence[ClipLength], config: PlanConfig, frequencies: int
) -> str | None:
    """Returns a sentence that says how many clips are shorter than a window, and the largest
    --frames that would keep at least 80 % of them, if there is one that has room for this number of
    frequencies; None if no clip is too short.
    """
    short_count = sum(not length.has_window for length in lengths)
    if not short_count:
        return None
    verb = "is" if short_count == 1 else "are"
    window = f"a window of {config.frames / config.fps:.3g} s (--frames {config.frames})"
    text = f"{short_count} of {_count_clips(len(lengths))} {verb} shorter than {window}"
    frames = _largest_wanted_frames(lengths, config)
    if frames == config.frames or frames < max(2, 2 * (frequencies - 1)):
        return text
    return f"{text}; --frames {frames} would keep {_describe_fitting(lengths, config, frames)}"


def choose_frames(lengths: Sequence[ClipLength], config: PlanConfig) -> tuple[int, str]:
    """Returns the number of frames of `--frames auto`, and a sentence that says it.

    It is the largest that keeps at least 80 % of the clips, between SHORTEST_AUTO_S and the
    window of `config`, for which the clips were planned.
    """
    least = auto_frames_limits(config.fps)[0]
    wanted = _largest_wanted_frames(lengths, config)
    frames = max(least, wanted)
    text = f"--frames auto is {frames}, a window of {frames / config.fps:.3g} s"
    if not lengths:
        return frames, text
    fitting = _describe_fitting(lengths, config, frames)
    if wanted < least:
        return frames, f"{text}, its least: it keeps only {fitting}"
    return frames, f"{text}: it keeps {fitting}"


def auto_frames_limits(fps: float) -> tuple[int, int]:
    """Returns the least and the largest number of frames that `--frames auto` chooses."""
    least, most = round(SHORTEST_AUTO_S * fps), round(LONGEST_AUTO_S * fps)
    return max(2, least), max(2, most)


def _largest_wanted_frames(lengths: Sequence[ClipLength], config: PlanConfig) -> int:
    """Returns the largest number of frames, at most that of `config`, that keeps the wanted share
    of the clips.
    """
    if not lengths:
        return config.frames
    frames = sorted((_fitting_frames(length, config) for length in lengths), reverse=True)
    return frames[ceil(_WANTED_SHARE * len(frames) - 1e-9) - 1]


def _fitting_frames(length: ClipLength, config: PlanConfig) -> int:
    """Returns the frames of the longest window, at most that of `config`, that surely fits."""
    if length.has_window:
        return config.frames
    return min(config.frames - 1, floor(length.duration_s * config.fps + _ROUNDING_FRAMES))


def _describe_fitting(lengths: Sequence[ClipLength], config: PlanConfig, frames: int) -> str:
    fitting = sum(_fitting_frames(length, config) >= frames for length in lengths)
    share = 100 * fitting // len(lengths)
    return f"{fitting} of {_count_clips(len(lengths))} ({share} %)"


def _count_clips(count: int) -> str:
    return f"{count} clip{'' if count == 1 else 's'}"
