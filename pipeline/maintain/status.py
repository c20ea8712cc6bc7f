"""Tell how far a dataset is from its records and its progress log, without reading a shard.

This works while a run is writing to the folder.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic_files import file_sha256
from pipeline.dataset.finalize import (
    DERIVED_FILES,
    SummaryCounter,
    check_record_rows,
    index_entry,
    make_shard_rows,
)
from pipeline.dataset.folder import DamagedShard, Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.rounds import SupersededRows
from pipeline.dataset.scales import check_matches_shards
from pipeline.dataset.views import list_views
from schemas.records import IndexEntry, PlanRow
from schemas.statistics import decode_statistics

_SAME_RUN_TOLERANCE_S = 2.0
"""Lines of the progress log belong to one run if their start times differ by less than this."""


class _StatusCounter(SummaryCounter):
    """Counts of the committed records, and of what the plan has left to build."""

    def __init__(self, superseded: SupersededRows) -> None:
        super().__init__()
        self.superseded = superseded
        self.planned = {"shards": 0, "windows": 0}
        self.left = {"shards": 0, "windows": 0}
        self.damaged: list[str | None] = []
        """Shards whose record is damaged."""
        self.index: dict[str, IndexEntry] = {}

    def add_shard(self, dataset: Dataset, shard: str | None, rows: list[PlanRow]) -> None:
        """Adds a shard of the plan, or the clips that gave no window."""
        is_committed = shard is not None and dataset.is_committed(shard)
        record = None
        try:
            if shard and is_committed:
                record = dataset.read_record(shard)
                check_record_rows(dataset.record_path(shard), rows, record)
        except DamagedShard:
            record = None
            self.damaged.append(shard)
        if shard:
            for counts in (self.planned,) if is_committed else (self.planned, self.left):
                counts["shards"] += 1
                counts["windows"] += sum(row not in self.superseded for row in rows)
        if record or not shard:
            part = make_shard_rows(shard, rows, record, self.superseded)
            self.add(part)
            if shard and record:
                self.index[shard] = index_entry(part)


def read_status(dataset: Dataset) -> dict[str, Any]:
    """Returns the status of a dataset as JSON.

    Raises ValueError if there is no dataset, DamagedPlan if the plan or a round is damaged.
    """
    dataset.check_plan()
    counter = _StatusCounter(SupersededRows(dataset.rounds()))
    running, owner = dataset.is_locked(), dataset.run_lock.owner()
    for shard, rows in groupby(dataset.stream_plan(), key=lambda row: row.shard):
        counter.add_shard(dataset, shard, list(rows))
    summary, speed = counter.summary(), _read_windows_per_second(dataset)
    missing, out_of_date = [], []
    if not counter.left["shards"] and not counter.damaged:
        missing, out_of_date = _find_stale_files(dataset, counter, summary)
    seconds_left = counter.left["windows"] / speed if speed else None
    return dict(
        dataset=str(dataset.root),
        running=running,
        last_run=owner and owner._asdict(),
        planned=counter.planned,
        left=counter.left,
        damaged_records=counter.damaged,
        **summary,
        windows_per_second=speed,
        seconds_left=seconds_left if counter.left["windows"] else 0.0,
        derived_missing=missing,
        derived_out_of_date=out_of_date,
        views=list_views(dataset),
    )


def _read_windows_per_second(dataset: Dataset) -> float | None:
    """Returns the speed of the last run, from its start to its last commit; None if the progress
    log is empty.
    """
    entries = list(_read_progress_log(dataset.progress))
    if not entries:
        return None
    last = entries[-1]
    start = last["at"] - last["elapsed_s"]

    def is_same_run(entry: dict[str, float]) -> bool:
        return abs(entry["at"] - entry["elapsed_s"] - start) < _SAME_RUN_TOLERANCE_S

    windows = sum(
        entry["kept"] + entry["rejected"] + entry["quarantined"]
        for entry in takewhile(is_same_run, reversed(entries))
    )
    return windows / last["elapsed_s"] if last["elapsed_s"] > 0 else None


def _read_progress_log(path: Path) -> Iterator[dict[str, float]]:
    """Yields the lines of the progress log; incomplete ones, of a stopped run, are skipped."""
    numbers = ("kept", "rejected", "quarantined", "elapsed_s", "at")
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            yield {name: float(entry[name]) for name in numbers}
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            continue


def _find_stale_files(
    dataset: Dataset, counter: _StatusCounter, summary: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Returns the derived files of a finished dataset that are missing, and those that are out of
    date, as far as this is visible without building them again.
    """
    has_training_windows = any(entry.has_training_windows() for entry in counter.index.values())
    checks: dict[str, Callable[[], bool]] = {
        "manifest.parquet": lambda: (
            pq.ParquetFile(dataset.manifest).metadata.num_rows == sum(counter.outcomes.values())
        ),
        "index.json": lambda: (
            {
                "run": dataset.run_digest(),
                "shards": {shard: asdict(entry) for shard, entry in counter.index.items()},
            }.items()
            <= json.loads(dataset.index.read_bytes()).items()
        ),
        "summary.json": lambda: json.loads(dataset.summary.read_bytes()) == summary,
        "histogram.safetensors": lambda: (
            file_sha256(dataset.merged_histogram)
            == json.loads(dataset.index.read_bytes())["histogram"]
        ),
        "statistics.json": lambda: _statistics_match(dataset),
        "README.md": lambda: True,
    }
    needed = [
        name
        for name in DERIVED_FILES
        if has_training_windows or name not in ("histogram.safetensors", "statistics.json")
    ]
    missing = [name for name in needed if not (dataset.root / name).exists()]
    present = [name for name in needed if name not in missing]
    return missing, [name for name in present if not _is_intact(checks[name])]


def _is_intact(check: Callable[[], bool]) -> bool:
    """Returns the result of a check; False if the file cannot be read."""
    try:
        return check()
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        RecursionError,
        pa.ArrowException,
    ):
        return False


def _statistics_match(dataset: Dataset) -> bool:
    """Returns True if the statistics are those of the training shards. Raises ValueError if not."""
    statistics = decode_statistics(dataset.statistics.read_bytes())
    check_matches_shards(statistics, [DatasetView(dataset)])
    return True
