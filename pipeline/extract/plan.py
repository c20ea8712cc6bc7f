"""Plans an extraction: which windows the listed clips have, and which shard each one goes to.

The plan is fixed before the run, so that what is in a shard depends on no worker and no retry.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from pipeline.dataset.remote_clips import local_clip_path
from pipeline.decode.media_file import check_readable
from pipeline.extract.config import PlanConfig
from pipeline.extract.list_clips import _clamp_cut_time, _is_inside
from schemas.clip import Clip, VideoInfo, Window
from schemas.outcome import (
    ENVIRONMENTAL_REASONS,
    Outcome,
    Quarantined,
    Reason,
    Stage,
    is_environmental,
)
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

    Whatever is wrong with it becomes the clip's outcome, not an error; OSError where the storage
    does not answer.
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
    """The clip with its windows, or rejected as too short for one."""
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
    """The row of a clip that could not be read."""
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
    """Raises Quarantined where a link leaves the folder that was given, or no table can hold the
    file's name.
    """
    if _readable_uri(clip.uri) != clip.uri:
        raise Quarantined(Stage.PROBE, Reason.FORBIDDEN_PATH, "the file's name is not UTF-8")
    if clip.root is not None and not _is_inside(clip.uri, clip.root):
        raise Quarantined(
            Stage.PROBE, Reason.FORBIDDEN_PATH, "a link that leads out of the folder given"
        )


def _readable_uri(uri: str) -> str:
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
    name = clip.clip_id or (sha256[:16] + _cut_name(clip) if sha256 else _unreadable_clip_id(clip))
    identity = clip.source or sha256
    split = clip.split or (choose_split(identity, config.test_fraction) if identity else None)
    return PlannedClip(clip=clip, clip_id=name, split=split, sha256=sha256, bytes=size)


def _unreadable_clip_id(clip: Clip) -> str:
    """The id of a clip whose content could not be read: `unread` and 10 hexadecimal digits of the
    sha256 of its place, which stays what it is if the folder is moved; then its cut.
    """
    place = _readable_uri(clip.place or clip.uri)
    return "unread" + hashlib.sha256(place.encode()).hexdigest()[:10] + _cut_name(clip)


def _cut_name(clip: Clip) -> str:
    """What tells the cuts of one video apart, in milliseconds; nothing for a whole video."""
    if clip.start_s is None and clip.end_s is None:
        return ""
    times = (clip.start_s, clip.end_s)
    return "-" + "-".join("" if s is None else str(round(1000 * _clamp_cut_time(s))) for s in times)


def choose_split(identity: str, test_fraction: float) -> str:
    """`test` for that fraction of all identities (a source, or a content's sha256), whatever else
    is in the data set.
    """
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    return "test" if share < test_fraction else "train"


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
    place = (times - times[0]) * config.fps / config.stride
    beside = np.unique(np.concatenate([np.floor(place), np.ceil(place)]))
    return beside[beside * config.stride / config.fps <= times[-1] - times[0]]


def window_span(clip: Clip, video: VideoInfo, window: Window, config: PlanConfig) -> range:
    """Indices of the source frames that a window needs: to the first that reaches its last instant,
    within the clip.
    """
    (_, end_s), times = _clip_range(clip, video), times_since_first(video)
    last_instant = window.start_time_s + (config.frames - 1) / config.fps
    last = np.searchsorted(
        times, last_instant - _TIME_ROUNDING_S
    )  # else rounding decides on one frame more
    inside = np.searchsorted(times, end_s) - 1
    return range(window.start_frame, int(min(last, inside)) + 1)


def plan_rows(clips: Iterable[PlannedClip], config: PlanConfig) -> list[PlanRow]:
    """Rows of the plan: every window by (split, shard, clip id, start frame), then every clip that
    gives none.

    Raises ValueError if two clips give the same key.
    """
    windows, barren = _make_window_and_empty_clip_rows(clips, set())
    _check_unique_keys([row.window().key for row in windows])
    return _assign_shards(windows, config.windows_per_shard) + barren


def plan_round(
    clips: Iterable[PlannedClip],
    again: Iterable[PlanRow],
    planned: Iterable[PlanRow],
    label: str,
    config: PlanConfig,
) -> list[PlanRow]:
    """Rows of a round of `quiver retry`, as those of `plan_rows`, in shards with `label` in
    their names: clips that gave no window, probed again, and windows that are tried again, beside
    all that is `planned` already.

    Raises ValueError if two clips give the same key.
    """
    before = {row.key: row.clip_id for row in planned if row.key}
    windows, barren = _make_window_and_empty_clip_rows(clips, set(before.values()))
    _check_unique_keys([*before, *(row.window().key for row in windows)])
    return _assign_shards([*windows, *again], config.windows_per_shard, label) + barren


def _make_window_and_empty_clip_rows(
    clips: Iterable[PlannedClip], seen: set[str]
) -> tuple[list[PlanRow], list[PlanRow]]:
    """Rows of windows, and of clips that give none; a clip whose id was `seen` gives none."""
    windows: list[PlanRow] = []
    barren: list[PlanRow] = []
    for planned in sorted(clips, key=lambda c: (c.clip_id, c.clip.uri)):
        if planned.windows and planned.clip_id in seen:
            planned = replace(
                planned,
                windows=(),
                outcome=Outcome.REJECTED,
                stage=Stage.PROBE,
                reason=Reason.DUPLICATE_CLIP,
                detail="its content is listed twice",
            )
        seen.add(planned.clip_id)
        (windows if planned.windows else barren).extend(_make_clip_rows(planned))
    return windows, barren


def _make_clip_rows(planned: PlannedClip) -> Iterator[PlanRow]:
    clip = planned.clip
    row = PlanRow(
        clip_id=planned.clip_id,
        uri=_readable_uri(clip.uri),
        sha256=planned.sha256,
        bytes=planned.bytes,
        duration_s=planned.duration_s,
        split=planned.split,
        clip_start_s=clip.start_s,
        clip_end_s=clip.end_s,
        licence=clip.licence,
        source=clip.source,
        root=clip.root and _readable_uri(clip.root),
        retried=planned.retried,
    )
    if not planned.windows:
        yield replace(
            row,
            outcome=planned.outcome,
            stage=planned.stage,
            reason=planned.reason,
            detail=planned.detail,
            attempts=planned.attempts,
        )
    for window in planned.windows:
        yield replace(
            row,
            key=window.key,
            start_frame=window.start_frame,
            start_time_s=window.start_time_s,
        )


def clip_from_row(row: PlanRow) -> Clip:
    """The clip of a row of the plan."""
    return Clip(uri=row.uri, clip_id=row.clip_id, start_s=row.clip_start_s, end_s=row.clip_end_s)


def _check_unique_keys(keys: Sequence[str]) -> None:
    if len(keys) != len(set(keys)):
        raise ValueError(
            "two clips give the same sample key, expected clip_ids that differ in more than "
            "punctuation"
        )


def _assign_shards(windows: list[PlanRow], per_shard: int, label: str = "") -> list[PlanRow]:
    counts = {"train": 0, "test": 0}
    assigned: list[PlanRow] = []
    for row in sorted(
        windows, key=lambda row: (row.split != "train", row.clip_id, row.start_frame)
    ):
        split = str(row.split)
        assigned.append(replace(row, shard=f"{split}-{label}{counts[split] // per_shard:06d}"))
        counts[split] += 1
    return assigned


def keep_earlier_decisions(
    clips: Iterable[PlannedClip], before: Iterable[PlanRow]
) -> list[PlannedClip]:
    """The clips of an extraction that goes on, as they were planned `before` if now or then they
    failed for a reason that may be the machine's: what a plan has decided stays, and only `quiver
    retry` decides the rest.

    `before` is read twice. Only the rows that may be of such a clip are held in memory.
    """
    clips = list(clips)
    names = {
        name
        for row in before
        if is_environmental(row.outcome, row.reason)
        for name in _row_identities(row)
    }
    own_names = [(planned, _clip_identities(planned)) for planned in clips]
    for planned, own in own_names:
        if planned.reason in ENVIRONMENTAL_REASONS or not names.isdisjoint(own):
            names.update(own)
    by_id: dict[str, dict[str, list[PlanRow]]] = {}
    by_place: dict[tuple, list[PlanRow]] = {}
    for row in before:
        clip_id, *places = _row_identities(row)
        if names.isdisjoint((clip_id, *places)):
            continue
        by_id.setdefault(clip_id, {}).setdefault(row.uri, []).append(row)
        for place in places:
            by_place.setdefault(place, []).append(row)
    return [_apply_earlier_plan(planned, by_id, by_place) for planned in clips]


def _clip_identities(planned: PlannedClip) -> list[Any]:
    """What a clip may be known by in the plan before: ids, then places, as `_row_identities`."""
    clip, cut = planned.clip, (planned.clip.start_s, planned.clip.end_s)
    if clip.clip_id is not None:
        return [planned.clip_id]
    places: list[tuple] = [(None, _readable_uri(clip.uri), *cut)]
    if clip.root is not None and clip.place is not None:
        places.append(("root", _readable_uri(clip.place), *cut))
    return [planned.clip_id, _unreadable_clip_id(clip), *places]


def _row_identities(row: PlanRow) -> list[Any]:
    """The id of a row's clip, then its place, and that in the folder in which it was found."""
    cut = (row.clip_start_s, row.clip_end_s)
    places: list[tuple] = [(None, row.uri, *cut)]
    if row.root is not None:
        places.append(("root", os.path.relpath(row.uri, row.root), *cut))
    return [row.clip_id, *places]


def _apply_earlier_plan(
    planned: PlannedClip,
    by_id: dict[str, dict[str, list[PlanRow]]],
    by_place: dict[tuple, list[PlanRow]],
) -> PlannedClip:
    """Returns the clip as it was planned before, if that decision stays.

    The clip is known by its id, and, of several files of one content, by its place too; a clip
    that was not read, then or now, has no id of its own and is known by its place, or by the name
    that it had, which says its place in a folder that was moved. If its content was read then and
    now, and is another, it is another input, whatever became of its probe.
    """
    uri = _readable_uri(planned.clip.uri)
    clip_id, *others = _clip_identities(planned)
    places = [by_place.get(name) for name in others if isinstance(name, tuple)]
    named = by_id.get(clip_id, {})
    unread = [rows for name in others for rows in by_id.get(name, {}).values()]
    moved = [*named.values(), *unread, *places[1:]]
    rows = next(filter(None, [named.get(uri), *places[:1], *moved]), None)
    if not rows or not (
        is_environmental(rows[0].outcome, rows[0].reason) or planned.reason in ENVIRONMENTAL_REASONS
    ):
        return planned
    if planned.sha256 and rows[0].sha256 and planned.sha256 != rows[0].sha256:
        return planned
    rows = [row for row in rows if row.clip_id == rows[0].clip_id]
    names = ("clip_id", "split", "sha256", "bytes", "duration_s")
    fate = ("outcome", "stage", "reason", "detail")
    columns: dict[str, Any] = {name: getattr(rows[0], name) for name in (*names, *fate)}
    windows = tuple(row.window() for row in rows) if rows[0].key else ()
    return replace(planned, **columns, windows=windows, attempts=rows[0].attempts or 1)


def clip_to_retry(row: PlanRow) -> Clip:
    """The clip of a row that gave no window, as it was listed: with a name, a place and a split of
    its own only if it had them, or if its content was read.
    """
    names = ("uri", "licence", "source", "split", "root")
    columns: dict[str, Any] = {name: getattr(row, name) for name in names}
    clip = Clip(start_s=row.clip_start_s, end_s=row.clip_end_s, **columns)
    unread = f"unread[0-9a-f]{{10}}{re.escape(_cut_name(clip))}"  # _unreadable_clip_id
    own = row.sha256 is not None or not re.fullmatch(unread, row.clip_id)
    return replace(clip, clip_id=row.clip_id if own else None)


def retry_clip(
    row: PlanRow,
    config: PlanConfig,
    probe: Callable[[str], VideoInfo],
    staging: Path | None = None,
) -> PlannedClip:
    """Reads and probes again the clip of a row that gave no window. Raises as `plan_clip` does."""
    planned = replace(plan_clip(clip_to_retry(row), config, probe, staging), retried=row.clip_id)
    then, now = row.sha256, planned.sha256
    if None in (then, now) or then == now:
        return planned
    detail = f"the file has sha256 {str(now)[:12]}..., and {str(then)[:12]}... when it was planned"
    error = Quarantined(Stage.PROBE, Reason.HASH_MISMATCH, detail)
    failed = failed_clip(planned.clip, error, config, planned.sha256, planned.bytes)
    return replace(failed, retried=row.clip_id)
