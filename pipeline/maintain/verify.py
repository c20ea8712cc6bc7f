"""Verify that a dataset is what its records say: name every fault, its file, and its remedy.

    _check_contract     run.json and the plan, without which nothing else can be judged
    _check_rounds       the rounds of `quiver retry`
    _check_shard        one shard: its record, every sample of its tar, and its histogram, which is
                        counted again in the same pass
    _unexpected_files   files that do not belong to the plan, and temporary files
    _check_derived      the derived files, which are built again elsewhere and compared; the same
                        for those of the views (_check_views)

A shard without a record is no fault but work that is left, until the dataset is finished once.
"""

import filecmp
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import groupby, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from pipeline.atomic_files import TEMPORARY_NAME
from pipeline.dataset import histogram, views
from pipeline.dataset.finalize import DERIVED_FILES, ROW_GROUP, finalize
from pipeline.dataset.folder import (
    NEW_FOLDER_ADVICE,
    REMOVED_FOLDER,
    RESTORE_ADVICE,
    DamagedPlan,
    DamagedShard,
    Dataset,
)
from pipeline.dataset.open import DatasetView, file_sha256
from pipeline.dataset.rounds import DamagedRound, read_rounds, round_number, round_of_shard
from pipeline.dataset.shards import scan_end, scan_samples
from schemas.records import PlanRow
from schemas.run_contract import RunContract
from schemas.sample import Sample
from schemas.seal import open_seal
from schemas.shard_record import MEMBER_COLUMNS, ShardRecord

_CHECKED_COLUMNS = ("key", "split", "start_frame", "start_time_s")
"""Columns of the plan with which the metadata of a sample must agree, beside the clip."""


class Remedy(StrEnum):
    """What repairs a fault."""

    NEW_FOLDER = "extract again into a new folder"
    PUT_BACK = "put the file back from a copy"
    REBUILD = "repair builds the shard again"
    RECOUNT = "repair counts it again"
    MOVE = f"repair moves it to {REMOVED_FOLDER}"
    MOVE_VIEW = f"repair moves all of the view to {REMOVED_FOLDER}, refilter makes it again"
    REMOVE = "repair removes it"
    FINALIZE = "finalize writes it again"


class Fault(NamedTuple):
    """Something that is wrong with a file."""

    path: str
    """The path of the file within the dataset's folder."""
    what: str
    """What is wrong, to be read after the path."""
    remedy: Remedy
    shard: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class VerifyReport(NamedTuple):
    """The result of `verify`."""

    faults: list[Fault]
    shards: int = 0
    """Shards of the plan."""
    unbuilt: list[str] = []  # noqa: RUF012 - never changed
    """Shards that are not built yet."""
    compared: bool = False
    """Whether the derived files were compared."""


class PlannedShard(NamedTuple):
    """A shard to check, in any process."""

    root: str
    shard: str
    rows: list[PlanRow]
    """Its rows of the plan, in order."""


ShardMap = Callable[
    [Callable[[PlannedShard], list[Fault]], Sequence[PlannedShard]], Iterable[list[Fault]]
]
"""Applies a function to each item, in any order and process."""


def verify(dataset: Dataset, map_shards: ShardMap = map, alone: bool = True) -> VerifyReport:
    """Reads every file of a dataset once, with the names of the plan and one sample in memory.

    alone: no run is writing to the folder, so that temporary files are faults. Raises ValueError
    if the folder holds no dataset.
    """
    check_is_dataset(dataset)
    if faults := _check_contract(dataset) or _check_rounds(dataset):
        return VerifyReport(faults)
    planned = list(_iter_planned_shards(dataset))
    unbuilt = [item.shard for item in planned if not dataset.is_committed(item.shard)]
    is_finished = any((dataset.root / name).exists() for name in DERIVED_FILES)
    finished = _finished_shards(dataset, planned) if is_finished and alone else set()
    lost = [shard for shard in unbuilt if shard in finished]
    problem = "is gone, and the dataset was finished"
    faults = [Fault(f"records/{shard}.json", problem, Remedy.REBUILD, shard) for shard in lost]
    committed = [item for item in planned if dataset.is_committed(item.shard)]
    shard_faults = [fault for found in map_shards(_check_shard, committed) for fault in found]
    faults += sorted(shard_faults, key=lambda fault: fault.path)
    faults += _unexpected_files(
        dataset,
        [item.shard for item in planned],
        check_temporary=alone and (is_finished or not unbuilt),
    )
    derived_faults = None
    if alone and not unbuilt and not any(f.path.startswith("records/") for f in faults):
        derived_faults = _check_derived(dataset, has_faults=bool(faults))
    return VerifyReport(
        faults + (derived_faults or []),
        len(planned),
        [shard for shard in unbuilt if shard not in lost],
        derived_faults is not None,
    )


def _finished_shards(dataset: Dataset, planned: Sequence[PlannedShard]) -> set[str]:
    """Returns the shards with which the dataset was finished. Those of a round that is not finished
    yet are only left to build.
    """
    retried = {row.shard for retry in dataset.rounds() for row in retry.rows if row.key}
    try:
        indexed = set(json.loads(dataset.index.read_bytes())["shards"])
    except (KeyError, TypeError, ValueError, OSError, RecursionError):
        indexed = set()
    return {item.shard for item in planned if item.shard not in retried or item.shard in indexed}


def _check_rounds(dataset: Dataset) -> list[Fault]:
    """Returns the first round that is missing or damaged. If it is damaged, all files that follow
    from it are faults too, its own file last: moved aside in this order, they leave a sound dataset
    of the earlier rounds, whatever stops that.
    """
    try:
        read_rounds(dataset.retries, dataset.run_digest(), dataset.newest_round_number())
    except DamagedRound as error:
        name = f"retries/{error.name}"
        if error.is_missing:
            return [Fault(name, f"{error.problem}: {RESTORE_ADVICE}", Remedy.PUT_BACK)]
        follows = f"follows {error.name}, which {error.problem}"
        faults = [Fault(path, follows, Remedy.MOVE) for path in _later_files(dataset, error.name)]
        problem = f"{error.problem}: quiver retry tries again what it held"
        return [*reversed(faults), Fault(name, problem, Remedy.MOVE)]
    return []


def _later_files(dataset: Dataset, name: str) -> list[str]:
    """Returns the files that follow from the round's file of that name: those of later rounds, the
    index that counts their shards, and these shards, records last.
    """
    first = round_number(name) or 1
    later = [p for p in _files(dataset.retries) if (round_number(p.name) or 0) > first]
    if dataset.index.exists() and dataset.newest_round_number() >= first:
        later.append(dataset.index)
    for folder in (dataset.histograms, dataset.shards, dataset.records):
        later += [path for path in _files(folder) if round_of_shard(path.stem) >= first]
    return [_relative_path(dataset, path) for path in later]


def _files(folder: Path) -> list[Path]:
    """Returns what a folder holds, sorted; nothing if it is missing."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def check_is_dataset(dataset: Dataset) -> None:
    """Raises ValueError if the folder holds none of a dataset's files."""
    if not (dataset.run_json.exists() or dataset.plan.exists() or dataset.records.is_dir()):
        dataset.contract()


def _check_contract(dataset: Dataset) -> list[Fault]:
    """Returns what is wrong with run.json, or else with the plan."""
    try:
        dataset.contract()
    except (ValueError, OSError) as error:
        return [Fault("run.json", f"{error}; {NEW_FOLDER_ADVICE}", Remedy.NEW_FOLDER)]
    runs = {record.run for record in _iter_readable_records(dataset)}
    if runs and dataset.run_digest() not in runs:
        problem = f"is not the one with which the shards were built: {NEW_FOLDER_ADVICE}"
        return [Fault("run.json", problem, Remedy.NEW_FOLDER)]
    try:
        dataset.check_plan()
    except DamagedPlan as error:
        problem = str(error).removeprefix(f"{dataset.plan} ")
        return [Fault("plan.parquet", problem, Remedy.NEW_FOLDER)]
    return []


def _iter_readable_records(dataset: Dataset) -> Iterator[ShardRecord]:
    """Yields the intact records of any run, in no order."""
    for path in dataset.records.glob("*.json"):
        try:
            yield ShardRecord.load(path.read_bytes())
        except (OSError, ValueError):
            continue


def _iter_planned_shards(dataset: Dataset) -> Iterator[PlannedShard]:
    """Yields every shard of the plan."""
    for shard, rows in groupby(dataset.stream_plan(), key=lambda row: row.shard):
        if shard:
            yield PlannedShard(str(dataset.root), shard, list(rows))


def _check_shard(planned: PlannedShard) -> list[Fault]:
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
    kept = record.kept_members()
    values = [members.get(column) for members in kept.values() for column in MEMBER_COLUMNS]
    if bool(kept) != bool(record.tar) or not all(
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


def _unexpected_files(
    dataset: Dataset, shards: Sequence[str], check_temporary: bool
) -> list[Fault]:
    """Returns files that do not belong to the plan and, if asked, temporary ones. These are no
    faults while shards are unbuilt, since the next run removes them.
    """
    names = set(shards)
    unexpected = [
        (path, "no shard of the plan has that name")
        for folder, suffix in (
            (dataset.shards, ".tar"),
            (dataset.records, ".json"),
            (dataset.histograms, ".safetensors"),
        )
        for path in _files(folder)
        if path.stem not in names or path.suffix != suffix
    ]
    unexpected += [
        (path, "is no round of quiver retry")
        for path in _files(dataset.retries)
        if not round_number(path.name)
    ]
    unexpected += [
        (path, "is of no view") for path in _files(dataset.views) if not views.is_view_file(path)
    ]
    faults = [
        Fault(_relative_path(dataset, path), problem, Remedy.MOVE)
        for path, problem in unexpected
        if not _is_temporary(path)
    ]
    temporary = dataset.temporary_files() if check_temporary else []
    problem = "was left behind by a run that was stopped"
    return faults + [
        Fault(_relative_path(dataset, path), problem, Remedy.REMOVE) for path in temporary
    ]


def _is_temporary(path: Path) -> bool:
    return TEMPORARY_NAME.fullmatch(path.name) is not None


def _relative_path(dataset: Dataset, path: Path) -> str:
    return str(path.relative_to(dataset.root))


def _check_derived(dataset: Dataset, has_faults: bool) -> list[Fault] | None:
    """Builds the derived files again and returns those that differ; None if they cannot be built
    and the dataset has known faults.
    """
    with TemporaryDirectory(prefix="quiver-verify-") as folder:
        try:
            finalize(dataset, into=Path(folder))
        except DamagedShard as error:
            return None if has_faults else [Fault("records", str(error), Remedy.NEW_FOLDER)]
        faults = _compare_files(dataset, Path(folder), DERIVED_FILES)
        return _check_views(dataset, None if faults else Path(folder)) + faults


def _compare_files(dataset: Dataset, rebuilt: Path, names: Sequence[str]) -> list[Fault]:
    """Compares derived files with those of the same names that were built again in a folder."""
    return [
        Fault(name, problem, Remedy.FINALIZE)
        for name in names
        if (problem := _describe_difference(dataset, rebuilt, name))
    ]


def _check_views(dataset: Dataset, rebuilt: Path | None) -> list[Fault]:
    """Returns the faults of the views: damaged definitions and, if the folder `rebuilt` holds sound
    derived files, every file that is not what the thresholds and the dataset give. Their reports
    are for people, and are not compared.
    """
    faults = []
    for name in views.list_views(dataset, defined_only=False):
        view = DatasetView(dataset, name)
        try:
            thresholds = view.thresholds()
        except (OSError, ValueError) as error:
            problem = str(error).removeprefix(f"{view.derived_path('json')} ")
            faults.append(Fault(f"views/{name}.json", problem, Remedy.MOVE_VIEW))
            continue
        if rebuilt is not None:
            views.refilter(dataset, name, thresholds, map_serially, Dataset(rebuilt))
            suffixes = ("parquet", "index.json", "histogram.safetensors", "statistics.json")
            paths = [f"views/{name}.{suffix}" for suffix in suffixes]
            faults += _compare_files(dataset, rebuilt, paths)
    return faults


def map_serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yields pairs of an item and its result, in this process."""
    return ((item, function(item)) for item in items)


def _describe_difference(dataset: Dataset, rebuilt: Path, name: str) -> str | None:
    """Returns what is wrong with a derived file; `rebuilt` is a folder with the expected one."""
    path, expected = dataset.root / name, rebuilt / name
    if not expected.exists():
        return "has nothing to say of this dataset" if path.exists() else None
    if not path.is_file():
        return "is not there"
    same_pyarrow = dataset.contract().versions.get("pyarrow") == pa.__version__
    if same_pyarrow or not name.endswith((".parquet", "index.json")):
        is_same = filecmp.cmp(path, expected, shallow=False)
    else:  # another version of pyarrow writes other bytes for the same table
        compare = _same_tables if name.endswith(".parquet") else _same_indexes
        is_same = compare(path, expected)
    return None if is_same else "is not what the records give"


def _same_indexes(path: Path, expected: Path) -> bool:
    """Returns whether two indexes agree in all but the digest of the manifest, and the first one
    has the digest of the manifest beside it.
    """
    try:
        index, expected_index = (open_seal(p.read_bytes(), indent=1) for p in (path, expected))
        name = path.name.replace("index.json", "parquet")
        manifest = path.with_name("manifest.parquet" if name == "parquet" else name)
        digest, _ = (value.pop("manifest") for value in (index, expected_index))
        return digest == file_sha256(manifest) and index == expected_index
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return False


def _same_tables(path: Path, expected: Path) -> bool:
    """Returns whether two Parquet files hold the same rows in the same groups."""
    try:
        batches = [pq.ParquetFile(p).iter_batches(ROW_GROUP) for p in (path, expected)]
        return all(a is not None and a.equals(b) for a, b in zip_longest(*batches))
    except (pa.ArrowException, OSError):
        return False
