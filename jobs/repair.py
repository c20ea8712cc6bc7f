#!/usr/bin/env python
"""Puts right what verify finds.

    python -m jobs.repair DATASET

A shard whose record or tar is damaged is put aside, built again from its videos with the settings
of the run, and deleted once the new one has the same bytes. A shard whose video is missing, or is
another, is left as it is: building it would lose what is still good in it. A damaged histogram is
counted again. Files that no plan knows are moved to DATASET/.removed, never deleted, since they
might be someone's; temporary files are deleted, as by every run. Then the derived files are
written.

Exit codes: 0 all is right; 1 a shard could not be built (the same command tries again); 2 wrong
usage; 3 the flow would be measured differently than in the run (another --weights); 4 a run holds
the folder; 5 something is left that is not right, or came out differently.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import ExitCode, error_boundary, exit_with
from jobs.cli.progress import pluralize
from jobs.cli.run_options import MachineOptions, check_same_flow
from jobs.cli.workers import build_on_cluster, warn_of_other_versions
from jobs.verify import shard_mapper, track_shards
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import REMOVED_FOLDER, DamagedShard, Dataset, version_changes
from pipeline.dataset.remote_clips import local_clip_path
from pipeline.dataset.views import rebuild_views, view_files
from pipeline.extract.config import from_contract
from pipeline.extract.plan_clip import hash_file
from pipeline.extract.versions import library_versions
from pipeline.maintain.faults import Fault, Remedy
from pipeline.maintain.repair import (
    RowsByShard,
    move_aside,
    move_shard_aside,
    original_tar_digests,
    rebuild_histogram,
    rows_to_rebuild,
    tar_digest,
)
from pipeline.maintain.verify import VerifyReport, check_is_dataset, verify
from pipeline.maintain.verify_shard import PlannedShard
from schemas.outcome import Outcome, Quarantined, to_printable
from schemas.records import PlanRow
from schemas.shard_record import ShardRecord

BuildShards = Callable[[RowsByShard], list[str]]
"""Builds these shards; returns the names of those that failed."""


@dataclass(frozen=True, kw_only=True)
class Repair(MachineOptions):
    """Puts right what verify finds: damaged shards are built again from their videos, to the same
    bytes.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the dataset."""
    staging: Path | None = None
    """Folder in which clips of s3:// are put while they are read; by default the system's for
    temporary files.
    """

    @property
    def is_parallel(self) -> bool:
        """Whether several processes read shards, too; Ray is then started at once, else only to
        build shards.
        """
        return (self.workers or 1) > 1


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Repair, "quiver repair", args)
        dataset = Dataset(job.dataset.absolute())
        check_is_dataset(dataset)
        with dataset.lock(), _connect_workers(job) if job.is_parallel else nullcontext():
            scan = partial(_scan_on_cluster, job) if job.is_parallel else shard_mapper(1)
            report = verify(dataset, scan)
            damaged_rounds = any(fault.path.startswith("retries/") for fault in report.faults)
            round_faults = report.faults if damaged_rounds and not report.shards else []
            if any(fault.remedy == Remedy.MOVE for fault in round_faults):
                print_output("\n".join(to_printable(str(fault)) for fault in round_faults))
                _apply_simple_repairs(dataset, round_faults)
                dataset.publish(dataset.report, None)  # it shows what the rounds held
                report = verify(dataset, scan)
            result = repair(dataset, report, lambda: _cluster_builder(job, dataset), job.staging)
    if result.failed:
        exit_with(
            ExitCode.FAILURE,
            f"{pluralize(len(result.failed), 'shard')} failed ({', '.join(result.failed[:5])}); "
            "the same command tries them again",
        )
    if round_faults or not result.is_sound:
        exit_with(
            ExitCode.STORAGE, f"{dataset.root} is not what it was; the lines above say what is left"
        )


def _connect_workers(job: Repair) -> AbstractContextManager[None]:
    """Connects to Ray, which a process can do only once: another token would be refused."""
    return cluster.ray_session(job.workers, cluster.Resources(job.decoders_per_worker))


def _scan_on_cluster(
    job: Repair, function: Callable[[PlannedShard], list[Fault]], shards: Sequence[PlannedShard]
) -> Iterator[list[Fault]]:
    """Yields the faults of each shard, found on the connected cluster. Raises a task's error."""

    def results() -> Iterator[tuple[PlannedShard, list[Fault]]]:
        at_once = cluster.capacity(job.workers, cluster.Resources())
        for shard, faults in cluster.map_unordered(function, shards, at_once):
            if isinstance(faults, Exception):
                raise faults
            yield shard, faults

    return track_shards(results(), len(shards))


@contextmanager
def _cluster_builder(job: Repair, dataset: Dataset) -> Iterator[BuildShards]:
    """Yields a function that builds shards, once everything is checked that can be before anything
    is removed.
    """
    contract = dataset.contract()
    config = job.build_config(contract.config)
    check_same_flow(dataset, config)
    warn_of_other_versions(version_changes(contract, library_versions(config)))
    with nullcontext() if job.is_parallel else _connect_workers(job):
        at_once = cluster.capacity(job.workers, job.resources(config.flow))
        yield lambda shards: build_on_cluster(
            dataset, shards, config, job, at_once, job.staging and job.staging.absolute()
        )


class _RepairResult(NamedTuple):
    is_sound: bool
    """Whether all is as it was when it was written."""
    failed: list[str]
    """Shards that could not be built."""


def repair(
    dataset: Dataset,
    report: VerifyReport,
    open_builder: Callable[[], AbstractContextManager[BuildShards]],
    staging: Path | None = None,
) -> _RepairResult:
    """Puts right what verify reports, in a folder that this process holds; prints line by line what
    it does. Raises OSError if object storage does not give a clip.
    """
    for fault in report.faults:
        print_output(to_printable(str(fault)))
    if any(fault.remedy in (Remedy.NEW_FOLDER, Remedy.PUT_BACK) for fault in report.faults):
        return _RepairResult(False, [])
    if not report.faults:
        print_output(f"{dataset.root}: nothing to repair")
        return _RepairResult(True, [])
    damaged = {
        fault.shard for fault in report.faults if fault.remedy == Remedy.REBUILD and fault.shard
    }
    shards = rows_to_rebuild(dataset, damaged)
    lost_videos = {shard: _describe_lost_videos(rows, staging) for shard, rows in shards.items()}
    rebuildable = {shard: rows for shard, rows in shards.items() if not lost_videos[shard]}
    for shard, sentences in lost_videos.items():
        if sentences:
            words = to_printable("; ".join(sentences))
            print_output(f"shard {shard} is left as it is: {words}")
    _apply_simple_repairs(dataset, [fault for fault in report.faults if fault.shard not in shards])
    failed, changed = (
        _rebuild_shards(dataset, rebuildable, open_builder) if rebuildable else ([], [])
    )
    written = not failed and _write_derived_files(dataset, report.unbuilt)
    return _RepairResult(written and rebuildable == shards and not changed, failed)


def _describe_lost_videos(rows: Sequence[PlanRow], staging: Path | None) -> list[str]:
    """Returns a sentence for each video of these windows that is not what was planned: they could
    not be built to the same bytes.
    """
    videos = {row.uri: (row.sha256, row.bytes) for row in rows if row.known_result is None}
    sentences = []
    for uri, content in videos.items():
        try:
            with local_clip_path(uri, staging) as path:
                if hash_file(path) != content:
                    sentences.append(f"video {uri} is not the one that was planned")
        except Quarantined as error:
            sentences.append(f"video {uri} cannot be read ({error.detail})")
    return sentences


def _apply_simple_repairs(dataset: Dataset, faults: Sequence[Fault]) -> None:
    """Repairs everything that needs no video."""
    for fault in faults:
        if fault.remedy == Remedy.MOVE:
            target = move_aside(dataset, fault.path).relative_to(dataset.root)
            print_output(f"{to_printable(fault.path)}: moved to {target}")
        elif fault.remedy == Remedy.MOVE_VIEW:
            name = Path(fault.path).stem
            for path in view_files(dataset, name):
                move_aside(dataset, str(path.relative_to(dataset.root)))
            command = f"quiver refilter {dataset.root} --name {name}"
            print_output(f"view {name}: moved to {REMOVED_FOLDER}; {command} makes it again")
        elif fault.remedy == Remedy.RECOUNT and fault.shard:
            rebuild_histogram(dataset, fault.shard)
            print_output(f"{fault.path}: counted again from its shard")
    dataset.remove_temporary_files()


def _rebuild_shards(
    dataset: Dataset,
    shards: RowsByShard,
    open_builder: Callable[[], AbstractContextManager[BuildShards]],
) -> tuple[list[str], list[str]]:
    """Removes these shards and builds them again; returns those that failed, and those that came
    out differently.
    """
    original_digests = original_tar_digests(dataset, shards)
    with open_builder() as build:
        aside = {}
        for shard in shards:
            aside[shard] = move_shard_aside(dataset, shard)
            files = ", ".join(str(path.relative_to(dataset.root)) for path in aside[shard])
            print_output(f"shard {shard}: {files or 'nothing'} put aside; building it again")
        failed = build(shards)
    changed = []
    for shard in shards.keys() - set(failed):
        record = dataset.read_record(shard)
        if shard not in original_digests:
            print_output(f"shard {shard} is built; nothing is left that says what its tar was")
        elif tar_digest(record) != original_digests[shard]:
            changed.append(shard)
            print_output(
                f"shard {shard} came out differently: {_explain_change(dataset, record)}; "
                f"what it was stays in {REMOVED_FOLDER}"
            )
        else:
            for path in aside[shard]:
                path.unlink()
    if changed:
        dataset.publish(dataset.report, None)
    return failed, changed


def _explain_change(dataset: Dataset, record: ShardRecord) -> str:
    """Returns what is known of the reason for which a shard came out differently."""
    contract = dataset.contract()
    quarantined = sum(row.outcome == Outcome.QUARANTINED for row in record.rows)
    reasons = [f"{pluralize(quarantined, 'window')} quarantined"] if quarantined else []
    reasons += version_changes(contract, library_versions(from_contract(contract.config)))
    return "; ".join(reasons) or "the versions of all libraries are those of the run"


def _write_derived_files(dataset: Dataset, unbuilt: Sequence[str]) -> bool:
    """Writes the derived files; prints why if they cannot be written, and returns whether that is
    right: only while shards are left to build.
    """
    try:
        finalize(dataset)
        rebuild_views(dataset, partial(cluster.parallel_map, workers=1))
    except (DamagedShard, ValueError) as error:
        print_output(f"the derived files were left as they are: {error}")
        return bool(unbuilt)
    print_output(f"{dataset.root}: the derived files are written")
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
