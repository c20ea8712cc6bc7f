#!/usr/bin/env python
"""How far a data set is.

    python -m jobs.status DATASET

Works while a run is going on: it reads committed records, one at a time, and no shard. Exit codes: 0; 2 there is no data
set; 5 its plan is gone or is another.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from jobs.cli.args import parse_args
from jobs.cli.errors import print_raw, print_output, error_boundary
from jobs.cli.progress import format_counts, pluralize, format_retry_hint
from pipeline.dataset.finalize import DERIVED_FILES, SummaryCounter, check_record_rows, index_entry, make_shard_rows, run_digest
from pipeline.dataset.folder import DamagedShard, Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.rounds import SupersededRows
from pipeline.dataset.run_lock import STALE_AFTER_S, LockOwner
from pipeline.dataset.scales import check_matches_shards
from pipeline.dataset.views import list_views
from pipeline.sizes import human_size
from schemas import statistics
from schemas.outcome import to_printable

SAME_RUN_TOLERANCE_S = 2.0
"""Lines of the progress log are of one run where it began at the same time to within this."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a data set is, what became of its windows, and what is missing or out of date; changes nothing."""

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set."""
    json: bool = False
    """Print one JSON object instead of lines."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Status, "quiver status", args)
        found = read_status(Dataset(job.dataset))
        print_raw(json.dumps(found)) if job.json else print_output("\n".join(format_status(found)))


class StatusCounter(SummaryCounter):
    """What the committed records say, and what the plan says is left."""

    def __init__(self, superseded: SupersededRows) -> None:
        super().__init__()
        self.superseded = superseded
        self.planned, self.damaged, self.index = {"shards": 0, "windows": 0}, [], {}
        self.left = {"shards": 0, "windows": 0}

    def add_shard(self, dataset: Dataset, shard: str | None, rows: list[dict]) -> None:
        """One shard of the plan, or the clips that gave no window."""
        try:
            record = dataset.read_record(shard) if shard and dataset.is_committed(shard) else None
            if record:
                check_record_rows(dataset.record_path(record["shard"]), rows, record)
        except DamagedShard:
            record = None
            self.damaged.append(shard)
        for counts, there in ((self.planned, shard), (self.left, shard and not dataset.is_committed(shard))):
            counts["shards"] += bool(there)
            counts["windows"] += sum(row not in self.superseded for row in rows) if there else 0
        if record or not shard:
            part = make_shard_rows(shard, rows, record, self.superseded)
            self.add(part)
            if shard and record:
                self.index[shard] = index_entry(part)


def read_status(dataset: Dataset) -> dict[str, Any]:
    """All that is known without reading a shard.

    Raises ValueError where there is no data set, DamagedPlan where its plan is not the one of run.json.
    """
    dataset.check_plan()
    counted, running, last = StatusCounter(SupersededRows(dataset.rounds())), dataset.is_locked(), dataset.run_lock.owner()
    for shard, rows in groupby(dataset.stream_plan(), key=lambda row: row["shard"]):
        counted.add_shard(dataset, shard, list(rows))
    summary, speed = counted.summary(), read_windows_per_second(dataset)
    missing, old = ([], []) if counted.left["shards"] or counted.damaged else find_stale_files(dataset, counted, summary)
    seconds_left = counted.left["windows"] / speed if speed else None
    return dict(
        dataset=str(dataset.root), running=running, last_run=last and last._asdict(), planned=counted.planned, left=counted.left, damaged_records=counted.damaged, **summary,
        windows_per_second=speed, seconds_left=seconds_left if counted.left["windows"] else 0.0, derived_missing=missing, derived_out_of_date=old,
        views=list_views(dataset),
    )  # fmt: skip


def read_windows_per_second(dataset: Dataset) -> float | None:
    """Windows a second of the last run, from its first moment to its last commit; None where nothing was committed."""
    entries = list(read_progress_log(dataset.progress))
    if not entries:
        return None
    began = entries[-1]["at"] - entries[-1]["elapsed_s"]
    mine = list(takewhile(lambda entry: abs(entry["at"] - entry["elapsed_s"] - began) < SAME_RUN_TOLERANCE_S, reversed(entries)))
    windows = sum(entry["kept"] + entry["rejected"] + entry["quarantined"] for entry in mine)
    return windows / entries[-1]["elapsed_s"] if entries[-1]["elapsed_s"] > 0 else None


def read_progress_log(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the progress log; one that was torn when a run was stopped is passed over."""
    numbers = ("kept", "rejected", "quarantined", "elapsed_s", "at")
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            yield {name: float(entry[name]) for name in numbers}
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            continue


def find_stale_files(dataset: Dataset, counted: StatusCounter, summary: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Derived files that are not there, and those that are seen to be of other records, of a finished data set."""
    training = any(entry["split"] == "train" and entry["kept"] for entry in counted.index.values())
    checks: dict[str, Callable[[], bool]] = {
        "manifest.parquet": lambda: pq.ParquetFile(dataset.manifest).metadata.num_rows == sum(counted.outcomes.values()),
        "index.json": lambda: {"run": run_digest(dataset), "shards": counted.index}.items() <= json.loads(dataset.index.read_bytes()).items(),
        "summary.json": lambda: json.loads(dataset.summary.read_bytes()) == summary,
        "histogram.safetensors": lambda: sha256_of_file(dataset.merged_histogram) == json.loads(dataset.index.read_bytes())["histogram"],
        "statistics.json": lambda: statistics_match(dataset),
        "README.md": lambda: True,
    }
    needed = [name for name in DERIVED_FILES if training or name not in ("histogram.safetensors", "statistics.json")]
    missing = [name for name in needed if not (dataset.root / name).exists()]
    return missing, [name for name in needed if name not in missing and not is_intact(checks[name])]


def is_intact(check: Callable[[], bool]) -> bool:
    """Whether a file is there, can be read, and is what it should be."""
    try:
        return check()
    except (AttributeError, KeyError, TypeError, ValueError, OSError, RecursionError, pa.ArrowException):
        return False


def statistics_match(dataset: Dataset) -> bool:
    """Whether the statistics are of the training shards that are there. Raises ValueError where they are not."""
    check_matches_shards(statistics.decode_statistics(dataset.statistics.read_bytes()), [DatasetView(dataset)])
    return True


def sha256_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def format_status(found: dict[str, Any]) -> list[str]:
    """The same, for a person."""
    planned, left = found["planned"], found["left"]
    done = {name: planned[name] - left[name] for name in planned}
    head = f"{found['dataset']}: {done['shards']} of {pluralize(planned['shards'], 'shard')} built, {done['windows']} of {pluralize(planned['windows'], 'window')}"
    reasons = {name: f"  {found[name]} {name} {format_counts(found[f'{name}_by_reason'])}".rstrip() for name in ("rejected", "quarantined")}
    body = [f"  {found['kept']} kept {format_counts(found['kept_by_split'])}".rstrip(), *reasons.values(), f"  {human_size(found['bytes'])}"]
    return [to_printable(head), *map(indent_line, body), *map(indent_line, list_notes(found))]


def indent_line(line: str) -> str:
    return "  " + to_printable(line)


def list_notes(found: dict[str, Any]) -> Iterator[str]:
    """What goes on, and what is to be done."""
    yield from list_run_notes(found)
    if found["damaged_records"]:
        yield f"damaged records: {', '.join(found['damaged_records'])}; quiver repair builds their shards again"
    for what in ("missing", "out_of_date"):
        if found[f"derived_{what}"] and not found["running"]:
            yield f"{what.replace('_', ' ')}: {', '.join(found[f'derived_{what}'])}; quiver finalize writes them"
    if not found["left"]["shards"] and not found["running"]:
        yield from (line.strip() for line in format_retry_hint(found["retryable"], found["dataset"]))
    if found["views"]:
        yield f"views: {', '.join(found['views'])}"


def list_run_notes(found: dict[str, Any]) -> Iterator[str]:
    """Whether one lives, is paused, or died; and how long it takes."""
    last, speed = found["last_run"] and LockOwner(**found["last_run"]), found["windows_per_second"]
    pace = f", {speed:.2f} windows a second" if speed else ""
    if found["running"]:
        remaining = f", about {format_duration(found['seconds_left'])} left" if found["seconds_left"] else ""
        still = f"a run holds it and does not move, it is paused: extract-flow --take-over-s {STALE_AFTER_S:.0f} goes on in its place"
        yield still if last and last.is_stale else f"a run is writing to it now{pace}{remaining}"
    elif found["left"]["shards"]:
        remaining = f" (at the last run's{pace[1:]} about {format_duration(found['seconds_left'])})" if speed else ""
        yield f"no run is going on; the same extract-flow command goes on{remaining}"
    if last:
        yield f"the run {'that holds it' if found['running'] else 'before died'}: {last}"


def format_duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main(sys.argv[1:])
