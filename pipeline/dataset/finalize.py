"""Everything in a data set's folder that is derived from its plan and its commit records: it can be
deleted and rebuilt.

    manifest.parquet       the plan's rows, each with what became of it
    index.json             what stands in which shard, by content
    histogram.safetensors  the histograms of the training shards, merged
    statistics.json        the scales that a trainer reads (scales.py)
    summary.json  README.md    counts for a person; the data set's card (card.py)

One pass over the plan and the records, one shard in memory at a time; equal records give equal
bytes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import histogram as statistics
from pipeline.dataset import scales
from pipeline.dataset.card import render_card
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.folder import DamagedShard, Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.rounds import SupersededRows
from pipeline.dataset.shards import check_ends, to_json
from schemas import statistics as schema
from schemas.outcome import Outcome, is_environmental
from schemas.records import (
    MANIFEST_SCHEMA,
    DatasetIndex,
    IndexEntry,
    ManifestRow,
    PlanRow,
)
from schemas.run_contract import contract_provenance
from schemas.shard_record import ShardRecord

DERIVED_FILES = (
    "manifest.parquet",
    "index.json",
    "histogram.safetensors",
    "statistics.json",
    "summary.json",
    "README.md",
)
ROW_GROUP = 1024
"""Rows of the manifest that are written, and can be read, together."""


class _ShardRows(NamedTuple):
    """A shard, or at the end of the plan the clips that gave no window."""

    shard: str | None
    rows: list[ManifestRow]
    record: ShardRecord | None
    split: str | None = None


def finalize(dataset: Dataset, into: Path | None = None) -> dict[str, Any]:
    """Writes every derived file, into the data set's folder or another one; returns the summary.

    Raises ValueError where a shard is not committed yet, DamagedShard or DamagedPlan for a file
    that is not the one recorded.
    """
    dataset.check_finished()
    goal = Dataset(into) if into else dataset
    merged, tally, index = HistogramSum(), SummaryCounter(), dict[str, IndexEntry]()
    with manifest_writer(goal, goal.manifest, contract_provenance(dataset.contract())) as write:
        for part in iter_shard_rows(dataset):
            write(part.rows)
            tally.add(part)
            if part.shard and part.record:
                if goal is dataset:  # its run may have been stopped just before
                    dataset.remove_stray_tar(part.record)
                entry = index[part.shard] = index_entry(part)
                if entry.has_training_windows():
                    merged.add(read_histogram(dataset, part.shard, part.record))
                crashpoint("mid-finalize", part.shard)
    histogram = merged.publish(goal, goal.merged_histogram)
    write_index(goal, goal.index, run_digest(dataset), index, histogram, goal.manifest)
    summary = tally.summary()
    goal.publish(goal.summary, to_json(summary, indent=2))
    found = write_statistics(DatasetView(dataset, derived=goal))
    goal.publish(
        goal.card, render_card(dataset.contract(), summary, index, found, tally.licences).encode()
    )
    return summary


def iter_shard_rows(dataset: Dataset) -> Iterator[_ShardRows]:
    """The manifest, shard by shard, each with its record; at last the clips without a window."""
    superseded = SupersededRows(dataset.rounds())
    for shard, planned in groupby(dataset.stream_plan(), key=lambda row: row.shard):
        rows, record = list(planned), dataset.read_record(shard) if shard else None
        if record:
            check_record_rows(dataset.record_path(record.shard), rows, record)
            _check_tar(dataset, record)
        yield make_shard_rows(shard, rows, record, superseded)


def make_shard_rows(
    shard: str | None,
    plan: Sequence[PlanRow],
    record: ShardRecord | None,
    superseded: SupersededRows,
) -> _ShardRows:
    """The manifest's rows of a shard, or of clips without a window: those of the plan in whose
    place no later one stands.
    """
    results = {row.key: row for row in record.rows} if record else {}
    rows = [
        ManifestRow.join(row, results[row.key] if row.key else None)
        for row in plan
        if row not in superseded
    ]
    return _ShardRows(shard, rows, record, plan[0].split)


def check_record_rows(path: Path, plan: Sequence[PlanRow], record: ShardRecord) -> None:
    """Raises DamagedShard unless a record holds just the plan's windows of its shard."""
    if [row.key for row in record.rows] != [row.key for row in plan]:
        raise DamagedShard(
            f"{path} does not hold the windows of the plan, in its order: quiver repair builds its shard again"
        )


def write_index(
    goal: Dataset,
    path: Path,
    run: str,
    shards: Mapping[str, IndexEntry],
    histogram: str | None,
    table: Path,
) -> None:
    """What readers of a data set or a view go by: sealed, with the digests of the files beside it."""
    with open(table, "rb") as file:
        manifest = hashlib.file_digest(file, "sha256").hexdigest()
    index = DatasetIndex(run=run, shards=shards, histogram=histogram, manifest=manifest)
    goal.publish(path, index.dump())


@contextmanager
def manifest_writer(goal: Dataset, path: Path, made: dict[str, str]) -> Iterator[Any]:
    """A function that takes rows, and writes them by ROW_GROUP; `made` goes into the schema."""
    waiting: list[ManifestRow] = []
    schema = MANIFEST_SCHEMA.with_metadata(made or None)
    how = dict[str, Any](compression="zstd", write_page_checksum=True)
    with goal.open_for_publish(path) as file, pq.ParquetWriter(file, schema, **how) as writer:

        def write(rows: Sequence[ManifestRow], least: int = ROW_GROUP) -> None:
            waiting.extend(rows)
            while len(waiting) >= least and waiting:
                writer.write_table(_manifest_table(waiting[:ROW_GROUP]))
                del waiting[:ROW_GROUP]

        yield write
        write([], least=1)


def _manifest_table(rows: list[ManifestRow]) -> pa.Table:
    """Raises DamagedShard where a value is none that the manifest can hold."""
    try:
        return pa.Table.from_pylist([row.dump() for row in rows], MANIFEST_SCHEMA)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        shards = sorted({row.shard for row in rows if row.shard})
        raise DamagedShard(
            f"a record of {shards[0]} to {shards[-1]} holds a value of another kind than the manifest: {error}"
        ) from error


class HistogramSum:
    """Histograms that are added up one by one."""

    def __init__(self) -> None:
        self.counts: np.ndarray | None = None

    def add(self, counts: np.ndarray) -> None:
        self.counts = counts if self.counts is None else statistics.merge([self.counts, counts])

    def publish(self, goal: Dataset, path: Path) -> str | None:
        """The file's digest; None, and no file, where there was nothing to add."""
        data = None if self.counts is None else statistics.encode(self.counts)
        goal.publish(path, data)
        return None if data is None else hashlib.sha256(data).hexdigest()


def read_histogram(dataset: Dataset, shard: str, record: ShardRecord) -> np.ndarray:
    """Of one shard. Raises DamagedShard where the file is gone, is another, or does not count the
    recorded number of values.
    """
    path = dataset.histogram_path(shard)
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != record.histogram:
        raise DamagedShard(
            f"{path} {'is not the histogram that was recorded' if data else 'is gone'}: quiver repair counts it again"
        )
    counts = statistics.decode(data)
    if counts.sum() != record.values:
        raise DamagedShard(f"{path} counts {counts.sum()} values, its record says {record.values}")
    return counts


def index_entry(part: _ShardRows) -> IndexEntry:
    """What a shard holds, for those who need not read its record; `content` tells one set of
    kept samples from another.
    """
    kept = sum(row.outcome == Outcome.KEPT for row in part.rows)
    tar = part.record.tar.sha256 if part.record and part.record.tar else None
    return IndexEntry(split=str(part.split), kept=kept, tar=tar, content=tar)


def run_digest(dataset: Dataset) -> str:
    """sha256 of run.json."""
    return dataset.run_digest()


def write_statistics(selection: DatasetView) -> schema.SpectrumStatistics | None:
    """The statistics of the training windows; none, and no file, where none was kept."""
    found = (
        scales.compute_statistics([selection])
        if any(entry.has_training_windows() for entry in selection.read_index().shards.values())
        else None
    )
    selection.derived_dataset.publish(
        selection.derived_path("statistics.json"), found and schema.encode_statistics(found)
    )
    return found


def _check_tar(dataset: Dataset, record: ShardRecord) -> None:
    """Raises DamagedShard where a recorded tar is gone, has another size, or is seen to be another
    (shards.check_ends); in object storage its size alone is looked at. Only verify reads all of it.
    """
    tar, recorded = dataset.tar_path(record.shard), record.tar
    if recorded is None:
        return
    place, size = dataset.display_path(tar), dataset.tar_size(record.shard)
    if size is None:
        raise DamagedShard(f"{place} is gone: put it back, or build it again with quiver repair")
    if size != recorded.bytes:
        words = f"has {size} bytes, its record says {recorded.bytes}"
        raise DamagedShard(f"{place} {words}: put it back, or build it again with quiver repair")
    if tar.exists():
        try:
            check_ends(tar, record.kept_members())
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            words = f"quiver verify {dataset.root} names every fault, quiver repair puts it right"
            raise DamagedShard(f"{place} {error}: {words}") from error


class SummaryCounter:
    """Counts for a person, added up part by part."""

    def __init__(self) -> None:
        self.outcomes, self.splits, self.licences = Counter(), Counter(), Counter()
        self.reasons: dict[str, Counter] = {
            Outcome.REJECTED: Counter(),
            Outcome.QUARANTINED: Counter(),
        }
        self.clips: dict[tuple[str, str], float] = {}
        self.retryable = {"clips": 0, "windows": 0}
        self.windows = self.clips_without_window = self.shards = self.bytes = 0

    def add(self, part: _ShardRows) -> None:
        for row in part.rows:
            self.outcomes[row.outcome] += 1
            self.windows += row.key is not None
            self.clips_without_window += row.key is None
            self.retryable["windows" if row.key else "clips"] += is_environmental(
                row.outcome, row.reason
            )
            self.clips[row.clip_id, row.uri] = row.duration_s or 0.0
            if row.outcome == Outcome.KEPT:
                self.splits[row.split] += 1
                self.licences[row.licence] += 1
            else:
                self.reasons[str(row.outcome)][row.reason] += 1
        if part.record:
            self.shards += 1
            self.bytes += part.record.tar.bytes if part.record.tar else 0

    def summary(self) -> dict[str, Any]:
        """How many of what became what, and why; the commonest reason first."""
        return dict(
            clips=len(self.clips),
            windows=self.windows,
            clips_without_window=self.clips_without_window,
            **{outcome.value: self.outcomes[outcome] for outcome in Outcome},
            rejected_by_reason=dict(self.reasons[Outcome.REJECTED].most_common()),
            quarantined_by_reason=dict(self.reasons[Outcome.QUARANTINED].most_common()),
            retryable=dict(self.retryable),
            kept_by_split=dict(sorted(self.splits.items())),
            hours=sum(self.clips.values()) / 3600,
            shards=self.shards,
            bytes=self.bytes,
        )
