"""One sample of a data set to look at: a video of its motion, or a sheet of pictures.

    quiver preview DATASET KEY --out FILE.mp4

A .mp4, .gif or .webp shows side by side the start frame, the stored motion in colours, the start
frame moved by it, and the real frames where the video is still there. A .png is a sheet of the
motion's maps, frequencies and X-t slices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from pipeline.atomic_files import replace_file
from pipeline.dataset.open import open_dataset
from pipeline.images import draw
from pipeline.images.draw import (
    Picture,
    draw_notice,
    scale_limit,
    stack_horizontally,
    stack_vertically,
)
from pipeline.images.encode import ENCODERS, encode_animation
from pipeline.preview.panels import (
    displacement_magnitude,
    draw_amplitudes,
    draw_flow_panel,
    draw_maps,
    draw_overview,
    enlarge_to_panel,
    magnify_caption,
    sheet_title,
)
from pipeline.preview.reconstruct import Reconstruction, reconstruct
from pipeline.sizes import human_size
from schemas.outcome import Quarantined

_FRAME_STRIDES = {".gif": 3}
"""Kinds of file that show each so-manieth instant only."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Shows one sample of a data set: its motion as a video, or as a sheet of pictures."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set, whose run has finished, or DATASET:VIEW."""
    key: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KEY")]
    """Name of the sample: the column key of the manifest."""
    out: Path
    """File to write: .mp4, .gif or .webp for the motion, .png for a sheet of its maps, frequencies
    and X-t slices.
    """
    magnify: float = 1.0
    """The start frame is moved by this many times the stored motion."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Preview, "quiver preview", args)
        _check_job(job)
        _run_job(job)


def _check_job(job: Preview) -> None:
    """Raises ValueError, naming the value and what was expected, for a request that cannot be met."""
    if job.out.suffix.lower() not in ENCODERS:
        raise ValueError(f"--out is {job.out}, expected a name that ends in {', '.join(ENCODERS)}")
    if not 0 < job.magnify <= 1000:
        raise ValueError(f"--magnify is {job.magnify:g}, expected more than 0 and at most 1000")
    check_output_file("--out", job.out)


def _run_job(job: Preview) -> None:
    """Writes the file, whole or not at all."""
    shown, suffix = reconstruct(open_dataset(job.dataset), job.key), job.out.suffix.lower()
    step = _FRAME_STRIDES.get(suffix, 1)
    frames = (
        iter([_draw_sheet(shown, job.magnify)])
        if suffix == ".png"
        else _draw_motion_frames(shown, job.magnify, step)
    )
    data = encode_animation(frames, shown.settings.plan.fps / step, suffix)
    replace_file(job.out, data)
    print_output(f"{job.out}: {human_size(len(data))}")


def _draw_motion_frames(shown: Reconstruction, magnify: float, step: int) -> Iterator[Picture]:
    """Every `step`-th instant: start frame, motion, start frame moved, real frame."""
    largest, start = (
        scale_limit(displacement_magnitude(shown)),
        enlarge_to_panel(shown.sample.image),
    )
    captions = [
        "start frame",
        f"stored motion, full colour at {largest:g} px",
        f"start frame moved by it{magnify_caption(magnify)}",
        "real frames",
    ]
    for flow, moved, real in zip(
        shown.motion[::step],
        shown.frames(magnify, step),
        _draw_real_panels(shown, step),
        strict=False,
    ):
        yield stack_horizontally(
            [start, draw_flow_panel(flow, largest), enlarge_to_panel(moved), real], captions
        )


def _draw_real_panels(shown: Reconstruction, step: int) -> Iterator[Picture]:
    """The real frames; from where the video gives out on, for ever, a panel that says why."""
    try:
        yield from map(enlarge_to_panel, shown.real_frames(step))
    except Quarantined as error:
        yield from repeat(_draw_missing_panel(error, enlarge_to_panel(shown.sample.image).shape))


def _draw_missing_panel(error: Quarantined, shape: tuple[int, ...]) -> Picture:
    """A panel that says why; so does a line on standard error."""
    print_message(f"no real frames: {error.detail} ({error.reason})")
    return draw_notice(f"no real frames: {error.detail}", *shape[:2])


def _draw_sheet(shown: Reconstruction, magnify: float) -> Picture:
    """Everything of a sample that stands still."""
    rows = [
        draw_overview(shown),
        draw_maps(shown),
        *draw_amplitudes(shown),
        _draw_slices(shown, magnify),
    ]
    under_title = rows[0][:0, : -2 * draw.GAP_PX]
    return stack_vertically([stack_horizontally([under_title], [sheet_title(shown)]), *rows])


def _draw_slices(shown: Reconstruction, magnify: float) -> Picture:
    """X-t slices of the moved start frame and of the real frames."""
    row = draw.busiest_row(shown.motion)
    moved = enlarge_to_panel(draw.slice_xt(shown.frames(magnify), row))
    try:
        real = enlarge_to_panel(draw.slice_xt(shown.real_frames(), row))
    except Quarantined as error:
        real = _draw_missing_panel(error, moved.shape)
    return stack_horizontally(
        [moved, real],
        [
            f"X-t slice of the start frame moved{magnify_caption(magnify)}",
            "X-t slice of the real frames; time runs down",
        ],
    )


if __name__ == "__main__":
    main()
