#!/usr/bin/env python
"""Reads a data set again and names every fault.

    python -m jobs.verify DATASET

Exit codes: 0 whole, though shards may be left to build; 5 faults were found, one line each; 2 there is no data set.
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
from jobs.cli.args import parsed
from jobs.cli.errors import Exit, put, say, sentences
from jobs.cli.progress import count
from pipeline.dataset.folder import Dataset
from pipeline.dataset.verify import Each, Fault, Planned, Verified, verify
from schemas.outcome import printable


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Reads every file of a data set once and names every fault; changes nothing. quiver repair puts them right."""

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
    with sentences():
        job = parsed(Verify, "quiver verify", args)
        dataset = Dataset(job.dataset.absolute())
        running = dataset.is_held()
        found = verify(dataset, mapped(job.workers), alone=not running)
        put(json.dumps(described(dataset, found, running))) if job.json else say("\n".join(lines(dataset, found, running)))
    if found.faults:
        raise SystemExit(Exit.STORAGE)


def mapped(workers: int) -> Each:
    """Applies a function to shards, on as many processes, with a bar on a terminal."""
    return lambda function, items: with_bar(cluster.mapped(function, items, workers), len(items))


def with_bar(found: Iterable[tuple[Planned, list[Fault]]], total: int) -> Iterator[list[Fault]]:
    """What was found, shard by shard."""
    console = Console(stderr=True)
    for _, faults in track(found, "shards", total=total, console=console, disable=not console.is_terminal, transient=True):
        yield faults


def described(dataset: Dataset, found: Verified, running: bool) -> dict:
    """All that was found, for a program."""
    faults = [{"path": fault.path, "what": fault.what, "remedy": fault.remedy.name.lower(), "shard": fault.shard} for fault in found.faults]
    return dict(dataset=str(dataset.root), whole=not faults, shards=found.shards, left=found.left, running=running, compared=found.compared, faults=faults)


def lines(dataset: Dataset, found: Verified, running: bool) -> list[str]:
    """One line for each fault, then what was checked, for a person."""
    faults = [printable(str(fault)) for fault in found.faults]
    if not found.shards:
        return [*faults, f"{count(len(faults), 'fault')} in {dataset.root}; nothing else was checked"]
    checked = f"{count(found.shards - len(found.left), 'shard')} read" + (", derived files built again and compared" if found.compared else "")
    sound = "sound so far" if found.left else "whole"
    head = f"{dataset.root}: {count(len(faults), 'fault') if faults else sound} ({checked})"
    notes = ["  a run is writing to it: its files in the making and the derived files were not looked at"] if running else []
    notes += [f"  {count(len(found.left), 'shard')} of {found.shards} not built yet: the same extract-flow command builds them"] if found.left else []
    notes += ["  the derived files were not compared, since records or histograms are damaged"] if not (found.compared or running or found.left) else []
    return [*faults, head, *notes, *([f"  quiver repair {dataset.root} puts right what can be"] if faults else [])]


if __name__ == "__main__":
    main(sys.argv[1:])
