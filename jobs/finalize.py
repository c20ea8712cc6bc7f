#!/usr/bin/env python
"""Writes everything in a data set that is derived from its records again.

    python -m jobs.finalize DATASET

Equal records give equal bytes. Exit codes: 0 done; 2 there is no data set, or shards are left to build; 4 a run holds the
folder; 5 a record or a histogram is damaged (quiver repair), or the folder cannot be written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.exits import sentences
from jobs.progress import summary_lines
from pipeline.dataset import Dataset
from pipeline.derived import FILES, finalize


@dataclass(frozen=True, kw_only=True)
class Finalize:
    """Writes manifest, index, histogram, statistics, summary and card of a data set again, from its records."""

    dataset: tyro.conf.Positional[Path]
    """Folder of the data set."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/exits.py."""
    with sentences():
        job = tyro.cli(Finalize, prog="quiver finalize", args=args)
        dataset = Dataset(job.dataset)
        dataset.begun()
        with dataset.held():
            summary = finalize(dataset)
        written = [name for name in FILES if (dataset.root / name).exists()]
        print("\n".join([*summary_lines(summary), f"written: {', '.join(written)}"]))


if __name__ == "__main__":
    main(sys.argv[1:])
