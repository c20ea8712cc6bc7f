#!/usr/bin/env python
"""Rewrites everything in a dataset that is derived from its records.

    python -m jobs.finalize DATASET

That is manifest, index, histogram, statistics, summary, card, the report, and all views. Equal
records give equal bytes. Exit codes: 0 done; 2 there is no dataset, or shards are left to build; 4
a run holds the folder; 5 a record or a histogram is damaged (quiver repair), or the folder cannot
be written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from jobs import cluster
from jobs.cli.args import parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import error_boundary
from jobs.cli.progress import format_summary
from jobs.report_statistics import PageMaker, load_report_maker
from pipeline.dataset.finalize import DERIVED_FILES, finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.views import list_views, rebuild_views
from schemas.statistics import decode_statistics

_FILES_BESIDE_MANIFEST = (*DERIVED_FILES[1:], "report.html")


@dataclass(frozen=True, kw_only=True)
class Finalize:
    """Rewrites manifest, statistics, card, report and views of a dataset, from its records."""

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the dataset."""
    report: bool = True
    """Draw the report too, which takes the longest."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Finalize, "quiver finalize", args)
        dataset = Dataset(job.dataset)
        dataset.contract()
        make_page = load_report_maker("--no-report") if job.report else None
        base = DatasetView(dataset)
        with dataset.lock():
            summary = finalize(dataset)
            with_report = [
                view
                for view in (DatasetView(dataset, name) for name in list_views(dataset))
                if view.derived_path("report.html").exists()
            ]
            views = [base, *rebuild_views(dataset, partial(cluster.parallel_map, workers=1))]
            if make_page:
                for view in (base, *with_report):
                    write_report(view, make_page)
        paths = [
            str(path.relative_to(dataset.root))
            for view in views
            for path in (view.manifest_path, *map(view.derived_path, _FILES_BESIDE_MANIFEST))
            if path.exists()
        ]
        print_output("\n".join([*format_summary(summary), f"written: {', '.join(paths)}"]))


def write_report(view: DatasetView, make_page: PageMaker) -> None:
    """Writes the report of a dataset or of a view; removes it if no training window was kept."""
    statistics, page = view.derived_path("statistics.json"), None
    if statistics.exists():
        page = make_page([view], decode_statistics(statistics.read_bytes())).encode()
    view.derived_dataset.publish(view.derived_path("report.html"), page)


if __name__ == "__main__":
    main(sys.argv[1:])
