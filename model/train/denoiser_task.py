"""What the training loop trains: the autoencoder, and the denoiser in its stages."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

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
from model.train.loop import to_device

_LOGGED_SAMPLING_STEPS = 20
"""Of sampling, for the pictures, without guidance."""


class DenoiserTask:
    """Trains a denoiser, or of a coordinated one what is not frozen."""

    def __init__(
        self,
        denoiser: Denoiser,
        autoencoder: TrainedAutoencoder,
        test: SpectrumDataset | None,
        *,
        condition_dropout: float = 0.1,
    ):
        self.network, self.autoencoder, self.test_set, self.dropout = (
            ConditionedDenoiser(denoiser),
            autoencoder,
            test,
            condition_dropout,
        )
        self.autoencoder.network.requires_grad_(False).eval()
        self.is_slice_denoiser = isinstance(denoiser, SliceDenoiser)
        self.frozen_digest = digest_weights(
            {name: value for name, value in denoiser.named_parameters() if not value.requires_grad}
        )
        self.prediction: Prediction = denoiser.config.prediction

    def keys(self, batch: SpectrumBatch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        mode = {
            SliceDenoiser: "independent",
            CoordinatedDenoiser: "coordinated",
            VolumeDenoiser: "volume",
        }[type(self.network.denoiser)]
        settings = asdict(self.network.denoiser.config) | {"mode": mode}
        parts = dict(
            denoiser=settings,
            autoencoder=asdict(self.autoencoder.network.config),
            units=asdict(self.autoencoder.normalizer),
        )
        return dict(kind="denoiser", **parts, frozen=self.frozen_digest)

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        """The autoencoder goes with the denoiser, so that one folder is enough to sample."""
        return {"autoencoder": self.autoencoder.network.state_dict()}

    def encode(self, batch: SpectrumBatch) -> Float[Tensor, "batch freq 4 h w"]:
        """White latents."""
        with torch.no_grad():
            return self.autoencoder.network.to(batch.spectrum.device).encode_white(batch.spectrum)

    def loss(
        self, network: nn.Module, batch: SpectrumBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z0 = self.encode(batch)
        n, noise, kept = (
            part.to(z0.device) for part in draw_noise(_latent_shape(z0), generator, self.dropout)
        )
        predicted = network(
            add_noise(z0, n, noise),
            n,
            batch.image,
            kept,
            batch.frequency_index if self.is_slice_denoiser else None,
        )
        return denoising_error(predicted, noise, n, self.prediction).mean(), {}

    def evaluate(
        self, network: ConditionedDenoiser, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The loss on the test split, of the same noise each time, and some samples beside the
        truth.
        """
        if self.test_set is None:
            return {}, {}
        losses, pictures = [], {}
        for number, batch in enumerate(iterate_spread_samples(self.test_set, TEST_SAMPLE_COUNT)):
            batch = to_device(batch, device)
            losses.append(self.test_loss(network, batch, number))
            if number < LOGGED_SAMPLE_COUNT:
                pictures[f"sample/{batch.keys[0]}"] = draw_comparison(
                    batch.spectrum[0], self.sample_spectrum(network.denoiser, batch)[0]
                )
        return {"loss": float(np.mean(losses))}, pictures

    def test_loss(self, network: ConditionedDenoiser, batch: SpectrumBatch, seed: int) -> float:
        z0 = self.encode(batch)
        n, noise, _ = (
            part.to(z0.device)
            for part in draw_noise(_latent_shape(z0), torch.Generator().manual_seed(seed), 0.0)
        )
        predicted = network(
            add_noise(z0, n, noise), n, batch.image, torch.ones_like(n, dtype=torch.bool), None
        )
        return float(denoising_error(predicted, noise, n, self.prediction).mean())

    def sample_spectrum(
        self, denoiser: Denoiser, batch: SpectrumBatch
    ) -> Float[Tensor, "batch freq 4 height width"]:
        """Normalised coefficients for the batch's photographs."""
        z = sample_latents(
            denoiser,
            denoiser.features(batch.image),
            _latent_shape(self.encode(batch))[1:],
            list(range(len(batch.image))),
            _LOGGED_SAMPLING_STEPS,
            guidance=0.0,
        )
        return torch.stack([self.autoencoder.network.decode_white(one) for one in z])

    def finalize_weights(self, network: nn.Module, device: torch.device) -> None:
        """Nothing is left to be done."""


def _latent_shape(z: Float[Tensor, "batch freq 4 h w"]) -> tuple[int, int, int, int, int]:
    batch, freq, channels, height, width = z.shape
    return batch, freq, channels, height, width
