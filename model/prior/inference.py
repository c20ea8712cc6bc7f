"""Sampling motion for photographs from a trained prior; needs no dataset.

prior = load_prior(Path("prior"))
(spectrum,) = sample_motion(prior, [image], seeds=[0])
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor, nn

from model.checkpoints import Checkpoint, load_checkpoint
from model.normalizer import SpectrumNormalizer
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
    """A denoiser and the encoder of its photographs in one call, as a training step needs them; its
    parameter names are those of the checkpoints.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        z: Float[Tensor, "batch freq 4 h w"],
        n: Int[Tensor, " batch"],
        image: Float[Tensor, "batch 3 height width"],
        has_condition: Bool[Tensor, " batch"],
        bands: Int[Tensor, "batch freq"] | None,
    ) -> Float[Tensor, "batch freq 4 h w"]:
        """The noise in `z` at steps `n`; samples without a condition get the null condition."""
        features = mask_features(self.denoiser.features(image), has_condition)
        if bands is None:
            return self.denoiser(z, n, features)
        return self.denoiser(z, n, features, bands)


class TrainedAutoencoder(NamedTuple):
    """A trained autoencoder and the scales that it was trained with."""

    network: SliceAutoencoder
    normalizer: SpectrumNormalizer
    scenes: frozenset[str] = frozenset()
    """Digests of the scenes that it was trained on, if it names them."""


class Prior(NamedTuple):
    """What turns a photograph into a spectral volume."""

    denoiser: Denoiser
    autoencoder: SliceAutoencoder
    normalizer: SpectrumNormalizer
    scenes: frozenset[str] = frozenset()
    """Digests of the scenes that it was trained on, if it names them."""

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


def load_prior(path: Path | str, warn: Callable[[str], object] = warnings.warn) -> Prior:
    """The denoiser in the --out folder of a training, with its autoencoder, on the CPU.

    `warn` is called with a sentence for each damaged checkpoint that is skipped. Raises ValueError
    if no complete checkpoint holds a denoiser.
    """
    return restore_prior(load_checkpoint(Path(path), "denoiser", warn))


def load_autoencoder(
    path: Path, warn: Callable[[str], object] = warnings.warn
) -> TrainedAutoencoder:
    """The autoencoder in the --out folder of a training, as `load_prior` loads a denoiser."""
    return restore_autoencoder(load_checkpoint(path, "autoencoder", warn))


def restore_prior(checkpoint: Checkpoint) -> Prior:
    """A denoiser and its autoencoder from a checkpoint. Raises ValueError if the checkpoint does
    not hold both, for the same frequencies.
    """
    normalizer = checkpoint.normalizer
    denoiser = restore_denoiser(checkpoint)
    autoencoder = _restore_slice_autoencoder(checkpoint, "autoencoder")
    if denoiser.config.frequencies != normalizer.frequencies:
        raise ValueError(
            f"the denoiser in {checkpoint.folder} has {denoiser.config.frequencies} frequencies "
            f"and scales for {normalizer.frequencies}"
        )
    return Prior(denoiser, autoencoder, normalizer, checkpoint.scenes)


def restore_autoencoder(checkpoint: Checkpoint) -> TrainedAutoencoder:
    """An autoencoder, with its averaged weights, from a checkpoint. Raises ValueError if the
    checkpoint does not hold it.
    """
    network = _restore_slice_autoencoder(checkpoint, "ema")
    return TrainedAutoencoder(network, checkpoint.normalizer, checkpoint.scenes)


def restore_denoiser(checkpoint: Checkpoint) -> Denoiser:
    """A denoiser, with its averaged weights, from a checkpoint. Raises ValueError if the checkpoint
    does not hold it.
    """
    config = checkpoint.network_config("denoiser", DenoiserConfig)
    network = ConditionedDenoiser(build_denoiser(config))
    checkpoint.load_into(network, "ema")
    return network.denoiser.eval()


def _restore_slice_autoencoder(checkpoint: Checkpoint, state: str) -> SliceAutoencoder:
    network = SliceAutoencoder(checkpoint.network_config("autoencoder", AutoencoderConfig))
    checkpoint.load_into(network, state)
    return network.requires_grad_(False).eval()


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
    """Spectral volumes in pixels (re x, im x, re y, im y), one for each photograph and its seed.

    The photographs are RGB and have the working size, `prior.normalizer.size`; the other arguments
    are those of `sample_latents`. Raises ValueError if a photograph has another size, and as
    `sample_latents` does.
    """
    normalizer = prior.normalizer
    width, height = normalizer.size
    for image in images:
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"the photograph is {image.shape[1]}x{image.shape[0]}, expected {width}x{height}"
            )
    denoiser, autoencoder = prior.denoiser.to(device), prior.autoencoder.to(device)
    factor, channels = autoencoder.downsampling_factor, autoencoder.config.latent_channels
    shape = normalizer.frequencies, channels, height // factor, width // factor
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        features = denoiser.features(pixels.to(device))
        z = sample_latents(denoiser, features, shape, seeds, steps, guidance, hook, recurrence)
        scale = normalizer.scale_tensor(device)
        spectrum = decode_spectrum(autoencoder, z, scale, normalizer.normalisation)
        return check_finite(spectrum, seeds).cpu().numpy()


def make_loop_hook(
    prior: Prior, seconds: float, device: torch.device | str = "cpu"
) -> GuidanceHook:
    """A `hook` for `sample_motion` that guides it to motion which loops after `seconds`
    (docs/design/maths.md, 23). Raises ValueError unless that is 2 frames to the window of the
    prior.
    """
    normalizer, autoencoder = prior.normalizer, prior.autoencoder.to(device)
    period = round(seconds * normalizer.fps)
    if not 2 <= period <= normalizer.frames:
        raise ValueError(
            f"a loop of {seconds:g} s was asked for, expected {2 / normalizer.fps:g} to "
            f"{normalizer.frames / normalizer.fps:g} s, as long as the motion that the prior makes"
        )
    scale = normalizer.scale_tensor(device)
    return self_guidance(
        lambda z: decode_spectrum(autoencoder, z, scale, normalizer.normalisation),
        normalizer.frames,
        period,
    )
