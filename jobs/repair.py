#!/usr/bin/env python
"""Puts right what verify finds.

    python -m jobs.repair DATASET

A shard whose record or tar is damaged is put aside, built again from its videos with the settings
of the run, and deleted once the new one has the same bytes. A shard of which a video is gone, or is
another, is left as it is: building it would lose what is still good in it. A damaged histogram is
counted again. Files of which no plan knows are moved to DATASET/.removed, never deleted, since they
might be someone's; temporary files are deleted, as by every run. Then the derived files are
written.

Exit codes: 0 all is right; 1 a shard could not be built (the same command tries again); 2 wrong
usage; 3 the flow would be measured otherwise than in the run (another --weights); 4 a run holds the
folder; 5 something is left that is not right, or came out otherwise than it was.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import ExitCode, error_boundary, exit_with
from jobs.cli.progress import pluralize
from jobs.extract_flow import WorkerOptions, build_on_cluster, library_versions
from jobs.verify import shard_mapper, track_shards
from pipeline.dataset import finalize as derived
from pipeline.dataset.folder import (
    REMOVED_FOLDER,
    ContractMismatch,
    DamagedShard,
    Dataset,
    version_changes,
)
from pipeline.dataset.remote_clips import local_clip_path
from pipeline.dataset.views import rebuild_views, view_files
from pipeline.extract.config import BuildConfig, from_contract
from pipeline.extract.plan import hash_file
from pipeline.flow.estimator import describe_estimator
from pipeline.maintain.repair import (
    RowsByShard,
    move_aside,
    move_shard_aside,
    original_tar_digests,
    rebuild_histogram,
    rows_to_rebuild,
    tar_digest,
)
from pipeline.maintain.verify import (
    Fault,
    PlannedShard,
    Remedy,
    VerifyReport,
    check_is_dataset,
    verify,
)
from schemas.outcome import Outcome, Quarantined, to_printable
from schemas.records import PlanRow
from schemas.shard_record import ShardRecord

BuildShards = Callable[[RowsByShard], list[str]]
"""Builds these shards; returns the names of those that failed."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions(WorkerOptions):
    """What a run contract does not hold of the settings with which its windows are built."""

    weights: str = "default"
    """raft: the weights of the run, whose digest it knows: a file, or default for torchvision's
    own, by torch.hub.
    """
    networks: str | None = None
    """raft: whose code torch.hub runs; without it, the run's."""
    device: Literal["cuda", "cpu"] | None = None
    """raft: where the network runs; without it, as in the run."""


@dataclass(frozen=True, kw_only=True)
class Repair(MachineOptions):
    """Puts right what verify finds: damaged shards are built again from their videos, to the same
    bytes.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set."""
    staging: Path | None = None
    """Folder in which clips of s3:// are put while they are read; by default the system's for
    temporary files.
    """

    @property
    def is_parallel(self) -> bool:
        """Whether shards are read by several processes too; Ray is then started at once, else only
        to build shards.
        """
        return (self.workers or 1) > 1


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Repair, "quiver repair", args)
        dataset = Dataset(job.dataset.absolute())
        check_is_dataset(dataset)
        with dataset.lock(), _connect_workers(job) if job.is_parallel else nullcontext():
            each = (
                (lambda function, items: _scan_on_cluster(function, items, job))
                if job.is_parallel
                else shard_mapper(1)
            )
            found = verify(dataset, each)
            damaged = any(fault.path.startswith("retries/") for fault in found.faults)
            lost = found.faults if damaged and not found.shards else []
            if any(fault.remedy == Remedy.MOVE for fault in lost):
                print_output("\n".join(to_printable(str(fault)) for fault in lost))
                _apply_simple_repairs(dataset, lost)
                dataset.publish(dataset.report, None)  # it shows what the rounds held
                found = verify(dataset, each)
            done = repair(dataset, found, lambda: _cluster_builder(job, dataset), job.staging)
            done = done._replace(right=done.right and not lost)
    if done.failed:
        exit_with(
            ExitCode.FAILURE,
            f"{pluralize(len(done.failed), 'shard')} failed ({', '.join(done.failed[:5])}); the same command tries again",
        )
    if not done.right:
        exit_with(
            ExitCode.STORAGE, f"{dataset.root} is not what it was; the lines above say what is left"
        )


def _connect_workers(job: Repair) -> AbstractContextManager[None]:
    """A process connects to Ray once: another token would be refused."""
    return cluster.ray_session(job.workers, cluster.Resources(job.decoders_per_worker))


def _scan_on_cluster(
    function: Callable[[PlannedShard], list[Fault]], items: Sequence[PlannedShard], job: Repair
) -> Iterator[list[Fault]]:
    """What a function finds in each shard, on the cluster that is connected."""
    return track_shards(
        _raise_errors(
            cluster.map_unordered(
                function, items, cluster.capacity(job.workers, cluster.Resources())
            )
        ),
        len(items),
    )


def _raise_errors(
    results: Iterable[tuple[PlannedShard, list[Fault] | Exception]],
) -> Iterator[tuple[PlannedShard, list[Fault]]]:
    """The results; raises the first that is an error."""
    for item, value in results:
        if isinstance(value, Exception):
            raise value
        yield item, value


@contextmanager
def _cluster_builder(job: Repair, dataset: Dataset) -> Iterator[BuildShards]:
    """What builds shards, after all has been checked that can be before anything is removed."""
    contract = dataset.contract()
    config = make_run_config(job, contract.config)
    check_same_flow(dataset, config)
    for warning in version_changes(contract, library_versions(config)):
        print_message(f"{warning}; shards may differ in their last bits")
    with nullcontext() if job.is_parallel else _connect_workers(job):
        at_once = cluster.capacity(job.workers, job.resources(config.flow))
        yield lambda shards: build_on_cluster(
            dataset, shards, config, job, at_once, job.staging and job.staging.absolute()
        )


def check_same_flow(dataset: Dataset, config: BuildConfig) -> None:
    """Ends the process if flow would be measured otherwise than in the run."""
    try:
        dataset.check_flow_settings(describe_estimator(config.flow))
    except ContractMismatch as error:
        exit_with(
            ExitCode.CONTRACT,
            "the flow of the run was measured otherwise (there -> asked for):\n  "
            + "\n  ".join(error.differences),
        )


def make_run_config(job: MachineOptions, settings: dict[str, Any]) -> BuildConfig:
    """The settings of the run, with what it does not hold."""
    config = from_contract(
        settings, job.weights if job.weights == "default" else os.path.abspath(job.weights)
    )
    asked = {
        name: value for name in ("networks", "device") if (value := getattr(job, name)) is not None
    }
    return replace(config, flow=replace(config.flow, **asked))


class _RepairResult(NamedTuple):
    """What became of it."""

    right: bool
    """Whether all is as it was when it was written."""
    failed: list[str]
    """Shards that could not be built."""


def repair(
    dataset: Dataset,
    found: VerifyReport,
    ready: Callable[[], AbstractContextManager[BuildShards]],
    staging: Path | None = None,
) -> _RepairResult:
    """Puts right what was found, in a folder that is held; says line by line what is done. Raises
    OSError where object storage does not give a clip.
    """
    for fault in found.faults:
        print_output(to_printable(str(fault)))
    if any(fault.remedy in (Remedy.NEW_FOLDER, Remedy.PUT_BACK) for fault in found.faults):
        return _RepairResult(False, [])
    if not found.faults:
        print_output(f"{dataset.root}: nothing to repair")
        return _RepairResult(True, [])
    shards = rows_to_rebuild(
        dataset,
        {fault.shard for fault in found.faults if fault.remedy == Remedy.REBUILD and fault.shard},
    )
    lost = {
        shard: words
        for shard, rows in shards.items()
        if (words := _describe_lost_videos(rows, staging))
    }
    for shard, words in lost.items():
        print_output(f"shard {shard} is left as it is: {to_printable('; '.join(words))}")
    _apply_simple_repairs(dataset, [fault for fault in found.faults if fault.shard not in shards])
    again = {shard: rows for shard, rows in shards.items() if shard not in lost}
    failed, changed = _rebuild_shards(dataset, again, ready) if again else ([], [])
    written = not failed and _write_derived_files(dataset, found.unbuilt)
    return _RepairResult(written and not lost and not changed, failed)


def _describe_lost_videos(rows: Sequence[PlanRow], staging: Path | None) -> list[str]:
    """A sentence for each video of these windows that is not what was planned: they could not be
    built to the same bytes.
    """
    videos = {row.uri: (row.sha256, row.bytes) for row in rows if row.settled is None}
    return [
        f"video {uri} {words}"
        for uri, content in videos.items()
        if (words := _explain_lost_video(uri, content, staging))
    ]


def _explain_lost_video(
    uri: str, content: tuple[str | None, int | None], staging: Path | None
) -> str | None:
    """What is wrong with a video, if anything."""
    try:
        with local_clip_path(uri, staging) as path:
            return None if hash_file(path) == content else "is not the one that was planned"
    except Quarantined as error:
        return f"cannot be read ({error.detail})"


def _apply_simple_repairs(dataset: Dataset, faults: Sequence[Fault]) -> None:
    """Everything that needs no video."""
    for fault in faults:
        if fault.remedy == Remedy.MOVE:
            print_output(
                f"{to_printable(fault.path)}: moved to {move_aside(dataset, fault.path).relative_to(dataset.root)}"
            )
        elif fault.remedy == Remedy.MOVE_VIEW:
            name = Path(fault.path).stem
            for path in view_files(dataset, name):
                move_aside(dataset, str(path.relative_to(dataset.root)))
            words = f"quiver refilter {dataset.root} --name {name} makes it again"
            print_output(f"view {name}: moved to {REMOVED_FOLDER}; {words}")
        elif fault.remedy == Remedy.RECOUNT and fault.shard:
            rebuild_histogram(dataset, fault.shard)
            print_output(f"{fault.path}: counted again from its shard")
    dataset.remove_temporary_files()


def _rebuild_shards(
    dataset: Dataset, shards: RowsByShard, ready: Callable[[], AbstractContextManager[BuildShards]]
) -> tuple[list[str], list[str]]:
    """Removes these shards and builds them again; returns those that failed, and those that came
    out otherwise.
    """
    before = original_tar_digests(dataset, shards)
    with ready() as build:
        aside = {}
        for shard in shards:
            aside[shard] = move_shard_aside(dataset, shard)
            print_output(
                f"shard {shard}: {', '.join(str(path.relative_to(dataset.root)) for path in aside[shard]) or 'nothing'} put aside; building it again"
            )
        failed = build(shards)
    changed = []
    for shard in shards.keys() - set(failed):
        record = dataset.read_record(shard)
        if shard not in before:
            print_output(f"shard {shard} is built; nothing is left that says what its tar was")
        elif tar_digest(record) != before[shard]:
            changed.append(shard)
            print_output(
                f"shard {shard} came out otherwise than it was: {_explain_change(dataset, record)}; what it was stays in {REMOVED_FOLDER}"
            )
        else:
            for path in aside[shard]:
                path.unlink()
    if changed:
        dataset.publish(dataset.report, None)
    return failed, changed


def _explain_change(dataset: Dataset, record: ShardRecord) -> str:
    """What is known of the reason."""
    contract = dataset.contract()
    quarantined = sum(row.outcome == Outcome.QUARANTINED for row in record.rows)
    words = [f"{pluralize(quarantined, 'window')} quarantined"] if quarantined else []
    words += version_changes(contract, library_versions(from_contract(contract.config)))
    return "; ".join(words) or "the versions of all libraries are those of the run"


def _write_derived_files(dataset: Dataset, left: Sequence[str]) -> bool:
    """Writes the derived files; says why where they cannot be, which is right only while shards are
    left to build.
    """
    try:
        derived.finalize(dataset)
        rebuild_views(dataset, partial(cluster.parallel_map, workers=1))
    except (DamagedShard, ValueError) as error:
        print_output(f"the derived files were left as they are: {error}")
        return bool(left)
    print_output(f"{dataset.root}: the derived files are written")
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
