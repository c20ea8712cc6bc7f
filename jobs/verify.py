#!/usr/bin/env python
"""Reads a data set again and names every fault.

    python -m jobs.verify DATASET

Exit codes: 0 whole, though shards may be left to build; 5 faults were found, one line each; 2 there
is no data set.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import track

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_output, print_raw
from jobs.cli.errors import ExitCode, error_boundary
from jobs.cli.progress import pluralize
from pipeline.dataset.folder import Dataset
from pipeline.maintain.verify import Fault, PlannedShard, ShardMap, VerifyReport, verify
from schemas.outcome import to_printable


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Reads every file of a data set once and names every fault; changes nothing. quiver repair
    puts them right.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set."""
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
        found = verify(dataset, shard_mapper(job.workers), alone=not running)
        print_raw(
            json.dumps(_verify_record(dataset, found, running))
        ) if job.json else print_output("\n".join(_format_faults(dataset, found, running)))
    if found.faults:
        raise SystemExit(ExitCode.STORAGE)


def shard_mapper(workers: int) -> ShardMap:
    """Applies a function to shards, on as many processes, with a bar on a terminal."""
    return lambda function, items: track_shards(
        cluster.parallel_map(function, items, workers), len(items)
    )


def track_shards(
    found: Iterable[tuple[PlannedShard, list[Fault]]], total: int
) -> Iterator[list[Fault]]:
    """What was found, shard by shard."""
    console = Console(stderr=True)
    for _, faults in track(
        found,
        "shards",
        total=total,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ):
        yield faults


def _verify_record(dataset: Dataset, found: VerifyReport, running: bool) -> dict:
    """All that was found, for a program."""
    faults = [
        {
            "path": fault.path,
            "what": fault.what,
            "remedy": fault.remedy.name.lower(),
            "shard": fault.shard,
        }
        for fault in found.faults
    ]
    return dict(
        dataset=str(dataset.root),
        whole=not faults,
        shards=found.shards,
        left=found.unbuilt,
        running=running,
        compared=found.compared,
        faults=faults,
    )


def _format_faults(dataset: Dataset, found: VerifyReport, running: bool) -> list[str]:
    """One line for each fault, then what was checked, for a person."""
    faults = [to_printable(str(fault)) for fault in found.faults]
    if not found.shards:
        return [
            *faults,
            f"{pluralize(len(faults), 'fault')} in {dataset.root}; nothing else was checked",
        ]
    checked = f"{pluralize(found.shards - len(found.unbuilt), 'shard')} read" + (
        ", derived files built again and compared" if found.compared else ""
    )
    sound = "sound so far" if found.unbuilt else "whole"
    head = f"{dataset.root}: {pluralize(len(faults), 'fault') if faults else sound} ({checked})"
    notes = (
        [
            "  a run is writing to it: its files in the making and the derived files were not looked at"
        ]
        if running
        else []
    )
    notes += (
        [
            f"  {pluralize(len(found.unbuilt), 'shard')} of {found.shards} not built yet: the same extract-flow command builds them"
        ]
        if found.unbuilt
        else []
    )
    notes += (
        ["  the derived files were not compared, since records or histograms are damaged"]
        if not (found.compared or running or found.unbuilt)
        else []
    )
    return [
        *faults,
        head,
        *notes,
        *([f"  quiver repair {dataset.root} puts right what can be"] if faults else []),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
