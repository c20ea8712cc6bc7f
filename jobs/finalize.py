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

import tyro

from jobs import cluster
from jobs.exits import sentences
from jobs.progress import summary_lines
from jobs.report_statistics import PageMaker, page_maker
from pipeline.dataset import Dataset
from pipeline.derived import FILES as DERIVED
from pipeline.derived import finalize
from pipeline.selection import Selection
from pipeline.shards import replace_file
from pipeline.views import names, refilter
from schemas.statistics import decode

FILES = (*DERIVED[1:], "report.html")
"""Beside the manifest."""


@dataclass(frozen=True, kw_only=True)
class Finalize:
    """Writes manifest, statistics, card, report and views of a data set again, from its records."""

    dataset: tyro.conf.Positional[Path]
    """Folder of the data set."""
    report: bool = True
    """Draw the report too, which takes the longest."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/exits.py."""
    with sentences():
        job = tyro.cli(Finalize, prog="quiver finalize", args=args)
        dataset = Dataset(job.dataset)
        dataset.begun()
        make_page = page_maker("--no-report") if job.report else None
        with dataset.held():
            summary = finalize(dataset)
            made = [Selection(dataset), *(remade(dataset, name) for name in names(dataset))]
            if make_page:
                for selection in made:
                    write_page(selection, make_page)
        written = [path.relative_to(dataset.root) for selection in made for path in [selection.table, *map(selection.file, FILES)] if path.exists()]
        print("\n".join([*summary_lines(summary), f"written: {', '.join(map(str, written))}"]))


def remade(dataset: Dataset, name: str) -> Selection:
    """A view, by its own thresholds."""
    view = Selection(dataset, name)
    refilter(dataset, name, view.thresholds(), partial(cluster.mapped, workers=1))
    return view


def write_page(selection: Selection, make_page: PageMaker) -> None:
    """The report of a data set; of a view where it has one already. None, where nothing was kept that could be shown."""
    path, statistics = selection.file("report.html"), selection.file("statistics.json")
    if not statistics.exists():
        path.unlink(missing_ok=True)
    elif selection.view is None or path.exists():
        replace_file(path, make_page([selection], decode(statistics.read_bytes())).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
