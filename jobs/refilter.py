#!/usr/bin/env python
"""Makes a view of a dataset: judges its windows again by other thresholds, from what was measured
when it was extracted, or leaves out those of some clips.

    python -m jobs.refilter DATASET --camera-motion 0.5 --name strict
    python -m jobs.refilter DATASET --without held-out.txt --name training

DATASET:strict then names it wherever a dataset is asked for. Nothing is extracted, and no tar is
changed.
"""

import sys
from collections.abc import Iterator, Sequence
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
from pipeline.dataset.views import ClipChoice, ViewCounts, refilter
from pipeline.filters import PRESETS, Thresholds


@dataclass(frozen=True, kw_only=True)
class Refilter:
    """Judges the windows of a dataset by other thresholds. Those that are left out are the
    dataset's own, which --help shows after the dataset's folder.
    """

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the dataset."""
    name: str
    """Name of the view; one of the same name is replaced."""
    filters: Literal["subtle", "paper", "none"] | None = None
    """Set of thresholds to begin with, instead of the dataset's own."""
    workers: int = 1
    """Processes that count the shards of which windows are dropped; with more than one, on Ray."""
    without: Path | None = None
    """Text file with a clip id or a source on each line: the view keeps none of their windows."""
    only: Path | None = None
    """Text file with a clip id or a source on each line: the view keeps none but their windows."""
    thresholds: Annotated[Thresholds, tyro.conf.arg(name="")] = field(default_factory=Thresholds)

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        args = sys.argv[1:] if args is None else args
        job = parse_job(args, _dataset_thresholds(args))
        dataset = Dataset(job.dataset.absolute())
        dataset.contract()
        defaults = PRESETS[job.filters] if job.filters else DatasetView(dataset).thresholds()
        job = parse_job(args, defaults)
        with dataset.lock():
            mapper = partial(cluster.parallel_map, workers=job.workers)
            choice = ClipChoice(_read_names(job.without) or (), _read_names(job.only))
            choice.check(DatasetView(dataset))
            counts = refilter(dataset, job.name, job.thresholds, mapper, choice=choice)
        print_output("\n".join(_format_view(job, counts)))


def parse_job(args: Sequence[str], thresholds: Thresholds | None = None) -> Refilter:
    """Parses the command line, with these thresholds as defaults."""
    default = Refilter(
        dataset=tyro.MISSING, name=tyro.MISSING, thresholds=thresholds or Thresholds()
    )
    return parse_args(
        Refilter, "quiver refilter", args, default=default, config=(tyro.conf.OmitArgPrefixes,)
    )


def _dataset_thresholds(args: Sequence[str]) -> Thresholds | None:
    """Returns the thresholds of the first dataset among the arguments, for the help; None without
    one.
    """
    dataset = next((Dataset(arg) for arg in args if Dataset(arg).run_json.is_file()), None)
    return DatasetView(dataset).thresholds() if dataset else None


def _read_names(path: Path | None) -> set[str] | None:
    """The lines of a text file that are not empty; None without a file."""
    if path is None:
        return None
    try:
        names = {line.strip() for line in path.read_text("utf-8").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not names:
        raise ValueError(f"{path} names no clip, expected a clip id or a source on each line")
    return names


def _format_view(job: Refilter, counts: ViewCounts) -> Iterator[str]:
    """Yields what the view holds, line by line."""
    dropped_count = counts.dropped.total()
    stored_count = counts.kept + dropped_count
    yield f"{job.dataset}:{job.name} keeps {counts.kept} of {stored_count} stored windows"
    if dropped_count:
        yield f"  {dropped_count} dropped {format_counts(dict(counts.dropped.most_common()))}"
    if counts.to_extract:
        yield (
            f"  {counts.to_extract} more would be kept too, but were not stored when the dataset "
            "was extracted: extract-flow with these thresholds and another --out stores them"
        )


if __name__ == "__main__":
    main()
