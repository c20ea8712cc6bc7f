#!/usr/bin/env python
"""Reads a dataset again and names every fault.

    python -m jobs.verify DATASET

Exit codes: 0 there is no fault, though shards may be left to build; 5 faults were found, one line
each; 2 there is no dataset.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import track

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_output, print_raw
from jobs.cli.errors import ExitCode, error_boundary
from jobs.cli.progress import pluralize
from pipeline.dataset.folder import Dataset
from pipeline.maintain.faults import Fault
from pipeline.maintain.verify import ShardMap, VerifyReport, verify
from pipeline.maintain.verify_shard import PlannedShard
from schemas.outcome import to_printable


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Reads every file of a dataset once and names every fault; changes nothing. quiver repair
    puts them right.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the dataset."""
    workers: int = 1
    """Processes that read shards; with more than one, on Ray."""
    json: bool = False
    """Print one JSON object instead of lines."""

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Verify, "quiver verify", args)
        dataset = Dataset(job.dataset.absolute())
        running = dataset.is_locked()
        report = verify(dataset, shard_mapper(job.workers), is_idle=not running)
        if job.json:
            print_raw(json.dumps(_report_record(dataset, report, running)))
        else:
            print_output("\n".join(_format_report(dataset, report, running)))
    if report.faults:
        raise SystemExit(ExitCode.STORAGE)


def shard_mapper(workers: int) -> ShardMap:
    """Returns a function that applies another to shards, in as many processes, with a bar on a
    terminal.
    """
    return lambda function, shards: track_shards(
        cluster.parallel_map(function, shards, workers), len(shards)
    )


def track_shards(
    results: Iterable[tuple[PlannedShard, list[Fault]]], total: int
) -> Iterator[list[Fault]]:
    """Yields the faults of each shard, and moves a bar if standard error is a terminal."""
    console = Console(stderr=True)
    for _, faults in track(
        results,
        "shards",
        total=total,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ):
        yield faults


def _report_record(dataset: Dataset, report: VerifyReport, running: bool) -> dict[str, Any]:
    """Returns the report as JSON has it."""
    faults = [
        dict(
            path=fault.path,
            what=fault.what,
            remedy=fault.remedy.name.lower(),
            shard=fault.shard,
        )
        for fault in report.faults
    ]
    return dict(
        dataset=str(dataset.root),
        whole=not faults,
        shards=report.shards,
        left=report.unbuilt,
        running=running,
        compared=report.compared,
        faults=faults,
    )


def _format_report(dataset: Dataset, report: VerifyReport, running: bool) -> Iterator[str]:
    """Yields one line for each fault, then what was checked."""
    yield from (to_printable(str(fault)) for fault in report.faults)
    faults = pluralize(len(report.faults), "fault")
    if not report.shards:
        yield f"{faults} in {dataset.root}; nothing else was checked"
        return
    verdict = "sound so far" if report.unbuilt else "whole"
    scope = f"{pluralize(report.shards - len(report.unbuilt), 'shard')} read"
    if report.compared:
        scope += ", derived files built again and compared"
    yield f"{dataset.root}: {faults if report.faults else verdict} ({scope})"
    if running:
        yield (
            "  a run is writing to it: its unfinished files and the derived files were not checked"
        )
    if report.unbuilt:
        yield (
            f"  {pluralize(len(report.unbuilt), 'shard')} of {report.shards} not built yet: "
            "the same extract-flow command builds them"
        )
    elif not report.compared and not running:
        yield "  the derived files were not compared, since records or histograms are damaged"
    if report.faults:
        yield f"  quiver repair {dataset.root} puts right what can be"


if __name__ == "__main__":
    main(sys.argv[1:])
