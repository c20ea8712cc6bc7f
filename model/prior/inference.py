"""A trained prior: from a checkpoint to motion for a photograph. Needs no data set."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor, nn

from model import checkpoints
from model.checkpoints import Checkpoint
from model.normalizer import SpectrumNormalizer, normalizer_from_config
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.prior.denoiser import DenoiserConfig, SliceDenoiser, VolumeDenoiser
from model.prior.diffusion import mask_features
from model.prior.frequency_attention import CoordinatedDenoiser, build_denoiser
from model.prior.loop_guidance import self_guidance
from model.prior.sampling import GuidanceHook, check_finite, decode_spectrum, sample_latents
from pipeline.images.photo import check_rgb, crop_and_resize
from schemas.spectral_volume import SpectralVolume

Denoiser = SliceDenoiser | CoordinatedDenoiser | VolumeDenoiser


class ConditionedDenoiser(nn.Module):
    """A denoiser with the features of its photographs, as one step of training calls it."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        z: Float[Tensor, "batch freq 4 h w"],
        n: Int[Tensor, " batch"],
        image: Float[Tensor, "batch 3 height width"],
        kept: Bool[Tensor, " batch"],
        bands: Int[Tensor, "batch freq"] | None,
    ) -> Float[Tensor, "batch freq 4 h w"]:
        features = mask_features(self.denoiser.features(image), kept)
        return (
            self.denoiser(z, n, features) if bands is None else self.denoiser(z, n, features, bands)
        )


class TrainedAutoencoder(NamedTuple):
    """A trained autoencoder and what it was trained on."""

    network: SliceAutoencoder
    normalizer: SpectrumNormalizer


Config = TypeVar("Config")


class Prior(NamedTuple):
    """Everything that makes a spectral volume of a photograph."""

    denoiser: Denoiser
    autoencoder: SliceAutoencoder
    normalizer: SpectrumNormalizer

    def sample(
        self,
        photo: np.ndarray,
        seed: int = 0,
        *,
        steps: int = 50,
        guidance: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> SpectralVolume:
        """Motion for the middle of a photograph, uint8 [height, width, 3], RGB, of any size from
        the working size on; another seed gives another motion.

        `steps` are of DDIM, 1 to 1000; `guidance` is the weight of classifier-free guidance. Raises
        ValueError if the photograph is smaller or of another type, or a number is out of range.
        """
        if not (1 <= steps <= 1000 and seed >= 0):
            raise ValueError(f"steps is {steps} and seed {seed}, expected 1 to 1000 and at least 0")
        image = crop_and_resize(check_rgb(photo), self.normalizer.size)
        (spectrum,) = sample_motion(
            self, [image], [seed], steps=steps, guidance=guidance, device=device
        )
        return SpectralVolume(
            spectrum=spectrum,
            fps=self.normalizer.fps,
            frames=self.normalizer.frames,
            provenance=dict(seed=seed, steps=steps, guidance=guidance),
        )


def load_autoencoder(path: Path) -> tuple[TrainedAutoencoder, list[str]]:
    """A trained autoencoder, by its averaged weights, and a sentence for each torn checkpoint that
    was passed over.

    Raises ValueError where there is none.
    """
    found, passed = load_checkpoint(path, "autoencoder")
    return TrainedAutoencoder(
        _restore_autoencoder(found, "ema"), normalizer_from_config(found.config.get("units"))
    ), passed


def load_prior(path: Path | str) -> Prior:
    """A trained prior on the CPU, from the folder that `quiver train-denoiser` wrote. Incomplete
    checkpoints are skipped with a warning in the log.

    Raises ValueError if there is no complete checkpoint of a denoiser.
    """
    prior, skipped = read_prior(Path(path))
    for sentence in skipped:
        logging.getLogger(__name__).warning(sentence)
    return prior


def read_prior(path: Path) -> tuple[Prior, list[str]]:
    """A trained denoiser with its autoencoder, on the CPU, and a sentence for each torn checkpoint
    that was passed over.

    Raises ValueError where there is none.
    """
    found, passed = load_checkpoint(path, "denoiser")
    units = normalizer_from_config(found.config.get("units"))
    prior = Prior(restore_denoiser(found), _restore_autoencoder(found, "autoencoder"), units)
    if prior.denoiser.config.frequencies != units.frequencies:
        raise ValueError(
            f"{path} is of {prior.denoiser.config.frequencies} frequencies and has scales of {units.frequencies}"
        )
    return prior, passed


def load_checkpoint(path: Path, kind: str) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint. Raises ValueError where it is none of that kind."""
    found, passed = checkpoints.read_newest(path)
    if found.config.get("kind") != kind:
        raise ValueError(
            f"{path} holds a checkpoint of kind {found.config.get('kind')!r}, expected {kind!r}"
        )
    return found, passed


def _restore_autoencoder(found: Checkpoint, name: str) -> SliceAutoencoder:
    """From the weights of that name."""
    network = SliceAutoencoder(restore_config(found, "autoencoder", AutoencoderConfig))
    load_network_weights(network, found, name)
    return network.requires_grad_(False).eval()


def restore_denoiser(found: Checkpoint) -> Denoiser:
    """By its averaged weights."""
    network = ConditionedDenoiser(build_denoiser(restore_config(found, "denoiser", DenoiserConfig)))
    load_network_weights(network, found, "ema")
    return network.denoiser.eval()


def restore_config(found: Checkpoint, name: str, kind: Callable[..., Config]) -> Config:
    """The configuration of a network. Raises ValueError where a checkpoint does not have it."""
    try:
        fields = dict(found.config[name])
        return kind(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in fields.items()
            }
        )  # tuples are lists in JSON
    except (KeyError, TypeError) as error:
        raise ValueError(f"{found.folder} does not say what its {name} is: {error}") from error


def load_network_weights(network: torch.nn.Module, found: Checkpoint, name: str) -> None:
    """Raises ValueError where the weights are of another network."""
    try:
        network.load_state_dict(found.load_weights(name))
    except RuntimeError as error:
        raise ValueError(
            f"{found.folder}: the weights of {name} are not of the network that {checkpoints.CONFIG_FILE} says: {checkpoints.summarize_error(error)}"
        ) from error


def check_device(device: str, option: str = "--device") -> None:
    """Raises ValueError where that is a GPU and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option} is cuda and there is no GPU that torch can use")


def sample_motion(
    prior: Prior,
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    seeds: Sequence[int],
    *,
    steps: int = 250,
    guidance: float = 1.0,
    hook: GuidanceHook | None = None,
    recurrence: int = 1,
    device: torch.device | str = "cpu",
) -> Float32[np.ndarray, "batch freq 4 height width"]:
    """Spectral volumes in pixels (re x, im x, re y, im y), one for each photograph, which has the
    working size, and its seed.

    Raises ValueError where a photograph has another size, and as `sample` does.
    """
    (width, height), factor = prior.normalizer.size, prior.autoencoder.downsampling_factor
    for image in images:
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"the photograph is {image.shape[1]}x{image.shape[0]}, expected {width}x{height}"
            )
    denoiser, autoencoder = prior.denoiser.to(device), prior.autoencoder.to(device)
    shape = (
        prior.normalizer.frequencies,
        autoencoder.config.latent_channels,
        height // factor,
        width // factor,
    )
    with torch.no_grad():
        features = denoiser.features(_images_to_tensor(images).to(device))
        z = sample_latents(denoiser, features, shape, seeds, steps, guidance, hook, recurrence)
        return (
            check_finite(
                decode_spectrum(
                    autoencoder,
                    z,
                    prior.normalizer.scale_tensor(device),
                    prior.normalizer.normalisation,
                ),
                seeds,
            )
            .cpu()
            .numpy()
        )


def make_loop_hook(
    prior: Prior, seconds: float, device: torch.device | str = "cpu"
) -> GuidanceHook:
    """Motion self-guidance to loops of so many seconds (docs/maths.md, 23). Raises ValueError where
    that is not two frames to the window of the prior.
    """
    units, autoencoder = prior.normalizer, prior.autoencoder.to(device)
    longest, period = units.frames / units.fps, round(seconds * units.fps)
    if not 2 <= period <= units.frames:
        raise ValueError(
            f"a loop of {seconds:g} s was asked for, expected {2 / units.fps:g} to {longest:g} s, as long as the motion that the prior makes"
        )
    scale = units.scale_tensor(device)
    return self_guidance(
        lambda z: decode_spectrum(autoencoder, z, scale, units.normalisation), units.frames, period
    )


def _images_to_tensor(images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> torch.Tensor:
    """Photographs as networks see them: [B, 3, H, W], -1 to 1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
