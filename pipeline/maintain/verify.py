"""Is a data set what its records say? Names every fault, where it lies, and what puts it right.

    check_contract   run.json and the plan: without them nothing else can be judged
    check_one        one shard: its record, every sample of its tar, its histogram counted again,
                     all in one pass
    strangers        files that no plan names, and temporary ones
    check_derived    the derived files, built again elsewhere and compared; then check_views those
                     of the views

A shard without a record is not a fault but work that is left, until the data set was finished once.
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
from pipeline.dataset import finalize, histogram, views
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
    """What puts a fault right."""

    NEW_FOLDER = "extract again into a new folder"
    PUT_BACK = "put the file back from a copy"
    REBUILD = "repair builds the shard again"
    RECOUNT = "repair counts it again"
    MOVE = f"repair moves it to {REMOVED_FOLDER}"
    MOVE_VIEW = f"repair moves all of the view to {REMOVED_FOLDER}, refilter makes it again"
    REMOVE = "repair removes it"
    FINALIZE = "finalize writes it again"


class Fault(NamedTuple):
    path: str
    """Within the data set's folder."""
    what: str
    remedy: Remedy
    shard: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class VerifyReport(NamedTuple):
    """What was found."""

    faults: list[Fault]
    shards: int = 0
    """Of the plan."""
    unbuilt: list[str] = []  # noqa: RUF012 - never changed
    """Shards that are not built yet."""
    compared: bool = False
    """Whether the derived files were built again and compared."""


class PlannedShard(NamedTuple):
    """A shard to check, in whatever process."""

    root: str
    shard: str
    rows: list[PlanRow]
    """Of the plan, in order."""


ShardMap = Callable[
    [Callable[[PlannedShard], list[Fault]], Sequence[PlannedShard]], Iterable[list[Fault]]
]
"""Applies a function to each item, in whatever order and process."""


def verify(dataset: Dataset, each: ShardMap = map, alone: bool = True) -> VerifyReport:
    """Reads every file once; memory holds the plan's names and one sample. Not `alone`: a
    run is writing to the folder, whose files in the making are no faults.

    Raises ValueError where the folder holds no data set.
    """
    check_is_dataset(dataset)
    if faults := _check_contract(dataset):
        return VerifyReport(faults)
    if faults := _check_rounds(dataset):
        return VerifyReport(faults)
    planned = list(_iter_planned_shards(dataset))
    left = [item.shard for item in planned if not dataset.is_committed(item.shard)]
    finished = any((dataset.root / name).exists() for name in finalize.DERIVED_FILES)
    known = _finished_shards(dataset, planned) if finished and alone else set()
    lost = [shard for shard in left if shard in known]
    faults = [
        Fault(
            f"records/{shard}.json", "is gone, and the data set was finished", Remedy.REBUILD, shard
        )
        for shard in lost
    ]
    unbuilt = set(left)
    committed = [item for item in planned if item.shard not in unbuilt]
    faults += sorted(
        (fault for found in each(_check_shard, committed) for fault in found),
        key=lambda fault: fault.path,
    )
    faults += _unexpected_files(
        dataset, [item.shard for item in planned], temporary=alone and (finished or not left)
    )
    sound = alone and not left and not any(fault.path.startswith("records/") for fault in faults)
    compared = _check_derived(dataset, known=bool(faults)) if sound else None
    return VerifyReport(
        faults + (compared or []),
        len(planned),
        [shard for shard in left if shard not in lost],
        compared is not None,
    )


def _finished_shards(dataset: Dataset, planned: Sequence[PlannedShard]) -> set[str]:
    """The shards with which the data set was finished: those of a round that is not finished yet
    are only left to build.
    """
    later = {row.shard for one in dataset.rounds() for row in one.rows if row.key}
    try:
        named = set(json.loads(dataset.index.read_bytes())["shards"])
    except (KeyError, TypeError, ValueError, OSError, RecursionError):
        named = set()
    return {item.shard for item in planned if item.shard not in later or item.shard in named}


def _check_rounds(dataset: Dataset) -> list[Fault]:
    """The first round that is missing or damaged. If it is damaged, all that belongs to it and to
    those after it, its own file last: put aside in this order, whatever stops that, these leave
    what was before them.
    """
    try:
        read_rounds(dataset.retries, dataset.run_digest(), dataset.newest_round_number())
    except DamagedRound as error:
        name = f"retries/{error.name}"
        if error.is_missing:
            return [Fault(name, f"{error.problem}: {RESTORE_ADVICE}", Remedy.PUT_BACK)]
        words = "quiver retry tries again what it held"
        moved = [Fault(name, f"{error.problem}: {words}", Remedy.MOVE)]
        follows = f"follows {error.name}, which {error.problem}"
        moved += [Fault(path, follows, Remedy.MOVE) for path in _later_files(dataset, error.name)]
        return moved[::-1]
    return []


def _later_files(dataset: Dataset, name: str) -> list[str]:
    """The files that follow from a round's file of that name: those of later rounds, the index that
    counts their shards, and these shards, records last.
    """
    first = round_number(name) or 1
    folders = [dataset.retries, dataset.histograms, dataset.shards, dataset.records]
    files = {folder: sorted(folder.iterdir()) if folder.is_dir() else [] for folder in folders}
    later = [path for path in files[dataset.retries] if (round_number(path.name) or 0) > first]
    later += (
        [dataset.index] if dataset.index.exists() and dataset.newest_round_number() >= first else []
    )
    for folder in folders[1:]:
        later += [path for path in files[folder] if round_of_shard(path.stem) >= first]
    return [_relative_path(dataset, path) for path in later]


def check_is_dataset(dataset: Dataset) -> None:
    """Raises ValueError where there is no sign of a data set."""
    if not (dataset.run_json.exists() or dataset.plan.exists() or dataset.records.is_dir()):
        dataset.contract()


def _check_contract(dataset: Dataset) -> list[Fault]:
    """What is wrong with run.json, or else with the plan."""
    try:
        dataset.contract()
    except (ValueError, OSError) as error:
        return [Fault("run.json", f"{error}; {NEW_FOLDER_ADVICE}", Remedy.NEW_FOLDER)]
    runs = {record.run for record in _iter_readable_records(dataset)}
    if runs and finalize.run_digest(dataset) not in runs:
        return [
            Fault(
                "run.json",
                f"is not the one with which the shards were built: {NEW_FOLDER_ADVICE}",
                Remedy.NEW_FOLDER,
            )
        ]
    try:
        dataset.check_plan()
    except DamagedPlan as error:
        return [
            Fault("plan.parquet", str(error).removeprefix(f"{dataset.plan} "), Remedy.NEW_FOLDER)
        ]
    return []


def _iter_readable_records(dataset: Dataset) -> Iterator[ShardRecord]:
    """The records that are what was written, whatever run they are of, in no order."""
    for path in dataset.records.glob("*.json"):
        try:
            yield ShardRecord.load(path.read_bytes())
        except (OSError, ValueError):
            continue


def _iter_planned_shards(dataset: Dataset) -> Iterator[PlannedShard]:
    """Every shard of the plan."""
    for shard, rows in groupby(dataset.stream_plan(), key=lambda row: row.shard):
        if shard:
            yield PlannedShard(str(dataset.root), shard, list(rows))


def _check_shard(planned: PlannedShard) -> list[Fault]:
    """Every fault of one committed shard."""
    dataset, shard = Dataset(planned.root), planned.shard
    contract = dataset.contract()
    try:
        record = ShardRecord.load(dataset.record_path(shard).read_bytes())
        _check_record(record, planned, finalize.run_digest(dataset))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return [Fault(f"records/{shard}.json", str(error), Remedy.REBUILD, shard)]
    except OSError as error:
        return [
            Fault(
                f"records/{shard}.json", f"cannot be read: {error.strerror}", Remedy.REBUILD, shard
            )
        ]
    if record.tar is None and dataset.tar_path(shard).exists():
        return [
            Fault(f"shards/{shard}.tar", "its record names no tar: no window was kept", Remedy.MOVE)
        ]
    counts = np.zeros((contract.config["frequencies"], 2, histogram.BINS), np.int64)
    faults = [
        Fault(f"shards/{shard}.tar", what, Remedy.REBUILD, shard)
        for what in _check_tar(planned, record, contract, counts)
    ]
    return faults + list(_check_histogram(dataset, shard, record, None if faults else counts))


def _check_record(record: ShardRecord, planned: PlannedShard, run: str) -> None:
    """Raises ValueError unless the record is of this run and this shard and holds just the plan's
    windows.
    """
    record.check_owner(planned.shard, run)
    if [row.key for row in record.rows] != [row.key for row in planned.rows]:
        raise ValueError("does not hold the windows of the plan, in its order")
    kept = record.kept_members()
    places = [members.get(column) for members in kept.values() for column in MEMBER_COLUMNS]
    if bool(kept) != bool(record.tar) or not all(
        isinstance(place, int) and place >= 0 for place in places
    ):
        raise ValueError("keeps windows and does not say where they are, and what their bytes are")


def _check_tar(
    planned: PlannedShard,
    record: ShardRecord,
    contract: RunContract,
    counts: Int64[np.ndarray, "freq 2 bins"],
) -> list[str]:
    """What is wrong with the shard's tar; its samples are counted in `counts`."""
    expected, digest, faults = record.tar, hashlib.sha256(), []
    if expected is None:
        return []
    rows = {row.key: row for row in planned.rows}
    try:
        with open(Dataset(planned.root).tar_path(planned.shard), "rb") as file:
            for key, sample, found in scan_samples(file, record.kept_members(), digest):
                faults += found
                if sample is not None:
                    faults += _check_and_count_sample(rows[key], sample, contract, counts)
            faults += scan_end(file, digest)
    except FileNotFoundError:
        return ["is gone"]
    except OSError as error:
        return [*faults, f"cannot be read: {error.strerror}"]
    same = digest.hexdigest() == expected.sha256
    return faults or (
        [] if same else [f"has sha256 {digest.hexdigest()}, expected {expected.sha256}"]
    )


def _check_and_count_sample(
    row: PlanRow,
    sample: Sample,
    contract: RunContract,
    counts: Int64[np.ndarray, "freq 2 bins"],
) -> list[str]:
    """Adds a sample to the counts, unless it is not what the plan and the run say, and then where."""
    faults = _check_meta(row, sample, contract)
    if not faults:
        histogram.add_sample(sample.spectrum, counts)
    return faults


def _check_meta(row: PlanRow, sample: Sample, contract: RunContract) -> list[str]:
    """Where a sample says something else of itself than the plan and the run do."""
    (width, height), config = contract.config["size"], contract.config
    said, found = sample.meta, sample.spectrum.shape
    expected = {name: getattr(row, name) for name in _CHECKED_COLUMNS} | {
        "clip": row.clip_id,
        "size": [width, height],
    }
    shape = (config["frequencies"], 4, height, width)
    words = [
        f"{name} {said.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if _meta_value(said, name) != value
    ]
    words += [f"a spectrum of {list(found)}, expected {list(shape)}"] if found != shape else []
    return [f"sample {row.key} has {word}" for word in words]


def _meta_value(meta: dict[str, Any], name: str) -> Any:
    """What a sample's metadata say; of its clip, the id."""
    value = meta.get(name)
    return value.get("clip_id") if name == "clip" and isinstance(value, dict) else value


def _check_histogram(
    dataset: Dataset, shard: str, record: ShardRecord, counts: np.ndarray | None
) -> Iterator[Fault]:
    """What is wrong with the shard's histogram; `counts` are those of its samples, where all were
    sound.
    """
    path = dataset.histogram_path(shard)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        found = error.strerror
    if found != record.histogram:
        what = "is not the histogram that was recorded" if path.is_file() else "is gone"
        yield Fault(f"histograms/{shard}.safetensors", what, Remedy.RECOUNT, shard)
    if counts is not None and (
        hashlib.sha256(histogram.encode(counts)).hexdigest(),
        int(counts.sum()),
    ) != (record.histogram, record.values):
        yield Fault(
            f"records/{shard}.json",
            "does not name the histogram of its samples",
            Remedy.REBUILD,
            shard,
        )


def _unexpected_files(dataset: Dataset, shards: Sequence[str], temporary: bool) -> list[Fault]:
    """Files of which no plan knows, and temporary ones, which are no fault while shards are left:
    the next run removes them.
    """
    found = []
    for folder, name in (
        (dataset.shards, "{}.tar"),
        (dataset.records, "{}.json"),
        (dataset.histograms, "{}.safetensors"),
    ):
        known = {name.format(shard) for shard in shards}
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        found += [
            Fault(_relative_path(dataset, p), "no shard of the plan has that name", Remedy.MOVE)
            for p in paths
            if p.name not in known and not _is_temporary(p)
        ]
    paths = sorted(dataset.retries.iterdir()) if dataset.retries.is_dir() else []
    others = [path for path in paths if not round_number(path.name) and not _is_temporary(path)]
    what = "is no round of quiver retry"
    found += [Fault(_relative_path(dataset, path), what, Remedy.MOVE) for path in others]
    paths = sorted(dataset.views.iterdir()) if dataset.views.is_dir() else []
    others = [path for path in paths if not (views.is_view_file(path) or _is_temporary(path))]
    found += [Fault(_relative_path(dataset, path), "is of no view", Remedy.MOVE) for path in others]
    paths = dataset.temporary_files() if temporary else []
    return found + [
        Fault(
            _relative_path(dataset, p), "was left behind by a run that was stopped", Remedy.REMOVE
        )
        for p in paths
    ]


def _is_temporary(path: Path) -> bool:
    return TEMPORARY_NAME.fullmatch(path.name) is not None


def _relative_path(dataset: Dataset, path: Path) -> str:
    return str(path.relative_to(dataset.root))


def _check_derived(dataset: Dataset, known: bool) -> list[Fault] | None:
    """Every derived file that is not what the records give; None where they do not give any, for a
    reason that is `known`.
    """
    with TemporaryDirectory(prefix="quiver-verify-") as folder:
        try:
            finalize.finalize(dataset, into=Path(folder))
        except DamagedShard as error:
            return None if known else [Fault("records", str(error), Remedy.NEW_FOLDER)]
        names = list(finalize.DERIVED_FILES)
        faults = [
            Fault(name, what, Remedy.FINALIZE)
            for name in names
            if (what := _describe_difference(dataset, Path(folder), name))
        ]
        return _check_views(dataset, None if faults else Path(folder)) + faults


def _check_views(dataset: Dataset, folder: Path | None) -> list[Fault]:
    """Every view whose definition is not what was written, and, if a folder holds the derived files
    as they should be, every file of a view that is not what its thresholds and the data set give.
    Its report is for people, and not compared.
    """
    found = []
    for name in views.list_views(dataset, whole=False):
        view = DatasetView(dataset, name)
        try:
            thresholds = view.thresholds()
        except (OSError, ValueError) as error:
            what = str(error).removeprefix(f"{view.derived_path('json')} ")
            found.append(Fault(f"views/{name}.json", what, Remedy.MOVE_VIEW))
            continue
        if folder is None:
            continue
        views.refilter(dataset, name, thresholds, map_serially, Dataset(folder))
        paths = [
            f"views/{name}.{part}"
            for part in ("parquet", "index.json", "histogram.safetensors", "statistics.json")
        ]
        found += [
            Fault(path, what, Remedy.FINALIZE)
            for path in paths
            if (what := _describe_difference(dataset, folder, path))
        ]
    return found


def map_serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)


def _describe_difference(dataset: Dataset, built: Path, name: str) -> str | None:
    """What is wrong with a derived file, of which `built` holds what it should be."""
    found, expected = dataset.root / name, built / name
    if not expected.exists():
        return "has nothing to say of this data set" if found.exists() else None
    if not found.is_file():
        return "is not there"
    same_pyarrow = dataset.contract().versions.get("pyarrow") == pa.__version__
    if same_pyarrow or not name.endswith((".parquet", "index.json")):
        same = filecmp.cmp(found, expected, shallow=False)
    else:  # which writes other bytes for the same table
        same = (_same_tables if name.endswith(".parquet") else _same_indexes)(found, expected)
    return None if same else "is not what the records give"


def _same_indexes(found: Path, expected: Path) -> bool:
    """Whether two indexes say the same but for the bytes of the table, and the first is of its own."""
    try:
        one, other = (open_seal(path.read_bytes(), indent=1) for path in (found, expected))
        name = found.name.replace("index.json", "parquet")
        table = found.with_name("manifest.parquet" if name == "parquet" else name)
        said, _ = (index.pop("manifest") for index in (one, other))
        return said == file_sha256(table) and one == other
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return False


def _same_tables(found: Path, expected: Path) -> bool:
    """Whether two Parquet files hold the same rows in the same groups."""
    try:
        tables = [
            pq.ParquetFile(path).iter_batches(finalize.ROW_GROUP) for path in (found, expected)
        ]
        return all(one is not None and one.equals(other) for one, other in zip_longest(*tables))
    except (pa.ArrowException, OSError):
        return False
