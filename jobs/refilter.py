#!/usr/bin/env python
"""A view of a data set: its windows judged again by other thresholds, from what was measured when
it was extracted.

    python -m jobs.refilter DATASET --camera-motion 0.5 --name strict

DATASET:strict then names it wherever a data set is asked for. Nothing is extracted, and no tar is
changed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import error_boundary
from jobs.cli.progress import format_counts
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.views import ViewCounts, refilter
from pipeline.filters import PRESETS, Thresholds


@dataclass(frozen=True, kw_only=True)
class Refilter:
    """Judges the windows of a data set by other thresholds. Those that are not given are the data
    set's own, which --help shows where it follows the data set's folder.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set."""
    name: str
    """Of the view; one of the same name is replaced."""
    filters: Literal["paper", "subtle", "none"] | None = None
    """Set of thresholds to begin with, instead of the data set's own."""
    workers: int = 1
    """Processes that count the shards of which windows are dropped; with more than one, on Ray."""
    thresholds: Annotated[Thresholds, tyro.conf.arg(name="")] = field(default_factory=Thresholds)

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")


def parse_job(args: Sequence[str], thresholds: Thresholds | None = None) -> Refilter:
    """The command line, with these thresholds as defaults."""
    default = Refilter(
        dataset=tyro.MISSING, name=tyro.MISSING, thresholds=thresholds or Thresholds()
    )
    return parse_args(
        Refilter, "quiver refilter", args, default=default, config=(tyro.conf.OmitArgPrefixes,)
    )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        args = sys.argv[1:] if args is None else args
        asked = parse_job(args, _dataset_thresholds(args))
        whole = DatasetView(Dataset(asked.dataset.absolute()))
        whole.dataset.contract()
        job = parse_job(args, PRESETS[asked.filters] if asked.filters else whole.thresholds())
        with whole.dataset.lock():
            judged = refilter(
                whole.dataset,
                job.name,
                job.thresholds,
                partial(cluster.parallel_map, workers=job.workers),
            )
        print_output("\n".join(_format_view(job, judged)))


def _dataset_thresholds(args: Sequence[str]) -> Thresholds | None:
    """Of the data set that is named first, for the help; None where none is."""
    named = next((Dataset(arg) for arg in args if Dataset(arg).run_json.is_file()), None)
    return DatasetView(named).thresholds() if named else None


def _format_view(job: Refilter, judged: ViewCounts) -> list[str]:
    """What the view holds, for a terminal."""
    dropped = judged.dropped.total()
    found = [
        f"{job.dataset}:{job.name} keeps {judged.kept} of {judged.kept + dropped} stored windows"
    ]
    if dropped:
        found.append(f"  {dropped} dropped {format_counts(dict(judged.dropped.most_common()))}")
    if judged.to_extract:
        words = "would be kept too, but were not stored when the data set was extracted"
        found.append(
            f"  {judged.to_extract} more {words}: extract-flow with these thresholds and another --out stores them"
        )
    return found


if __name__ == "__main__":
    main()
