#!/usr/bin/env python
"""Writes everything in a data set that is derived from its records again.

    python -m jobs.finalize DATASET

Manifest, index, histogram, statistics, summary, card, the report, and all views. Equal records give
equal bytes. Exit codes: 0 done; 2 there is no data set, or shards are left to build; 4 a run holds
the folder; 5 a record or a histogram is damaged (quiver repair), or the folder cannot be written.
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
from pipeline.dataset.finalize import DERIVED_FILES as DERIVED
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.views import list_views, rebuild_views
from schemas.statistics import decode_statistics

_FILES_BESIDE_MANIFEST = (*DERIVED[1:], "report.html")
"""Beside the manifest."""


@dataclass(frozen=True, kw_only=True)
class Finalize:
    """Writes manifest, statistics, card, report and views of a data set again, from its records."""

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set."""
    report: bool = True
    """Draw the report too, which takes the longest."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Finalize, "quiver finalize", args)
        dataset = Dataset(job.dataset)
        dataset.contract()
        make_page = load_report_maker("--no-report") if job.report else None
        with dataset.lock():
            summary = finalize(dataset)
            reported = [DatasetView(dataset), *_views_with_report(dataset)]
            made = [
                DatasetView(dataset),
                *rebuild_views(dataset, partial(cluster.parallel_map, workers=1)),
            ]
            if make_page:
                for selection in reported:
                    write_report(selection, make_page)
        written = [
            path.relative_to(dataset.root)
            for selection in made
            for path in [
                selection.manifest_path,
                *map(selection.derived_path, _FILES_BESIDE_MANIFEST),
            ]
            if path.exists()
        ]
        print_output(
            "\n".join([*format_summary(summary), f"written: {', '.join(map(str, written))}"])
        )


def _views_with_report(dataset: Dataset) -> list[DatasetView]:
    """The views of which a report was drawn."""
    return [
        view
        for view in (DatasetView(dataset, name) for name in list_views(dataset))
        if view.derived_path("report.html").exists()
    ]


def write_report(selection: DatasetView, make_page: PageMaker) -> None:
    """The report of a data set, or of a view; none where no training window was kept."""
    statistics = selection.derived_path("statistics.json")
    page = (
        make_page([selection], decode_statistics(statistics.read_bytes())).encode()
        if statistics.exists()
        else None
    )
    selection.derived_dataset.publish(selection.derived_path("report.html"), page)


if __name__ == "__main__":
    main(sys.argv[1:])
