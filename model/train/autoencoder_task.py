"""TODO: what this file is."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.data.order import SampleDraw
from model.data.spectra import SpectrumBatch, SpectrumDataset
from model.normalizer import SpectrumNormalizer
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder, autoencoder_loss
from pipeline.images.draw import heat_map
from pipeline.motion.normalize import denormalize

TEST_SAMPLE_COUNT = 4
"""Samples of the test split on which a network is measured, spread over all."""
LOGGED_SAMPLE_COUNT = 2
"""Of these, how many are drawn."""
_MAX_WHITENING_SAMPLES = 16
"""Training samples, at most, by which latents are whitened."""


def iterate_spread_samples(examples: SpectrumDataset, most: int) -> Iterable[SpectrumBatch]:
    """Up to `most` samples, spread over all, as they are, one at a time."""
    for index in sorted(
        {round(i) for i in np.linspace(0, len(examples) - 1, min(most, len(examples)))}
    ):
        yield examples.batch([SampleDraw(0, 0, index)])


class AutoencoderTask:
    """Trains the autoencoder of frequency slices."""

    def __init__(
        self,
        config: AutoencoderConfig,
        units: SpectrumNormalizer,
        whole: SpectrumDataset,
        test: SpectrumDataset | None,
        *,
        crop: tuple[int, int] | None = None,
    ):
        """`whole` are training samples as they are, with all frequencies: what latents are
        whitened by.
        """
        self.settings, self.normalizer, self.whitening_set, self.test_set, self.crop = (
            config,
            units,
            whole,
            test,
            crop,
        )
        self.network = SliceAutoencoder(config)

    def keys(self, batch: SpectrumBatch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        return dict(
            kind="autoencoder",
            autoencoder=asdict(self.settings),
            units=asdict(self.normalizer),
            crop=self.crop,
        )

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def loss(
        self, network: nn.Module, batch: SpectrumBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = random_crop(batch.spectrum.flatten(0, 1), self.crop, generator)
        factor = self.network.downsampling_factor
        noise = torch.randn(
            (len(x), self.settings.latent_channels, x.shape[-2] // factor, x.shape[-1] // factor),
            generator=generator,
        )
        found = autoencoder_loss(x, network(x, noise.to(x.device)), self.settings)
        return found.total, {"l1": found.l1, "gradient": found.gradient, "kl": found.kl}

    def evaluate(
        self, network: SliceAutoencoder, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Errors on the test split: of normalised coefficients, and in pixels after the inverse,
        both also as shares of predicting zeros.
        """
        if self.test_set is None:
            return {}, {}
        errors, pictures = [], {}
        for number, batch in enumerate(iterate_spread_samples(self.test_set, TEST_SAMPLE_COUNT)):
            x = batch.spectrum[0].to(device)
            made = network(x).slices
            errors.append(_reconstruction_errors(x, made, self.normalizer))
            if number < LOGGED_SAMPLE_COUNT:
                pictures[f"reconstruction/{batch.keys[0]}"] = draw_comparison(x, made)
        return {
            name: float(np.mean([error[name] for error in errors])) for name in errors[0]
        }, pictures

    def finalize_weights(self, network: SliceAutoencoder, device: torch.device) -> None:
        """Whitening, by the latents of training samples at all frequencies."""
        network.fit_whitening(
            network.encode(batch.spectrum.flatten(0, 1).to(device))[0]
            for batch in iterate_spread_samples(self.whitening_set, _MAX_WHITENING_SAMPLES)
        )


def random_crop(
    x: Float[Tensor, "batch channels _ _"], size: tuple[int, int] | None, generator: torch.Generator
) -> Float[Tensor, "batch channels _ _"]:
    """A part of that size (width, height), at most, at a place drawn by chance: a convolution
    learns from it what it learns from the whole.
    """
    if size is None:
        return x
    for dim, most in ((-1, size[0]), (-2, size[1])):
        length = min(most, x.shape[dim])
        x = x.narrow(
            dim, int(torch.randint(x.shape[dim] - length + 1, (1,), generator=generator)), length
        )
    return x


def _reconstruction_errors(
    x: Float[Tensor, "freq 4 height width"],
    made: Float[Tensor, "freq 4 height width"],
    units: SpectrumNormalizer,
) -> dict[str, float]:
    """Mean absolute error, normalised and of coefficients in pixels, and what share of the error of
    zeros each is.
    """
    true, found = (
        denormalize(one, units.scale_tensor(x.device), units.normalisation) for one in (x, made)
    )
    errors = {
        "l1": (x - made).abs().mean(),
        "share_of_zeros": (x - made).abs().mean() / x.abs().mean(),
    }
    errors |= {
        "px": (true - found).abs().mean(),
        "px_share_of_zeros": (true - found).abs().mean() / true.abs().mean(),
    }
    return {name: float(value) for name, value in errors.items()}


def draw_comparison(
    truth: Float[Tensor, "freq 4 height width"], made: Float[Tensor, "freq 4 height width"]
) -> Float[Tensor, "3 rows columns"]:
    """The lengths of normalised coefficients of some frequencies: true ones above, made ones below,
    in the same colours.
    """
    some = sorted({round(k) for k in np.linspace(1 if len(truth) > 1 else 0, len(truth) - 1, 6)})
    rows = [
        torch.cat([one[k].float().square().sum(0).sqrt() for k in some], dim=1)
        for one in (truth, made)
    ]
    picture = heat_map(
        torch.cat(rows).cpu().numpy().astype(np.float32), float(rows[0].max()) or 1.0
    )
    return torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255
