#!/usr/bin/env python
"""Shows how far a dataset is.

    python -m jobs.status DATASET

It works while a run is going on: it reads committed records, one at a time, and no shard. Exit
codes: 0; 2 there is no dataset; 5 its plan is missing or is another.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.cli.args import parse_args
from jobs.cli.console import print_output, print_raw
from jobs.cli.errors import error_boundary
from jobs.cli.progress import format_counts, format_retry_hint, pluralize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.run_lock import STALE_AFTER_S, LockOwner
from pipeline.maintain.status import read_status
from pipeline.sizes import human_duration, human_size
from schemas.outcome import to_printable


@dataclass(frozen=True, kw_only=True)
class Status:
    """Shows how far a dataset is, what became of its windows, and what is missing or out of date;
    changes nothing.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the dataset."""
    json: bool = False
    """Print one JSON object instead of lines."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Status, "quiver status", args)
        status = read_status(Dataset(job.dataset))
        if job.json:
            print_raw(json.dumps(status))
        else:
            head, *lines = map(to_printable, _format_status(status))
            print_output("\n  ".join([head, *lines]))


def _format_status(status: dict[str, Any]) -> Iterator[str]:
    """Yields the lines that a person reads, the head first."""
    planned, left = status["planned"], status["left"]
    built, decided = planned["shards"] - left["shards"], planned["windows"] - left["windows"]
    yield (
        f"{status['dataset']}: {built} of {pluralize(planned['shards'], 'shard')} built, "
        f"{decided} of {pluralize(planned['windows'], 'window')}"
    )
    for outcome, group in (("kept", "split"), ("rejected", "reason"), ("quarantined", "reason")):
        counts = format_counts(status[f"{outcome}_by_{group}"])
        yield f"{status[outcome]} {outcome} {counts}".rstrip()
    yield f"{human_size(status['bytes'])}"
    yield from _list_notes(status)


def _list_notes(status: dict[str, Any]) -> Iterator[str]:
    """Yields what goes on, and what is to be done."""
    running = status["running"]
    yield from _list_run_notes(status)
    if damaged := status["damaged_records"]:
        yield f"damaged records: {', '.join(damaged)}; quiver repair builds their shards again"
    for state in ("missing", "out_of_date"):
        if (files := status[f"derived_{state}"]) and not running:
            yield f"{state.replace('_', ' ')}: {', '.join(files)}; quiver finalize writes them"
    if not status["left"]["shards"] and not running:
        for hint in format_retry_hint(status["retryable"], status["dataset"]):
            yield hint.strip()
    if status["views"]:
        yield f"views: {', '.join(status['views'])}"


def _list_run_notes(status: dict[str, Any]) -> Iterator[str]:
    """Yields whether a run is alive, paused or dead, and how long it will take."""
    owner = status["last_run"] and LockOwner(**status["last_run"])
    speed, seconds_left = status["windows_per_second"], status["seconds_left"]
    pace = f"{speed:.2f} windows a second" if speed else ""
    if status["running"] and owner and owner.is_stale:
        yield (
            "a run holds it and does not move, it is paused: "
            f"extract-flow --take-over-s {STALE_AFTER_S:.0f} goes on in its place"
        )
    elif status["running"]:
        remaining = f"about {human_duration(seconds_left)} left" if seconds_left else ""
        yield ", ".join(filter(None, ["a run is writing to it now", pace, remaining]))
    elif status["left"]["shards"]:
        remaining = (
            f" (at the last run's {pace} about {human_duration(seconds_left)})" if speed else ""
        )
        yield f"no run is going on; the same extract-flow command resumes it{remaining}"
    if owner:
        yield f"the run {'that holds it' if status['running'] else 'before died'}: {owner}"


if __name__ == "__main__":
    main(sys.argv[1:])
