"""Shows one sample of a dataset: a video of its motion, or a sheet of pictures.

    quiver preview DATASET KEY --out FILE.mp4

A .mp4, .gif or .webp shows side by side the start frame, the stored motion in colors, the start
frame moved by it, and the real frames if the video is still there. A .png is a sheet of the
motion's maps, frequencies and X-t slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from pipeline.atomic_files import replace_file
from pipeline.dataset.open import open_dataset
from pipeline.images.encode import ENCODERS, encode_animation
from pipeline.preview.panels import draw_motion_frames, draw_sheet
from pipeline.preview.reconstruct import reconstruct
from pipeline.sizes import human_size

_FRAME_STRIDES = {".gif": 3}
"""Frame stride of the kinds of file that do not show every instant."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Shows one sample of a dataset: its motion as a video, or as a sheet of pictures."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Folder of a dataset whose run has finished, or DATASET:VIEW."""
    key: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KEY")]
    """Name of the sample: the column key of the manifest."""
    out: Path
    """File to write: .mp4, .webm, .gif or .webp for the motion, .png for a sheet of its maps,
    frequencies and X-t slices.
    """
    magnify: float = 1.0
    """The start frame is moved by this many times the stored motion, over 0 to 1000."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Preview, "quiver preview", args)
        _check_job(job)
        _run_job(job)


def _check_job(job: Preview) -> None:
    """Raises ValueError, naming the option, if the file cannot be made or written."""
    if job.out.suffix.lower() not in ENCODERS:
        raise ValueError(f"--out is {job.out}, expected a name that ends in {', '.join(ENCODERS)}")
    if not 0 < job.magnify <= 1000:
        raise ValueError(f"--magnify is {job.magnify:g}, expected more than 0 and at most 1000")
    check_output_file("--out", job.out)


def _run_job(job: Preview) -> None:
    """Writes the file completely or not at all."""
    reconstruction = reconstruct(open_dataset(job.dataset), job.key)
    suffix = job.out.suffix.lower()
    step = _FRAME_STRIDES.get(suffix, 1)
    if suffix == ".png":
        frames = [draw_sheet(reconstruction, job.magnify, print_message)]
    else:
        frames = draw_motion_frames(reconstruction, job.magnify, step, print_message)
    data = encode_animation(frames, reconstruction.settings.plan.fps / step, suffix)
    replace_file(job.out, data)
    print_output(f"{job.out}: {human_size(len(data))}")


if __name__ == "__main__":
    main()
