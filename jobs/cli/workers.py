"""Probes clips and builds shards in the worker processes of a cluster, for extract-flow, retry and
repair. Ends the run if too much is quarantined: a faulty host must not quarantine everything.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from jobs import cluster
from jobs.cli.console import print_message
from jobs.cli.errors import ExitCode, exit_with
from jobs.cli.progress import RunProgress
from jobs.cli.run_options import WorkerOptions
from pipeline.dataset.commit import AlreadyCommitted
from pipeline.dataset.folder import ContractMismatch, Dataset
from pipeline.dataset.remote import build_session
from pipeline.dataset.remote_clips import local_clip_rows
from pipeline.dataset.run_lock import FolderInUse
from pipeline.decode.pool import shared_pool
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig
from pipeline.extract.plan_clip import PlannedClip, failed_clip, plan_clip
from pipeline.extract.timing import ShardTiming
from pipeline.flow.estimator import make_estimator
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
"""From so many on, the share of quarantined windows says something about the machine: if a tenth of
a sound input is bad, more than half of 20 are once in a million times, and one long clip that
cannot be read does not mean that the machine is faulty.
"""
_CHECK_MACHINES = (
    "see whether every machine reads and decodes these videos (mounts, memory, quiver doctor)"
)


def probe_all(
    probe: Callable[[Any], PlannedClip],
    clips: Sequence[Any],
    config: PlanConfig,
    as_clip: Callable[[Any], Clip] = lambda clip: clip,
) -> Iterator[PlannedClip]:
    """Probes every clip, in worker processes of one core each. Raises TaskDied: videos are decoded
    in processes of their own, so that no clip is to blame for the death of a worker.
    """
    at_once = cluster.capacity(None, cluster.Resources())
    for clip, planned in cluster.map_unordered(probe, clips, at_once):
        if isinstance(planned, OSError | cluster.TaskDied):
            raise planned
        if isinstance(planned, Exception):
            detail = f"the probe died ({type(planned).__name__})"
            error = Quarantined(Stage.PROBE, Reason.CRASH, detail)
            planned = failed_clip(as_clip(clip), error, config)
        yield planned


def plan_in_worker(config: BuildConfig, staging: Path | None, clip: Clip) -> PlannedClip:
    """Plans one clip, in a worker process."""
    return plan_clip(clip, config.plan, shared_pool(config.decode, 1).probe, staging)


def collect_readable(probed: Iterable[PlannedClip], total: int, limit: float) -> list[PlannedClip]:
    """Returns the clips. Ends the process, with nothing written, if more than a share `limit` of
    the `total` could not be read for reasons that may be the machine's, and these are all of them
    or at least _MIN_JUDGED_CLIPS.
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
    """Returns how many clips could not be read, the most frequent reason, and what to do."""
    ((reason, count),) = Counter(planned.reason for planned in failed).most_common(1)
    example = next(planned for planned in failed if planned.reason == reason)
    return (
        f"{len(failed)} of {total} clips could not be read, over --quarantine-limit {limit:g}, "
        f"most often {reason} ({count}, as {to_printable(example.clip.uri, 200)}: "
        f"{example.detail}): {_CHECK_MACHINES}; nothing was written; the same command tries "
        "again, with --quarantine-limit 1 whatever the share"
    )


def warn_of_other_versions(changes: Iterable[str]) -> None:
    """Says which versions are not those of the run."""
    for change in changes:
        print_message(f"{change}; shards may differ in their last bits")


def build_on_cluster(
    dataset: Dataset,
    shards: dict[str, list[PlanRow]],
    config: BuildConfig,
    workers: WorkerOptions,
    at_once: int,
    staging: Path | None = None,
    limit: float = 1.0,
) -> list[str]:
    """Builds these shards on the cluster; returns the names of those that failed. Raises OSError if
    writing fails, ContractMismatch if a node has other weights, FolderInUse if another run has
    taken over, ValueError if a node lacks what the user asked for. Ends the process if more than a
    share `limit` of the windows is quarantined.
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


def build_in_worker(
    dataset: Dataset,
    config: BuildConfig,
    decoders: int,
    staging: Path | None,
    shard: tuple[str, list[PlanRow]],
) -> Iterator[WindowOutcome | ShardTiming]:
    """Builds one shard, in a worker process, unless another attempt has committed it: before its
    process died, or since.
    """
    name, rows = shard
    try:
        make_estimator(config.flow)
    except ValueError as error:
        raise cluster.NodeMisconfigured(str(error)) from error
    dataset.check_not_taken_over()
    with build_session(dataset, name):
        if not dataset.is_committed(name):
            with local_clip_rows(rows, staging) as local_rows, suppress(AlreadyCommitted):
                yield from build_shard(dataset, name, local_rows, config, decoders)


class QuarantineCounter:
    """Counts the windows that could not become samples, as they arrive."""

    def __init__(self, limit: float):
        self.limit, self.windows, self.reasons = limit, 0, Counter()
        self.examples: dict[str | None, str | None] = {}
        self.clips: set[str] = set()

    def add(self, window: WindowOutcome) -> None:
        """Counts a window. Ends the process if too many are quarantined."""
        self.windows += 1
        if window.outcome != Outcome.QUARANTINED:
            return
        self.reasons[window.reason] += 1
        self.examples.setdefault(window.reason, window.detail)
        self.clips.add(window.key.rpartition("-")[0])
        if (
            self.windows >= _MIN_JUDGED_WINDOWS
            and len(self.clips) >= _MIN_JUDGED_CLIPS
            and self.reasons.total() > self.limit * self.windows
        ):
            exit_with(ExitCode.QUARANTINE, self.describe())

    def describe(self) -> str:
        """Returns how many windows are quarantined, the most frequent reason, and what to do."""
        ((reason, count),) = self.reasons.most_common(1)
        return (
            f"{self.reasons.total()} of the {self.windows} windows that this run has built are "
            f"quarantined, over --quarantine-limit {self.limit:g}, most often {reason} ({count}, "
            f"as: {self.examples[reason]}): {_CHECK_MACHINES}; what is committed stays, the same "
            "command resumes, with --quarantine-limit 1 whatever the share"
        )
