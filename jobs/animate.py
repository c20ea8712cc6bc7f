#!/usr/bin/env python
"""A photograph becomes a video, or a loop.

    python -m jobs.animate PHOTO --motion-from VIDEO --loop snap --seconds 4 --fps 30 --out out.mp4
    python -m jobs.animate PHOTO --checkpoint DIR --out out.gif

Its motion is that of a real video (whose first frame moves where no PHOTO is given), that of a file or a data set's sample, or a
trained prior's. Without a network for pictures the photograph's colours are splatted and holes filled from around them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import tyro
from jaxtyping import Complex64, UInt8

from jobs.exits import check_output, sentences, tell
from model.animation import moved
from model.effects import Series, at_rest, crossfade, magnify, mean_magnitude, series_of, snap, unrepeated
from model.metrics import seam
from model.prior import check_device, imagine, load_prior
from pipeline.encode import FASTEST, encode
from pipeline.filters import PRESETS
from pipeline.photograph import at_size, middle, no_larger, read_photograph
from pipeline.reconstruction import reconstruct
from pipeline.selection import select
from pipeline.shards import replace_file
from pipeline.single import first_window
from pipeline.window import BuildConfig
from schemas.motion import decode
from schemas.sample import from_channels

WIDEST = {".mp4": 3840, ".gif": 640, ".webp": 1280}
"""Kinds of file, and how wide their pictures are at most where --width does not say."""
LONGEST_S = 600
BLEND = 0.25
"""Share of a loop over which a cross-fade goes."""
ALIKE = 0.5
"""Correlation of two pictures under which one sways like something else."""

Picture = UInt8[np.ndarray, "rows columns 3"]


@dataclass(frozen=True, kw_only=True)
class Animate:
    """Makes a photograph move."""

    photo: tyro.conf.Positional[Path | None] = None
    """The photograph; without one, the picture to which the motion belongs."""
    out: Path
    """File to write: .mp4, .gif or .webp."""
    motion_from: Path | None = None
    """A video whose motion is taken."""
    motion: tuple[str, ...] = ()
    """FILE.safetensors, as quiver sample writes it, or DATASET KEY."""
    checkpoint: Path | None = None
    """Folder of a trained denoiser, which imagines motion for the photograph."""
    loop: Literal["auto", "none", "snap", "crossfade"] = "auto"
    """snap: every wave in whole cycles; crossfade: faded into its beginning; auto: snap where the file is shown over and over (.gif, .webp)."""
    seconds: float | None = None
    """Length of the result; without a number as long as the motion was recorded."""
    fps: float | None = None
    """Frames a second; without a number 30, and 25 in a .gif."""
    magnify: float = 1.0
    """So many times the motion; 0: none."""
    slow: float = 1.0
    """Slow motion: so many times slower."""
    mask: Path | None = None
    """A picture of the photograph's shape: what is black in it stays still, what is white moves."""
    width: int | None = None
    """Widest result, pixels; without a number 3840 in .mp4, 1280 in .webp and 640 in .gif. Nothing is enlarged."""
    seed: int = 0
    """Of --checkpoint: another seed, another motion."""
    steps: int = 50
    """Of --checkpoint: of DDIM, 1 to 1000."""
    guidance: float = 1.0
    """Of --checkpoint: weight of classifier-free guidance."""
    device: Literal["cuda", "cpu"] = "cpu"
    """Where the prior runs."""

    def __post_init__(self):
        if self.suffix not in WIDEST:
            raise ValueError(f"--out is {self.out}, expected a name that ends in {', '.join(WIDEST)}")
        for name, value, low, high in (
            ("seconds", self.duration(1), 0.1, LONGEST_S),
            ("fps", self.rate, 1, FASTEST[self.suffix]),
            ("slow", self.slow, 0.05, 100),
        ):
            if not (isfinite(value) and low <= value <= high):
                raise ValueError(f"--{name} is {value:g}, expected {low:g} to {high:g}")
        if not abs(self.magnify) <= 100:
            raise ValueError(f"--magnify is {self.magnify:g}, expected -100 to 100")
        if self.width is not None and not 16 <= self.width <= 8192:
            raise ValueError(f"--width is {self.width}, expected 16 to 8192")
        if not (1 <= self.steps <= 1000 and -1 <= self.guidance <= 100 and self.seed >= 0):
            raise ValueError(f"--steps is {self.steps}, --guidance {self.guidance:g}, --seed {self.seed}, expected 1 to 1000, -1 to 100, at least 0")
        self.check_source()

    def check_source(self) -> None:
        """Raises ValueError unless there is one source of motion, and a photograph where it needs one."""
        if (given := sum(map(bool, (self.motion_from, self.motion, self.checkpoint)))) != 1:
            raise ValueError(f"{given} sources of motion were given, expected one of --motion-from VIDEO, --motion FILE or DATASET KEY, and --checkpoint DIR")
        if len(self.motion) > 2:
            raise ValueError(f"--motion is {' '.join(self.motion)}, expected FILE.safetensors or DATASET KEY")
        if self.photo is None and (self.checkpoint or len(self.motion) == 1):
            raise ValueError(f"PHOTO is missing: the motion of a {'checkpoint' if self.checkpoint else 'file'} has no picture of its own")

    @property
    def suffix(self) -> str:
        return self.out.suffix.lower()

    @property
    def rate(self) -> float:
        return self.fps or (25.0 if self.suffix == ".gif" else 30.0)

    @property
    def looped(self) -> str:
        return self.loop if self.loop != "auto" else "none" if self.suffix == ".mp4" else "snap"

    def duration(self, recorded: float) -> float:
        """Seconds of the result, of motion that was recorded for so many."""
        return recorded * self.slow if self.seconds is None else self.seconds


class Motion(NamedTuple):
    """Where something moves, and what."""

    spectrum: Complex64[np.ndarray, "freq 2 height width"]
    frames: int
    fps: float
    picture: Picture | None
    """To which it belongs, as large as there is one."""

    @property
    def size(self) -> tuple[int, int]:
        return self.spectrum.shape[3], self.spectrum.shape[2]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/exits.py."""
    with sentences():
        job = tyro.cli(Animate, prog="quiver animate", args=args)
        check_device(job.device)
        check_output("--out", job.out)
        run(job)


def run(job: Animate) -> None:
    """Writes the file, whole or not at all."""
    given = None if job.photo is None else read_photograph(job.photo)
    motion = motion_of(job, given)
    photo = framed(motion.picture if given is None else given, motion)
    seconds = job.duration(motion.frames / motion.fps)
    series = series_for(job, motion, seconds)
    times = np.arange(max(2, round(seconds * job.rate))) / job.rate / job.slow
    still = None if job.mask is None else mask_of(job.mask, photo, motion.size)
    shown = no_larger(photo, max(job.width or WIDEST[job.suffix], motion.size[0]))
    share = None if still is None else cv2.resize(still, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
    made = moved(shown, series, mean_magnitude(series, times[:: max(1, len(times) // 100)]), times, share)
    data = encode(told(made, len(times)), job.rate, job.suffix)
    replace_file(job.out, data)
    closing = f", {seam_words(series, times)}" if job.looped != "none" and len(times) >= 4 else ""
    print(f"{job.out}: {len(times) / job.rate:.2f} s at {shown.shape[1]}x{shown.shape[0]}, {len(data) / 1e6:.1f} MB{closing}")


def motion_of(job: Animate, photo: Picture | None) -> Motion:
    """From the one source that was given."""
    if job.motion_from:
        return recorded_motion(job.motion_from)
    if len(job.motion) == 2:
        return stored_motion(*job.motion)
    if job.checkpoint and photo is not None:
        return imagined_motion(job, job.checkpoint, photo)
    return motion_of_file(Path(job.motion[0]))


def recorded_motion(path: Path) -> Motion:
    config = BuildConfig(thresholds=PRESETS["none"])
    found = first_window(path, config)
    return Motion(from_channels(found.sample.spectrum), found.frames, config.plan.fps, found.frame)


def stored_motion(dataset: str, key: str) -> Motion:
    found = reconstruct(select(dataset), key)
    return Motion(from_channels(found.sample.spectrum), found.settings.plan.frames, found.settings.plan.fps, found.sample.image)


def motion_of_file(path: Path) -> Motion:
    try:
        volume = decode(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"--motion is {str(path)!r}, which is not there, expected FILE.safetensors or DATASET KEY") from None
    except ValueError as error:
        raise ValueError(f"--motion is {str(path)!r}, {error}") from error
    return Motion(from_channels(volume.spectrum), volume.frames, volume.fps, None)


def imagined_motion(job: Animate, checkpoint: Path, photo: Picture) -> Motion:
    prior, passed = load_prior(checkpoint)
    for sentence in passed:
        tell(sentence)
    (spectrum,) = imagine(prior, [at_size(photo, prior.units.size)], [job.seed], steps=job.steps, guidance=job.guidance, device=job.device)
    return Motion(from_channels(spectrum), prior.units.frames, prior.units.fps, photo)


def framed(picture: Picture | None, motion: Motion) -> Picture:
    """What of the photograph moves: its middle, in the motion's aspect. Warns where it is of another shape, or shows something else."""
    if picture is None:
        raise ValueError("PHOTO is missing: the motion has no picture of its own")
    cut = middle(picture, motion.size)
    if cut.size < 0.97 * picture.size:
        tell(f"the motion is {motion.size[0]}x{motion.size[1]}: of the picture's {picture.shape[1]}x{picture.shape[0]} pixels its middle, "
             f"{cut.shape[1]}x{cut.shape[0]}, is shown")  # fmt: skip
    if motion.picture is not None and likeness(cut, middle(motion.picture, motion.size), motion.size) < ALIKE:
        tell("the photograph differs much from the picture that the motion belongs to: it will sway where that one does")
    return cut


def likeness(one: Picture, other: Picture, size: tuple[int, int]) -> float:
    """Correlation of their grey levels, -1 to 1; 1 where one of them is of one grey."""
    greys = np.stack([cv2.cvtColor(at_size(picture, size), cv2.COLOR_RGB2GRAY).ravel() for picture in (one, other)]).astype(np.float64)
    deviations = greys - greys.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(deviations, axis=1)
    return float(deviations[0] @ deviations[1] / lengths.prod()) if lengths.all() else 1.0


def mask_of(path: Path, photo: Picture, size: tuple[int, int]) -> np.ndarray:
    """How much each pixel moves, 0 to 1: of the mask's middle, as of the photograph's."""
    grey = cv2.cvtColor(middle(read_photograph(path), size), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return cv2.resize(grey, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def series_for(job: Animate, motion: Motion, seconds: float) -> Series:
    """The motion as it is asked for, beginning at rest in the photograph."""
    spectrum, period = magnify(motion.spectrum, motion.frames, motion.fps, job.magnify), seconds / job.slow
    if job.looped == "snap":
        series = snap(spectrum, motion.frames, motion.fps, period)
    elif job.looped == "crossfade":
        series = crossfade(spectrum, motion.frames, motion.fps, period, BLEND * period)
    elif period * motion.fps <= motion.frames:
        series = series_of(spectrum, motion.frames, motion.fps)
    else:
        series = unrepeated(spectrum, motion.frames, motion.fps)
    return at_rest(series)


def seam_words(series: Series, times: Any) -> str:
    """How the loop closes."""
    found = seam(series.frames(times))
    return f"seam {found.position:.2f} in position and {found.velocity:.2f} in velocity of the greatest change inside"


def told(frames: Iterator[Picture], count: int) -> Iterator[Picture]:
    """The same frames, with a line of progress for each tenth of them."""
    for number, frame in enumerate(frames, 1):
        yield frame
        if number * 10 // count > (number - 1) * 10 // count:
            tell(f"{number} of {count} frames")


if __name__ == "__main__":
    main()
