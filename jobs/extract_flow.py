#!/usr/bin/env python
"""Turns videos into a dataset of spectral volumes.

    python -m jobs.extract_flow --clips DIR --out DATASET

Plans the windows, builds every shard that is not committed yet, each as one Ray task, then writes
manifest and summary. The same command again finishes what is missing.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs import cluster
from jobs.cli.args import parse_args, size_registry
from jobs.cli.console import print_output
from jobs.cli.errors import ExitCode, error_boundary, exit_with
from jobs.cli.progress import format_retry_hint, format_summary, pluralize
from jobs.cli.run_options import (
    WorkerOptions,
    check_dataset_location,
    check_positive,
    check_quarantine_limit,
)
from jobs.cli.workers import (
    build_on_cluster,
    collect_readable,
    plan_in_worker,
    probe_all,
    warn_of_other_versions,
)
from pipeline.dataset.folder import Dataset
from pipeline.dataset.object_store import is_storage_url
from pipeline.dataset.remote import finalize_session, locate_dataset
from pipeline.dataset.rounds import EarlierFates
from pipeline.dataset.run_lock import STALE_AFTER_S
from pipeline.dataset.views import finalize_with_views
from pipeline.extract.config import BuildConfig, to_contract
from pipeline.extract.list_clips import list_clips
from pipeline.extract.plan import keep_earlier_decisions, plan_rows
from pipeline.extract.plan_clip import PlannedClip
from pipeline.extract.versions import library_versions
from pipeline.extract.window_length import (
    auto_frames_limits,
    choose_frames,
    describe_short_clips,
    list_clip_lengths,
)
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from pipeline.motion.spectrum import check_frequencies
from pipeline.sizes import human_size
from schemas.clip import Clip
from schemas.outcome import Reason, to_printable
from schemas.records import PlanRow


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    filters: Literal["subtle", "paper", "none"] = "subtle"
    """Set of thresholds: subtle keeps natural sway, of less than a pixel too; paper has the paper's
    rules; none measures and never rejects.
    """


@dataclass(frozen=True, kw_only=True)
class ExtractFlow(WorkerOptions, FilterOptions):
    """Turns videos into committed shards of spectral volumes. The same command again finishes what
    is missing.
    """

    clips: tuple[str, ...]
    """Folders (searched recursively), video files, s3:// of either, or .parquet or .csv tables with
    a uri column.
    """
    out: str
    """Folder of the dataset, or s3://BUCKET/PREFIX; created if missing, resumed if it is the same
    run.
    """
    staging: Path | None = None
    """Folder in which a dataset of s3:// is built and clips from there are put; by default quiver
    in the user's cache.
    """
    limit: int | None = None
    """Read only the first so many clips."""
    take_over_s: float | None = None
    """Take over from a run that holds the folder and has given no sign of life for so many seconds;
    it commits nothing from then on.
    """
    quarantine_limit: float = 0.5
    """End with exit code 6 if more than this share of the windows that this run has built is
    quarantined, or of the clips cannot be read for a reason that may be the machine's. 1 never ends
    it.
    """
    dry_run: bool = False
    """Print clips, windows, shards and bytes, and stop."""
    build: Annotated[BuildConfig, tyro.conf.arg(name="")] = field(default_factory=BuildConfig)
    auto_frames: Annotated[bool, tyro.conf.Suppress] = False
    """Whether --frames is auto; the number in `build` is then the largest that auto chooses."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "limit")
        check_quarantine_limit(self.quarantine_limit)
        if self.take_over_s is not None and not self.take_over_s >= STALE_AFTER_S:
            raise ValueError(
                f"--take-over-s is {self.take_over_s:g}, expected at least {STALE_AFTER_S:g}"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_job(sys.argv[1:] if args is None else args)
        reject_relative_paths(job)
        check_dataset_location(job.out)
        clips = list_clips(job.clips)[: job.limit]
        job = _with_absolute_files(job)
        dataset = locate_dataset(job.out, job.staging)
        config = {} if job.dry_run else to_contract(job.build)
        needs = job.resources(job.build.flow)
        with (
            nullcontext() if job.dry_run else dataset.lock(job.take_over_s),
            cluster.ray_session(job.workers, needs),
        ):
            at_once = 0 if job.dry_run else cluster.capacity(job.workers, needs)
            earlier_plan = [] if job.dry_run else dataset.earlier_plan()
            job, probed = _probe_clips(job, dataset, clips)
            if hint := describe_short_clips(
                list_clip_lengths(probed), job.build.plan, job.build.frequencies
            ):
                print_output(hint)
            if job.dry_run:
                _print_plan(plan_rows(probed, job.build.plan), job)
                return
            config["plan"]["frames"] = job.build.plan.frames
            planned = keep_earlier_decisions(probed, earlier_plan)
            run_job(dataset, plan_rows(planned, job.build.plan), job, config, at_once)


def _probe_clips(
    job: ExtractFlow, dataset: Dataset, clips: Sequence[Clip]
) -> tuple[ExtractFlow, list[PlannedClip]]:
    """Probes the clips. Returns the job, with the number of frames that --frames auto chose, and
    the clips.

    An existing dataset has its number. For a new one the clips are planned for the longest window
    first, and once more if that is too long.
    """

    def probe_with(frames: int) -> tuple[ExtractFlow, list[PlannedClip]]:
        build = replace(job.build, plan=replace(job.build.plan, frames=frames))
        probed = probe_all(partial(plan_in_worker, build, job.staging), clips, build.plan)
        probed = (
            list(probed)
            if job.dry_run
            else collect_readable(probed, len(clips), job.quarantine_limit)
        )
        return replace(job, build=build), probed

    most = job.build.plan.frames
    if not job.auto_frames:
        return probe_with(most)
    if dataset.run_json.exists():
        frames = dataset.contract().config["plan"]["frames"]
        print_output(f"--frames auto is {frames}, as in the dataset")
        return probe_with(frames)
    longest_job, probed = probe_with(most)
    frames, text = choose_frames(list_clip_lengths(probed), longest_job.build.plan)
    print_output(text)
    return (longest_job, probed) if frames == most else probe_with(frames)


def parse_job(args: Sequence[str]) -> ExtractFlow:
    """Reads the command line; --filters decides the defaults of the thresholds, which --help
    shows.
    """
    presets = [args[i + 1] for i, arg in enumerate(args[:-1]) if arg == "--filters"]
    presets += [arg.split("=", 1)[1] for arg in args if arg.startswith("--filters=")]
    thresholds = PRESETS.get(presets[-1] if presets else "subtle", PRESETS["subtle"])
    default = ExtractFlow(
        clips=tyro.MISSING, out=tyro.MISSING, build=BuildConfig(thresholds=thresholds)
    )
    args, auto_frames = _without_auto_frames(args)
    job = parse_args(
        ExtractFlow,
        "quiver extract-flow",
        args,
        default=default,
        registry=size_registry,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if not auto_frames:
        return job
    least, most = auto_frames_limits(job.build.plan.fps)
    check_frequencies(job.build.frequencies, least)
    plan = replace(job.build.plan, frames=most)
    return replace(job, auto_frames=True, build=replace(job.build, plan=plan))


def _without_auto_frames(args: Sequence[str]) -> tuple[list[str], bool]:
    """Returns the arguments without `--frames auto`, which stands for a number that the clips
    decide, and whether it was the last --frames among them.
    """
    others: list[str] = []
    auto_frames = False
    pending = iter(args)
    for arg in pending:
        name, equals, value = arg.partition("=")
        if name != "--frames":
            others.append(arg)
            continue
        values = [value] if equals else [text for text in (next(pending, None),) if text]
        auto_frames = values == ["auto"]
        if not auto_frames:
            others += [name, *values]
    return others, auto_frames


def reject_relative_paths(job: ExtractFlow) -> None:
    """Raises ValueError if a submitted job names a relative path: it runs in an uploaded copy of
    the working folder, where such a path means nothing.
    """
    for path in (*job.clips, job.out, *_flow_files(job.build.flow).values()):
        if cluster.is_submitted_job() and not os.path.isabs(path) and not is_storage_url(path):
            raise ValueError(
                f"{path!r} is a relative path, expected an absolute one that every node shares, "
                "in a submitted job"
            )


def _flow_files(config: FlowConfig) -> dict[str, str]:
    """Returns the flow settings that name files."""
    files = {}
    if config.weights != "default":
        files["weights"] = config.weights
    if config.networks not in ("torchvision", "hub"):
        files["networks"] = config.networks
    return files


def _with_absolute_files(job: ExtractFlow) -> ExtractFlow:
    """Returns the same job for workers, whose current folder is another."""
    files = {name: os.path.abspath(path) for name, path in _flow_files(job.build.flow).items()}
    staging = None if job.staging is None else job.staging.absolute()
    return replace(
        job, staging=staging, build=replace(job.build, flow=replace(job.build.flow, **files))
    )


def _print_plan(rows: Sequence[PlanRow], job: ExtractFlow) -> None:
    """Prints what a run would do."""
    windows = [row for row in rows if row.key]
    clips = len({(row.clip_id, row.uri) for row in rows})
    shards = len({row.shard for row in windows})
    size = human_size(len(windows) * _max_sample_bytes(job.build))
    counts = pluralize(clips, "clip"), pluralize(len(windows), "window"), pluralize(shards, "shard")
    print_output(f"{', '.join(counts)}, at most {size}")
    for row in rows:
        if not row.key:
            print_output(f"  no window: {to_printable(row.uri)}: {row.reason}, {row.detail}")


def _max_sample_bytes(config: BuildConfig) -> int:
    """Returns the most bytes that one sample takes in a shard, if the PNG of the start frame takes
    the 3 bytes a pixel that its compression saves something of.
    """
    pixels, motion = config.size[0] * config.size[1], 2 * (4 * config.frequencies + 1) + 1
    source_frames = config.plan.frames / config.plan.fps * config.decode.max_frame_rate
    path = round(40 * source_frames) if config.stabilize else 0
    return pixels * (motion + config.pairs * (3 + 4) + 3) + 8 * 1024 + path


def run_job(
    dataset: Dataset,
    rows: Sequence[PlanRow],
    job: ExtractFlow,
    config: dict[str, Any],
    at_once: int,
) -> None:
    """Builds the shards that are not committed yet, then writes manifest and summary."""
    if is_storage_url(job.out):
        print_output(f"{job.out} is built in {dataset.root}, which is emptied at the end")
    warn_of_other_versions(dataset.create_or_resume(rows, config, library_versions(job.build)))
    rounds = dataset.rounds()  # one may be of a retry that was stopped
    retried = [row for retry_round in rounds for row in retry_round.rows]
    windows = [row for row in (*rows, *retried) if row.key]
    shards = {
        shard: list(group) for shard, group in groupby(windows, key=lambda row: str(row.shard))
    }
    unbuilt = [shard for shard in shards if not dataset.is_committed(shard)]
    fates = EarlierFates(rounds)
    shards_to_build = {shard: fates.add_fates(shards[shard]) for shard in unbuilt}
    done_count = len(shards) - len(shards_to_build)
    print_output(
        f"{pluralize(len(shards), 'shard')}: {done_count} done, {len(shards_to_build)} left"
    )
    if failed := build_on_cluster(
        dataset, shards_to_build, job.build, job, at_once, job.staging, job.quarantine_limit
    ):
        exit_with(
            ExitCode.FAILURE,
            f"{len(failed)} of {len(shards)} shards failed ({', '.join(failed[:5])}); "
            "the same command tries them again",
        )
    dataset.remove_temporary_files()  # of workers that were killed
    with finalize_session(dataset):
        summary = finalize_with_views(dataset, partial(cluster.parallel_map, workers=1))
    lines = [
        *format_summary(summary),
        *list_hints(summary, job),
        *format_retry_hint(summary["retryable"], job.out),
    ]
    if done_count:
        ends = "" if is_storage_url(job.out) else ", its first and its last sample"
        lines.append(
            f"  {pluralize(done_count, 'shard')} of an earlier run: of each the size{ends} were "
            "looked at, quiver verify reads all"
        )
    print_output("\n".join([*lines, f"manifest: {dataset.display_path(dataset.manifest)}"]))


def list_hints(summary: dict[str, Any], job: ExtractFlow) -> list[str]:
    """Returns what a person should know about an unexpected result."""
    still = summary["rejected_by_reason"].get(Reason.NO_MOTION, 0)
    if job.filters != "subtle" and still > 0.9 * summary["windows"]:
        return [
            f"  {still} of {summary['windows']} windows move too little for --filters "
            f"{job.filters}: --filters subtle keeps motion under a pixel"
        ]
    if summary["kept"]:
        return []
    return ["  nothing was kept: the columns reason and detail of the manifest say why"]


if __name__ == "__main__":
    main(sys.argv[1:])
