#!/usr/bin/env python
"""Tries again what failed in a dataset for a reason that may have been the machine's.

    python -m jobs.retry DATASET

It tries windows and clips that were quarantined because a decoder crashed, timed out or ran out of
memory, or because a file was missing or could not be read. What is committed is not touched: the
windows go to shards of their own. The same command again finishes a retry that was stopped.

Exit codes: 0 done, though some may have failed again; 1 a shard could not be built (the same
command tries again); 2 wrong usage, or shards are left to build by extract-flow; 3 the flow would
be measured differently than in the run (another --weights); 4 a run holds the folder; 5 a file
cannot be read or written; 6 too much failed again. If that is seen when the videos are probed,
nothing was written; if it is seen while shards are built, the round stays, and the same command
finishes it, whatever fails again then.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import ExitCode, error_boundary, exit_with
from jobs.cli.progress import format_retry_hint, format_summary, pluralize
from jobs.cli.run_options import (
    MachineOptions,
    check_dataset_location,
    check_quarantine_limit,
    check_same_flow,
)
from jobs.cli.workers import build_on_cluster, collect_readable, probe_all, warn_of_other_versions
from pipeline.dataset.folder import Dataset, version_changes
from pipeline.dataset.object_store import is_storage_url
from pipeline.dataset.remote import finalize_session, locate_dataset
from pipeline.dataset.views import finalize_with_views
from pipeline.decode.pool import shared_pool
from pipeline.extract.config import BuildConfig
from pipeline.extract.plan_clip import PlannedClip, clip_to_retry, retry_clip
from pipeline.extract.retry import RetryableRows, begin_round, find_retryable, unbuilt_shards
from pipeline.extract.versions import library_versions
from schemas.records import PlanRow


@dataclass(frozen=True, kw_only=True)
class Retry(MachineOptions):
    """Tries again what failed for a reason that may be the machine's: crash, timeout, out of
    memory, unreadable, missing.
    """

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Folder of the dataset, or s3://BUCKET/PREFIX."""
    staging: Path | None = None
    """Folder in which a dataset of s3:// is built and clips from there are put; by default quiver
    in the user's cache.
    """
    quarantine_limit: float = 0.5
    """End with exit code 6 if more than this share of the videos, or of the windows, that are tried
    again fails again. 1 never ends it, and a retry that was stopped is always finished.
    """

    def __post_init__(self):
        super().__post_init__()
        check_quarantine_limit(self.quarantine_limit)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Retry, "quiver retry", args)
        check_dataset_location(job.dataset, "DATASET")
        if not is_storage_url(job.dataset):
            Dataset(job.dataset).contract()
        dataset = locate_dataset(job.dataset, job.staging).absolute()
        with dataset.lock():
            dataset.resume()
            retry(dataset, job)


def retry(dataset: Dataset, job: Retry) -> None:
    """Begins a round in a folder that this process holds, or finishes the one that was stopped;
    then writes the derived files.
    """
    config = job.build_config(dataset.contract().config)
    unbuilt = unbuilt_shards(dataset)
    retryable = RetryableRows([], []) if unbuilt else find_retryable(dataset)
    if not unbuilt and not retryable:
        print_output(f"{job.dataset}: nothing failed for a reason that may be the machine's")
    else:
        check_same_flow(dataset, config)
        warn_of_other_versions(version_changes(dataset.contract(), library_versions(config)))
        needs = job.resources(config.flow)
        staging = job.staging and job.staging.absolute()
        with cluster.ray_session(job.workers, needs):
            at_once = cluster.capacity(job.workers, needs)
            limit = 1.0 if unbuilt else job.quarantine_limit  # a round can only be finished
            if not unbuilt:
                _begin_next_round(dataset, retryable, config, job, staging)
                unbuilt = unbuilt_shards(dataset)
            failed = build_on_cluster(dataset, unbuilt, config, job, at_once, staging, limit)
        if failed:
            words = f"{len(failed)} of {len(unbuilt)} shards failed ({', '.join(failed[:5])})"
            exit_with(ExitCode.FAILURE, f"{words}; the same command tries them again")
    dataset.remove_temporary_files()
    with finalize_session(dataset):
        summary = finalize_with_views(dataset, partial(cluster.parallel_map, workers=1))
    hint = format_retry_hint(summary["retryable"], job.dataset)
    print_output("\n".join([*format_summary(summary), *hint]))


def _begin_next_round(
    dataset: Dataset,
    retryable: RetryableRows,
    config: BuildConfig,
    job: Retry,
    staging: Path | None,
) -> None:
    """Probes the videos again and begins a round. Ends the process if too many fail again, with
    nothing written.
    """
    windows = pluralize(len(retryable.windows), "window")
    clips = pluralize(len(retryable.clips), "clip")
    print_output(f"trying again: {windows}, {clips} without any")
    rows = retryable.rows_to_probe()
    probed = probe_all(partial(_probe_again, config, staging), rows, config.plan, clip_to_retry)
    readable = collect_readable(probed, len(rows), job.quarantine_limit)
    if not begin_round(dataset, retryable.windows, readable, config.plan):
        print_output(f"{job.dataset}: all of it failed again; nothing was written")


def _probe_again(config: BuildConfig, staging: Path | None, row: PlanRow) -> PlannedClip:
    """Probes the clip of a row again, in a worker process."""
    return retry_clip(row, config.plan, shared_pool(config.decode, 1).probe, staging)


if __name__ == "__main__":
    main(sys.argv[1:])
