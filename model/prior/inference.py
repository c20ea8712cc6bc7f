"""A trained prior: from a checkpoint to motion for a photograph. Needs no data set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from model import checkpoints
from model.checkpoints import Checkpoint
from model.normalizer import Units, restored_units
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.prior.denoiser import DenoiserConfig
from model.prior.frequency_attention import denoiser_of
from model.prior.loop_guidance import self_guidance
from model.prior.sampling import Hook, finite, sample, to_spectrum
from model.train.denoiser_task import Conditioned, Denoiser, Frozen

Config = TypeVar("Config")


class Prior(NamedTuple):
    """Everything that makes a spectral volume of a photograph."""

    denoiser: Denoiser
    autoencoder: SliceAutoencoder
    units: Units


def load_autoencoder(path: Path) -> tuple[Frozen, list[str]]:
    """A trained autoencoder, by its averaged weights, and a sentence for each torn checkpoint that was passed over.

    Raises ValueError where there is none.
    """
    found, passed = checkpoint_of(path, "autoencoder")
    return Frozen(autoencoder_of(found, "ema"), restored_units(found.config.get("units"))), passed


def load_prior(path: Path) -> tuple[Prior, list[str]]:
    """A trained denoiser with its autoencoder, on the CPU, and a sentence for each torn checkpoint that was passed over.

    Raises ValueError where there is none.
    """
    found, passed = checkpoint_of(path, "denoiser")
    units = restored_units(found.config.get("units"))
    prior = Prior(load_denoiser(found), autoencoder_of(found, "autoencoder"), units)
    if prior.denoiser.config.frequencies != units.frequencies:
        raise ValueError(f"{path} is of {prior.denoiser.config.frequencies} frequencies and has scales of {units.frequencies}")
    return prior, passed


def checkpoint_of(path: Path, kind: str) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint. Raises ValueError where it is none of that kind."""
    found, passed = checkpoints.newest(path)
    if found.config.get("kind") != kind:
        raise ValueError(f"{path} holds a checkpoint of kind {found.config.get('kind')!r}, expected {kind!r}")
    return found, passed


def autoencoder_of(found: Checkpoint, name: str) -> SliceAutoencoder:
    """From the weights of that name."""
    network = SliceAutoencoder(settings(found, "autoencoder", AutoencoderConfig))
    load(network, found, name)
    return network.requires_grad_(False).eval()


def load_denoiser(found: Checkpoint) -> Denoiser:
    """By its averaged weights."""
    network = Conditioned(denoiser_of(settings(found, "denoiser", DenoiserConfig)))
    load(network, found, "ema")
    return network.denoiser.eval()


def settings(found: Checkpoint, name: str, kind: Callable[..., Config]) -> Config:
    """The configuration of a network. Raises ValueError where a checkpoint does not have it."""
    try:
        fields = dict(found.config[name])
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})  # tuples are lists in JSON
    except (KeyError, TypeError) as error:
        raise ValueError(f"{found.folder} does not say what its {name} is: {error}") from error


def load(network: torch.nn.Module, found: Checkpoint, name: str) -> None:
    """Raises ValueError where the weights are of another network."""
    try:
        network.load_state_dict(found.weights(name))
    except RuntimeError as error:
        raise ValueError(f"{found.folder}: the weights of {name} are not of the network that {checkpoints.CONFIG} says: {checkpoints.brief(error)}") from error


def check_device(device: str, option: str = "--device") -> None:
    """Raises ValueError where that is a GPU and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option} is cuda and there is no GPU that torch can use")


def imagine(
    prior: Prior,
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    seeds: Sequence[int],
    *,
    steps: int = 250,
    guidance: float = 1.0,
    hook: Hook | None = None,
    recurrence: int = 1,
    device: torch.device | str = "cpu",
) -> Float32[np.ndarray, "batch freq 4 height width"]:
    """Spectral volumes in pixels (re x, im x, re y, im y), one for each photograph, which has the working size, and its seed.

    Raises ValueError where a photograph has another size, and as `sample` does.
    """
    (width, height), factor = prior.units.size, prior.autoencoder.factor
    for image in images:
        if image.shape[:2] != (height, width):
            raise ValueError(f"the photograph is {image.shape[1]}x{image.shape[0]}, expected {width}x{height}")
    denoiser, autoencoder = prior.denoiser.to(device), prior.autoencoder.to(device)
    shape = (prior.units.frequencies, autoencoder.config.latent_channels, height // factor, width // factor)
    with torch.no_grad():
        features = denoiser.features(as_tensor(images).to(device))
        z = sample(denoiser, features, shape, seeds, steps, guidance, hook, recurrence)
        return finite(to_spectrum(autoencoder, z, prior.units.tensor(device), prior.units.normalisation), seeds).cpu().numpy()


def loop_guidance(prior: Prior, seconds: float, device: torch.device | str = "cpu") -> Hook:
    """Motion self-guidance to loops of so many seconds (docs/maths.md, 23). Raises ValueError where that is not two frames to the window of the prior."""
    units, autoencoder = prior.units, prior.autoencoder.to(device)
    longest, period = units.frames / units.fps, round(seconds * units.fps)
    if not 2 <= period <= units.frames:
        raise ValueError(f"a loop of {seconds:g} s was asked for, expected {2 / units.fps:g} to {longest:g} s, as long as the motion that the prior makes")
    scale = units.tensor(device)
    return self_guidance(lambda z: to_spectrum(autoencoder, z, scale, units.normalisation), units.frames, period)


def as_tensor(images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> torch.Tensor:
    """Photographs as networks see them: [B, 3, H, W], -1 to 1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
