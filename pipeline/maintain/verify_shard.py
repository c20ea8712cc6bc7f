"""Verifies one committed shard: its record, every sample of its tar, and its histogram, which is
counted again in the same pass.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from pipeline.dataset import histogram
from pipeline.dataset.folder import Dataset
from pipeline.dataset.shards import scan_end, scan_samples
from pipeline.maintain.faults import Fault, Remedy
from schemas.records import PlanRow
from schemas.run_contract import RunContract
from schemas.sample import Sample
from schemas.shard_record import MEMBER_COLUMNS, ShardRecord

_CHECKED_COLUMNS = ("key", "split", "start_frame", "start_time_s")
"""Columns of the plan with which the metadata of a sample must agree, beside the clip."""


class PlannedShard(NamedTuple):
    """A shard to check, in any process."""

    root: str
    shard: str
    rows: list[PlanRow]
    """Its rows of the plan, in order."""


def verify_shard(planned: PlannedShard) -> list[Fault]:
    """Returns every fault of one committed shard."""
    dataset, shard = Dataset(planned.root), planned.shard
    contract = dataset.contract()
    record_name, tar_name = f"records/{shard}.json", f"shards/{shard}.tar"
    try:
        record = ShardRecord.load(dataset.record_path(shard).read_bytes())
        _check_record(record, planned, dataset.run_digest())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return [Fault(record_name, str(error), Remedy.REBUILD, shard)]
    except OSError as error:
        return [Fault(record_name, f"cannot be read: {error.strerror}", Remedy.REBUILD, shard)]
    if record.tar is None and dataset.tar_path(shard).exists():
        return [Fault(tar_name, "its record names no tar: no window was kept", Remedy.MOVE)]
    counts = np.zeros((contract.config["frequencies"], 2, histogram.BINS), np.int64)
    problems = _check_tar(planned, record, contract, counts)
    faults = [Fault(tar_name, problem, Remedy.REBUILD, shard) for problem in problems]
    return faults + list(_check_histogram(dataset, shard, record, None if problems else counts))


def _check_record(record: ShardRecord, planned: PlannedShard, run: str) -> None:
    """Raises ValueError unless the record is of this run and this shard, and holds exactly the
    planned windows.
    """
    record.check_owner(planned.shard, run)
    if [row.key for row in record.rows] != [row.key for row in planned.rows]:
        raise ValueError("does not hold the windows of the plan, in its order")
    members = record.kept_members()
    values = [columns.get(name) for columns in members.values() for name in MEMBER_COLUMNS]
    if bool(members) != bool(record.tar) or not all(
        isinstance(value, int) and value >= 0 for value in values
    ):
        raise ValueError("keeps windows and does not say where they are, and what their bytes are")


def _check_tar(
    planned: PlannedShard,
    record: ShardRecord,
    contract: RunContract,
    counts: Int64[np.ndarray, "freq 2 bins"],
) -> list[str]:
    """Returns what is wrong with the shard's tar, and adds its sound samples to `counts`."""
    if record.tar is None:
        return []
    rows, digest, problems = {row.key: row for row in planned.rows}, hashlib.sha256(), []
    try:
        with open(Dataset(planned.root).tar_path(planned.shard), "rb") as file:
            for key, sample, sample_faults in scan_samples(file, record.kept_members(), digest):
                problems += sample_faults
                if sample is None:
                    continue
                if metadata_faults := _check_metadata(rows[key], sample, contract):
                    problems += metadata_faults
                else:
                    histogram.add_sample(sample, counts)
            problems += scan_end(file, digest)
    except FileNotFoundError:
        return ["is gone"]
    except OSError as error:
        return [*problems, f"cannot be read: {error.strerror}"]
    if not problems and digest.hexdigest() != record.tar.sha256:
        return [f"has sha256 {digest.hexdigest()}, expected {record.tar.sha256}"]
    return problems


def _check_metadata(row: PlanRow, sample: Sample, contract: RunContract) -> list[str]:
    """Returns each difference between the metadata and shape of a sample, and the plan and run."""
    (width, height), frequencies = contract.config["size"], contract.config["frequencies"]
    clip = sample.meta.get("clip")
    metadata = sample.meta | {"clip": clip.get("clip_id") if isinstance(clip, dict) else clip}
    expected = {name: getattr(row, name) for name in _CHECKED_COLUMNS}
    expected |= {"clip": row.clip_id, "size": [width, height]}
    differences = [
        f"{name} {sample.meta.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if metadata.get(name) != value
    ]
    shape = (frequencies, 4, height, width)
    if sample.spectrum.shape != shape:
        differences.append(f"a spectrum of {list(sample.spectrum.shape)}, expected {list(shape)}")
    return [f"sample {row.key} has {difference}" for difference in differences]


def _check_histogram(
    dataset: Dataset, shard: str, record: ShardRecord, counts: np.ndarray | None
) -> Iterator[Fault]:
    """Yields what is wrong with the shard's histogram; `counts` are those of its samples, or None
    if a sample is damaged.
    """
    path = dataset.histogram_path(shard)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        digest = None
    if digest != record.histogram:
        problem = "is not the histogram that was recorded" if path.is_file() else "is gone"
        yield Fault(f"histograms/{shard}.safetensors", problem, Remedy.RECOUNT, shard)
    if counts is None:
        return
    digest = hashlib.sha256(histogram.encode(counts)).hexdigest()
    if (digest, int(counts.sum())) != (record.histogram, record.values):
        problem = "does not name the histogram of its samples"
        yield Fault(f"records/{shard}.json", problem, Remedy.REBUILD, shard)
