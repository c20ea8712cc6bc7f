"""Repair a dataset step by step; jobs/repair.py decides the order and reports each step.

A damaged shard is moved aside, built again, and deleted once the new one has the same bytes. A
damaged histogram is counted again. Files that do not belong to the dataset are moved aside.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from pipeline.dataset import histogram
from pipeline.dataset.folder import REMOVED_FOLDER, DamagedShard, Dataset
from pipeline.dataset.rounds import EarlierFates
from pipeline.dataset.shards import scan_samples
from schemas.outcome import is_environmental
from schemas.records import PlanRow
from schemas.seal import open_seal
from schemas.shard_record import ShardRecord

RowsByShard = dict[str, list[PlanRow]]
"""The rows of the plan of some shards."""


def rows_to_rebuild(dataset: Dataset, names: set[str]) -> RowsByShard:
    """Returns the rows of these shards as they are to be built. Windows that failed for an
    environmental reason keep their failure: only quiver retry tries them again.
    """
    fates = EarlierFates(dataset.rounds())
    return {
        shard: keep_failures(dataset, shard, fates.add_fates(rows))
        for shard, rows in groupby(dataset.stream_plan(), key=lambda row: row.shard)
        if shard in names
    }


def keep_failures(dataset: Dataset, shard: str, rows: list[PlanRow]) -> list[PlanRow]:
    """Returns the rows with the failures that the shard's record, if it can be read, has for an
    environmental reason as their `known_result`.
    """
    try:
        recorded = dataset.read_record(shard).rows
    except OSError:
        return rows
    failed = {row.key: row for row in recorded if is_environmental(row.outcome, row.reason)}
    return [
        replace(row, known_result=failed.get(row.window().key, row.known_result)) for row in rows
    ]


def move_aside(dataset: Dataset, path: str) -> Path:
    """Moves a file or folder of the dataset to REMOVED_FOLDER, under a name that is free there, and
    returns its new path. Raises FolderInUse after a take-over.
    """
    dataset.check_not_taken_over()
    goal = dataset.root / REMOVED_FOLDER / path
    goal.parent.mkdir(parents=True, exist_ok=True)
    names = (goal.with_name(f"{goal.name}.{i}" if i else goal.name) for i in range(1_000_000))
    free = next(name for name in names if not os.path.lexists(name))
    return (dataset.root / path).rename(free)


def rebuild_histogram(dataset: Dataset, shard: str) -> None:
    """Counts a shard's histogram again from its samples and writes it. Raises DamagedShard if it is
    not the one of the record, FolderInUse after a take-over.
    """
    record = dataset.read_record(shard)
    counts = np.zeros((dataset.contract().config["frequencies"], 2, histogram.BINS), np.int64)
    if record.tar:
        with open(dataset.tar_path(shard), "rb") as file:
            for scanned in scan_samples(file, record.kept_members(), hashlib.sha256()):
                if scanned.sample:
                    histogram.add_sample(scanned.sample, counts)
    data = histogram.encode(counts)
    if hashlib.sha256(data).hexdigest() != record.histogram:
        raise DamagedShard(
            f"{dataset.tar_path(shard)} changed while it was repaired: the same command tries again"
        )
    dataset.publish(dataset.histogram_path(shard), data)


def move_shard_aside(dataset: Dataset, shard: str) -> list[Path]:
    """Moves a shard's files to REMOVED_FOLDER and returns their new paths. The record goes first:
    without it, the others are like those of a stopped run.

    The caller deletes them once the shard is built to the same bytes, and not before: a sound tar
    may be among them.
    """
    paths = (dataset.record_path(shard), dataset.tar_path(shard), dataset.histogram_path(shard))
    return [
        move_aside(dataset, str(path.relative_to(dataset.root))) for path in paths if path.exists()
    ]


def original_tar_digests(dataset: Dataset, shards: RowsByShard) -> dict[str, str | None]:
    """Returns the digest of each shard's tar as it was first written, None for a shard without a
    tar. Records take precedence over the index; shards of which neither can be read are left out.
    """
    try:
        indexed = open_seal(dataset.index.read_bytes(), indent=1)["shards"]
        digests = {shard: entry["tar"] for shard, entry in indexed.items() if shard in shards}
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        digests = {}
    for shard in filter(dataset.is_committed, shards):
        with suppress(OSError):
            digests[shard] = tar_digest(dataset.read_record(shard))
    return digests


def tar_digest(record: ShardRecord) -> str | None:
    """Returns the sha256 of the record's tar, None if it has no tar."""
    return record.tar and record.tar.sha256
