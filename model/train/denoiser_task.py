"""What the training loop trains: the autoencoder, and the denoiser in its stages."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.checkpoints import digest_weights
from model.data.loader import SpectrumBatch, SampleDraw, SpectrumDataset
from model.normalizer import SpectrumNormalizer
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder, autoencoder_loss
from model.prior.denoiser import SliceDenoiser, VolumeDenoiser
from model.prior.diffusion import Prediction, denoising_error, draw_noise, mask_features, add_noise
from model.prior.frequency_attention import CoordinatedDenoiser
from model.prior.sampling import sample_latents
from model.train.loop import to_device
from pipeline.images.draw import heat_map
from pipeline.motion.normalize import denormalize

TEST_SAMPLE_COUNT = 4
"""Samples of the test split on which a network is measured, spread over all."""
LOGGED_SAMPLE_COUNT = 2
"""Of these, how many are drawn."""
LOGGED_SAMPLING_STEPS = 20
"""Of sampling, for the pictures, without guidance."""
MAX_WHITENING_SAMPLES = 16
"""Training samples, at most, by which latents are whitened."""

Denoiser = SliceDenoiser | CoordinatedDenoiser | VolumeDenoiser


def iterate_spread_samples(examples: SpectrumDataset, most: int) -> Iterable[SpectrumBatch]:
    """Up to `most` samples, spread over all, as they are, one at a time."""
    for index in sorted({round(i) for i in np.linspace(0, len(examples) - 1, min(most, len(examples)))}):
        yield examples.batch([SampleDraw(0, 0, index)])


class AutoencoderTask:
    """Trains the autoencoder of frequency slices."""

    def __init__(self, config: AutoencoderConfig, units: SpectrumNormalizer, whole: SpectrumDataset, test: SpectrumDataset | None, *, crop: tuple[int, int] | None = None):
        """`require_int` are training samples as they are, with all frequencies: what latents are whitened by."""
        self.settings, self.normalizer, self.whitening_set, self.test_set, self.crop = config, units, whole, test, crop
        self.network = SliceAutoencoder(config)

    def keys(self, batch: SpectrumBatch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        return dict(kind="autoencoder", autoencoder=asdict(self.settings), units=asdict(self.normalizer), crop=self.crop)

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def loss(self, network: nn.Module, batch: SpectrumBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = random_crop(batch.spectrum.flatten(0, 1), self.crop, generator)
        factor = self.network.downsampling_factor
        noise = torch.randn((len(x), self.settings.latent_channels, x.shape[-2] // factor, x.shape[-1] // factor), generator=generator)
        found = autoencoder_loss(x, network(x, noise.to(x.device)), self.settings)
        return found.total, {"l1": found.l1, "gradient": found.gradient, "kl": found.kl}

    def evaluate(self, network: SliceAutoencoder, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Errors on the test split: of normalised coefficients, and in pixels after the inverse, both also as shares of predicting zeros."""
        if self.test_set is None:
            return {}, {}
        errors, pictures = [], {}
        for number, batch in enumerate(iterate_spread_samples(self.test_set, TEST_SAMPLE_COUNT)):
            x = batch.spectrum[0].to(device)
            made = network(x).slices
            errors.append(reconstruction_errors(x, made, self.normalizer))
            if number < LOGGED_SAMPLE_COUNT:
                pictures[f"reconstruction/{batch.keys[0]}"] = draw_comparison(x, made)
        return {name: float(np.mean([error[name] for error in errors])) for name in errors[0]}, pictures

    def finalize_weights(self, network: SliceAutoencoder, device: torch.device) -> None:
        """Whitening, by the latents of training samples at all frequencies."""
        network.fit_whitening(network.encode(batch.spectrum.flatten(0, 1).to(device))[0] for batch in iterate_spread_samples(self.whitening_set, MAX_WHITENING_SAMPLES))


def random_crop(x: Float[Tensor, "batch channels _ _"], size: tuple[int, int] | None, generator: torch.Generator) -> Float[Tensor, "batch channels _ _"]:
    """A part of that size (width, height), at most, at a place drawn by chance: a convolution learns from it what it learns from the whole."""
    if size is None:
        return x
    for dim, most in ((-1, size[0]), (-2, size[1])):
        length = min(most, x.shape[dim])
        x = x.narrow(dim, int(torch.randint(x.shape[dim] - length + 1, (1,), generator=generator)), length)
    return x


def reconstruction_errors(x: Float[Tensor, "freq 4 height width"], made: Float[Tensor, "freq 4 height width"], units: SpectrumNormalizer) -> dict[str, float]:
    """Mean absolute error, normalised and of coefficients in pixels, and what share of the error of zeros each is."""
    true, found = (denormalize(one, units.scale_tensor(x.device), units.normalisation) for one in (x, made))
    errors = {"l1": (x - made).abs().mean(), "share_of_zeros": (x - made).abs().mean() / x.abs().mean()}
    errors |= {"px": (true - found).abs().mean(), "px_share_of_zeros": (true - found).abs().mean() / true.abs().mean()}
    return {name: float(value) for name, value in errors.items()}


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
        return self.denoiser(z, n, features) if bands is None else self.denoiser(z, n, features, bands)


class TrainedAutoencoder(NamedTuple):
    """A trained autoencoder and what it was trained on."""

    network: SliceAutoencoder
    normalizer: SpectrumNormalizer


class DenoiserTask:
    """Trains a denoiser, or of a coordinated one what is not frozen."""

    def __init__(self, denoiser: Denoiser, autoencoder: TrainedAutoencoder, test: SpectrumDataset | None, *, condition_dropout: float = 0.1):
        self.network, self.autoencoder, self.test_set, self.dropout = ConditionedDenoiser(denoiser), autoencoder, test, condition_dropout
        self.autoencoder.network.requires_grad_(False).eval()
        self.is_slice_denoiser = isinstance(denoiser, SliceDenoiser)
        self.frozen_digest = digest_weights({name: value for name, value in denoiser.named_parameters() if not value.requires_grad})
        self.prediction: Prediction = denoiser.config.prediction

    def keys(self, batch: SpectrumBatch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        mode = {SliceDenoiser: "independent", CoordinatedDenoiser: "coordinated", VolumeDenoiser: "volume"}[type(self.network.denoiser)]
        settings = asdict(self.network.denoiser.config) | {"mode": mode}
        parts = dict(denoiser=settings, autoencoder=asdict(self.autoencoder.network.config), units=asdict(self.autoencoder.normalizer))
        return dict(kind="denoiser", **parts, frozen=self.frozen_digest)

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        """The autoencoder goes with the denoiser, so that one folder is enough to sample."""
        return {"autoencoder": self.autoencoder.network.state_dict()}

    def encode(self, batch: SpectrumBatch) -> Float[Tensor, "batch freq 4 h w"]:
        """White latents."""
        with torch.no_grad():
            return self.autoencoder.network.to(batch.spectrum.device).encode_white(batch.spectrum)

    def loss(self, network: nn.Module, batch: SpectrumBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        z0 = self.encode(batch)
        n, noise, kept = (part.to(z0.device) for part in draw_noise(latent_shape(z0), generator, self.dropout))
        predicted = network(add_noise(z0, n, noise), n, batch.image, kept, batch.frequency_index if self.is_slice_denoiser else None)
        return denoising_error(predicted, noise, n, self.prediction).mean(), {}

    def evaluate(self, network: ConditionedDenoiser, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The loss on the test split, of the same noise each time, and some samples beside the truth."""
        if self.test_set is None:
            return {}, {}
        losses, pictures = [], {}
        for number, batch in enumerate(iterate_spread_samples(self.test_set, TEST_SAMPLE_COUNT)):
            batch = to_device(batch, device)
            losses.append(self.test_loss(network, batch, number))
            if number < LOGGED_SAMPLE_COUNT:
                pictures[f"sample/{batch.keys[0]}"] = draw_comparison(batch.spectrum[0], self.sample_spectrum(network.denoiser, batch)[0])
        return {"loss": float(np.mean(losses))}, pictures

    def test_loss(self, network: ConditionedDenoiser, batch: SpectrumBatch, seed: int) -> float:
        z0 = self.encode(batch)
        n, noise, _ = (part.to(z0.device) for part in draw_noise(latent_shape(z0), torch.Generator().manual_seed(seed), 0.0))
        predicted = network(add_noise(z0, n, noise), n, batch.image, torch.ones_like(n, dtype=torch.bool), None)
        return float(denoising_error(predicted, noise, n, self.prediction).mean())

    def sample_spectrum(self, denoiser: Denoiser, batch: SpectrumBatch) -> Float[Tensor, "batch freq 4 height width"]:
        """Normalised coefficients for the batch's photographs."""
        z = sample_latents(denoiser, denoiser.features(batch.image), latent_shape(self.encode(batch))[1:], list(range(len(batch.image))), LOGGED_SAMPLING_STEPS, guidance=0.0)
        return torch.stack([self.autoencoder.network.decode_white(one) for one in z])

    def finalize_weights(self, network: nn.Module, device: torch.device) -> None:
        """Nothing is left to be done."""


def latent_shape(z: Float[Tensor, "batch freq 4 h w"]) -> tuple[int, int, int, int, int]:
    batch, freq, channels, height, width = z.shape
    return batch, freq, channels, height, width


def draw_comparison(truth: Float[Tensor, "freq 4 height width"], made: Float[Tensor, "freq 4 height width"]) -> Float[Tensor, "3 rows columns"]:
    """The lengths of normalised coefficients of some frequencies: true ones above, made ones below, in the same colours."""
    some = sorted({round(k) for k in np.linspace(1 if len(truth) > 1 else 0, len(truth) - 1, 6)})
    rows = [torch.cat([one[k].float().square().sum(0).sqrt() for k in some], dim=1) for one in (truth, made)]
    picture = heat_map(torch.cat(rows).cpu().numpy().astype(np.float32), float(rows[0].max()) or 1.0)
    return torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255
