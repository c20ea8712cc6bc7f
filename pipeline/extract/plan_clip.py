"""Plans one clip: reads and probes its file, gives it an id and a split, and finds its windows.

Whatever is wrong with the file becomes the outcome of the clip. pipeline/extract/plan.py makes the
rows of the plan from all clips.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from pipeline.dataset.remote_clips import local_clip_path
from pipeline.decode.media_file import check_readable
from pipeline.extract.config import PlanConfig
from pipeline.extract.list_clips import clamp_cut_time, is_inside
from schemas.clip import Clip, VideoInfo, Window
from schemas.outcome import Outcome, Quarantined, Reason, Stage
from schemas.records import PlanRow
from schemas.sample import sample_key

_TIME_ROUNDING_S = 1e-6
"""Times of frames that should be equal differ by less: by their containers' and float64's rounding.
"""
_MAX_MISSING_FRAMES = 2
"""Source frames that may be missing at the end of a window: cameras and cutters end a video of 5 s
a frame or two early. The motion of the last instants is then that of the last frame
(docs/design/maths.md, 3).
"""


@dataclass(frozen=True, kw_only=True)
class PlannedClip:
    """A listed clip after the probe: its windows, or why there are none."""

    clip: Clip
    clip_id: str
    """The user's, or the beginning of the content's sha256."""
    split: str | None
    """None if the content decides it and could not be read."""
    sha256: str | None
    """Of the file's content; None if it could not be read."""
    bytes: int | None
    duration_s: float | None = None
    windows: tuple[Window, ...] = ()
    outcome: Outcome | None = None
    stage: Stage | None = None
    reason: Reason | None = None
    detail: str | None = None
    attempts: int = 1
    retried: str | None = None
    """In a round of `quiver retry`, the id of the row in whose place this stands."""


def plan_clip(
    clip: Clip, config: PlanConfig, probe: Callable[[str], VideoInfo], staging: Path | None = None
) -> PlannedClip:
    """Reads and probes one file. A file in object storage is first copied to this machine
    (pipeline/dataset/remote_clips.py).

    Whatever is wrong with it becomes the clip's outcome, not an error; OSError if the storage does
    not answer.
    """
    sha256 = size = None
    try:
        _check_clip_path(clip)
        with local_clip_path(clip.uri, staging) as path:
            check_readable(path)
            sha256, size = hash_file(path)
            return with_windows(identify_clip(clip, sha256, size, config), probe(path), config)
    except Quarantined as error:
        return failed_clip(clip, error, config, sha256, size)


def with_windows(planned: PlannedClip, video: VideoInfo, config: PlanConfig) -> PlannedClip:
    """Returns the clip with its windows, or rejected as too short for one."""
    (start_s, end_s), times = _clip_range(planned.clip, video), times_since_first(video)
    first = int(np.searchsorted(times, start_s))
    starts = plan_windows(times[(times >= start_s) & (times < end_s)], end_s, config)
    windows = tuple(
        Window(key=sample_key(planned.clip_id, first + i), start_frame=first + i, start_time_s=t)
        for i, t in starts
    )
    planned = replace(planned, duration_s=max(0.0, end_s - start_s), windows=windows)
    if windows:
        return planned
    window = f"a window is {config.frames / config.fps:g} s (--frames {config.frames})"
    detail = f"{planned.duration_s:.3f} s, {window}"
    return replace(
        planned, outcome=Outcome.REJECTED, stage=Stage.PROBE, reason=Reason.TOO_SHORT, detail=detail
    )


def failed_clip(
    clip: Clip,
    error: Quarantined,
    config: PlanConfig,
    sha256: str | None = None,
    size: int | None = None,
) -> PlannedClip:
    """Returns the clip as quarantined by an error."""
    planned = identify_clip(clip, sha256, size, config)
    return replace(
        planned,
        outcome=Outcome.QUARANTINED,
        stage=error.stage,
        reason=error.reason,
        detail=error.detail,
        attempts=error.attempts,
    )


def _check_clip_path(clip: Clip) -> None:
    """Raises Quarantined if a link leaves the folder that was listed, or no table can hold the
    file's name.
    """
    if readable_uri(clip.uri) != clip.uri:
        raise Quarantined(Stage.PROBE, Reason.FORBIDDEN_PATH, "the file's name is not UTF-8")
    if clip.root is not None and not is_inside(clip.uri, clip.root):
        raise Quarantined(
            Stage.PROBE, Reason.FORBIDDEN_PATH, "a link that leads out of the folder given"
        )


def readable_uri(uri: str) -> str:
    """The path as a table can hold it: bytes that are not UTF-8 as escapes."""
    return uri.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def hash_file(path: str) -> tuple[str, int]:
    """sha256 of a file's content, hexadecimal, and its bytes. Raises Quarantined (unreadable)."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError as error:
        raise Quarantined(
            Stage.PROBE, Reason.UNREADABLE, error.strerror or "cannot be read"
        ) from error


def identify_clip(
    clip: Clip, sha256: str | None, size: int | None, config: PlanConfig
) -> PlannedClip:
    """The clip with its id and split: by its content, or if that cannot be read by its path."""
    name = clip.clip_id or (sha256[:16] + _cut_name(clip) if sha256 else unreadable_clip_id(clip))
    identity = clip.source or sha256
    split = clip.split or (choose_split(identity, config.test_fraction) if identity else None)
    return PlannedClip(clip=clip, clip_id=name, split=split, sha256=sha256, bytes=size)


def unreadable_clip_id(clip: Clip) -> str:
    """The id of a clip whose content could not be read: `unread` and 10 hexadecimal digits of the
    sha256 of its place, which stays what it is if the folder is moved; then its cut.
    """
    place = readable_uri(clip.place or clip.uri)
    return "unread" + hashlib.sha256(place.encode()).hexdigest()[:10] + _cut_name(clip)


def _cut_name(clip: Clip) -> str:
    """The part of an id that tells the cuts of one video apart, in milliseconds; empty for a whole
    video.
    """
    if clip.start_s is None and clip.end_s is None:
        return ""
    times = (clip.start_s, clip.end_s)
    return "-" + "-".join("" if s is None else str(round(1000 * clamp_cut_time(s))) for s in times)


def choose_split(identity: str, test_fraction: float) -> str:
    """`test` for that fraction of all identities (a source, or a content's sha256), whatever else
    is in the dataset.
    """
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    return "test" if share < test_fraction else "train"


def clip_to_retry(row: PlanRow) -> Clip:
    """Returns the clip of a row that gave no window, as it was listed. It has a name, a place and a
    split of its own only if it had them then, or if its content was read.
    """
    names = ("uri", "licence", "source", "split", "root")
    columns: dict[str, Any] = {name: getattr(row, name) for name in names}
    clip = Clip(start_s=row.clip_start_s, end_s=row.clip_end_s, **columns)
    pattern = f"unread[0-9a-f]{{10}}{re.escape(_cut_name(clip))}"  # as unreadable_clip_id makes it
    has_own_id = row.sha256 is not None or not re.fullmatch(pattern, row.clip_id)
    return replace(clip, clip_id=row.clip_id if has_own_id else None)


def retry_clip(
    row: PlanRow,
    config: PlanConfig,
    probe: Callable[[str], VideoInfo],
    staging: Path | None = None,
) -> PlannedClip:
    """Reads and probes again the clip of a row that gave no window.

    The clip is quarantined if its file is not the one that was planned. Raises as `plan_clip` does.
    """
    planned = replace(plan_clip(clip_to_retry(row), config, probe, staging), retried=row.clip_id)
    before, now = row.sha256, planned.sha256
    if before is None or now is None or before == now:
        return planned
    detail = f"the file has sha256 {now[:12]}..., and {before[:12]}... when it was planned"
    error = Quarantined(Stage.PROBE, Reason.HASH_MISMATCH, detail)
    failed = failed_clip(planned.clip, error, config, planned.sha256, planned.bytes)
    return replace(failed, retried=row.clip_id)


def times_since_first(video: VideoInfo) -> Float64[np.ndarray, " frames"]:
    """The time of each frame in seconds after the first, as a player counts: a container may begin
    at any time stamp.
    """
    return _subtract_time(video.times, video.times[0])


def _subtract_time(times: Any, first: float) -> Any:
    """Differences of times of up to a day, which float64 has to 1e-11 s, without that noise: 2 s
    are 2.0.
    """
    return times if first == 0 else np.round(times - first, 9)


def _clip_range(clip: Clip, video: VideoInfo) -> tuple[float, float]:
    """(start, end) of the clip within its file, seconds after the first frame."""
    start_s, end_s = clip.start_s or 0.0, float(_subtract_time(video.end_s, video.times[0]))
    return max(start_s, 0.0), end_s if clip.end_s is None else min(clip.end_s, end_s)


def plan_windows(
    times: Float64[np.ndarray, " frames"], end_s: float, config: PlanConfig
) -> list[tuple[int, float]]:
    """(index, time) of the source frame nearest to each multiple of the stride from which a whole
    window fits.

    Up to `_MAX_MISSING_FRAMES` source frames, and half a window, may be missing at the end; a frame
    starts at most one window, however few frames there are.
    """
    if len(times) < 2:
        return []
    seconds = config.frames / config.fps
    frames = _MAX_MISSING_FRAMES + 0.01  # time stamps are rounded
    slack = min(frames * np.median(np.diff(times)), seconds / 2)
    grid = times[0] + _candidate_strides(times, config) * config.stride / config.fps
    right = np.clip(np.searchsorted(times, grid), 1, len(times) - 1)
    starts = np.unique(np.where(grid - times[right - 1] <= times[right] - grid, right - 1, right))
    starts = starts[(starts < len(times) - 1) & (times[starts] + seconds <= end_s + slack)]
    return [(int(i), float(times[i])) for i in starts]


def _candidate_strides(
    times: Float64[np.ndarray, " frames"], config: PlanConfig
) -> Float64[np.ndarray, " strides"]:
    """The multiples of the stride before and after each frame; those inside a long gap, which may
    be endless, start nothing.
    """
    strides = (times - times[0]) * config.fps / config.stride
    candidates = np.unique(np.concatenate([np.floor(strides), np.ceil(strides)]))
    return candidates[candidates * config.stride / config.fps <= times[-1] - times[0]]


def window_span(clip: Clip, video: VideoInfo, window: Window, config: PlanConfig) -> range:
    """Indices of the source frames that a window needs: to the first that reaches its last instant,
    within the clip.
    """
    (_, end_s), times = _clip_range(clip, video), times_since_first(video)
    last_instant = window.start_time_s + (config.frames - 1) / config.fps
    # without the tolerance, rounding decides whether there is one frame more
    last = np.searchsorted(times, last_instant - _TIME_ROUNDING_S)
    inside = np.searchsorted(times, end_s) - 1
    return range(window.start_frame, int(min(last, inside)) + 1)
