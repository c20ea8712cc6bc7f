"""Write every file that is derived from the plan and the commit records of a dataset.

    manifest.parquet       the rows of the plan, each with its result
    index.json             the content of every shard, by digests
    histogram.safetensors  the merged histograms of the training shards
    statistics.json        the scales that a trainer reads (scales.py)
    summary.json  README.md    counts for a person; the dataset card (card.py)

All of them can be deleted and rebuilt. `finalize` makes one pass over the plan and the records with
one shard in memory at a time; equal records give equal bytes.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import histogram, scales
from pipeline.dataset.card import render_card
from pipeline.dataset.commit import remove_stray_tar
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.folder import DamagedShard, Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.rounds import SupersededRows
from pipeline.dataset.shards import check_ends
from schemas.outcome import Outcome, is_environmental
from schemas.records import MANIFEST_SCHEMA, DatasetIndex, IndexEntry, ManifestRow, PlanRow
from schemas.run_contract import contract_provenance
from schemas.seal import to_json
from schemas.shard_record import ShardRecord
from schemas.statistics import SpectrumStatistics, encode_statistics

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
    """Writes every derived file into the dataset's folder, or into another; returns the summary.

    Raises ValueError if a shard is not committed yet, DamagedShard or DamagedPlan if a file is not
    the one that was recorded.
    """
    dataset.check_finished()
    view = DatasetView(dataset, derived=Dataset(into) if into else None)
    goal = view.derived_dataset
    histograms, counter, index = HistogramSum(), SummaryCounter(), dict[str, IndexEntry]()
    with manifest_writer(view) as write:
        for part in iter_shard_rows(dataset):
            write(part.rows)
            counter.add(part)
            if part.shard and part.record:
                if goal is dataset:  # the run that committed may have been stopped just before
                    remove_stray_tar(dataset, part.record)
                entry = index[part.shard] = index_entry(part)
                if entry.has_training_windows():
                    histograms.add(read_histogram(dataset, part.shard, part.record))
                crashpoint("mid-finalize", part.shard)
    write_index(view, index, histograms.publish(view))
    summary = counter.summary()
    goal.publish(goal.summary, to_json(summary, indent=2))
    statistics = write_statistics(view)
    card = render_card(dataset.contract(), summary, index, statistics, counter.licences)
    goal.publish(goal.card, card.encode())
    return summary


def iter_shard_rows(dataset: Dataset) -> Iterator[_ShardRows]:
    """Yields the rows of the manifest shard by shard, and at last the clips without a window.
    Raises DamagedShard if a record or a tar is not the one of the plan.
    """
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
    """Joins the planned rows of a shard, or of clips without a window, with their results, and
    leaves out those that a later round replaces.
    """
    results = {row.key: row for row in record.rows} if record else {}
    rows = [
        ManifestRow.join(row, results[row.key] if row.key else None)
        for row in plan
        if row not in superseded
    ]
    return _ShardRows(shard, rows, record, plan[0].split)


def check_record_rows(path: Path, plan: Sequence[PlanRow], record: ShardRecord) -> None:
    """Raises DamagedShard unless a record holds exactly the planned windows of its shard."""
    if [row.key for row in record.rows] != [row.key for row in plan]:
        raise DamagedShard(
            f"{path} does not hold the windows of the plan, in its order: "
            "quiver repair builds its shard again"
        )


def _check_tar(dataset: Dataset, record: ShardRecord) -> None:
    """Raises DamagedShard if the recorded tar is missing, has another size, or fails
    shards.check_ends. In object storage only its size is checked; only verify reads all of it.
    """
    if record.tar is None:
        return
    path = dataset.tar_path(record.shard)
    place, size = dataset.display_path(path), dataset.tar_size(record.shard)
    advice = "put it back, or build it again with quiver repair"
    if size is None:
        raise DamagedShard(f"{place} is gone: {advice}")
    if size != record.tar.bytes:
        raise DamagedShard(
            f"{place} has {size} bytes, its record says {record.tar.bytes}: {advice}"
        )
    if path.exists():
        try:
            check_ends(path, record.kept_members())
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            advice = f"quiver verify {dataset.root} names every fault, quiver repair puts it right"
            raise DamagedShard(f"{place} {error}: {advice}") from error


@contextmanager
def manifest_writer(view: DatasetView) -> Iterator[Callable[[Sequence[ManifestRow]], None]]:
    """Yields a function that appends rows to the manifest of a dataset or view, in groups of
    ROW_GROUP. Raises DamagedShard if a value does not fit its column.
    """
    waiting: list[ManifestRow] = []
    metadata = contract_provenance(view.dataset.contract())
    schema = MANIFEST_SCHEMA.with_metadata(metadata or None)
    with (
        view.derived_dataset.open_for_publish(view.manifest_path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):

        def write(rows: Sequence[ManifestRow], min_rows: int = ROW_GROUP) -> None:
            waiting.extend(rows)
            while len(waiting) >= min_rows:
                writer.write_table(_manifest_table(waiting[:ROW_GROUP]))
                del waiting[:ROW_GROUP]

        yield write
        write([], min_rows=1)


def _manifest_table(rows: Sequence[ManifestRow]) -> pa.Table:
    try:
        return pa.Table.from_pylist([row.dump() for row in rows], MANIFEST_SCHEMA)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        shards = sorted({row.shard for row in rows if row.shard})
        raise DamagedShard(
            f"a record of {shards[0]} to {shards[-1]} holds a value of another kind than the "
            f"manifest: {error}"
        ) from error


class HistogramSum:
    """The sum of histograms that are added one by one."""

    def __init__(self) -> None:
        self.counts: np.ndarray | None = None

    def add(self, counts: np.ndarray) -> None:
        self.counts = counts if self.counts is None else histogram.merge([self.counts, counts])

    def publish(self, view: DatasetView) -> str | None:
        """Writes the merged histogram of a dataset or view; returns its digest. If nothing was
        added, it removes the file and returns None.
        """
        data = None if self.counts is None else histogram.encode(self.counts)
        view.derived_dataset.publish(view.derived_path("histogram.safetensors"), data)
        return None if data is None else hashlib.sha256(data).hexdigest()


def read_histogram(dataset: Dataset, shard: str, record: ShardRecord) -> np.ndarray:
    """Reads the histogram of a shard, int64 [K, 2, BINS]. Raises DamagedShard if the file is
    missing, has changed, or does not count the recorded number of values.
    """
    path = dataset.histogram_path(shard)
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != record.histogram:
        problem = "is not the histogram that was recorded" if data else "is gone"
        raise DamagedShard(f"{path} {problem}: quiver repair counts it again")
    counts = histogram.decode(data)
    if counts.sum() != record.values:
        raise DamagedShard(f"{path} counts {counts.sum()} values, its record says {record.values}")
    return counts


def index_entry(part: _ShardRows) -> IndexEntry:
    """Returns the entry of a shard in the index."""
    kept = sum(row.outcome == Outcome.KEPT for row in part.rows)
    tar = part.record.tar.sha256 if part.record and part.record.tar else None
    return IndexEntry(split=str(part.split), kept=kept, tar=tar, content=tar)


def write_index(
    view: DatasetView, shards: Mapping[str, IndexEntry], histogram_digest: str | None
) -> None:
    """Writes the index of a dataset or view, whose manifest is written already."""
    with open(view.manifest_path, "rb") as file:
        manifest = hashlib.file_digest(file, "sha256").hexdigest()
    run = view.dataset.run_digest()
    index = DatasetIndex(run=run, shards=shards, histogram=histogram_digest, manifest=manifest)
    view.derived_dataset.publish(view.derived_path("index.json"), index.dump())


def write_statistics(view: DatasetView) -> SpectrumStatistics | None:
    """Writes the statistics of the training windows and returns them. If no training window is
    kept, it removes the file and returns None.
    """
    shards = view.read_index().shards.values()
    statistics = None
    if any(entry.has_training_windows() for entry in shards):
        statistics = scales.compute_statistics([view])
    view.derived_dataset.publish(
        view.derived_path("statistics.json"), statistics and encode_statistics(statistics)
    )
    return statistics


class SummaryCounter:
    """Counts windows and clips by their results, for summary.json."""

    def __init__(self) -> None:
        self.outcomes, self.splits, self.licences = Counter(), Counter(), Counter()
        self.reasons: dict[str, Counter] = {
            Outcome.REJECTED: Counter(),
            Outcome.QUARANTINED: Counter(),
        }
        self.clips: dict[tuple[str, str], float] = {}
        """Seconds of each clip, by id and uri."""
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
        """Returns the counts as JSON; the most common reasons come first."""
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
