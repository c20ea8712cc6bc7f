#!/usr/bin/env python
"""How far a data set is.

    python -m jobs.status DATASET

Works while a run is going on: it reads committed records, one at a time, and no shard. Exit codes:
0; 2 there is no data set; 5 its plan is gone or is another.
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
from pipeline.sizes import human_size
from schemas.outcome import to_printable


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a data set is, what became of its windows, and what is missing or out of date;
    changes nothing.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set."""
    json: bool = False
    """Print one JSON object instead of lines."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Status, "quiver status", args)
        found = read_status(Dataset(job.dataset))
        print_raw(json.dumps(found)) if job.json else print_output("\n".join(_format_status(found)))


def _format_status(found: dict[str, Any]) -> list[str]:
    """The same, for a person."""
    planned, left = found["planned"], found["left"]
    done = {name: planned[name] - left[name] for name in planned}
    head = f"{found['dataset']}: {done['shards']} of {pluralize(planned['shards'], 'shard')} built, {done['windows']} of {pluralize(planned['windows'], 'window')}"
    reasons = {
        name: f"  {found[name]} {name} {format_counts(found[f'{name}_by_reason'])}".rstrip()
        for name in ("rejected", "quarantined")
    }
    body = [
        f"  {found['kept']} kept {format_counts(found['kept_by_split'])}".rstrip(),
        *reasons.values(),
        f"  {human_size(found['bytes'])}",
    ]
    return [to_printable(head), *map(_indent_line, body), *map(_indent_line, _list_notes(found))]


def _indent_line(line: str) -> str:
    return "  " + to_printable(line)


def _list_notes(found: dict[str, Any]) -> Iterator[str]:
    """What goes on, and what is to be done."""
    yield from _list_run_notes(found)
    if found["damaged_records"]:
        yield f"damaged records: {', '.join(found['damaged_records'])}; quiver repair builds their shards again"
    for what in ("missing", "out_of_date"):
        if found[f"derived_{what}"] and not found["running"]:
            yield f"{what.replace('_', ' ')}: {', '.join(found[f'derived_{what}'])}; quiver finalize writes them"
    if not found["left"]["shards"] and not found["running"]:
        yield from (
            line.strip() for line in format_retry_hint(found["retryable"], found["dataset"])
        )
    if found["views"]:
        yield f"views: {', '.join(found['views'])}"


def _list_run_notes(found: dict[str, Any]) -> Iterator[str]:
    """Whether one lives, is paused, or died; and how long it takes."""
    last, speed = found["last_run"] and LockOwner(**found["last_run"]), found["windows_per_second"]
    pace = f", {speed:.2f} windows a second" if speed else ""
    if found["running"]:
        remaining = (
            f", about {_format_duration(found['seconds_left'])} left"
            if found["seconds_left"]
            else ""
        )
        still = f"a run holds it and does not move, it is paused: extract-flow --take-over-s {STALE_AFTER_S:.0f} goes on in its place"
        yield still if last and last.is_stale else f"a run is writing to it now{pace}{remaining}"
    elif found["left"]["shards"]:
        remaining = (
            f" (at the last run's{pace[1:]} about {_format_duration(found['seconds_left'])})"
            if speed
            else ""
        )
        yield f"no run is going on; the same extract-flow command goes on{remaining}"
    if last:
        yield f"the run {'that holds it' if found['running'] else 'before died'}: {last}"


def _format_duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main(sys.argv[1:])
