"""Training of the denoiser, in either of its stages."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from model.checkpoints import digest_weights
from model.data.spectra import SpectrumBatch, SpectrumDataset
from model.prior.denoiser import SliceDenoiser, VolumeDenoiser
from model.prior.diffusion import Prediction, add_noise, denoising_error, draw_noise
from model.prior.frequency_attention import CoordinatedDenoiser
from model.prior.inference import ConditionedDenoiser, Denoiser, TrainedAutoencoder
from model.prior.sampling import sample_latents
from model.train.autoencoder_task import (
    LOGGED_SAMPLE_COUNT,
    TEST_SAMPLE_COUNT,
    draw_comparison,
    iterate_spread_samples,
)
from model.train.latents import LatentBatch
from model.train.training_loop import to_device

_LOGGED_SAMPLING_STEPS = 20
"""DDIM steps of the samples that are drawn as images, without guidance."""
_MODES = {
    SliceDenoiser: "independent",
    CoordinatedDenoiser: "coordinated",
    VolumeDenoiser: "volume",
}


class DenoiserTask:
    """Trains those parameters of a denoiser that are not frozen: all in stage 1, the attention
    across frequencies in stage 2.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        autoencoder: TrainedAutoencoder,
        test_set: SpectrumDataset | None,
        *,
        condition_dropout: float = 0.1,
        believed_only: bool = False,
        latent_variants: int = 0,
    ):
        """With `believed_only`, what the flow is not believed about is not learned. Of the
        `latent_variants` under which samples were encoded only checkpoints tell.
        """
        self.network, self.autoencoder = ConditionedDenoiser(denoiser), autoencoder
        self.test_set, self.condition_dropout = test_set, condition_dropout
        self.believed_only, self.latent_variants = believed_only, latent_variants
        self.autoencoder.network.requires_grad_(False).eval()
        self.is_slice_denoiser = isinstance(denoiser, SliceDenoiser)
        # of the second stage alone: the first has nothing frozen but an encoder, which a checkpoint
        # restores
        self.frozen_digest = digest_weights(
            {name: value for name, value in denoiser.named_parameters() if not value.requires_grad}
            if isinstance(denoiser, CoordinatedDenoiser)
            else {}
        )
        self.prediction: Prediction = denoiser.config.prediction

    def keys(self, batch: SpectrumBatch | LatentBatch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        denoiser = self.network.denoiser
        config: dict[str, Any] = dict(
            kind="denoiser",
            denoiser=asdict(denoiser.config) | {"mode": _MODES[type(denoiser)]},
            autoencoder=asdict(self.autoencoder.network.config),
            units=asdict(self.autoencoder.normalizer),
            frozen=self.frozen_digest,
        )
        # only if they are on, as earlier checkpoints name neither
        if self.believed_only:
            config["believed_only"] = True
        if self.latent_variants:
            config["latent_variants"] = self.latent_variants
        return config

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        """The autoencoder, so that one folder is enough to sample from."""
        return {"autoencoder": self.autoencoder.network.state_dict()}

    def loss(
        self,
        network: nn.Module,
        batch: SpectrumBatch | LatentBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        bands = batch.frequency_index if self.is_slice_denoiser else None
        return self._denoising_loss(network, batch, bands, generator, self.condition_dropout), {}

    def evaluate(
        self, network: ConditionedDenoiser, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The loss on the test split, with the same noise each time, and images of samples below
        the truth.
        """
        if self.test_set is None:
            return {}, {}
        losses, images = [], {}
        for number, batch in enumerate(iterate_spread_samples(self.test_set, TEST_SAMPLE_COUNT)):
            batch = to_device(batch, device)
            generator = torch.Generator().manual_seed(number)
            losses.append(float(self._denoising_loss(network, batch, None, generator, 0.0)))
            if number < LOGGED_SAMPLE_COUNT:
                (sample,) = self._sample_spectrum(network.denoiser, batch)
                images[f"sample/{batch.keys[0]}"] = draw_comparison(batch.spectrum[0], sample)
        return {"loss": float(np.mean(losses))}, images

    def finalize_weights(self, network: nn.Module, device: torch.device) -> None:
        """Leaves the weights as they are."""

    def _denoising_loss(
        self,
        network: nn.Module,
        batch: SpectrumBatch | LatentBatch,
        bands: Tensor | None,
        generator: torch.Generator,
        condition_dropout: float,
    ) -> Float[Tensor, ""]:
        """The loss with noise from `generator`; `condition_dropout` is the share of the samples
        that get the null condition.
        """
        z0 = self._encode(batch)
        noise_draw = draw_noise(_latent_shape(z0), generator, condition_dropout)
        n, noise, has_condition = (part.to(z0.device) for part in noise_draw)
        predicted = network(add_noise(z0, n, noise), n, batch.image, has_condition, bands)
        weight = None
        if self.believed_only:
            weight = interpolate(batch.believed[:, None], z0.shape[-2:], mode="area")[:, 0]
        return denoising_error(predicted, noise, n, self.prediction, weight).mean()

    def _encode(self, batch: SpectrumBatch | LatentBatch) -> Float[Tensor, "batch freq 4 h w"]:
        """White latents."""
        if isinstance(batch, LatentBatch):
            return batch.latents
        with torch.no_grad():
            return self.autoencoder.network.to(batch.spectrum.device).encode_white(batch.spectrum)

    def _sample_spectrum(
        self, denoiser: Denoiser, batch: SpectrumBatch
    ) -> Float[Tensor, "batch freq 4 height width"]:
        """Samples normalized coefficients for the batch's photographs."""
        z = sample_latents(
            denoiser,
            denoiser.features(batch.image),
            _latent_shape(self._encode(batch))[1:],
            list(range(len(batch.image))),
            _LOGGED_SAMPLING_STEPS,
            guidance=0.0,
        )
        return torch.stack([self.autoencoder.network.decode_white(latents) for latents in z])


def _latent_shape(z: Float[Tensor, "batch freq 4 h w"]) -> tuple[int, int, int, int, int]:
    """`z.shape` as the type checker wants it."""
    batch, freq, channels, height, width = z.shape
    return batch, freq, channels, height, width
