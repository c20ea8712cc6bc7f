"""TODO: what this file is."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.finalize import (
    DERIVED_FILES,
    SummaryCounter,
    check_record_rows,
    index_entry,
    make_shard_rows,
    run_digest,
)
from pipeline.dataset.folder import DamagedShard, Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.rounds import SupersededRows
from pipeline.dataset.scales import check_matches_shards
from pipeline.dataset.views import list_views
from schemas import statistics
from schemas.records import IndexEntry, PlanRow

_SAME_RUN_TOLERANCE_S = 2.0
"""Lines of the progress log are of one run where it began at the same time to within this."""


class _StatusCounter(SummaryCounter):
    """What the committed records say, and what the plan says is left."""

    def __init__(self, superseded: SupersededRows) -> None:
        super().__init__()
        self.superseded = superseded
        self.planned, self.damaged = {"shards": 0, "windows": 0}, []
        self.index: dict[str, IndexEntry] = {}
        self.left = {"shards": 0, "windows": 0}

    def add_shard(self, dataset: Dataset, shard: str | None, rows: list[PlanRow]) -> None:
        """One shard of the plan, or the clips that gave no window."""
        try:
            record = dataset.read_record(shard) if shard and dataset.is_committed(shard) else None
            if record:
                check_record_rows(dataset.record_path(record.shard), rows, record)
        except DamagedShard:
            record = None
            self.damaged.append(shard)
        for counts, there in (
            (self.planned, shard),
            (self.left, shard and not dataset.is_committed(shard)),
        ):
            counts["shards"] += bool(there)
            counts["windows"] += sum(row not in self.superseded for row in rows) if there else 0
        if record or not shard:
            part = make_shard_rows(shard, rows, record, self.superseded)
            self.add(part)
            if shard and record:
                self.index[shard] = index_entry(part)


def read_status(dataset: Dataset) -> dict[str, Any]:
    """All that is known without reading a shard.

    Raises ValueError where there is no data set, DamagedPlan where its plan is not the one of
    run.json.
    """
    dataset.check_plan()
    counted, running, last = (
        _StatusCounter(SupersededRows(dataset.rounds())),
        dataset.is_locked(),
        dataset.run_lock.owner(),
    )
    for shard, rows in groupby(dataset.stream_plan(), key=lambda row: row.shard):
        counted.add_shard(dataset, shard, list(rows))
    summary, speed = counted.summary(), _read_windows_per_second(dataset)
    missing, old = (
        ([], [])
        if counted.left["shards"] or counted.damaged
        else _find_stale_files(dataset, counted, summary)
    )
    seconds_left = counted.left["windows"] / speed if speed else None
    return dict(
        dataset=str(dataset.root),
        running=running,
        last_run=last and last._asdict(),
        planned=counted.planned,
        left=counted.left,
        damaged_records=counted.damaged,
        **summary,
        windows_per_second=speed,
        seconds_left=seconds_left if counted.left["windows"] else 0.0,
        derived_missing=missing,
        derived_out_of_date=old,
        views=list_views(dataset),
    )


def _read_windows_per_second(dataset: Dataset) -> float | None:
    """Windows a second of the last run, from its first moment to its last commit; None where
    nothing was committed.
    """
    entries = list(_read_progress_log(dataset.progress))
    if not entries:
        return None
    began = entries[-1]["at"] - entries[-1]["elapsed_s"]
    mine = list(
        takewhile(
            lambda entry: abs(entry["at"] - entry["elapsed_s"] - began) < _SAME_RUN_TOLERANCE_S,
            reversed(entries),
        )
    )
    windows = sum(entry["kept"] + entry["rejected"] + entry["quarantined"] for entry in mine)
    return windows / entries[-1]["elapsed_s"] if entries[-1]["elapsed_s"] > 0 else None


def _read_progress_log(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the progress log; one that was torn when a run was stopped is passed over."""
    numbers = ("kept", "rejected", "quarantined", "elapsed_s", "at")
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            yield {name: float(entry[name]) for name in numbers}
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            continue


def _find_stale_files(
    dataset: Dataset, counted: _StatusCounter, summary: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Derived files that are not there, and those that are seen to be of other records, of a
    finished data set.
    """
    training = any(entry.has_training_windows() for entry in counted.index.values())
    checks: dict[str, Callable[[], bool]] = {
        "manifest.parquet": lambda: (
            pq.ParquetFile(dataset.manifest).metadata.num_rows == sum(counted.outcomes.values())
        ),
        "index.json": lambda: (
            {
                "run": run_digest(dataset),
                "shards": {shard: asdict(entry) for shard, entry in counted.index.items()},
            }.items()
            <= json.loads(dataset.index.read_bytes()).items()
        ),
        "summary.json": lambda: json.loads(dataset.summary.read_bytes()) == summary,
        "histogram.safetensors": lambda: (
            _sha256_of_file(dataset.merged_histogram)
            == json.loads(dataset.index.read_bytes())["histogram"]
        ),
        "statistics.json": lambda: _statistics_match(dataset),
        "README.md": lambda: True,
    }
    needed = [
        name
        for name in DERIVED_FILES
        if training or name not in ("histogram.safetensors", "statistics.json")
    ]
    missing = [name for name in needed if not (dataset.root / name).exists()]
    return missing, [
        name for name in needed if name not in missing and not _is_intact(checks[name])
    ]


def _is_intact(check: Callable[[], bool]) -> bool:
    """Whether a file is there, can be read, and is what it should be."""
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
    """Whether the statistics are of the training shards that are there. Raises ValueError where
    they are not.
    """
    check_matches_shards(
        statistics.decode_statistics(dataset.statistics.read_bytes()), [DatasetView(dataset)]
    )
    return True


def _sha256_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
