"""What the training loop trains: the autoencoder, and the denoiser in its stages."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.checkpoints import digest
from model.data.loader import Batch, Draw, Examples
from model.normalizer import Units
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder, autoencoder_loss
from model.prior.denoiser import SliceDenoiser, VolumeDenoiser
from model.prior.diffusion import Prediction, denoising_error, draw, kept_features, noised
from model.prior.frequency_attention import CoordinatedDenoiser
from model.prior.sampling import sample
from model.train.loop import moved
from pipeline.images.draw import heat
from pipeline.motion.normalize import denormalise

TESTED = 4
"""Samples of the test split on which a network is measured, spread over all."""
SHOWN = 2
"""Of these, how many are drawn."""
SHOWN_STEPS = 20
"""Of sampling, for the pictures, without guidance."""
WHITENING = 16
"""Training samples, at most, by which latents are whitened."""

Denoiser = SliceDenoiser | CoordinatedDenoiser | VolumeDenoiser


def chosen(examples: Examples, most: int) -> Iterable[Batch]:
    """Up to `most` samples, spread over all, as they are, one at a time."""
    for index in sorted({round(i) for i in np.linspace(0, len(examples) - 1, min(most, len(examples)))}):
        yield examples.batch([Draw(0, 0, index)])


class AutoencoderTask:
    """Trains the autoencoder of frequency slices."""

    def __init__(self, config: AutoencoderConfig, units: Units, whole: Examples, test: Examples | None, *, crop: tuple[int, int] | None = None):
        """`whole` are training samples as they are, with all frequencies: what latents are whitened by."""
        self.settings, self.units, self.whole, self.test, self.crop = config, units, whole, test, crop
        self.network = SliceAutoencoder(config)

    def keys(self, batch: Batch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        return dict(kind="autoencoder", autoencoder=asdict(self.settings), units=asdict(self.units), crop=self.crop)

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = cropped(batch.spectrum.flatten(0, 1), self.crop, generator)
        factor = self.network.factor
        noise = torch.randn((len(x), self.settings.latent_channels, x.shape[-2] // factor, x.shape[-1] // factor), generator=generator)
        found = autoencoder_loss(x, network(x, noise.to(x.device)), self.settings)
        return found.total, {"l1": found.l1, "gradient": found.gradient, "kl": found.kl}

    def measure(self, network: SliceAutoencoder, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Errors on the test split: of normalised coefficients, and in pixels after the inverse, both also as shares of predicting zeros."""
        if self.test is None:
            return {}, {}
        errors, pictures = [], {}
        for number, batch in enumerate(chosen(self.test, TESTED)):
            x = batch.spectrum[0].to(device)
            made = network(x).slices
            errors.append(reconstruction_errors(x, made, self.units))
            if number < SHOWN:
                pictures[f"reconstruction/{batch.keys[0]}"] = beneath(x, made)
        return {name: float(np.mean([error[name] for error in errors])) for name in errors[0]}, pictures

    def finish(self, network: SliceAutoencoder, device: torch.device) -> None:
        """Whitening, by the latents of training samples at all frequencies."""
        network.fit_whitening(network.encode(batch.spectrum.flatten(0, 1).to(device))[0] for batch in chosen(self.whole, WHITENING))


def cropped(x: Float[Tensor, "batch channels _ _"], size: tuple[int, int] | None, generator: torch.Generator) -> Float[Tensor, "batch channels _ _"]:
    """A part of that size (width, height), at most, at a place drawn by chance: a convolution learns from it what it learns from the whole."""
    if size is None:
        return x
    for dim, most in ((-1, size[0]), (-2, size[1])):
        length = min(most, x.shape[dim])
        x = x.narrow(dim, int(torch.randint(x.shape[dim] - length + 1, (1,), generator=generator)), length)
    return x


def reconstruction_errors(x: Float[Tensor, "freq 4 height width"], made: Float[Tensor, "freq 4 height width"], units: Units) -> dict[str, float]:
    """Mean absolute error, normalised and of coefficients in pixels, and what share of the error of zeros each is."""
    true, found = (denormalise(one, units.tensor(x.device), units.normalisation) for one in (x, made))
    errors = {"l1": (x - made).abs().mean(), "share_of_zeros": (x - made).abs().mean() / x.abs().mean()}
    errors |= {"px": (true - found).abs().mean(), "px_share_of_zeros": (true - found).abs().mean() / true.abs().mean()}
    return {name: float(value) for name, value in errors.items()}


class Conditioned(nn.Module):
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
        features = kept_features(self.denoiser.features(image), kept)
        return self.denoiser(z, n, features) if bands is None else self.denoiser(z, n, features, bands)


class Frozen(NamedTuple):
    """A trained autoencoder and what it was trained on."""

    network: SliceAutoencoder
    units: Units


class DenoiserTask:
    """Trains a denoiser, or of a coordinated one what is not frozen."""

    def __init__(self, denoiser: Denoiser, autoencoder: Frozen, test: Examples | None, *, condition_dropout: float = 0.1):
        self.network, self.autoencoder, self.test, self.dropout = Conditioned(denoiser), autoencoder, test, condition_dropout
        self.autoencoder.network.requires_grad_(False).eval()
        self.slices = isinstance(denoiser, SliceDenoiser)
        self.frozen = digest({name: value for name, value in denoiser.named_parameters() if not value.requires_grad})
        self.prediction: Prediction = denoiser.config.prediction

    def keys(self, batch: Batch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        mode = {SliceDenoiser: "independent", CoordinatedDenoiser: "coordinated", VolumeDenoiser: "volume"}[type(self.network.denoiser)]
        settings = asdict(self.network.denoiser.config) | {"mode": mode}
        parts = dict(denoiser=settings, autoencoder=asdict(self.autoencoder.network.config), units=asdict(self.autoencoder.units))
        return dict(kind="denoiser", **parts, frozen=self.frozen)

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        """The autoencoder goes with the denoiser, so that one folder is enough to sample."""
        return {"autoencoder": self.autoencoder.network.state_dict()}

    def encoded(self, batch: Batch) -> Float[Tensor, "batch freq 4 h w"]:
        """White latents."""
        with torch.no_grad():
            return self.autoencoder.network.to(batch.spectrum.device).encode_white(batch.spectrum)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        z0 = self.encoded(batch)
        n, noise, kept = (part.to(z0.device) for part in draw(shape_of(z0), generator, self.dropout))
        predicted = network(noised(z0, n, noise), n, batch.image, kept, batch.frequency if self.slices else None)
        return denoising_error(predicted, noise, n, self.prediction).mean(), {}

    def measure(self, network: Conditioned, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The loss on the test split, of the same noise each time, and some samples beside the truth."""
        if self.test is None:
            return {}, {}
        losses, pictures = [], {}
        for number, batch in enumerate(chosen(self.test, TESTED)):
            batch = moved(batch, device)
            losses.append(self.test_loss(network, batch, number))
            if number < SHOWN:
                pictures[f"sample/{batch.keys[0]}"] = beneath(batch.spectrum[0], self.sampled(network.denoiser, batch)[0])
        return {"loss": float(np.mean(losses))}, pictures

    def test_loss(self, network: Conditioned, batch: Batch, seed: int) -> float:
        z0 = self.encoded(batch)
        n, noise, _ = (part.to(z0.device) for part in draw(shape_of(z0), torch.Generator().manual_seed(seed), 0.0))
        predicted = network(noised(z0, n, noise), n, batch.image, torch.ones_like(n, dtype=torch.bool), None)
        return float(denoising_error(predicted, noise, n, self.prediction).mean())

    def sampled(self, denoiser: Denoiser, batch: Batch) -> Float[Tensor, "batch freq 4 height width"]:
        """Normalised coefficients for the batch's photographs."""
        z = sample(denoiser, denoiser.features(batch.image), shape_of(self.encoded(batch))[1:], list(range(len(batch.image))), SHOWN_STEPS, guidance=0.0)
        return torch.stack([self.autoencoder.network.decode_white(one) for one in z])

    def finish(self, network: nn.Module, device: torch.device) -> None:
        """Nothing is left to be done."""


def shape_of(z: Float[Tensor, "batch freq 4 h w"]) -> tuple[int, int, int, int, int]:
    batch, freq, channels, height, width = z.shape
    return batch, freq, channels, height, width


def beneath(truth: Float[Tensor, "freq 4 height width"], made: Float[Tensor, "freq 4 height width"]) -> Float[Tensor, "3 rows columns"]:
    """The lengths of normalised coefficients of some frequencies: true ones above, made ones below, in the same colours."""
    some = sorted({round(k) for k in np.linspace(1 if len(truth) > 1 else 0, len(truth) - 1, 6)})
    rows = [torch.cat([one[k].float().square().sum(0).sqrt() for k in some], dim=1) for one in (truth, made)]
    picture = heat(torch.cat(rows).cpu().numpy().astype(np.float32), float(rows[0].max()) or 1.0)
    return torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255
