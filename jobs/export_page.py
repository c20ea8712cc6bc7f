#!/usr/bin/env python
"""Writes a page of one file in which a photograph can be pulled and let go.

    quiver export-page PHOTO --motion-from VIDEO --out page.html

The page needs a browser with WebGL 2, and no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import error_boundary
from jobs.cli.motion_source import MotionSource, load_motion
from model.pages.interactive import build_interactive_page
from pipeline.atomic_files import replace_file
from pipeline.sizes import human_size


@dataclass(frozen=True, kw_only=True)
class ExportPage(MotionSource):
    """Writes a page in which a photograph can be pulled and let go."""

    out: Path
    """File to write, .html."""
    title: str | None = None
    """Heading of the page; without one, the name of the photograph or of the clip."""

    def __post_init__(self):
        super().__post_init__()
        if self.out.suffix.lower() != ".html":
            raise ValueError(f"--out is {self.out}, expected a name that ends in .html")
        if self.title is not None and not self.title.strip():
            raise ValueError(f"--title is {self.title!r}, expected words")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(ExportPage, "quiver export-page", args)
        check_output_file("--out", job.out)
        motion, photograph = load_motion(job)
        title = job.title or (job.photo.stem if job.photo else motion.name)
        page = build_interactive_page(photograph, motion.volume, title)
        page = page.encode(errors="replace")  # a file's name need not be valid text
        replace_file(job.out, page)
        print_output(f"{job.out}: {human_size(len(page))}, {len(motion.volume.spectrum) - 1} modes")


if __name__ == "__main__":
    main()
