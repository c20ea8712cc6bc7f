"""Training of the autoencoder of frequency slices."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.data.order import Mixture, SampleDraw, spread_indices
from model.data.spectra import SpectrumBatch, SpectrumDataset
from model.normalizer import SpectrumNormalizer
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder, autoencoder_loss
from pipeline.images.draw import heat_map
from pipeline.motion.normalize import denormalize

TEST_SAMPLE_COUNT = 4
"""Samples of the test split that a network is evaluated on, spread over all."""
LOGGED_SAMPLE_COUNT = 2
"""How many of these are drawn as images."""
_MAX_WHITENING_SAMPLES = 32
"""Training samples, at most, that latents are whitened by."""


class AutoencoderTask:
    """Trains the autoencoder. `whitening_set` has training samples without augmentation, at all
    frequencies, of which latents are whitened by some, in the shares of `mixture`; a step learns
    from a random crop (width, height) of each slice, if one is given.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        normalizer: SpectrumNormalizer,
        whitening_set: SpectrumDataset,
        test_set: SpectrumDataset | None,
        *,
        crop: tuple[int, int] | None = None,
        mixture: Mixture | None = None,
    ):
        self.settings, self.normalizer, self.crop = config, normalizer, crop
        self.mixture = mixture
        self.whitening_set, self.test_set = whitening_set, test_set
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
        loss = autoencoder_loss(x, network(x, noise.to(x.device)), self.settings)
        return loss.total, {"l1": loss.l1, "gradient": loss.gradient, "kl": loss.kl}

    def evaluate(
        self, network: SliceAutoencoder, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Mean absolute errors on the test split, of normalized coefficients and of coefficients in
        pixels, each also as a share of the error of predicting zeros.
        """
        if self.test_set is None:
            return {}, {}
        errors, images = [], {}
        for number, batch in enumerate(iterate_spread_samples(self.test_set, TEST_SAMPLE_COUNT)):
            x = batch.spectrum[0].to(device)
            reconstruction = network(x).slices
            errors.append(_reconstruction_errors(x, reconstruction, self.normalizer))
            if number < LOGGED_SAMPLE_COUNT:
                images[f"reconstruction/{batch.keys[0]}"] = draw_comparison(x, reconstruction)
        means = {name: float(np.mean([error[name] for error in errors])) for name in errors[0]}
        return means, images

    def finalize_weights(self, network: SliceAutoencoder, device: torch.device) -> None:
        """Fits the whitening to the latents of training samples at all frequencies."""
        network.fit_whitening(
            network.encode(batch.spectrum.flatten(0, 1).to(device))[0]
            for batch in iterate_spread_samples(
                self.whitening_set, _MAX_WHITENING_SAMPLES, self.mixture
            )
        )


def iterate_spread_samples(
    dataset: SpectrumDataset, most: int, mixture: Mixture | None = None
) -> Iterator[SpectrumBatch]:
    """Yields up to `most` samples, one at a time, evenly spread over the dataset, or over what an
    epoch of the mixture draws from it.
    """
    order = np.arange(len(dataset))
    drawn = order if mixture is None else mixture.draw(order)
    for place in spread_indices(len(drawn), most):
        yield dataset.batch([SampleDraw(0, 0, int(drawn[place]))])


def random_crop(
    x: Float[Tensor, "batch channels _ _"], size: tuple[int, int] | None, generator: torch.Generator
) -> Float[Tensor, "batch channels _ _"]:
    """A part of at most `size` (width, height) at a random place, the same for the batch; `x`
    itself if `size` is None. A convolution learns the same from a crop as from the complete image.
    """
    if size is None:
        return x
    for dim, most in ((-1, size[0]), (-2, size[1])):
        length = min(most, x.shape[dim])
        start = int(torch.randint(x.shape[dim] - length + 1, (1,), generator=generator))
        x = x.narrow(dim, start, length)
    return x


def _reconstruction_errors(
    x: Float[Tensor, "freq 4 height width"],
    reconstruction: Float[Tensor, "freq 4 height width"],
    normalizer: SpectrumNormalizer,
) -> dict[str, float]:
    """Mean absolute errors, normalized ("l1") and in pixels ("px"), and their shares of the error
    of predicting zeros.
    """
    true_px, reconstructed_px = (
        denormalize(spectrum, normalizer.scale_tensor(x.device), normalizer.normalisation)
        for spectrum in (x, reconstruction)
    )
    l1 = (x - reconstruction).abs().mean()
    px = (true_px - reconstructed_px).abs().mean()
    return {
        "l1": float(l1),
        "share_of_zeros": float(l1 / x.abs().mean()),
        "px": float(px),
        "px_share_of_zeros": float(px / true_px.abs().mean()),
    }


def draw_comparison(
    truth: Float[Tensor, "freq 4 height width"], estimate: Float[Tensor, "freq 4 height width"]
) -> Float[Tensor, "3 rows columns"]:
    """An image of the magnitudes of normalized coefficients at up to six frequencies, 0 to 1: true
    ones above, estimated ones below, in the same color scale.
    """
    first = 1 if len(truth) > 1 else 0
    bands = sorted({round(k) for k in np.linspace(first, len(truth) - 1, 6)})
    rows = [
        torch.cat([spectrum[k].float().square().sum(0).sqrt() for k in bands], dim=1)
        for spectrum in (truth, estimate)
    ]
    magnitudes = torch.cat(rows).cpu().numpy().astype(np.float32)
    image = heat_map(magnitudes, float(rows[0].max()) or 1.0)
    return torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
