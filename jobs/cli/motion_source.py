"""Options of `animate` and `export-page` that say where motion comes from, and its loading.

The source is a real video, a file, a sample of a dataset, or a trained prior. Without a photograph
the picture that the motion belongs to moves: a video's first frame, or a sample's image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import UInt8

from jobs.cli.console import print_message
from model.device import check_device
from model.prior.inference import load_prior, make_loop_hook, sample_motion
from model.prior.loop_guidance import LOOP_GUIDANCE_WEIGHT, LOOP_RECURRENCE
from pipeline.dataset.open import open_dataset
from pipeline.extract.config import BuildConfig
from pipeline.filters import PRESETS, judge
from pipeline.filters.rules import FAST_MOTION_PX
from pipeline.images.photo import crop_and_resize, image_correlation, read_photograph
from pipeline.preview.reconstruct import find_most_moving_key, reconstruct
from pipeline.whole_clip.first_window import covers_size, motion_of_video
from schemas.outcome import FilterMeasures, Reason
from schemas.spectral_volume import SpectralVolume, decode_volume

_MIN_IMAGE_CORRELATION = 0.5
"""Pictures of a lower correlation show different things."""

Picture = UInt8[np.ndarray, "rows columns 3"]


@dataclass(frozen=True, kw_only=True)
class MotionSource:
    """Options that name exactly one source of motion, and the photograph to move."""

    photo: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[PHOTO]")] = None
    """The photograph; without one, the picture that the motion belongs to moves."""
    motion_from: Path | None = None
    """A video, whose first 5 s give the motion."""
    motion: tuple[str, ...] = ()
    """FILE.safetensors from quiver sample, or DATASET KEY; without KEY it is the sample with the
    most motion.
    """
    checkpoint: Path | None = None
    """Folder of a trained denoiser, which samples motion for the photograph."""
    seed: int = 0
    """Seed of --checkpoint; another seed gives another motion."""
    steps: int = 50
    """Steps of DDIM sampling of --checkpoint, 1 to 1000."""
    guidance: float | None = None
    """Weight of classifier-free guidance of --checkpoint, 0 for none; without a number it is 1, or
    1.75 if the sampling is guided to a loop.
    """
    device: Literal["cuda", "cpu"] = "cpu"
    """Device on which the networks run."""

    def __post_init__(self):
        if not (1 <= self.steps <= 1000 and -1 <= self.guidance_weight <= 100 and self.seed >= 0):
            raise ValueError(
                f"--steps is {self.steps}, --guidance {self.guidance_weight:g}, --seed {self.seed},"
                " expected 1 to 1000, -1 to 100, at least 0"
            )
        source_count = sum(map(bool, (self.motion_from, self.motion, self.checkpoint)))
        if source_count != 1:
            raise ValueError(
                f"{source_count} sources of motion were given, expected one of --motion-from VIDEO,"
                " --motion FILE or DATASET KEY, and --checkpoint DIR"
            )
        if len(self.motion) > 2:
            raise ValueError(
                f"--motion is {' '.join(self.motion)},"
                " expected FILE.safetensors, or DATASET and KEY"
            )
        if self.photo is None and (self.checkpoint or self.is_motion_file):
            source = "checkpoint" if self.checkpoint else "file"
            raise ValueError(
                f"PHOTO is missing: the motion of a {source} has no picture of its own"
            )

    @property
    def loop_seconds(self) -> float | None:
        """Seconds of the loop to which --checkpoint is guided, or None for no loop."""
        return None

    @property
    def guidance_weight(self) -> float:
        """--guidance, or its default."""
        if self.guidance is not None:
            return self.guidance
        return 1.0 if self.loop_seconds is None else LOOP_GUIDANCE_WEIGHT

    @property
    def is_motion_file(self) -> bool:
        """Whether --motion is a file of one spectral volume."""
        return len(self.motion) == 1 and (
            self.motion[0].endswith(".safetensors") or Path(self.motion[0]).is_file()
        )


class _Motion(NamedTuple):
    """Motion, and the picture that it belongs to."""

    volume: SpectralVolume
    picture: Picture | None
    """The picture at its full size; None if the motion comes from a file."""
    name: str
    """Name of the clip, the photograph or the file that the motion comes from."""

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution, width x height."""
        return self.volume.spectrum.shape[3], self.volume.spectrum.shape[2]


def load_motion(source: MotionSource) -> tuple[_Motion, Picture]:
    """The motion, and the whole picture that it moves.

    Raises ValueError if either cannot be read or made. Prints a message if the photograph differs
    much from the picture that the motion belongs to.
    """
    check_device(source.device)
    photo = None if source.photo is None else read_photograph(source.photo)
    motion = _read_motion(source, photo)
    picture = motion.picture if photo is None else photo
    if picture is None:
        raise ValueError("PHOTO is missing: the motion has no picture of its own")
    if motion.picture is not None:
        correlation = image_correlation(picture, motion.picture, motion.size)
        if correlation < _MIN_IMAGE_CORRELATION:
            print_message(
                "the photograph differs much from the picture that the motion belongs to:"
                " it will sway as that one does"
            )
    return motion, picture


def _read_motion(source: MotionSource, photo: Picture | None) -> _Motion:
    """Reads or samples the motion from the only source that the options name."""
    if source.motion_from:
        return _video_motion(source.motion_from)
    if source.checkpoint and photo is not None:
        return _prior_motion(source, source.checkpoint, photo)
    if source.is_motion_file:
        path = Path(source.motion[0])
        return _Motion(_read_volume(path), None, path.stem)
    return dataset_motion(*source.motion)


def _video_motion(path: Path) -> _Motion:
    """The motion of a video's first window. Prints a message if it may look wrong."""
    video = motion_of_video(path, BuildConfig(thresholds=PRESETS["none"]))
    height, width = video.sample.spectrum.shape[2:]
    if not covers_size(video.size, (width, height)):
        print_message(
            f"{path} has {video.size[0]}x{video.size[1]} pixels, fewer than motion is measured at,"
            f" {width}x{height}: its frames are enlarged to it"
        )
    if video.rejection_reasons:
        reasons = ", ".join(video.rejection_reasons).replace("_", " ")
        print_message(
            f"the motion of {path} may look wrong ({reasons}):"
            " the extraction filters would reject it"
        )
    _warn_of_large_motion(FilterMeasures(**video.sample.meta["measures"]), path.stem, width)
    return _Motion(video.volume, video.frame, path.stem)


def dataset_motion(dataset: str, key: str | None = None) -> _Motion:
    """The stored motion of a sample; without a key, that of the sample with the most motion."""
    selection = open_dataset(dataset)
    reconstruction = reconstruct(selection, key or find_most_moving_key(selection))
    name = Path(reconstruction.row.uri).stem
    measures, width = reconstruction.row.measures, reconstruction.sample.image.shape[1]
    _warn_of_large_motion(measures, name, width)
    return _Motion(reconstruction.volume, reconstruction.sample.image, name)


def _warn_of_large_motion(measures: FilterMeasures | None, name: str, width: int) -> None:
    """Prints a message if something moves so far that one warped picture hardly shows it: over
    FAST_MOTION_PX of a picture of 256 pixels, or more than the default filters let through.
    """
    if measures is None:
        return
    largest = max(measures.large_motion_px, measures.sway_px)
    too_much = Reason.TOO_MUCH_MOTION in judge(measures, PRESETS["subtle"])
    if too_much or largest > FAST_MOTION_PX * width / 256:
        print_message(
            f"something in {name} moves by {largest:.0f} px of {width}: the picture may melt there,"
            " and a --magnify below 1 helps"
        )


def _read_volume(path: Path) -> SpectralVolume:
    """Reads the file of --motion."""
    try:
        return decode_volume(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"--motion is {str(path)!r}, which is missing, expected FILE.safetensors or DATASET KEY"
        ) from None
    except ValueError as error:
        raise ValueError(f"--motion is {str(path)!r}, {error}") from error


def _prior_motion(source: MotionSource, checkpoint: Path, photo: Picture) -> _Motion:
    """Samples motion for the photograph from a trained prior."""
    prior = load_prior(checkpoint, print_message)
    image = crop_and_resize(photo, prior.normalizer.size)
    options: dict[str, Any] = dict(
        steps=source.steps, guidance=source.guidance_weight, device=source.device
    )
    if source.loop_seconds is not None:
        options |= dict(
            hook=make_loop_hook(prior, source.loop_seconds, source.device),
            recurrence=LOOP_RECURRENCE,
        )
    (spectrum,) = sample_motion(prior, [image], [source.seed], **options)
    volume = SpectralVolume(
        spectrum=spectrum.astype(np.float32),
        frames=prior.normalizer.frames,
        fps=prior.normalizer.fps,
        provenance={},
    )
    return _Motion(volume, photo, source.photo.stem if source.photo else "")
