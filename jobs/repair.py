#!/usr/bin/env python
"""Puts right what verify finds.

    python -m jobs.repair DATASET

A shard whose record or tar is damaged is put aside, built again from its videos with the settings of the run, and deleted
once the new one has the same bytes. A shard of which a video is gone, or is another, is left as it is: building it would lose what is still
good in it. A damaged histogram is counted again. Files of which no plan knows are moved to DATASET/.removed, never
deleted, since they might be someone's; temporary files are deleted, as by every run. Then the derived files are written.

Exit codes: 0 all is right; 1 a shard could not be built (the same command tries again); 2 wrong usage; 3 the flow would be
measured otherwise than in the run (another --weights); 4 a run holds the folder; 5 something is left that is not right,
or came out otherwise than it was.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from jobs import cluster
from jobs.cli.args import parsed
from jobs.cli.errors import Exit, say, sentences, stop, tell
from jobs.cli.progress import count
from jobs.extract_flow import Workers, build_all, versions
from jobs.verify import mapped, with_bar
from pipeline.dataset import finalize as derived
from pipeline.dataset import histogram
from pipeline.dataset.folder import REMOVED, ContractMismatch, DamagedShard, Dataset, other_versions
from pipeline.dataset.remote_clips import fetched
from pipeline.dataset.rounds import Settled
from pipeline.dataset.shards import scan_samples
from pipeline.dataset.verify import (
    Fault,
    Planned,
    Remedy,
    Verified,
    check_is_one,
    kept_rows,
    verify,
)
from pipeline.dataset.views import parts, remake
from pipeline.extract.plan import content_of
from pipeline.extract.window import BuildConfig, restored
from pipeline.flow import describe
from schemas.outcome import Outcome, Quarantined, is_environmental, printable
from schemas.seal import open_seal

Shards = dict[str, list[dict]]
"""Rows of the plan by shard."""
Build = Callable[[Shards], list[str]]
"""Builds these shards; returns the names of those that failed."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(Workers):
    """What a run contract does not hold of the settings with which its windows are built."""

    weights: str = "default"
    """raft: the weights of the run, whose digest it knows: a file, or default for torchvision's own, by torch.hub."""
    networks: str | None = None
    """raft: whose code torch.hub runs; without it, the run's."""
    device: Literal["cuda", "cpu"] | None = None
    """raft: where the network runs; without it, as in the run."""


@dataclass(frozen=True, kw_only=True)
class Repair(RunSettings):
    """Puts right what verify finds: damaged shards are built again from their videos, to the same
    bytes.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set."""
    staging: Path | None = None
    """Folder in which clips of s3:// are put while they are read; by default the system's for temporary files."""

    @property
    def many(self) -> bool:
        """Whether shards are read by several processes too; Ray is then started at once, else only to build shards."""
        return (self.workers or 1) > 1


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with sentences():
        job = parsed(Repair, "quiver repair", args)
        dataset = Dataset(job.dataset.absolute())
        check_is_one(dataset)
        with dataset.held(), connected(job) if job.many else nullcontext():
            each = (lambda function, items: on_workers(function, items, job)) if job.many else mapped(1)
            found = verify(dataset, each)
            damaged = any(fault.path.startswith("retries/") for fault in found.faults)
            lost = found.faults if damaged and not found.shards else []
            if any(fault.remedy == Remedy.MOVE for fault in lost):
                say("\n".join(printable(str(fault)) for fault in lost))
                tidy(dataset, lost)
                dataset.publish(dataset.report, None)  # it shows what the rounds held
                found = verify(dataset, each)
            done = repair(dataset, found, lambda: on_cluster(job, dataset), job.staging)
            done = done._replace(right=done.right and not lost)
    if done.failed:
        stop(Exit.FAILURE, f"{count(len(done.failed), 'shard')} failed ({', '.join(done.failed[:5])}); the same command tries again")
    if not done.right:
        stop(Exit.STORAGE, f"{dataset.root} is not what it was; the lines above say what is left")


def connected(job: Repair) -> AbstractContextManager[None]:
    """A process connects to Ray once: another token would be refused."""
    return cluster.connected(job.workers, cluster.Needs(job.decoders_per_worker))


def on_workers(function: Callable[[Planned], list[Fault]], items: Sequence[Planned], job: Repair) -> Iterator[list[Fault]]:
    """What a function finds in each shard, on the cluster that is connected."""
    return with_bar(raising(cluster.map_unordered(function, items, cluster.room(job.workers, cluster.Needs()))), len(items))


def raising(results: Iterable[tuple[Planned, list[Fault] | Exception]]) -> Iterator[tuple[Planned, list[Fault]]]:
    """The results; raises the first that is an error."""
    for item, value in results:
        if isinstance(value, Exception):
            raise value
        yield item, value


@contextmanager
def on_cluster(job: Repair, dataset: Dataset) -> Iterator[Build]:
    """What builds shards, after all has been checked that can be before anything is removed."""
    contract = dataset.begun()
    config = run_config(job, contract.config)
    check_flow(dataset, config)
    for warning in other_versions(contract, versions(config)):
        tell(f"{warning}; shards may differ in their last bits")
    with nullcontext() if job.many else connected(job):
        at_once = cluster.room(job.workers, job.needs(config.flow))
        yield lambda shards: build_all(dataset, shards, config, job, at_once, job.staging and job.staging.absolute())


def check_flow(dataset: Dataset, config: BuildConfig) -> None:
    """Ends the process if flow would be measured otherwise than in the run."""
    try:
        dataset.check_flow(describe(config.flow))
    except ContractMismatch as error:
        stop(Exit.CONTRACT, "the flow of the run was measured otherwise (there -> asked for):\n  " + "\n  ".join(error.lines))


def run_config(job: RunSettings, settings: dict[str, Any]) -> BuildConfig:
    """The settings of the run, with what it does not hold."""
    config = restored(settings, job.weights if job.weights == "default" else os.path.abspath(job.weights))
    asked = {name: value for name in ("networks", "device") if (value := getattr(job, name)) is not None}
    return replace(config, flow=replace(config.flow, **asked))


class Done(NamedTuple):
    """What became of it."""

    right: bool
    """Whether all is as it was when it was written."""
    failed: list[str]
    """Shards that could not be built."""


def repair(dataset: Dataset, found: Verified, ready: Callable[[], AbstractContextManager[Build]], staging: Path | None = None) -> Done:
    """Puts right what was found, in a folder that is held; says line by line what is done. Raises OSError where object storage does not give a clip."""
    for fault in found.faults:
        say(printable(str(fault)))
    if any(fault.remedy in (Remedy.NEW_FOLDER, Remedy.PUT_BACK) for fault in found.faults):
        return Done(False, [])
    if not found.faults:
        say(f"{dataset.root}: nothing to repair")
        return Done(True, [])
    shards = planned(dataset, {fault.shard for fault in found.faults if fault.remedy == Remedy.REBUILD and fault.shard})
    lost = {shard: words for shard, rows in shards.items() if (words := lost_videos(rows, staging))}
    for shard, words in lost.items():
        say(f"shard {shard} is left as it is: {printable('; '.join(words))}")
    tidy(dataset, [fault for fault in found.faults if fault.shard not in shards])
    again = {shard: rows for shard, rows in shards.items() if shard not in lost}
    failed, changed = rebuild(dataset, again, ready) if again else ([], [])
    written = not failed and finalize(dataset, found.left)
    return Done(written and not lost and not changed, failed)


def planned(dataset: Dataset, names: set[str]) -> Shards:
    """The rows of these shards, as they are to be built: what failed for a reason that may be the
    machine's is as it was.
    """
    shards = groupby(dataset.stream_plan(), key=lambda row: row["shard"])
    settled = Settled(dataset.rounds())
    asked = ((shard, settled.settle(rows)) for shard, rows in shards if shard in names)
    return {shard: as_recorded(dataset, shard, rows) for shard, rows in asked}


def as_recorded(dataset: Dataset, shard: str, rows: list[dict]) -> list[dict]:
    """The rows, those that failed so by the shard's record, if it can be read, `settled`: quiver
    retry tries these again.
    """
    try:
        rows_then = dataset.read_record(shard)["rows"]
        failed = {row["key"]: row for row in rows_then if is_environmental(row)}
    except OSError:
        return rows
    return [row | ({"settled": failed[row["key"]]} if row["key"] in failed else {}) for row in rows]


def lost_videos(rows: Sequence[dict], staging: Path | None) -> list[str]:
    """A sentence for each video of these windows that is not what was planned: they could not be built to the same bytes."""
    videos = {row["uri"]: (row["sha256"], row["bytes"]) for row in rows if "settled" not in row}
    return [f"video {uri} {words}" for uri, content in videos.items() if (words := lost_video(uri, content, staging))]


def lost_video(uri: str, content: tuple[str, int], staging: Path | None) -> str | None:
    """What is wrong with a video, if anything."""
    try:
        with fetched(uri, staging) as path:
            return None if content_of(path) == content else "is not the one that was planned"
    except Quarantined as error:
        return f"cannot be read ({error.detail})"


def tidy(dataset: Dataset, faults: Sequence[Fault]) -> None:
    """Everything that needs no video."""
    for fault in faults:
        if fault.remedy == Remedy.MOVE:
            say(f"{printable(fault.path)}: moved to {move_aside(dataset, fault.path).relative_to(dataset.root)}")
        elif fault.remedy == Remedy.MOVE_VIEW:
            name = Path(fault.path).stem
            for path in parts(dataset, name):
                move_aside(dataset, str(path.relative_to(dataset.root)))
            words = f"quiver refilter {dataset.root} --name {name} makes it again"
            say(f"view {name}: moved to {REMOVED}; {words}")
        elif fault.remedy == Remedy.RECOUNT and fault.shard:
            recount(dataset, fault.shard)
            say(f"{fault.path}: counted again from its shard")
    dataset.remove_temporary_files()


def move_aside(dataset: Dataset, path: str) -> Path:
    """Moves a file or folder to REMOVED, under a name that is free there; returns where it is. Raises FolderInUse after a take-over."""
    dataset.check_fence()
    goal = dataset.root / REMOVED / path
    goal.parent.mkdir(parents=True, exist_ok=True)
    names = (goal.with_name(f"{goal.name}.{i}" if i else goal.name) for i in range(1_000_000))
    free = next(name for name in names if not os.path.lexists(name))
    return (dataset.root / path).rename(free)


def recount(dataset: Dataset, shard: str) -> None:
    """Writes a shard's histogram again, from its samples. Raises DamagedShard where they are not those of the record, FolderInUse after a take-over."""
    record = dataset.read_record(shard)
    counts = np.zeros((dataset.begun().config["frequencies"], 2, histogram.BINS), np.int64)
    if record["tar"]:
        with open(dataset.tar(shard), "rb") as file:
            for scanned in scan_samples(file, kept_rows(record), hashlib.sha256()):
                if scanned.sample:
                    histogram.add(scanned.sample.spectrum, counts)
    data = histogram.encode(counts)
    if hashlib.sha256(data).hexdigest() != record["histogram"]:
        raise DamagedShard(f"{dataset.tar(shard)} changed while it was repaired: the same command tries again")
    dataset.publish(dataset.histogram(shard), data)


def rebuild(dataset: Dataset, shards: Shards, ready: Callable[[], AbstractContextManager[Build]]) -> tuple[list[str], list[str]]:
    """Removes these shards and builds them again; returns those that failed, and those that came out otherwise."""
    before = written_tars(dataset, shards)
    with ready() as build:
        aside = {}
        for shard in shards:
            aside[shard] = put_aside(dataset, shard)
            say(f"shard {shard}: {', '.join(str(path.relative_to(dataset.root)) for path in aside[shard]) or 'nothing'} put aside; building it again")
        failed = build(shards)
    changed = []
    for shard in shards.keys() - set(failed):
        record = dataset.read_record(shard)
        if shard not in before:
            say(f"shard {shard} is built; nothing is left that says what its tar was")
        elif tar_of(record) != before[shard]:
            changed.append(shard)
            say(f"shard {shard} came out otherwise than it was: {why_changed(dataset, record)}; what it was stays in {REMOVED}")
        else:
            for path in aside[shard]:
                path.unlink()
    if changed:
        dataset.publish(dataset.report, None)
    return failed, changed


def put_aside(dataset: Dataset, shard: str) -> list[Path]:
    """Moves a shard's files to REMOVED, the record first: without it, the others are what a run that was stopped leaves behind.

    They are deleted when the shard has been built to the same bytes, and not before: a sound tar may be among them.
    """
    paths = [path for path in (dataset.record(shard), dataset.tar(shard), dataset.histogram(shard)) if path.exists()]
    return [move_aside(dataset, str(path.relative_to(dataset.root))) for path in paths]


def written_tars(dataset: Dataset, shards: Shards) -> dict[str, str | None]:
    """The digest of each shard's tar when it was written, None for one without; of those of which it is known."""
    try:
        written = open_seal(dataset.index.read_bytes(), indent=1)["shards"]
        index = {shard: entry["tar"] for shard, entry in written.items() if shard in shards}
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        index = {}
    return index | dict(records_of(dataset, shards))


def records_of(dataset: Dataset, shards: Shards) -> Iterator[tuple[str, str | None]]:
    """The same of the records that can be read and are of this run."""
    for shard in filter(dataset.is_committed, shards):
        try:
            record = dataset.read_record(shard)
        except OSError:
            continue
        if record.get("shard") == shard and record.get("run") == derived.run_digest(dataset):
            yield shard, tar_of(record)


def tar_of(record: Mapping[str, Any]) -> str | None:
    return record["tar"] and record["tar"]["sha256"]


def why_changed(dataset: Dataset, record: Mapping[str, Any]) -> str:
    """What is known of the reason."""
    contract = dataset.begun()
    quarantined = sum(row["outcome"] == Outcome.QUARANTINED for row in record["rows"])
    words = [f"{count(quarantined, 'window')} quarantined"] if quarantined else []
    words += other_versions(contract, versions(restored(contract.config)))
    return "; ".join(words) or "the versions of all libraries are those of the run"


def finalize(dataset: Dataset, left: Sequence[str]) -> bool:
    """Writes the derived files; says why where they cannot be, which is right only while shards are left to build."""
    try:
        derived.finalize(dataset)
        remake(dataset, partial(cluster.mapped, workers=1))
    except (DamagedShard, ValueError) as error:
        say(f"the derived files were left as they are: {error}")
        return bool(left)
    say(f"{dataset.root}: the derived files are written")
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
