#!/usr/bin/env python
"""From a folder of videos to a data set of spectral volumes.

    python -m jobs.extract_flow --clips DIR --out DATASET

Plan, then build every shard that is not committed yet, each as one Ray task, then write manifest
and summary. The same command again finishes what is missing.
"""

import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import ExitCode, error_boundary, exit_with
from jobs.cli.progress import RunProgress, format_retry_hint, format_summary, pluralize
from pipeline.dataset.commit import AlreadyCommitted
from pipeline.dataset.folder import ContractMismatch, Dataset
from pipeline.dataset.object_store import is_storage_url
from pipeline.dataset.remote import build_session, finalize_session, locate_dataset
from pipeline.dataset.remote_clips import local_clip_rows
from pipeline.dataset.rounds import EarlierFates
from pipeline.dataset.run_lock import STALE_AFTER_S, FolderInUse
from pipeline.dataset.views import finalize_with_views
from pipeline.decode.pool import shared_pool
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.extract.list_clips import list_clips
from pipeline.extract.plan import (
    PlannedClip,
    failed_clip,
    keep_earlier_decisions,
    plan_clip,
    plan_rows,
)
from pipeline.extract.timing import ShardTiming
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig, uses_gpu
from pipeline.flow.estimator import make_estimator
from pipeline.redact import check_not_url
from pipeline.sizes import human_size
from pipeline.version import quiver_version
from schemas.clip import Clip
from schemas.outcome import (
    ENVIRONMENTAL_REASONS,
    Outcome,
    Quarantined,
    Reason,
    Stage,
    WindowOutcome,
    to_printable,
)
from schemas.records import PlanRow

_MIN_JUDGED_WINDOWS, _MIN_JUDGED_CLIPS = 20, 3
"""From so many on the share of quarantined windows says something of the machine: where a tenth of
sound input is bad, more than half of 20 are once in a million times, and one long clip that cannot
be read is no broken machine.
"""
_RECORDED_PACKAGES = (
    "numpy",
    "scipy",
    "opencv-python-headless",
    "av",
    "pillow",
    "safetensors",
    "pyarrow",
)


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    filters: Literal["paper", "subtle", "none"] = "paper"
    """Set of thresholds: paper is the paper's rules, subtle keeps motion under a pixel, none
    measures and never rejects.
    """


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    workers: int | None = None
    """Worker processes; without a number, as many as fit."""
    decoders_per_worker: int = 1
    """Decoder processes, and CPU cores, of each worker; more where a GPU computes the flow faster
    than one decodes.
    """
    gpus_per_worker: float | None = None
    """GPUs that each worker occupies; without a number, one where the flow runs on one. 0.5: two
    workers share one.
    """

    def __post_init__(self):
        _check_positive(self, "workers", "decoders_per_worker")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 8:
            raise ValueError(f"--gpus-per-worker is {self.gpus_per_worker}, expected 0 to 8")

    def resources(self, flow: FlowConfig) -> cluster.Resources:
        """What a worker occupies."""
        gpus = float(uses_gpu(flow)) if self.gpus_per_worker is None else self.gpus_per_worker
        return cluster.Resources(self.decoders_per_worker, gpus)


def _check_positive(job: Any, *names: str) -> None:
    """Raises ValueError where one of these options is a number under 1."""
    for name in names:
        if (value := getattr(job, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class ExtractFlow(WorkerOptions, FilterOptions):
    """From a folder of videos to committed shards of spectral volumes. The same command again
    finishes what is missing.
    """

    clips: tuple[str, ...]
    """Folders (searched recursively), video files, s3:// of either, or .parquet or .csv tables with
    a uri column.
    """
    out: str
    """Folder of the data set, or s3://BUCKET/PREFIX; created, or continued where it is the same
    run.
    """
    staging: Path | None = None
    """Folder in which a data set of s3:// is built and clips from there are put; by default quiver
    in the user's cache.
    """
    limit: int | None = None
    """Only the first so many clips."""
    take_over_s: float | None = None
    """Go on in the place of a run that holds the folder and has given no sign of life for so many
    seconds: it commits nothing any more.
    """
    quarantine_limit: float = 0.5
    """End with exit code 6 when more than this share of the windows that this run has built is
    quarantined, or of the clips cannot be read for a reason that may be the machine's. 1 never ends
    it.
    """
    dry_run: bool = False
    """Print clips, windows, shards and bytes, and stop."""
    build: Annotated[BuildConfig, tyro.conf.arg(name="")] = field(default_factory=BuildConfig)

    def __post_init__(self):
        super().__post_init__()
        _check_positive(self, "limit")
        check_quarantine_limit(self.quarantine_limit)
        if self.take_over_s is not None and not self.take_over_s >= STALE_AFTER_S:
            raise ValueError(
                f"--take-over-s is {self.take_over_s:g}, expected at least {STALE_AFTER_S:g}"
            )


def check_quarantine_limit(share: float) -> None:
    """Raises ValueError unless --quarantine-limit is a share."""
    if not 0 <= share <= 1:
        raise ValueError(f"--quarantine-limit is {share:g}, expected a share, 0 to 1")


registry = tyro.constructors.ConstructorRegistry()


@registry.primitive_rule
def _size_option(
    type_info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    if get_args(type_info.type) != (int, int):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="WIDTHxHEIGHT",
        instance_from_str=lambda args: _parse_size(args[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda size: [f"{size[0]}x{size[1]}"],
    )


def _parse_size(text: str) -> tuple[int, int]:
    """`256x160` as (256, 160). Raises ValueError naming what was given."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"{text!r} is no size, expected WIDTHxHEIGHT, as 256x160")
    return int(width), int(height)


def parse_job(args: Sequence[str]) -> ExtractFlow:
    """The command line; --filters decides the defaults of the thresholds, which stand in --help."""
    chosen = [args[i + 1] for i, arg in enumerate(args[:-1]) if arg == "--filters"] + [
        a.split("=", 1)[1] for a in args if a.startswith("--filters=")
    ]
    thresholds = PRESETS.get(chosen[-1] if chosen else "paper", PRESETS["paper"])
    default = ExtractFlow(
        clips=tyro.MISSING, out=tyro.MISSING, build=BuildConfig(thresholds=thresholds)
    )
    return parse_args(
        ExtractFlow,
        "quiver extract-flow",
        args,
        default=default,
        registry=registry,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_job(sys.argv[1:] if args is None else args)
        reject_relative_paths(job)
        check_out_folder(job.out)
        clips = list_clips(job.clips)[: job.limit]
        job = _with_absolute_files(job)
        dataset, config = (
            locate_dataset(job.out, job.staging),
            {} if job.dry_run else to_contract(job.build),
        )
        needs = job.resources(job.build.flow)
        with (
            nullcontext() if job.dry_run else dataset.lock(job.take_over_s),
            cluster.ray_session(job.workers, needs),
        ):
            at_once = 0 if job.dry_run else cluster.capacity(job.workers, needs)
            probed = probe_all(
                partial(plan_in_worker, job.build, job.staging), clips, job.build.plan
            )
            if job.dry_run:
                _print_plan(plan_rows(probed, job.build.plan), job)
                return
            before = dataset.earlier_plan()
            probed = keep_earlier_decisions(
                collect_readable(probed, len(clips), job.quarantine_limit), before
            )
            run_job(dataset, plan_rows(probed, job.build.plan), job, config, at_once)


def check_out_folder(out: str, option: str = "--out") -> None:
    """Raises ValueError unless it is a folder, a name for a new one, or a URL of object storage."""
    if is_storage_url(out):
        return
    if not out.strip():
        raise ValueError(
            f"{option} is {out!r}, expected a folder, a name for a new one, or s3://BUCKET/PREFIX"
        )
    check_not_url(option, out)
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(
            f"{option} is {out!r}, which is a file; expected a folder, or a name for a new one"
        )


def reject_relative_paths(job: ExtractFlow) -> None:
    """A submitted job runs in an uploaded copy of the working folder, where a relative path means
    nothing.
    """
    for path in (*job.clips, job.out, *_flow_files(job.build.flow).values()):
        if cluster.is_submitted_job() and not os.path.isabs(path) and not is_storage_url(path):
            raise ValueError(
                f"{path!r} is a relative path, expected an absolute one that every node shares, in a submitted job"
            )


def _flow_files(config: FlowConfig) -> dict[str, str]:
    """The settings of the flow that name files."""
    named = {"weights": "default", "networks": "torchvision hub"}
    return {
        name: getattr(config, name)
        for name, words in named.items()
        if getattr(config, name) not in words.split()
    }


def _with_absolute_files(job: ExtractFlow) -> ExtractFlow:
    """The same job for workers whose current folder is another."""
    files = {name: os.path.abspath(path) for name, path in _flow_files(job.build.flow).items()}
    staging = None if job.staging is None else job.staging.absolute()
    return replace(
        job, staging=staging, build=replace(job.build, flow=replace(job.build.flow, **files))
    )


def probe_all(
    probe: Callable[[Any], PlannedClip],
    clips: Sequence[Any],
    config: PlanConfig,
    as_clip: Callable[[Any], Clip] = lambda clip: clip,
) -> Iterator[PlannedClip]:
    """Every clip probed, in worker processes of one core each. Raises Died: videos are decoded in
    processes of their own, so that no clip is to blame for a worker.
    """
    for clip, planned in cluster.map_unordered(
        probe, clips, cluster.capacity(None, cluster.Resources())
    ):
        if isinstance(planned, OSError | cluster.TaskDied):
            raise planned
        if isinstance(planned, Exception):
            words = f"the probe died ({type(planned).__name__})"
            planned = failed_clip(
                as_clip(clip), Quarantined(Stage.PROBE, Reason.CRASH, words), config
            )
        yield planned


def collect_readable(probed: Iterable[PlannedClip], total: int, limit: float) -> list[PlannedClip]:
    """The clips. Ends the process, with nothing written, if more than a share `limit` of all of
    them could not be read for reasons that may be the machine's, and these are all of them or at
    least FEWEST_CLIPS.
    """
    clips: list[PlannedClip] = []
    failed: list[PlannedClip] = []
    for planned in probed:
        clips.append(planned)
        if planned.reason in ENVIRONMENTAL_REASONS:
            failed.append(planned)
            if len(failed) > limit * total and len(failed) >= min(_MIN_JUDGED_CLIPS, total):
                exit_with(ExitCode.QUARANTINE, _describe_unreadable(failed, total, limit))
    return clips


def _describe_unreadable(failed: Sequence[PlannedClip], total: int, limit: float) -> str:
    """What could not be read and why, most often, and what to do."""
    ((reason, count),) = Counter(planned.reason for planned in failed).most_common(1)
    example = next(planned for planned in failed if planned.reason == reason)
    counts = f"{len(failed)} of {total} clips could not be read, over --quarantine-limit {limit:g}"
    why = (
        f"most often {reason} ({count}, as {to_printable(example.clip.uri, 200)}: {example.detail})"
    )
    check = (
        "see whether every machine reads and decodes these videos (mounts, memory, quiver doctor)"
    )
    go_on = "nothing was written; the same command tries again"
    return f"{counts}, {why}: {check}; {go_on}, with --quarantine-limit 1 whatever the share"


def plan_in_worker(config: BuildConfig, staging: Path | None, clip: Clip) -> PlannedClip:
    """One clip, in a worker."""
    return plan_clip(clip, config.plan, shared_pool(config.decode, 1).probe, staging)


def _print_plan(rows: Sequence[PlanRow], job: ExtractFlow) -> None:
    """What a run would do."""
    windows = [row for row in rows if row.key]
    clips, shards = (
        {(row.clip_id, row.uri) for row in rows},
        {row.shard for row in windows},
    )
    size = len(windows) * _max_sample_bytes(job.build)
    print_output(
        f"{len(clips)} clips, {len(windows)} windows, {len(shards)} shards, at most {human_size(size)}"
    )
    for row in rows:
        if not row.key:
            print_output(f"  no window: {to_printable(row.uri)}: {row.reason}, {row.detail}")


def _max_sample_bytes(config: BuildConfig) -> int:
    """Bytes of one sample in a shard at most: the start frame's PNG saves something of the 3 bytes
    a pixel assumed for it.
    """
    pixels, motion = config.size[0] * config.size[1], 2 * (4 * config.frequencies + 1) + 1
    return pixels * (motion + config.pairs * (3 + 4) + 3) + 8 * 1024


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
    for warning in dataset.create_or_resume(rows, config, library_versions(job.build)):
        print_message(f"{warning}; shards may differ in their last bits")
    rounds = dataset.rounds()  # one may be of a retry that was stopped
    again = [row for retried in rounds for row in retried.rows]
    windows = [row for row in (*rows, *again) if row.key]
    shards = {
        shard: list(group) for shard, group in groupby(windows, key=lambda row: str(row.shard))
    }
    open_shards = [shard for shard in shards if not dataset.is_committed(shard)]
    settled = EarlierFates(rounds)
    left = {shard: settled.add_fates(shards[shard]) for shard in open_shards}
    print_output(f"{len(shards)} shards: {len(shards) - len(left)} done, {len(left)} left")
    if failed := build_on_cluster(
        dataset, left, job.build, job, at_once, job.staging, job.quarantine_limit
    ):
        exit_with(
            ExitCode.FAILURE,
            f"{len(failed)} of {len(shards)} shards failed ({', '.join(failed[:5])}); the same command tries them again",
        )
    dataset.remove_temporary_files()  # of workers that were killed
    with finalize_session(dataset):
        summary = finalize_with_views(dataset, partial(cluster.parallel_map, workers=1))
    before = _describe_earlier_shards(job.out, len(shards) - len(left))
    place = f"manifest: {dataset.display_path(dataset.manifest)}"
    retry = format_retry_hint(summary["retryable"], job.out)
    print_output(
        "\n".join([*format_summary(summary), *list_hints(summary, job), *retry, *before, place])
    )


def build_on_cluster(
    dataset: Dataset,
    shards: dict[str, list[PlanRow]],
    config: BuildConfig,
    workers: WorkerOptions,
    at_once: int,
    staging: Path | None = None,
    limit: float = 1.0,
) -> list[str]:
    """Builds these shards on the cluster; returns the names of those that failed. Raises OSError
    where writing fails, ContractMismatch where a node has other weights, FolderInUse where another
    run has taken over, ValueError where it lacks what the user asked for. Ends the process where
    more than a share `limit` of the windows is quarantined.
    """
    failed, quarantine = [], QuarantineCounter(limit)
    build = partial(
        build_in_worker, dataset.absolute(), config, workers.decoders_per_worker, staging
    )
    with RunProgress(sum(map(len, shards.values())), dataset.progress, dataset.token) as progress:
        for (shard, _), value in cluster.stream_unordered(
            build, shards.items(), at_once, workers.resources(config.flow)
        ):
            if isinstance(value, OSError | ContractMismatch | FolderInUse):
                raise value
            if isinstance(value, cluster.NodeMisconfigured):
                raise ValueError(str(value))
            if isinstance(value, Exception):
                print_message(f"shard {shard} failed: {value}")
                failed.append(shard)
            elif isinstance(value, ShardTiming):
                progress.record_shard(shard, value)
            elif value is not None:
                progress.record_window(shard, value)
                quarantine.add(value)
    return failed


class QuarantineCounter:
    """The windows that could not become samples, as they come in."""

    def __init__(self, limit: float):
        self.limit, self.windows, self.reasons = limit, 0, Counter()
        self.examples: dict[str | None, str | None] = {}
        self.clips: set[str] = set()

    def add(self, decided: WindowOutcome) -> None:
        """Counts a window. Ends the process where too many are quarantined: a broken machine must
        not quarantine the world.
        """
        self.windows += 1
        if decided.outcome != Outcome.QUARANTINED:
            return
        self.reasons[decided.reason] += 1
        self.examples.setdefault(decided.reason, decided.detail)
        self.clips.add(decided.key.rpartition("-")[0])
        if (
            self.windows >= _MIN_JUDGED_WINDOWS
            and len(self.clips) >= _MIN_JUDGED_CLIPS
            and self.reasons.total() > self.limit * self.windows
        ):
            exit_with(ExitCode.QUARANTINE, self.describe())

    def describe(self) -> str:
        """What came in, and how to go on."""
        ((reason, count),) = self.reasons.most_common(1)
        counts = f"{self.reasons.total()} of the {self.windows} windows that this run has built are quarantined, over --quarantine-limit {self.limit:g}"
        words = "see whether every machine reads and decodes these videos (mounts, memory, quiver doctor)"
        go_on = "what is committed stays, the same command goes on, with --quarantine-limit 1 whatever the share"
        return f"{counts}, most often {reason} ({count}, as: {self.examples[reason]}): {words}; {go_on}"


def build_in_worker(
    dataset: Dataset,
    config: BuildConfig,
    decoders: int,
    staging: Path | None,
    shard: tuple[str, list[PlanRow]],
) -> Iterator[WindowOutcome | ShardTiming]:
    """One shard, in a worker; another attempt may have committed it, before its process died or
    since.
    """
    name, rows = shard
    try:
        make_estimator(config.flow)
    except ValueError as error:
        raise cluster.NodeMisconfigured(str(error)) from error
    dataset.check_not_taken_over()
    with build_session(dataset, name):
        if not dataset.is_committed(name):
            with local_clip_rows(rows, staging) as here, suppress(AlreadyCommitted):
                yield from build_shard(dataset, name, here, config, decoders)


def list_hints(summary: dict[str, Any], job: ExtractFlow) -> list[str]:
    """What a person should know about an unexpected result."""
    unmoved = summary["rejected_by_reason"].get(Reason.NO_MOTION, 0)
    if job.filters != "subtle" and unmoved > 0.9 * summary["windows"]:
        return [
            f"  {unmoved} of {summary['windows']} windows move too little for --filters {job.filters}: --filters subtle keeps motion under a pixel"
        ]
    return (
        []
        if summary["kept"]
        else [
            "  nothing was kept: the columns reason and detail of the manifest say why, clip by clip"
        ]
    )


def _describe_earlier_shards(out: str, before: int) -> list[str]:
    """How far shards that an earlier run committed were checked."""
    ends = "" if is_storage_url(out) else ", its first and its last sample"
    words = f"of an earlier run: of each the size{ends} were looked at, quiver verify reads all"
    return [f"  {pluralize(before, 'shard')} {words}"] if before else []


def library_versions(config: BuildConfig) -> dict[str, str]:
    """What decides the bytes of a shard beside the configuration."""
    # not above, as of every extra: only `jobs` says which one brings it, if it is missing
    import cv2

    names = [
        *_RECORDED_PACKAGES,
        *(["decord"] if config.decode.decoder == "auto" else []),
        *(["torch", "torchvision"] if config.flow.flow != "dis" else []),
    ]
    machine = {"machine": platform.machine(), "cpu": cv2.getCPUFeaturesLine()}
    found = {"quiver": quiver_version(), "python": platform.python_version()} | machine
    return found | {name: version(name) for name in names}


if __name__ == "__main__":
    main()
