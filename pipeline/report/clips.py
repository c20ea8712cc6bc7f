"""Counts what became of each clip: the table of clips, those that were too short, and a warning if
one clip or one source dominates what was kept.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.dataset.open import DatasetView
from pipeline.extract.window_length import ClipLength, describe_short_clips
from pipeline.preview.reconstruct import read_settings
from pipeline.report.labels import clip_label, format_number
from schemas.outcome import Outcome, Reason

_MAX_LISTED_CLIPS = 50
"""Each table shows at most so many clips, and says how many there are more."""
_DOMINANT_SHARE = 1 / 3
_CLIP_COLUMNS = ["set", "clip_id", "uri"]


@dataclass
class ClipCounts:
    """What became of the windows of one clip."""

    dataset: int
    """The place of its dataset in the list of datasets."""
    clip_id: str
    uri: str
    source: str | None
    duration_s: float | None = None
    windows: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """Windows by the first reason that rejected them."""
    quarantined: Counter[str] = field(default_factory=Counter)
    clip_reason: str | None = None
    """Why the clip gave no window."""

    @property
    def label(self) -> str:
        """The clip's name as the page shows it."""
        return clip_label(vars(self))


def count_clips(rows: pa.Table) -> list[ClipCounts]:
    """Counts the windows of every clip, in the order of the rows."""
    groups = rows.group_by([*_CLIP_COLUMNS, "source", "outcome", "reason"], use_threads=False)
    counted = groups.aggregate([("key", "count"), ("duration_s", "max")])
    clips: dict[tuple[Any, ...], ClipCounts] = {}
    for row in counted.to_pylist():
        clip = clips.setdefault(
            tuple(row[name] for name in _CLIP_COLUMNS),
            ClipCounts(row["set"], row["clip_id"] or "", row["uri"] or "", row["source"]),
        )
        windows, reason = row["key_count"], row["reason"] or ""
        clip.windows += windows
        clip.duration_s = clip.duration_s or row["duration_s_max"]
        if not windows:
            clip.clip_reason = reason
        elif row["outcome"] == Outcome.KEPT:
            clip.kept += windows
        else:
            is_rejected = row["outcome"] == Outcome.REJECTED
            (clip.rejected if is_rejected else clip.quarantined)[reason] += windows
    return list(clips.values())


def build_clips(selections: Sequence[DatasetView], rows: pa.Table) -> dict[str, Any]:
    """The clips of which nothing was kept, the others, and those that were too short."""
    clips = count_clips(rows)
    too_short = [clip for clip in clips if clip.clip_reason == Reason.TOO_SHORT]
    empty = [clip for clip in clips if not clip.kept and clip.clip_reason != Reason.TOO_SHORT]
    return dict(
        count=len(clips),
        empty=_bound(empty, lambda clip: -clip.windows),
        fruitful=_bound([clip for clip in clips if clip.kept], lambda clip: -clip.kept),
        too_short=_bound(too_short, lambda clip: -(clip.duration_s or 0.0)),
        short_sentences=[
            sentence
            for i, selection in enumerate(selections)
            if (sentence := _describe_too_short(selection, clips, i))
        ],
        warnings=_describe_dominance(clips),
    )


def _bound(clips: Iterable[ClipCounts], order: Callable[[ClipCounts], float]) -> dict[str, Any]:
    """The first clips in this order, and the number of all."""
    ordered = sorted(clips, key=lambda clip: (order(clip), clip.label, clip.dataset, clip.uri))
    return dict(count=len(ordered), rows=ordered[:_MAX_LISTED_CLIPS])


def _describe_too_short(
    selection: DatasetView, clips: Sequence[ClipCounts], dataset: int
) -> str | None:
    """The sentence that says how many clips of a dataset are shorter than its window."""
    lengths = [
        ClipLength(clip.duration_s or 0.0, clip.windows > 0)
        for clip in clips
        if clip.dataset == dataset and (clip.windows or clip.clip_reason == Reason.TOO_SHORT)
    ]
    frequencies = selection.dataset.contract().config["frequencies"]
    return describe_short_clips(lengths, read_settings(selection.dataset).plan, frequencies)


def _describe_dominance(clips: Sequence[ClipCounts]) -> list[str]:
    """A sentence for each clip, and for each source of several clips, that holds more than a third
    of the kept windows.
    """
    kept = sum(clip.kept for clip in clips)
    sources: dict[str, list[ClipCounts]] = {}
    for clip in clips:
        if clip.source and clip.kept:
            sources.setdefault(clip.source, []).append(clip)
    holders = [(f"The clip {clip.label}", clip.kept) for clip in clips]
    holders += [
        (f"The source {clip_label(dict(clip_id=source, uri=''))}", sum(c.kept for c in members))
        for source, members in sources.items()
        if len(members) > 1
    ]
    return [
        _describe_share(name, count, kept)
        for name, count in sorted(holders, key=lambda holder: -holder[1])
        if count > _DOMINANT_SHARE * kept
    ]


def _describe_share(name: str, count: int, kept: int) -> str:
    return (
        f"{name} holds {format_number(count)} of the {format_number(kept)} kept windows "
        f"({100 * count // kept} %): over a third of what a model learns from comes from it."
    )
