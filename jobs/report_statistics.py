#!/usr/bin/env python
"""Computes the scales that a trainer reads, and a page that shows whether a dataset is any good.

    python -m jobs.report_statistics DATASET [DATASET ...]

It merges the histograms of the training shards. For one dataset without other options it writes
what every trainer reads by default, DATASET/statistics.json and DATASET/report.html; anything else
goes where --out and --report say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from jobs import cluster
from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import error_boundary
from jobs.cli.results import load_page_maker
from pipeline.atomic_files import replace_file
from pipeline.dataset import scales
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.dataset.scales import FineCounts, ScaleConfig
from schemas.statistics import SpectrumStatistics, encode_statistics

PageMaker = Callable[[Sequence[DatasetView], SpectrumStatistics], str]
"""Renders the report of datasets with their scales."""


@dataclass(frozen=True, kw_only=True)
class ReportStatistics:
    """Computes the scales of the training samples, statistics.json, and report.html."""

    datasets: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATASET")]
    """Folders of datasets, or DATASET:VIEW; several are taken together, with --out."""
    scales: Annotated[ScaleConfig, tyro.conf.arg(name="")] = field(default_factory=ScaleConfig)
    exact: bool = False
    """Read every training sample again, for quantiles to the last bit instead of within 0.4
    percent; requires --out.
    """
    out: Path | None = None
    """File for the statistics, and then no report unless --report names one; by default,
    statistics.json of the one dataset.
    """
    report: Path | None = None
    """File for the report; by default, without --out, report.html of the one dataset."""
    workers: int = 1
    """Processes that read shards for --exact; with more than one, on Ray."""

    def __post_init__(self):
        if not self.datasets:
            raise ValueError("no dataset is named, expected the folder of at least one")
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")
        if self.out is None and (
            len(self.datasets) > 1 or self.exact or self.scales != ScaleConfig()
        ):
            raise ValueError(
                "several datasets, --exact, --quantile and --pool require --out FILE: a dataset's "
                "own statistics.json is always made the default way"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(
            ReportStatistics, "quiver report-statistics", args, config=(tyro.conf.OmitArgPrefixes,)
        )
        for option, path in (("--out", job.out), ("--report", job.report)):
            if path is not None:
                check_output_file(option, path)
        with_report = job.out is None or job.report
        make_page = load_report_maker("--out FILE without a report") if with_report else None
        views = [open_dataset(text) for text in job.datasets]
        exact_counts = _count_exactly(views, job) if job.exact else None
        statistics = scales.compute_statistics(views, job.scales, exact_counts)
        out = job.out or views[0].derived_path("statistics.json")
        replace_file(out, encode_statistics(statistics))
        print_output("\n".join([*_format_scales(statistics), f"statistics: {out}"]))
        if make_page:
            target = job.report or views[0].derived_path("report.html")
            replace_file(target, make_page(views, statistics).encode())
            print_output(f"report: {target}")


def load_report_maker(alternative: str) -> PageMaker:
    """Returns the function that renders the report. If its libraries are missing, raises
    ValueError, which names the alternative.
    """
    return load_page_maker("pipeline.report", "render_report", alternative)


def _count_exactly(views: Sequence[DatasetView], job: ReportStatistics) -> FineCounts:
    """Reads every training shard a second time; returns fine counts, summed over the shards."""
    bins = scales.required_fine_bins(scales.merge_histograms(views), job.scales)
    shards = [
        (str(view.dataset.root.absolute()), view.view, shard)
        for view in views
        for shard in view.training_shards()
    ]
    total: FineCounts = {}
    for _, counts in cluster.parallel_map(partial(_count_in_worker, bins), shards, job.workers):
        total = {
            place: total[place] + counts[place] if total else counts[place] for place in counts
        }
    return total


def _count_in_worker(
    bins: set[tuple[int, int, int]], shard: tuple[str, str | None, str]
) -> FineCounts:
    """Counts one shard, in a worker process."""
    root, view, name = shard
    return scales.count_fine_bins(open_dataset(f"{root}:{view}" if view else root), name, bins)


def _format_scales(statistics: SpectrumStatistics) -> list[str]:
    """Returns the scales, line by line."""
    shards = sum(source.shards for source in statistics.sources)
    lines = [
        f"{statistics.windows} training windows in {shards} shards; "
        f"{statistics.quantile:g} quantile of |S|, {statistics.method}, pixels"
    ]
    for frequency in statistics.frequencies:
        scale = frequency.scale
        values = scale if isinstance(scale, tuple) else (scale,)
        lines.append(f"  {frequency.hz:5.2f} Hz  {' '.join(f'{value:10.4f}' for value in values)}")
    still = [f"{frequency.hz:g}" for frequency in statistics.frequencies if not frequency.scale]
    if still:
        lines.append(f"  nothing moves at {', '.join(still)} Hz: a scale of 0 cannot normalize")
    return lines


if __name__ == "__main__":
    main()
