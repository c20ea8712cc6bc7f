#!/usr/bin/env python
"""Turns a photograph into a video or a loop.

    quiver animate photo.jpg --motion-from video.mp4 --loop snap --seconds 4 --out loop.mp4
    quiver animate photo.jpg --checkpoint prior --out loop.gif
    quiver animate photo.jpg --checkpoint prior --renderer renderer --out film.mp4

The motion comes from a real video (whose first frame moves if there is no PHOTO), from a file, from
a sample of a dataset, or from a trained prior. A trained renderer makes the frames (--renderer);
without one the photograph's colors are splatted, and holes are filled from their surroundings.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

import numpy as np

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.motion_source import MotionSource, Picture, load_motion
from model.evaluate.spectral import seam
from model.motion.compose import LoopMethod, compose_motion
from model.motion.series import MotionSeries, mean_magnitude
from model.render.inference import load_renderer
from model.render.mask import mask_weight, motion_mask, read_mask
from model.render.renderer import NeuralRenderer, Renderer
from model.render.warp import animate_frames
from pipeline.atomic_files import replace_file
from pipeline.images.draw import most_moving_row
from pipeline.images.encode import (
    MAX_FPS,
    encode_animation,
    encoded_size,
    write_animation,
    write_pictures,
)
from pipeline.images.photo import crop_to_aspect, read_photograph, shrink_to_width
from pipeline.sizes import human_size

_MAX_WIDTHS_PX = {".mp4": 3840, ".webm": 3840, ".gif": 640, ".webp": 1280, "": 3840}
"""Kinds of file and their largest width without --width; "" is a folder of png."""
_MAX_RENDERED_WIDTH_PX = 1024
"""Largest width of frames that a network makes, for which it needs about 1 GB of memory."""
_MAX_SECONDS = 600
_GAP_PX = 8
"""Pixels between two pictures side by side."""
_MAX_SLICE_ASPECT = 4
"""A slice is at most so many times as wide as it is high; if it has few frames, their rows are
repeated.
"""


@dataclass(frozen=True, kw_only=True)
class Animate(MotionSource):
    out: Path
    """File to write: .mp4, .webm, .gif or .webp. A name without a suffix is a folder of .png."""
    loop: Literal["auto", "none", "snap", "crossfade", "guided"] = "auto"
    """How the result loops. snap: every wave gets whole cycles; crossfade: the end is faded into
    the beginning; guided: --checkpoint is guided to motion that closes; auto: snap for .gif and
    .webp, which repeat, and none for other files.
    """
    seconds: float | None = None
    """Length of the result; without a number it is as long as the recorded motion."""
    fps: float | None = None
    """Frames a second; without a number it is 30, or 25 for .gif."""
    magnify: float = 1.0
    """Factor by which the motion is multiplied; 0 is none."""
    magnify_band: tuple[str, ...] = ()
    """LOW:HIGH=FACTOR multiplies the motion between two frequencies in Hz, such as 0.5:1=3.
    Several bands are allowed.
    """
    slow: float = 1.0
    """Factor of slow motion."""
    mask: Path | None = None
    """A picture of the photograph's aspect and any size. What is black in it stays still, what is
    white moves, what is gray moves less.
    """
    renderer: Path | None = None
    """Folder of a trained renderer, which makes the frames on --device; without one the colors are
    splatted.
    """
    side_by_side: bool = False
    """Show the photograph at rest on the left, and moving on the right."""
    slice: Path | None = None
    """Also write a .png of one row of the picture over time, downwards: the row that moves most."""
    width: int | None = None
    """Largest width of the result, pixels. Without a number it is 3840 for .mp4 and .webm, 1280 for
    .webp and 640 for .gif, and with --renderer at most 1024. Nothing is enlarged.
    """
    quiet: bool = False
    """Print no lines of progress."""

    def __post_init__(self):
        super().__post_init__()
        self.check_file_names()
        for name, value, low, high in (
            ("seconds", self.output_seconds(1), 0.1, _MAX_SECONDS),
            ("fps", self.output_fps, 1, MAX_FPS.get(self.suffix, 1000)),
            ("slow", self.slow, 0.05, 100),
        ):
            if not (isfinite(value) and low <= value <= high):
                raise ValueError(f"--{name} is {value:g}, expected {low:g} to {high:g}")
        for name, factor in (
            ("magnify", self.magnify),
            *(("magnify-band", factor) for factor in self.bands.values()),
        ):
            if not abs(factor) <= 100:
                raise ValueError(f"--{name} is {factor:g}, expected -100 to 100")
        if not 16 <= self.max_width <= 8192:
            raise ValueError(f"--width is {self.width}, expected 16 to 8192")

    def check_file_names(self) -> None:
        """Raises ValueError if a file has an unknown suffix, or an option requires another one."""
        if self.suffix not in _MAX_WIDTHS_PX:
            suffixes = ", ".join(filter(None, _MAX_WIDTHS_PX))
            raise ValueError(
                f"--out is {self.out}, expected a name that ends in {suffixes},"
                " or in nothing for a folder of .png"
            )
        if self.loop == "guided" and (self.checkpoint is None or self.seconds is None):
            raise ValueError(
                "--loop guided requires --checkpoint, whose sampling it guides, and --seconds"
            )
        if self.slice is not None and self.slice.suffix.lower() != ".png":
            raise ValueError(f"--slice is {self.slice}, expected a name that ends in .png")

    @property
    def suffix(self) -> str:
        """The suffix of --out in lower case; "" for a folder."""
        return self.out.suffix.lower()

    @property
    def loop_seconds(self) -> float | None:
        """Length of the guided loop in seconds of the motion, which --slow stretches."""
        return None if self.loop != "guided" or self.seconds is None else self.seconds / self.slow

    @property
    def bands(self) -> dict[tuple[float, float], float]:
        """The factor of each band of --magnify-band. Raises ValueError if one is malformed."""
        return dict(map(_parse_band, self.magnify_band))

    @property
    def max_width(self) -> int:
        """--width, or its default for the kind of file, in pixels."""
        if self.width is not None:
            return self.width
        largest = _MAX_WIDTHS_PX[self.suffix]
        return min(largest, _MAX_RENDERED_WIDTH_PX) if self.renderer else largest

    @property
    def output_fps(self) -> float:
        """--fps, or its default for the kind of file."""
        return self.fps or (25.0 if self.suffix == ".gif" else 30.0)

    @property
    def loop_method(self) -> LoopMethod:
        """--loop, with `auto` resolved by the kind of file."""
        if self.loop != "auto":
            return self.loop
        return "snap" if self.suffix in (".gif", ".webp") else "none"

    def output_seconds(self, recorded_s: float) -> float:
        """Seconds of the result, if the motion was recorded for `recorded_s` seconds."""
        return recorded_s * self.slow if self.seconds is None else self.seconds


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Animate, "quiver animate", args, description=__doc__)
        _check_job(job)
        _run_job(job)


def _check_job(job: Animate) -> None:
    """Raises ValueError if a file cannot be written or the mask does not fit the photograph, before
    the motion is computed, which takes long.
    """
    is_folder = not job.suffix and job.out.is_dir()
    if not job.suffix and (job.out.is_file() or (is_folder and any(job.out.iterdir()))):
        raise ValueError(
            f"--out is {str(job.out)!r}, which exists, expected a folder that is new or empty"
        )
    if not is_folder:
        check_output_file("--out", job.out)
    if job.slice is not None:
        check_output_file("--slice", job.slice)
    if job.mask is not None and job.photo is not None:
        read_mask(job.mask, read_photograph(job.photo))


def _run_job(job: Animate) -> None:
    """Writes the file completely or not at all, and prints what it is."""
    network = _load_job_renderer(job)
    motion, picture = load_motion(job)
    volume, photo = motion.volume, _crop_to_motion(picture, motion.size)
    seconds = job.output_seconds(volume.frames / volume.fps)
    if seconds > _MAX_SECONDS:
        raise ValueError(
            f"the motion would last {seconds:g} s, expected at most {_MAX_SECONDS}: say --seconds"
        )
    series = compose_motion(
        volume, seconds / job.slow, job.loop_method, job.magnify, bands=job.bands
    )
    times = np.arange(max(2, round(seconds * job.output_fps))) / job.output_fps / job.slow
    output_photo = shrink_to_width(photo, max(job.max_width, motion.size[0]))
    mask = None if job.mask is None else motion_mask(job.mask, picture, motion.size, output_photo)
    weight = mean_magnitude(series, times[:: max(1, len(times) // 100)])
    visible_weight = weight if mask is None else mask_weight(weight, mask)
    slice_row, slice_rows = most_moving_row(visible_weight, len(output_photo)), []
    renderer = network and NeuralRenderer(network, output_photo, job.seed, job.device)
    with closing(animate_frames(output_photo, series, weight, times, mask, renderer)) as frames:
        # its threads end before anything else does
        composed = _compose_frames(job, output_photo, frames, len(times), slice_row, slice_rows)
        if job.suffix:
            size_bytes = write_animation(job.out, composed, job.output_fps)
        else:
            size_bytes = write_pictures(job.out, composed)
    if job.slice is not None:
        repeats = max(1, len(output_photo[0]) // (_MAX_SLICE_ASPECT * len(slice_rows)))
        picture = np.stack(slice_rows).repeat(repeats, axis=0)
        replace_file(job.slice, encode_animation([picture], 1.0, ".png"))
        print_output(f"{job.slice}: row {slice_row} of {len(output_photo)}, over time")
    ending = ""
    if job.loop_method != "none" and len(times) >= 4:
        ending = f", {_describe_seam(series, times)}"
    width, height = encoded_size(_compose_frame(job, output_photo, output_photo), job.suffix)
    print_output(
        f"{job.out}: {len(times) / job.output_fps:.2f} s at {width}x{height},"
        f" {human_size(size_bytes)}{ending}"
    )


def _compose_frames(
    job: Animate,
    still: Picture,
    frames: Iterator[Picture],
    count: int,
    slice_row: int,
    slice_rows: list[np.ndarray],
) -> Iterator[Picture]:
    """The frames of the file, with a line of progress for each tenth of `count` frames. Row
    `slice_row` of every frame is added to `slice_rows`.
    """
    for number, frame in enumerate(frames, 1):
        slice_rows.append(frame[slice_row].copy())
        yield _compose_frame(job, still, frame)
        if not job.quiet and number * 10 // count > (number - 1) * 10 // count:
            print_message(f"{number} of {count} frames")


def _compose_frame(job: Animate, still: Picture, frame: Picture) -> Picture:
    """The frame, beside the photograph if --side-by-side asks for it."""
    if not job.side_by_side:
        return frame
    return np.concatenate([still, np.full((len(still), _GAP_PX, 3), 255, np.uint8), frame], axis=1)


def _parse_band(text: str) -> tuple[tuple[float, float], float]:
    """Parses `0.5:1=3` as ((0.5, 1.0), 3.0). Raises ValueError if the text is malformed."""
    match = re.fullmatch(r"([0-9.]+):([0-9.]+)=(-?[0-9.]+)", text)
    try:
        low, high, factor = map(float, match.groups() if match else ())
    except ValueError:
        raise ValueError(
            f"--magnify-band is {text!r}, expected LOW:HIGH=FACTOR, such as 0.5:1=3"
        ) from None
    if low > high:
        raise ValueError(f"--magnify-band is {text!r}, expected LOW at most HIGH")
    return (low, high), factor


def _load_job_renderer(job: Animate) -> Renderer | None:
    """The network of --renderer, if there is one."""
    if job.renderer is None:
        return None
    return load_renderer(job.renderer, print_message)


def _crop_to_motion(picture: Picture, size: tuple[int, int]) -> Picture:
    """The middle of the photograph in the motion's aspect. Prints a message if it is much less than
    the whole.
    """
    crop = crop_to_aspect(picture, size)
    if crop.size < 0.97 * picture.size:
        print_message(
            f"the motion is {size[0]}x{size[1]}: of the picture's"
            f" {picture.shape[1]}x{picture.shape[0]} pixels its middle,"
            f" {crop.shape[1]}x{crop.shape[0]}, is shown"
        )
    return crop


def _describe_seam(series: MotionSeries, times: np.ndarray) -> str:
    """How well the loop closes."""
    jump = seam(series.frames(times))
    return (
        f"seam {jump.position:.2f} in position and {jump.velocity:.2f} in velocity"
        " of the greatest change inside (up to about 1 it is not seen)"
    )


if __name__ == "__main__":
    main()
