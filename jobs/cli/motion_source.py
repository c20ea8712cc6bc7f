"""Where motion comes from: the options that `animate` and `export-page` share.

A real video (whose first frame moves where no photograph is given), a file, a sample of a data set, or a trained prior.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import tyro
from jaxtyping import UInt8

from jobs.cli.errors import tell
from model.prior.inference import check_device, imagine, load_prior, loop_guidance
from model.prior.loop_guidance import GUIDANCE, RECURRENCE
from pipeline.dataset.open import select
from pipeline.extract.window import BuildConfig
from pipeline.filters import PRESETS
from pipeline.images.photo import at_size, read_photograph
from pipeline.preview.reconstruct import liveliest, reconstruct
from pipeline.whole_clip.first_window import covers, first_window
from schemas.spectral_volume import SpectralVolume, decode

ALIKE = 0.5
"""Correlation of two pictures under which one sways like something else."""

Picture = UInt8[np.ndarray, "rows columns 3"]


@dataclass(frozen=True, kw_only=True)
class Source:
    photo: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[PHOTO]")] = None
    """The photograph; without one, the picture to which the motion belongs."""
    motion_from: Path | None = None
    """A video whose motion is taken, that of its first 5 s."""
    motion: tuple[str, ...] = ()
    """FILE.safetensors, as quiver sample writes it, or DATASET KEY; without KEY, the sample of most motion."""
    checkpoint: Path | None = None
    """Folder of a trained denoiser, which imagines motion for the photograph."""
    seed: int = 0
    """Of --checkpoint: another seed, another motion."""
    steps: int = 50
    """Of --checkpoint: of DDIM, 1 to 1000."""
    guidance: float | None = None
    """Of --checkpoint: weight of classifier-free guidance; without a number 1, and 1.75 where the sampling is guided to a loop."""
    device: Literal["cuda", "cpu"] = "cpu"
    """Where the prior runs."""

    def __post_init__(self):
        if not (1 <= self.steps <= 1000 and -1 <= self.weight <= 100 and self.seed >= 0):
            raise ValueError(f"--steps is {self.steps}, --guidance {self.weight:g}, --seed {self.seed}, expected 1 to 1000, -1 to 100, at least 0")
        if (given := sum(map(bool, (self.motion_from, self.motion, self.checkpoint)))) != 1:
            raise ValueError(f"{given} sources of motion were given, expected one of --motion-from VIDEO, --motion FILE or DATASET KEY, and --checkpoint DIR")
        if len(self.motion) > 2:
            raise ValueError(f"--motion is {' '.join(self.motion)}, expected FILE.safetensors, or DATASET and KEY")
        if self.photo is None and (self.checkpoint or self.is_file):
            raise ValueError(f"PHOTO is missing: the motion of a {'checkpoint' if self.checkpoint else 'file'} has no picture of its own")

    @property
    def closes_after(self) -> float | None:
        """Seconds of motion after which --checkpoint is guided to a loop; None: it is not."""
        return None

    @property
    def weight(self) -> float:
        """Of classifier-free guidance."""
        return self.guidance if self.guidance is not None else 1.0 if self.closes_after is None else GUIDANCE

    @property
    def is_file(self) -> bool:
        """Whether --motion is a file of one spectral volume."""
        return len(self.motion) == 1 and (self.motion[0].endswith(".safetensors") or Path(self.motion[0]).is_file())


class Motion(NamedTuple):
    """Where something moves, and what."""

    volume: SpectralVolume
    picture: Picture | None
    """To which it belongs, as large as there is one."""
    name: str
    """Of the clip, the photograph or the file whose motion it is."""

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution, width x height."""
        return self.volume.spectrum.shape[3], self.volume.spectrum.shape[2]


def found(source: Source) -> tuple[Motion, Picture]:
    """The motion, and the whole picture that it is to move. Raises ValueError, in a sentence, where either cannot be had.

    Warns where the photograph shows something else than the picture that the motion belongs to.
    """
    check_device(source.device)
    given = None if source.photo is None else read_photograph(source.photo)
    motion = motion_of(source, given)
    picture = motion.picture if given is None else given
    if picture is None:
        raise ValueError("PHOTO is missing: the motion has no picture of its own")
    if motion.picture is not None and likeness(picture, motion.picture, motion.size) < ALIKE:
        tell("the photograph differs much from the picture that the motion belongs to: it will sway where that one does")
    return motion, picture


def motion_of(source: Source, photo: Picture | None) -> Motion:
    """From the one source that was given."""
    if source.motion_from:
        return recorded_motion(source.motion_from)
    if source.checkpoint and photo is not None:
        return imagined_motion(source, source.checkpoint, photo)
    if source.is_file:
        return Motion(read_volume(path := Path(source.motion[0])), None, path.stem)
    return stored_motion(*source.motion)


def recorded_motion(path: Path) -> Motion:
    config = BuildConfig(thresholds=PRESETS["none"])
    found = first_window(path, config)
    down, across = found.sample.spectrum.shape[2:]
    if not covers(found.size, (across, down)):
        tell(f"{path} has {found.size[0]}x{found.size[1]} pixels, fewer than motion is measured at, {across}x{down}: its frames are enlarged to it")
    if found.doubts:
        tell(f"the motion of {path} may look wrong ({', '.join(found.doubts).replace('_', ' ')}): a data set would turn it away")
    return Motion(volume_of(found.sample.spectrum, found.frames, config.plan.fps), found.frame, path.stem)


def stored_motion(dataset: str, key: str | None = None) -> Motion:
    selection = select(dataset)
    found = reconstruct(selection, key or liveliest(selection))
    return Motion(volume_of(found.sample.spectrum, found.settings.plan.frames, found.settings.plan.fps), found.sample.image, Path(found.row["uri"]).stem)


def volume_of(channels: np.ndarray, frames: int, fps: float) -> SpectralVolume:
    """Of a sample's coefficients."""
    return SpectralVolume(spectrum=channels.astype(np.float32), frames=frames, fps=fps, made={})


def read_volume(path: Path) -> SpectralVolume:
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"--motion is {str(path)!r}, which is not there, expected FILE.safetensors or DATASET KEY") from None
    except ValueError as error:
        raise ValueError(f"--motion is {str(path)!r}, {error}") from error


def imagined_motion(source: Source, checkpoint: Path, photo: Picture) -> Motion:
    prior, passed = load_prior(checkpoint)
    for sentence in passed:
        tell(sentence)
    image, options = at_size(photo, prior.units.size), dict[str, Any](steps=source.steps, guidance=source.weight, device=source.device)
    if source.closes_after is not None:
        options |= dict(hook=loop_guidance(prior, source.closes_after, source.device), recurrence=RECURRENCE)
    (spectrum,) = imagine(prior, [image], [source.seed], **options)
    return Motion(volume_of(spectrum, prior.units.frames, prior.units.fps), photo, source.photo.stem if source.photo else "")


def likeness(one: Picture, other: Picture, size: tuple[int, int]) -> float:
    """Correlation of their grey levels, -1 to 1; 1 where one of them is of one grey."""
    greys = np.stack([cv2.cvtColor(at_size(picture, size), cv2.COLOR_RGB2GRAY).ravel() for picture in (one, other)]).astype(np.float64)
    deviations = greys - greys.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(deviations, axis=1)
    return float(deviations[0] @ deviations[1] / lengths.prod()) if lengths.all() else 1.0
