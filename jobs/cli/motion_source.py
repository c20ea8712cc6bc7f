"""Where motion comes from: the options that `animate` and `export-page` share.

A real video (whose first frame moves where no photograph is given), a file, a sample of a data set,
or a trained prior.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import tyro
from jaxtyping import UInt8

from jobs.cli.console import print_message
from model.prior.inference import check_device, load_prior, make_loop_hook, sample_motion
from model.prior.loop_guidance import LOOP_GUIDANCE_WEIGHT, LOOP_RECURRENCE
from pipeline.dataset.open import open_dataset
from pipeline.extract.config import BuildConfig
from pipeline.filters import PRESETS
from pipeline.images.photo import crop_and_resize, read_photograph
from pipeline.preview.reconstruct import find_most_moving_key, reconstruct
from pipeline.whole_clip.first_window import covers_size, motion_of_video
from schemas.spectral_volume import SpectralVolume, decode_volume

_MIN_IMAGE_CORRELATION = 0.5
"""Correlation of two pictures under which one sways like something else."""

Picture = UInt8[np.ndarray, "rows columns 3"]


@dataclass(frozen=True, kw_only=True)
class MotionSource:
    photo: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[PHOTO]")] = None
    """The photograph; without one, the picture to which the motion belongs."""
    motion_from: Path | None = None
    """A video whose motion is taken, that of its first 5 s."""
    motion: tuple[str, ...] = ()
    """FILE.safetensors, as quiver sample writes it, or DATASET KEY; without KEY, the sample of most
    motion.
    """
    checkpoint: Path | None = None
    """Folder of a trained denoiser, which imagines motion for the photograph."""
    seed: int = 0
    """Of --checkpoint: another seed, another motion."""
    steps: int = 50
    """Of --checkpoint: of DDIM, 1 to 1000."""
    guidance: float | None = None
    """Of --checkpoint: weight of classifier-free guidance; without a number 1, and 1.75 where the
    sampling is guided to a loop.
    """
    device: Literal["cuda", "cpu"] = "cpu"
    """Where the prior runs."""

    def __post_init__(self):
        if not (1 <= self.steps <= 1000 and -1 <= self.guidance_weight <= 100 and self.seed >= 0):
            raise ValueError(
                f"--steps is {self.steps}, --guidance {self.guidance_weight:g}, --seed {self.seed}, expected 1 to 1000, -1 to 100, at least 0"
            )
        if (given := sum(map(bool, (self.motion_from, self.motion, self.checkpoint)))) != 1:
            raise ValueError(
                f"{given} sources of motion were given, expected one of --motion-from VIDEO, --motion FILE or DATASET KEY, and --checkpoint DIR"
            )
        if len(self.motion) > 2:
            raise ValueError(
                f"--motion is {' '.join(self.motion)}, expected FILE.safetensors, or DATASET and KEY"
            )
        if self.photo is None and (self.checkpoint or self.is_motion_file):
            raise ValueError(
                f"PHOTO is missing: the motion of a {'checkpoint' if self.checkpoint else 'file'} has no picture of its own"
            )

    @property
    def loop_seconds(self) -> float | None:
        """Seconds of motion after which --checkpoint is guided to a loop; None: it is not."""
        return None

    @property
    def guidance_weight(self) -> float:
        """Of classifier-free guidance."""
        return (
            self.guidance
            if self.guidance is not None
            else 1.0
            if self.loop_seconds is None
            else LOOP_GUIDANCE_WEIGHT
        )

    @property
    def is_motion_file(self) -> bool:
        """Whether --motion is a file of one spectral volume."""
        return len(self.motion) == 1 and (
            self.motion[0].endswith(".safetensors") or Path(self.motion[0]).is_file()
        )


class _Motion(NamedTuple):
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


def load_motion(source: MotionSource) -> tuple[_Motion, Picture]:
    """The motion, and the whole picture that it is to move. Raises ValueError, in a sentence, where
    either cannot be had.

    Warns where the photograph shows something else than the picture that the motion belongs to.
    """
    check_device(source.device)
    given = None if source.photo is None else read_photograph(source.photo)
    motion = _read_motion(source, given)
    picture = motion.picture if given is None else given
    if picture is None:
        raise ValueError("PHOTO is missing: the motion has no picture of its own")
    if (
        motion.picture is not None
        and _image_correlation(picture, motion.picture, motion.size) < _MIN_IMAGE_CORRELATION
    ):
        print_message(
            "the photograph differs much from the picture that the motion belongs to: it will sway where that one does"
        )
    return motion, picture


def _read_motion(source: MotionSource, photo: Picture | None) -> _Motion:
    """From the one source that was given."""
    if source.motion_from:
        return _video_motion(source.motion_from)
    if source.checkpoint and photo is not None:
        return _prior_motion(source, source.checkpoint, photo)
    if source.is_motion_file:
        return _Motion(_read_volume(path := Path(source.motion[0])), None, path.stem)
    return dataset_motion(*source.motion)


def _video_motion(path: Path) -> _Motion:
    config = BuildConfig(thresholds=PRESETS["none"])
    found = motion_of_video(path, config)
    down, across = found.sample.spectrum.shape[2:]
    if not covers_size(found.size, (across, down)):
        print_message(
            f"{path} has {found.size[0]}x{found.size[1]} pixels, fewer than motion is measured at, {across}x{down}: its frames are enlarged to it"
        )
    if found.rejection_reasons:
        print_message(
            f"the motion of {path} may look wrong ({', '.join(found.rejection_reasons).replace('_', ' ')}): a data set would turn it away"
        )
    return _Motion(
        _make_volume(found.sample.spectrum, found.frames, config.plan.fps), found.frame, path.stem
    )


def dataset_motion(dataset: str, key: str | None = None) -> _Motion:
    selection = open_dataset(dataset)
    found = reconstruct(selection, key or find_most_moving_key(selection))
    return _Motion(
        _make_volume(found.sample.spectrum, found.settings.plan.frames, found.settings.plan.fps),
        found.sample.image,
        Path(found.row.uri).stem,
    )


def _make_volume(channels: np.ndarray, frames: int, fps: float) -> SpectralVolume:
    """Of a sample's coefficients."""
    return SpectralVolume(
        spectrum=channels.astype(np.float32), frames=frames, fps=fps, provenance={}
    )


def _read_volume(path: Path) -> SpectralVolume:
    try:
        return decode_volume(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"--motion is {str(path)!r}, which is not there, expected FILE.safetensors or DATASET KEY"
        ) from None
    except ValueError as error:
        raise ValueError(f"--motion is {str(path)!r}, {error}") from error


def _prior_motion(source: MotionSource, checkpoint: Path, photo: Picture) -> _Motion:
    prior, passed = load_prior(checkpoint)
    for sentence in passed:
        print_message(sentence)
    image, options = (
        crop_and_resize(photo, prior.normalizer.size),
        dict[str, Any](steps=source.steps, guidance=source.guidance_weight, device=source.device),
    )
    if source.loop_seconds is not None:
        options |= dict(
            hook=make_loop_hook(prior, source.loop_seconds, source.device),
            recurrence=LOOP_RECURRENCE,
        )
    (spectrum,) = sample_motion(prior, [image], [source.seed], **options)
    return _Motion(
        _make_volume(spectrum, prior.normalizer.frames, prior.normalizer.fps),
        photo,
        source.photo.stem if source.photo else "",
    )


def _image_correlation(one: Picture, other: Picture, size: tuple[int, int]) -> float:
    """Correlation of their grey levels, -1 to 1; 1 where one of them is of one grey."""
    greys = np.stack(
        [
            cv2.cvtColor(crop_and_resize(picture, size), cv2.COLOR_RGB2GRAY).ravel()
            for picture in (one, other)
        ]
    ).astype(np.float64)
    deviations = greys - greys.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(deviations, axis=1)
    return float(deviations[0] @ deviations[1] / lengths.prod()) if lengths.all() else 1.0
