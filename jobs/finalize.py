#!/usr/bin/env python
"""Writes everything in a data set that is derived from its records again.

    python -m jobs.finalize DATASET

Manifest, index, histogram, statistics, summary, card, the report, and all views. Equal records give equal bytes. Exit codes: 0 done; 2 there is no data set, or shards are left to build; 4 a run holds the
folder; 5 a record or a histogram is damaged (quiver repair), or the folder cannot be written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from jobs import cluster
from jobs.cli.args import parsed
from jobs.cli.errors import say, sentences
from jobs.cli.progress import summary_lines
from jobs.report_statistics import PageMaker, page_maker
from pipeline.dataset.finalize import FILES as DERIVED
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import Selection
from pipeline.dataset.views import names, remake
from schemas.statistics import decode

FILES = (*DERIVED[1:], "report.html")
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
    with sentences():
        job = parsed(Finalize, "quiver finalize", args)
        dataset = Dataset(job.dataset)
        dataset.begun()
        make_page = page_maker("--no-report") if job.report else None
        with dataset.held(), dataset.finishing():
            summary = finalize(dataset)
            reported = [Selection(dataset), *with_report(dataset)]
            made = [Selection(dataset), *remake(dataset, partial(cluster.mapped, workers=1))]
            if make_page:
                for selection in reported:
                    write_page(selection, make_page)
        written = [path.relative_to(dataset.root) for selection in made for path in [selection.table, *map(selection.file, FILES)] if path.exists()]
        say("\n".join([*summary_lines(summary), f"written: {', '.join(map(str, written))}"]))


def with_report(dataset: Dataset) -> list[Selection]:
    """The views of which a report was drawn."""
    return [view for view in (Selection(dataset, name) for name in names(dataset)) if view.file("report.html").exists()]


def write_page(selection: Selection, make_page: PageMaker) -> None:
    """The report of a data set, or of a view; none where no training window was kept."""
    statistics = selection.file("statistics.json")
    page = make_page([selection], decode(statistics.read_bytes())).encode() if statistics.exists() else None
    selection.home.publish(selection.file("report.html"), page)


if __name__ == "__main__":
    main(sys.argv[1:])
