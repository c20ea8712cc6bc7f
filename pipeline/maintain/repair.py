"""TODO: what this file is."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from pipeline.dataset import finalize as derived
from pipeline.dataset import histogram
from pipeline.dataset.folder import (
    REMOVED_FOLDER,
    DamagedShard,
    Dataset,
)
from pipeline.dataset.rounds import EarlierFates
from pipeline.dataset.shards import scan_samples
from schemas.outcome import is_environmental
from schemas.records import PlanRow
from schemas.seal import open_seal
from schemas.shard_record import ShardRecord

RowsByShard = dict[str, list[PlanRow]]
"""Rows of the plan by shard."""


def rows_to_rebuild(dataset: Dataset, names: set[str]) -> RowsByShard:
    """The rows of these shards, as they are to be built: what failed for a reason that may be the
    machine's is as it was.
    """
    shards = groupby(dataset.stream_plan(), key=lambda row: row.shard)
    settled = EarlierFates(dataset.rounds())
    asked = ((shard, settled.add_fates(rows)) for shard, rows in shards if shard in names)
    return {shard: mark_settled(dataset, shard, rows) for shard, rows in asked}


def mark_settled(dataset: Dataset, shard: str, rows: list[PlanRow]) -> list[PlanRow]:
    """The rows, those that failed so by the shard's record, if it can be read, `settled`: quiver
    retry tries these again.
    """
    try:
        recorded = dataset.read_record(shard).rows
        failed = {row.key: row for row in recorded if is_environmental(row.outcome, row.reason)}
    except OSError:
        return rows
    return [replace(row, settled=failed.get(row.window().key, row.settled)) for row in rows]


def move_aside(dataset: Dataset, path: str) -> Path:
    """Moves a file or folder to REMOVED, under a name that is free there; returns where it is.
    Raises FolderInUse after a take-over.
    """
    dataset.check_not_taken_over()
    goal = dataset.root / REMOVED_FOLDER / path
    goal.parent.mkdir(parents=True, exist_ok=True)
    names = (goal.with_name(f"{goal.name}.{i}" if i else goal.name) for i in range(1_000_000))
    free = next(name for name in names if not os.path.lexists(name))
    return (dataset.root / path).rename(free)


def rebuild_histogram(dataset: Dataset, shard: str) -> None:
    """Writes a shard's histogram again, from its samples. Raises DamagedShard where they are not
    those of the record, FolderInUse after a take-over.
    """
    record = dataset.read_record(shard)
    counts = np.zeros((dataset.contract().config["frequencies"], 2, histogram.BINS), np.int64)
    if record.tar:
        with open(dataset.tar_path(shard), "rb") as file:
            for scanned in scan_samples(file, record.kept_members(), hashlib.sha256()):
                if scanned.sample:
                    histogram.add_sample(scanned.sample.spectrum, counts)
    data = histogram.encode(counts)
    if hashlib.sha256(data).hexdigest() != record.histogram:
        raise DamagedShard(
            f"{dataset.tar_path(shard)} changed while it was repaired: the same command tries again"
        )
    dataset.publish(dataset.histogram_path(shard), data)


def move_shard_aside(dataset: Dataset, shard: str) -> list[Path]:
    """Moves a shard's files to REMOVED, the record first: without it, the others are what a run
    that was stopped leaves behind.

    They are deleted when the shard has been built to the same bytes, and not before: a sound tar
    may be among them.
    """
    paths = [
        path
        for path in (
            dataset.record_path(shard),
            dataset.tar_path(shard),
            dataset.histogram_path(shard),
        )
        if path.exists()
    ]
    return [move_aside(dataset, str(path.relative_to(dataset.root))) for path in paths]


def original_tar_digests(dataset: Dataset, shards: RowsByShard) -> dict[str, str | None]:
    """The digest of each shard's tar when it was written, None for one without; of those of which
    it is known.
    """
    try:
        written = open_seal(dataset.index.read_bytes(), indent=1)["shards"]
        index = {shard: entry["tar"] for shard, entry in written.items() if shard in shards}
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        index = {}
    return index | dict(_recorded_tar_digests(dataset, shards))


def _recorded_tar_digests(
    dataset: Dataset, shards: RowsByShard
) -> Iterator[tuple[str, str | None]]:
    """The same of the records that can be read and are of this run."""
    for shard in filter(dataset.is_committed, shards):
        try:
            record = dataset.read_record(shard)
        except OSError:
            continue
        if record.shard == shard and record.run == derived.run_digest(dataset):
            yield shard, tar_digest(record)


def tar_digest(record: ShardRecord) -> str | None:
    return record.tar and record.tar.sha256
