"""Verify that a dataset is what its records say: name every fault, its file, and its remedy.

    _check_contract     run.json and the plan, without which nothing else can be judged
    _check_rounds       the rounds of `quiver retry`
    verify_shard        one shard: its record, its tar and its histogram (verify_shard.py)
    _unexpected_files   files that do not belong to the plan, and temporary files
    _check_derived      the derived files, which are built again elsewhere and compared; the same
                        for those of the views (_check_views)

A shard without a record is no fault but work that is left, until the dataset is finished once.
"""

import filecmp
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic_files import TEMPORARY_NAME
from pipeline.dataset import views
from pipeline.dataset.finalize import DERIVED_FILES, ROW_GROUP, finalize
from pipeline.dataset.folder import (
    NEW_FOLDER_ADVICE,
    RESTORE_ADVICE,
    DamagedPlan,
    DamagedShard,
    Dataset,
)
from pipeline.dataset.open import DatasetView, file_sha256
from pipeline.dataset.rounds import DamagedRound, read_rounds, round_number, round_of_shard
from pipeline.maintain.faults import Fault, Remedy
from pipeline.maintain.verify_shard import PlannedShard, verify_shard
from schemas.seal import open_seal
from schemas.shard_record import ShardRecord


class VerifyReport(NamedTuple):
    """The result of `verify`."""

    faults: list[Fault]
    shards: int = 0
    """Shards of the plan."""
    unbuilt: list[str] = []  # noqa: RUF012 - never changed
    """Shards that are not built yet."""
    compared: bool = False
    """Whether the derived files were compared."""


ShardMap = Callable[
    [Callable[[PlannedShard], list[Fault]], Sequence[PlannedShard]], Iterable[list[Fault]]
]
"""Applies a function to each item, in any order and process."""


def verify(dataset: Dataset, map_shards: ShardMap = map, is_idle: bool = True) -> VerifyReport:
    """Reads every file of a dataset once, with the names of the plan and one sample in memory.

    is_idle: no run is writing to the folder, so that temporary files are faults. Raises ValueError
    if the folder holds no dataset.
    """
    check_is_dataset(dataset)
    if faults := _check_contract(dataset) or _check_rounds(dataset):
        return VerifyReport(faults)
    planned = list(_iter_planned_shards(dataset))
    unbuilt = [item.shard for item in planned if not dataset.is_committed(item.shard)]
    is_finished = any((dataset.root / name).exists() for name in DERIVED_FILES)
    finished = _finished_shards(dataset, planned) if is_finished and is_idle else set()
    missing = [shard for shard in unbuilt if shard in finished]
    problem = "is gone, and the dataset was finished"
    faults = [Fault(f"records/{shard}.json", problem, Remedy.REBUILD, shard) for shard in missing]
    committed = [item for item in planned if dataset.is_committed(item.shard)]
    shard_faults = chain.from_iterable(map_shards(verify_shard, committed))
    faults += sorted(shard_faults, key=lambda fault: fault.path)
    faults += _unexpected_files(
        dataset,
        [item.shard for item in planned],
        check_temporary=is_idle and (is_finished or not unbuilt),
    )
    derived_faults = None
    if is_idle and not unbuilt and not any(f.path.startswith("records/") for f in faults):
        derived_faults = _check_derived(dataset, has_faults=bool(faults))
    return VerifyReport(
        faults + (derived_faults or []),
        len(planned),
        [shard for shard in unbuilt if shard not in missing],
        derived_faults is not None,
    )


def _finished_shards(dataset: Dataset, planned: Sequence[PlannedShard]) -> set[str]:
    """Returns the shards with which the dataset was finished. Those of a round that is not finished
    yet are only left to build.
    """
    retry_shards = {row.shard for retry in dataset.rounds() for row in retry.rows if row.key}
    try:
        indexed = set(json.loads(dataset.index.read_bytes())["shards"])
    except (KeyError, TypeError, ValueError, OSError, RecursionError):
        indexed = set()
    return {
        item.shard for item in planned if item.shard not in retry_shards or item.shard in indexed
    }


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
    """Returns the files of a folder, sorted; none if it is missing."""
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
