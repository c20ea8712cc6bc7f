"""One sample of a data set to look at: a video of its motion, or a sheet of pictures.

    quiver preview DATASET KEY --out FILE.mp4

A .mp4, .gif or .webp shows side by side the start frame, the stored motion in colours, the start frame moved by it, and
the real frames where the video is still there. A .png is a sheet of the motion's maps, frequencies and X-t slices.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jobs.cli.args import parse_args
from jobs.cli.errors import check_output_file, print_output, error_boundary, print_message
from pipeline.dataset.open import open_dataset
from pipeline.dataset.shards import replace_file
from pipeline.images import draw
from pipeline.images.draw import Picture, stack_vertically, stack_horizontally, scale_limit, flow_colors, heat_map, draw_notice
from pipeline.images.encode import ENCODERS, encode_animation
from pipeline.motion.spectrum import modulus
from pipeline.preview.reconstruct import Reconstruction, reconstruct
from pipeline.sizes import human_size
from schemas.outcome import Quarantined

MIN_PANEL_WIDTH_PX = 240
"""Least width of a picture: smaller ones are enlarged."""
COLOR_WHEEL_PX = 44
"""Size of the legend of the colours."""
FRAME_STRIDES = {".gif": 3}
"""Kinds of file that show each so-manieth instant only."""
MAX_SHEET_FREQUENCIES = 6
"""Frequencies of which a sheet shows the amplitude."""
SCALE_HEIGHT_PX, DASH_LENGTH_PX = 5, 4
"""Height of a scale, and length of the dashes that mark a row, pixels."""
DASH_COLOR = (255, 214, 64)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Shows one sample of a data set: its motion as a video, or as a sheet of pictures."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """Folder of the data set, whose run has finished, or DATASET:VIEW."""
    key: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KEY")]
    """Name of the sample: the column key of the manifest."""
    out: Path
    """File to write: .mp4, .gif or .webp for the motion, .png for a sheet of its maps, frequencies and X-t slices."""
    magnify: float = 1.0
    """The start frame is moved by this many times the stored motion."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Preview, "quiver preview", args)
        check_job(job)
        run_job(job)


def check_job(job: Preview) -> None:
    """Raises ValueError, naming the value and what was expected, for a request that cannot be met."""
    if job.out.suffix.lower() not in ENCODERS:
        raise ValueError(f"--out is {job.out}, expected a name that ends in {', '.join(ENCODERS)}")
    if not 0 < job.magnify <= 1000:
        raise ValueError(f"--magnify is {job.magnify:g}, expected more than 0 and at most 1000")
    check_output_file("--out", job.out)


def run_job(job: Preview) -> None:
    """Writes the file, whole or not at all."""
    shown, suffix = reconstruct(open_dataset(job.dataset), job.key), job.out.suffix.lower()
    step = FRAME_STRIDES.get(suffix, 1)
    frames = iter([draw_sheet(shown, job.magnify)]) if suffix == ".png" else draw_motion_frames(shown, job.magnify, step)
    data = encode_animation(frames, shown.settings.plan.fps / step, suffix)
    replace_file(job.out, data)
    print_output(f"{job.out}: {human_size(len(data))}")


def draw_motion_frames(shown: Reconstruction, magnify: float, step: int) -> Iterator[Picture]:
    """Every `step`-th instant: start frame, motion, start frame moved, real frame."""
    largest, start = scale_limit(displacement_magnitude(shown)), enlarge_to_panel(shown.sample.image)
    captions = ["start frame", f"stored motion, full colour at {largest:g} px", f"start frame moved by it{magnify_caption(magnify)}", "real frames"]
    for flow, moved, real in zip(shown.motion[::step], shown.frames(magnify, step), draw_real_panels(shown, step), strict=False):
        yield stack_horizontally([start, draw_flow_panel(flow, largest), enlarge_to_panel(moved), real], captions)


def draw_real_panels(shown: Reconstruction, step: int) -> Iterator[Picture]:
    """The real frames; from where the video gives out on, for ever, a panel that says why."""
    try:
        yield from map(enlarge_to_panel, shown.real_frames(step))
    except Quarantined as error:
        yield from repeat(draw_missing_panel(error, enlarge_to_panel(shown.sample.image).shape))


def draw_missing_panel(error: Quarantined, shape: tuple[int, ...]) -> Picture:
    """A panel that says why; so does a line on standard error."""
    print_message(f"no real frames: {error.detail} ({error.reason})")
    return draw_notice(f"no real frames: {error.detail}", *shape[:2])


def draw_sheet(shown: Reconstruction, magnify: float) -> Picture:
    """Everything of a sample that stands still."""
    rows = [draw_overview(shown), draw_maps(shown), *draw_amplitudes(shown), draw_slices(shown, magnify)]
    under_title = rows[0][:0, : -2 * draw.GAP_PX]
    return stack_vertically([stack_horizontally([under_title], [sheet_title(shown)]), *rows])


def sheet_title(shown: Reconstruction) -> str:
    """What is shown, in words."""
    plan, (columns, rows) = shown.settings.plan, shown.settings.size
    return f"{shown.row['key']}: {plan.frames / plan.fps:g} s at {plan.fps:g} frames a second, {columns} x {rows} pixels"


def draw_overview(shown: Reconstruction) -> Picture:
    """The start frame, and the motion when it is largest."""
    length, image = displacement_magnitude(shown), shown.sample.image.copy()
    largest, when = scale_limit(length), int(length.mean(axis=(1, 2)).argmax())
    row = draw.busiest_row(shown.motion)
    image[row, np.arange(image.shape[1]) % (2 * DASH_LENGTH_PX) < DASH_LENGTH_PX] = DASH_COLOR
    flow = draw_flow_panel(shown.motion[when], largest)
    return stack_horizontally(
        [enlarge_to_panel(image), flow],
        ["start frame; dashes: row of the X-t slices", f"motion after {when / shown.settings.plan.fps:.2f} s, full colour at {largest:g} px"],
    )


def draw_maps(shown: Reconstruction) -> Picture:
    """W and the confidence."""
    weight, certain = shown.sample.weight.astype(np.float32), shown.sample.confidence.astype(np.float32) / 255
    largest = scale_limit(weight)
    captions = [f"W, mean displacement: 0 to {largest:g} px", "confidence in the motion: 0 to 1"]
    return stack_horizontally([draw_with_scale(weight, largest), draw_with_scale(certain, 1.0, draw.gray_map)], captions)


def draw_amplitudes(shown: Reconstruction) -> list[Picture]:
    """The amplitudes of the strongest oscillations, two in a row, by frequency."""
    plan = shown.settings.plan
    amplitudes = draw.amplitudes(shown.sample.spectrum, plan.frames)
    strongest = sorted(1 + np.argsort(-amplitudes[1:].mean(axis=(1, 2)), kind="stable")[:MAX_SHEET_FREQUENCIES])
    ends = {k: scale_limit(amplitudes[k]) for k in strongest}
    panels = [draw_with_scale(amplitudes[k], ends[k]) for k in strongest]
    captions = [f"amplitude at {k * plan.fps / plan.frames:.4g} Hz: 0 to {ends[k]:g} px" for k in strongest]
    return [stack_horizontally(panels[i : i + 2], captions[i : i + 2]) for i in range(0, len(panels), 2)]


def draw_slices(shown: Reconstruction, magnify: float) -> Picture:
    """X-t slices of the moved start frame and of the real frames."""
    row = draw.busiest_row(shown.motion)
    moved = enlarge_to_panel(draw.slice_xt(shown.frames(magnify), row))
    try:
        real = enlarge_to_panel(draw.slice_xt(shown.real_frames(), row))
    except Quarantined as error:
        real = draw_missing_panel(error, moved.shape)
    return stack_horizontally([moved, real], [f"X-t slice of the start frame moved{magnify_caption(magnify)}", "X-t slice of the real frames; time runs down"])


def displacement_magnitude(shown: Reconstruction) -> np.ndarray:
    """|F_t(p)|, pixels, [time, height, width]."""
    return modulus(shown.motion[:, 0], shown.motion[:, 1])


def magnify_caption(magnify: float) -> str:
    return "" if magnify == 1 else f", motion x {magnify:g}"


def enlarge_to_panel(image: Picture) -> Picture:
    return draw.enlarge(image, MIN_PANEL_WIDTH_PX)


def draw_flow_panel(flow: np.ndarray, largest: float) -> Picture:
    return draw.draw_inset(enlarge_to_panel(flow_colors(flow, largest)), draw.draw_color_wheel(COLOR_WHEEL_PX))


def draw_with_scale(values: np.ndarray, largest: float, colours: Callable[[np.ndarray, float], Picture] = heat_map) -> Picture:
    """The values in colours over the colours' scale."""
    image = enlarge_to_panel(colours(values, largest))
    scale = colours(np.tile(np.linspace(0, largest, image.shape[1]), (SCALE_HEIGHT_PX, 1)), largest)
    return np.vstack([draw.pad_to_size(image, len(image) + 2, image.shape[1]), scale])


if __name__ == "__main__":
    main()
