#!/usr/bin/env python
"""The scales that a trainer reads, and a page that shows whether a data set is any good.

    python -m jobs.report_statistics DATASET [DATASET ...]

Merges the histograms of the training shards. Of one data set with no other wishes it writes what
every trainer reads by default, DATASET/statistics.json and DATASET/report.html; anything else goes
where --out and --report say.
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
from pipeline.atomic_files import replace_file
from pipeline.dataset import scales
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.dataset.scales import FineCounts, ScaleConfig
from schemas.statistics import SpectrumStatistics, encode_statistics

PageMaker = Callable[[Sequence[DatasetView], SpectrumStatistics], str]
"""The report of these data sets, with these scales."""


@dataclass(frozen=True, kw_only=True)
class ReportStatistics:
    """The scales of the training samples, statistics.json, and report.html."""

    datasets: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATASET")]
    """Folders of data sets, or DATASET:VIEW; several are taken together, with --out."""
    scales: Annotated[ScaleConfig, tyro.conf.arg(name="")] = field(default_factory=ScaleConfig)
    exact: bool = False
    """Read every training sample again, for quantiles to the last bit instead of within 0.4
    percent; wants --out.
    """
    out: Path | None = None
    """File for the statistics, and then no report unless --report names one; without it,
    statistics.json of the one data set.
    """
    report: Path | None = None
    """File for the report; without it, and without --out, report.html of the one data set."""
    workers: int = 1
    """Processes that read shards for --exact; with more than one, on Ray."""

    def __post_init__(self):
        if not self.datasets:
            raise ValueError("no data set is named, expected the folder of at least one")
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")
        if self.out is None and (
            len(self.datasets) > 1 or self.exact or self.scales != ScaleConfig()
        ):
            raise ValueError(
                "several data sets, --exact, --quantile and --pool want --out FILE: a data set's own statistics.json is always made the default way"
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
        make_page = (
            load_report_maker("--out FILE without a report")
            if job.out is None or job.report
            else None
        )
        selections = [open_dataset(text) for text in job.datasets]
        statistics = scales.compute_statistics(
            selections, job.scales, _count_exactly(selections, job) if job.exact else None
        )
        out = job.out or selections[0].derived_path("statistics.json")
        replace_file(out, encode_statistics(statistics))
        print_output("\n".join([*_format_scales(statistics), f"statistics: {out}"]))
        if make_page:
            target = job.report or selections[0].derived_path("report.html")
            replace_file(target, make_page(selections, statistics).encode())
            print_output(f"report: {target}")


def load_report_maker(instead: str) -> PageMaker:
    """What makes the page. Raises ValueError where its libraries are missing, naming what can be
    done instead.
    """
    try:
        from pipeline.report import render_report
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2", "markupsafe"):
            raise
        raise ValueError(
            f"the report needs {error.name}, which is not installed: pip install 'quiver-motion[report]', or {instead}"
        ) from error
    return render_report


def _count_exactly(selections: Sequence[DatasetView], job: ReportStatistics) -> FineCounts:
    """The second pass: fine counts over every training shard."""
    wanted = scales.required_fine_bins(scales.merge_histograms(selections), job.scales)
    shards = [
        (str(selection.dataset.root.absolute()), selection.view, shard)
        for selection in selections
        for shard in selection.training_shards()
    ]
    total: FineCounts = {}
    for _, fine in cluster.parallel_map(partial(_count_in_worker, wanted), shards, job.workers):
        total = {
            place: total[place] + counts if total else counts for place, counts in fine.items()
        }
    return total


def _count_in_worker(
    wanted: set[tuple[int, int, int]], shard: tuple[str, str | None, str]
) -> FineCounts:
    """One shard, in a worker."""
    root, view, name = shard
    return scales.count_fine_bins(open_dataset(f"{root}:{view}" if view else root), name, wanted)


def _format_scales(statistics: SpectrumStatistics) -> list[str]:
    """The scales, for a terminal."""
    shards = sum(source.shards for source in statistics.sources)
    head = f"{statistics.windows} training windows in {shards} shards; {statistics.quantile:g} quantile of |S|, {statistics.method}, pixels"
    still = [f"{frequency.hz:g}" for frequency in statistics.frequencies if not frequency.scale]
    warning = (
        [f"  nothing moves at {', '.join(still)} Hz: a scale of 0 cannot normalise"]
        if still
        else []
    )
    return [
        head,
        *(f"  {f.hz:5.2f} Hz  {_format_scale(f.scale)}" for f in statistics.frequencies),
        *warning,
    ]


def _format_scale(scale: float | tuple[float, float]) -> str:
    return " ".join(f"{one:10.4f}" for one in (scale if isinstance(scale, tuple) else (scale,)))


if __name__ == "__main__":
    main()
