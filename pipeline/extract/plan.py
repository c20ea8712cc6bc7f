"""Plans an extraction: makes the rows of the plan from the clips, and assigns windows to shards.

The plan is fixed before the run, so that what is in a shard depends on no worker and no retry.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipeline.extract.config import PlanConfig
from pipeline.extract.plan_clip import PlannedClip, readable_uri, unreadable_clip_id
from schemas.clip import Clip
from schemas.outcome import ENVIRONMENTAL_REASONS, Outcome, Reason, Stage, is_environmental
from schemas.records import PlanRow


def plan_rows(clips: Iterable[PlannedClip], config: PlanConfig) -> list[PlanRow]:
    """Returns the rows of the plan: every window by (split, shard, clip id, start frame), then
    every clip that gives none.

    Raises ValueError if two clips give the same key.
    """
    windows, empty_clips = _make_window_and_empty_clip_rows(clips, set())
    _check_unique_keys([row.window().key for row in windows])
    return _assign_shards(windows, config.windows_per_shard) + empty_clips


def plan_round(
    clips: Iterable[PlannedClip],
    retried: Iterable[PlanRow],
    planned: Iterable[PlanRow],
    label: str,
    config: PlanConfig,
) -> list[PlanRow]:
    """Returns the rows of a round of `quiver retry`, in the order of `plan_rows`.

    clips: those that gave no window, probed again. retried: the windows that are tried again.
    planned: all rows until now. label: the part that the names of the round's shards share.

    Raises ValueError if two clips give the same key.
    """
    before = {row.key: row.clip_id for row in planned if row.key}
    windows, empty_clips = _make_window_and_empty_clip_rows(clips, set(before.values()))
    _check_unique_keys([*before, *(row.window().key for row in windows)])
    return _assign_shards([*windows, *retried], config.windows_per_shard, label) + empty_clips


def _make_window_and_empty_clip_rows(
    clips: Iterable[PlannedClip], seen: set[str]
) -> tuple[list[PlanRow], list[PlanRow]]:
    """Returns rows of windows, and of clips that give none; a clip whose id is in `seen`, which is
    extended, gives none.
    """
    windows: list[PlanRow] = []
    empty_clips: list[PlanRow] = []
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
        (windows if planned.windows else empty_clips).extend(_make_clip_rows(planned))
    return windows, empty_clips


def _make_clip_rows(planned: PlannedClip) -> Iterator[PlanRow]:
    clip = planned.clip
    row = PlanRow(
        clip_id=planned.clip_id,
        uri=readable_uri(clip.uri),
        sha256=planned.sha256,
        bytes=planned.bytes,
        duration_s=planned.duration_s,
        split=planned.split,
        clip_start_s=clip.start_s,
        clip_end_s=clip.end_s,
        licence=clip.licence,
        source=clip.source,
        root=clip.root and readable_uri(clip.root),
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
    """Returns the clips of an extraction that is resumed. Those that failed, now or when they were
    planned `before`, for a reason that may be the machine's are as they were planned: what a plan
    has decided stays, and only `quiver retry` decides the rest.

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
    """Returns the ids, then the places, by which the earlier plan may know a clip
    (`_row_identities`).
    """
    clip, cut = planned.clip, (planned.clip.start_s, planned.clip.end_s)
    if clip.clip_id is not None:
        return [planned.clip_id]
    places: list[tuple] = [(None, readable_uri(clip.uri), *cut)]
    if clip.root is not None and clip.place is not None:
        places.append(("root", readable_uri(clip.place), *cut))
    return [planned.clip_id, unreadable_clip_id(clip), *places]


def _row_identities(row: PlanRow) -> list[Any]:
    """Returns the id of a row's clip, then its place, and its place in the listed folder."""
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

    The clip is known by its id and, among several files of one content, by its place too. A clip
    that was not read, then or now, has no id of its own: it is known by its place, or by the name
    that it had, which tells its place in a folder that was moved. If its content was read both
    times and is another, it is another input, whatever became of its probe.
    """
    uri = readable_uri(planned.clip.uri)
    clip_id, *others = _clip_identities(planned)
    places = [by_place.get(name) for name in others if isinstance(name, tuple)]
    rows_by_uri = by_id.get(clip_id, {})
    unreadable = [rows for name in others for rows in by_id.get(name, {}).values()]
    elsewhere = [*rows_by_uri.values(), *unreadable, *places[1:]]
    rows = next(filter(None, [rows_by_uri.get(uri), *places[:1], *elsewhere]), None)
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
