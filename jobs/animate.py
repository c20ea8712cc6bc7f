#!/usr/bin/env python
"""A photograph becomes a video, or a loop.

    quiver animate photo.jpg --motion-from video.mp4 --loop snap --seconds 4 --out loop.mp4
    quiver animate photo.jpg --checkpoint prior --out loop.gif
    quiver animate photo.jpg --checkpoint prior --renderer renderer --out film.mp4

Its motion is that of a real video (whose first frame moves where no PHOTO is given), that of a file
or a data set's sample, or a trained prior's. A trained renderer makes the frames (--renderer);
without one the photograph's colours are splatted and holes filled from around them.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jobs.cli.args import check_output_file, parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.motion_source import MotionSource, Picture, load_motion
from model.evaluate.spectral import seam
from model.motion.series import (
    MotionSeries,
    crossfade_loop,
    extrapolate,
    magnify,
    mean_magnitude,
    snap_loop,
    start_at_rest,
    to_series,
)
from model.render.inference import load_renderer
from model.render.renderer import NeuralRenderer, Renderer
from model.render.warp import animate_frames
from pipeline.atomic_files import replace_file
from pipeline.images.encode import (
    MAX_FPS,
    encode_animation,
    pad_to_even,
    write_animation,
    write_pictures,
)
from pipeline.images.photo import crop_to_aspect, read_photograph, shrink_to_width
from pipeline.sizes import human_size
from schemas.sample import channels_to_complex
from schemas.spectral_volume import SpectralVolume

_MAX_WIDTHS_PX = {".mp4": 3840, ".webm": 3840, ".gif": 640, ".webp": 1280, "": 3840}
"""Kinds of file, and how wide their pictures are at most where --width does not say; "" is a folder
of png.
"""
_MAX_RENDERED_WIDTH_PX = 1024
"""Widest where a network makes the frames: its memory grows with them, about 1 GB here."""
_MAX_SECONDS = 600
_GAP_PX = 8
"""Pixels between two pictures side by side."""
_MASK_MARGIN_SHARE = 1 / 64
"""Share of the picture's longer side within which what moves comes to rest beside what a mask keeps
still.
"""
_MAX_SLICE_ASPECT = 4
"""A slice is at most so many times as wide as it is high: each frame has as many rows as that
takes.
"""
_LOOP_BLEND_SHARES = {"crossfade": 0.25, "guided": 0.1}
"""Share of a loop over which it is faded into itself: after guidance little is left to close."""


@dataclass(frozen=True, kw_only=True)
class Animate(MotionSource):
    out: Path
    """File to write: .mp4, .webm, .gif or .webp; a name without an ending is a folder of .png."""
    loop: Literal["auto", "none", "snap", "crossfade", "guided"] = "auto"
    """snap: every wave in whole cycles; crossfade: faded into its beginning; guided: --checkpoint
    is guided to motion that closes; auto: snap where the file is shown over and over (.gif, .webp).
    """
    seconds: float | None = None
    """Length of the result; without a number as long as the motion was recorded."""
    fps: float | None = None
    """Frames a second; without a number 30, and 25 in a .gif."""
    magnify: float = 1.0
    """So many times the motion; 0: none."""
    magnify_band: tuple[str, ...] = ()
    """LOW:HIGH=FACTOR, so many times the motion between two frequencies in Hz, as 0.5:1=3; several
    are allowed.
    """
    slow: float = 1.0
    """Slow motion: so many times slower."""
    mask: Path | None = None
    """A picture of the photograph's shape and any size: what is black in it stays still, what is
    white moves, what is grey moves less.
    """
    renderer: Path | None = None
    """Folder of a trained renderer, which makes the frames; without one the colours are splatted.
    It runs on --device.
    """
    side_by_side: bool = False
    """The photograph stands still on the left, and moves on the right."""
    slice: Path | None = None
    """Also write a .png of one row of the picture over time, downwards: that whose pixels move
    most.
    """
    width: int | None = None
    """Widest result, pixels; without a number 3840 in .mp4 and .webm, 1280 in .webp and 640 in
    .gif, and with --renderer never over 1024. Nothing is enlarged.
    """
    quiet: bool = False
    """No lines of progress."""

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
        """Raises ValueError where a file is not of a kind that is made, or an option lacks another."""
        if self.suffix not in _MAX_WIDTHS_PX:
            raise ValueError(
                f"--out is {self.out}, expected a name that ends in {', '.join(filter(None, _MAX_WIDTHS_PX))}, or in nothing for a folder of .png"
            )
        if self.loop == "guided" and (self.checkpoint is None or self.seconds is None):
            raise ValueError(
                "--loop guided was asked for, expected --checkpoint, whose sampling it guides, and --seconds beside it"
            )
        if self.slice is not None and self.slice.suffix.lower() != ".png":
            raise ValueError(f"--slice is {self.slice}, expected a name that ends in .png")

    @property
    def suffix(self) -> str:
        return self.out.suffix.lower()

    @property
    def loop_seconds(self) -> float | None:
        """In seconds of the motion, which --slow stretches."""
        return None if self.loop != "guided" or self.seconds is None else self.seconds / self.slow

    @property
    def bands(self) -> dict[tuple[float, float], float]:
        """What --magnify-band says. Raises ValueError where it is not of its form."""
        return dict(map(_parse_band, self.magnify_band))

    @property
    def max_width(self) -> int:
        return (
            self.width
            if self.width is not None
            else min(
                _MAX_WIDTHS_PX[self.suffix],
                _MAX_RENDERED_WIDTH_PX if self.renderer else _MAX_WIDTHS_PX[self.suffix],
            )
        )

    @property
    def output_fps(self) -> float:
        return self.fps or (25.0 if self.suffix == ".gif" else 30.0)

    @property
    def loop_method(self) -> str:
        return (
            self.loop
            if self.loop != "auto"
            else "snap"
            if self.suffix in (".gif", ".webp")
            else "none"
        )

    def output_seconds(self, recorded: float) -> float:
        """Seconds of the result, of motion that was recorded for so many."""
        return recorded * self.slow if self.seconds is None else self.seconds


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(Animate, "quiver animate", args, description=__doc__)
        _check_job(job)
        _run_job(job)


def _check_job(job: Animate) -> None:
    """Raises ValueError where what is made could not be put, or a mask is not of the photograph:
    before the motion, which takes long.
    """
    folder = not job.suffix and job.out.is_dir()
    if not job.suffix and (job.out.is_file() or (folder and any(job.out.iterdir()))):
        raise ValueError(
            f"--out is {str(job.out)!r}, where there is something, expected a folder that is new or empty"
        )
    if not folder:
        check_output_file("--out", job.out)
    if job.slice is not None:
        check_output_file("--slice", job.slice)
    if job.mask is not None and job.photo is not None:
        _read_mask(job.mask, read_photograph(job.photo))


def _run_job(job: Animate) -> None:
    """Writes the file, whole or not at all."""
    import cv2  # not above: `jobs` must come first, which says what brings it if it is missing

    network = _load_job_renderer(job)
    motion, picture = load_motion(job)
    volume, photo = motion.volume, _crop_to_motion(picture, motion.size)
    seconds = job.output_seconds(volume.frames / volume.fps)
    if seconds > _MAX_SECONDS:
        raise ValueError(
            f"the motion would last {seconds:g} s, expected at most {_MAX_SECONDS}: say --seconds"
        )
    series = _build_motion_series(job, volume, seconds)
    times = np.arange(max(2, round(seconds * job.output_fps))) / job.output_fps / job.slow
    shown = shrink_to_width(photo, max(job.max_width, motion.size[0]))
    share = None if job.mask is None else _motion_mask(job.mask, picture, motion.size, shown)
    weight = mean_magnitude(series, times[:: max(1, len(times) // 100)])
    moving = (
        weight
        if share is None
        else weight * cv2.resize(share, weight.shape[::-1], interpolation=cv2.INTER_AREA)
    )
    row, rows = _most_moving_row(moving, len(shown)), []
    with closing(
        animate_frames(
            shown,
            series,
            weight,
            times,
            share,
            network and NeuralRenderer(network, shown, job.seed, job.device),
        )
    ) as made:  # its threads end before anything else does
        size = _write_frames(
            job,
            (
                _compose_frame(job, shown, _record_row(frame, row, rows))
                for frame in (made if job.quiet else _report_progress(made, len(times)))
            ),
        )
    if job.slice is not None:
        thick = max(1, len(shown[0]) // (_MAX_SLICE_ASPECT * len(rows)))
        replace_file(
            job.slice, encode_animation([np.stack(rows).repeat(thick, axis=0)], 1.0, ".png")
        )
        print_output(f"{job.slice}: row {row} of {len(shown)}, over time")
    ending = (
        f", {_describe_seam(series, times)}"
        if job.loop_method != "none" and len(times) >= 4
        else ""
    )
    down, across = _output_shape(job, _compose_frame(job, shown, shown))
    print_output(
        f"{job.out}: {len(times) / job.output_fps:.2f} s at {across}x{down}, {human_size(size)}{ending}"
    )


def _write_frames(job: Animate, frames: Iterator[Picture]) -> int:
    """Whole or not at all; returns how many bytes."""
    return (
        write_animation(job.out, frames, job.output_fps)
        if job.suffix
        else write_pictures(job.out, frames)
    )


def _output_shape(job: Animate, frame: Picture) -> tuple[int, int]:
    """Rows and columns, which are even in a film."""
    return (pad_to_even(frame) if job.suffix in (".mp4", ".webm") else frame).shape[:2]


def _most_moving_row(weight: np.ndarray, rows: int) -> int:
    """Of a picture of so many rows, that whose pixels move furthest on average."""
    return int((weight.mean(axis=1).argmax() + 0.5) / len(weight) * rows)


def _record_row(frame: Picture, row: int, rows: list[np.ndarray]) -> Picture:
    """The frame, of which a row is added to `rows`."""
    rows.append(frame[row].copy())
    return frame


def _compose_frame(job: Animate, still: Picture, frame: Picture) -> Picture:
    """The frame, beside the photograph where that is asked for."""
    if not job.side_by_side:
        return frame
    return np.concatenate([still, np.full((len(still), _GAP_PX, 3), 255, np.uint8), frame], axis=1)


def _parse_band(text: str) -> tuple[tuple[float, float], float]:
    """`0.5:1=3` as ((0.5, 1.0), 3.0). Raises ValueError naming what was given."""
    found = re.fullmatch(r"([0-9.]+):([0-9.]+)=(-?[0-9.]+)", text)
    try:
        low, high, factor = map(float, found.groups() if found else ())
    except ValueError:
        raise ValueError(
            f"--magnify-band is {text!r}, expected LOW:HIGH=FACTOR, as 0.5:1=3"
        ) from None
    if low > high:
        raise ValueError(f"--magnify-band is {text!r}, expected LOW at most HIGH")
    return (low, high), factor


def _load_job_renderer(job: Animate) -> Renderer | None:
    """That makes the frames, if one was given."""
    if job.renderer is None:
        return None
    return load_renderer(job.renderer, print_message)


def _crop_to_motion(picture: Picture, size: tuple[int, int]) -> Picture:
    """What of the photograph moves: its middle, in the motion's aspect. Says so where it is much
    less than the whole.
    """
    cut = crop_to_aspect(picture, size)
    if cut.size < 0.97 * picture.size:
        print_message(
            f"the motion is {size[0]}x{size[1]}: of the picture's {picture.shape[1]}x{picture.shape[0]} pixels its middle, {cut.shape[1]}x{cut.shape[0]}, is shown"
        )
    return cut


def _read_mask(path: Path, picture: Picture) -> Picture:
    """Raises ValueError where it is no picture, or one of another shape than the photograph."""
    mask, (rows, columns) = read_photograph(path), picture.shape[:2]
    if not 0.95 < mask.shape[1] / mask.shape[0] * rows / columns < 1.05:
        raise ValueError(
            f"--mask is {path} of {mask.shape[1]}x{mask.shape[0]} pixels, expected the shape of the photograph, {columns}x{rows}"
        )
    return mask


def _motion_mask(path: Path, picture: Picture, size: tuple[int, int], shown: Picture) -> np.ndarray:
    """How much each pixel of what is `shown` moves, 0 to 1, by a mask of the whole picture; less
    beside what stands still, so that nothing tears there.
    """
    import cv2

    whole = crop_to_aspect(
        cv2.resize(_read_mask(path, picture), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR),
        size,
    )
    grey = cv2.cvtColor(
        cv2.resize(whole, shown.shape[1::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
    )
    away = cv2.distanceTransform(
        (grey > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ) / (_MASK_MARGIN_SHARE * max(shown.shape))
    return grey.astype(np.float32) / 255 * np.minimum(away, 1).astype(np.float32)


def _build_motion_series(job: Animate, volume: SpectralVolume, seconds: float) -> MotionSeries:
    """The motion as it is asked for, beginning at rest in the photograph."""
    spectrum, period = (
        magnify(
            channels_to_complex(volume.spectrum),
            volume.frames,
            volume.fps,
            job.magnify,
            bands=job.bands,
        ),
        seconds / job.slow,
    )
    window = volume.frames, volume.fps
    if job.loop_method == "snap":
        series = snap_loop(spectrum, *window, period)
    elif job.loop_method != "none":
        series = crossfade_loop(
            spectrum, *window, period, _LOOP_BLEND_SHARES[job.loop_method] * period
        )
    else:
        series = (to_series if period * volume.fps <= volume.frames else extrapolate)(
            spectrum, *window
        )
    return start_at_rest(series)


def _describe_seam(series: MotionSeries, times: Any) -> str:
    """How the loop closes."""
    found = seam(series.frames(times))
    return f"seam {found.position:.2f} in position and {found.velocity:.2f} in velocity of the greatest change inside (up to about 1 it is not seen)"


def _report_progress(frames: Iterator[Picture], count: int) -> Iterator[Picture]:
    """The same frames, with a line of progress for each tenth of them."""
    for number, frame in enumerate(frames, 1):
        yield frame
        if number * 10 // count > (number - 1) * 10 // count:
            print_message(f"{number} of {count} frames")


if __name__ == "__main__":
    main()
