#!/usr/bin/env python
"""A page of one file in which a photograph can be pulled and let go.

    python -m jobs.export_page PHOTO --motion FILE.safetensors --out page.html

FILE is what `quiver sample` wrote for the photograph. The page needs a browser with WebGL 2, and no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.exits import check_output, sentences
from model.page import page_of
from pipeline.photograph import read_photograph
from pipeline.shards import replace_file
from schemas.motion import SpectralVolume, decode


@dataclass(frozen=True, kw_only=True)
class ExportPage:
    """Writes a page in which a photograph can be pulled and let go."""

    photo: tyro.conf.Positional[Path]
    """The photograph."""
    motion: Path
    """Its spectral volume, .safetensors, of `quiver sample`."""
    out: Path
    """File to write, .html."""

    def __post_init__(self):
        if self.out.suffix != ".html":
            raise ValueError(f"--out is {self.out}, expected a name that ends in .html")


def read_motion(path: Path) -> SpectralVolume:
    """Raises ValueError where the file is not there or no spectral volume."""
    if not path.is_file():
        raise ValueError(f"--motion is {path}, which is not there, expected a file of `quiver sample`")
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"--motion is {path}: {error}") from error


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/exits.py."""
    with sentences():
        job = tyro.cli(ExportPage, prog="quiver export-page", args=args)
        check_output("--out", job.out)
        photograph, volume = read_photograph(job.photo), read_motion(job.motion)
        page = page_of(photograph, volume, job.photo.stem).encode()
        replace_file(job.out, page)
        print(f"{job.out}: {len(page) / 1e6:.1f} MB, {len(volume.spectrum) - 1} modes")


if __name__ == "__main__":
    main()
