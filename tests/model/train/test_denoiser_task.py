"""What the denoiser is trained for: with `believed_only`, what is not believed teaches nothing."""

import pytest
import torch
from torch import nn

from model.normalizer import SpectrumNormalizer
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.prior.denoiser import SliceDenoiser
from model.prior.diffusion import amplitudes
from model.prior.inference import TrainedAutoencoder
from model.train.denoiser_task import DenoiserTask
from model.train.latents import LatentBatch
from tests.support.tiny import random_tensor, tiny_config


@pytest.fixture(scope="module")
def autoencoder() -> TrainedAutoencoder:
    normalizer = SpectrumNormalizer(
        normalisation="adaptive",
        scale=((1.0,) * 4,) * 3,
        size=(48, 32),
        fps=30.0,
        frames=24,
        shards="",
    )
    config = AutoencoderConfig(channels=(8, 8, 8), norm_groups=4, layers_per_block=1)
    return TrainedAutoencoder(SliceAutoencoder(config), normalizer)


def batch(latents: torch.Tensor) -> LatentBatch:
    """Two samples of three frequencies; of the second the flow is believed on the left only."""
    believed = torch.ones(2, 32, 48)
    believed[1, :, 24:] = 0
    image = random_tensor(2, 3, 32, 48).clamp(-1, 1)
    return LatentBatch(image, latents, torch.arange(3).expand(2, 3), believed, ("a", "b"))


@pytest.mark.parametrize(("believed_only", "loss"), [(False, 25 / 4), (True, 0)])
def test_what_is_not_believed_is_not_learned(autoencoder, believed_only, loss):
    """A network that is wrong by 5 exactly where the flow is not believed, a quarter of all."""
    denoiser = SliceDenoiser(tiny_config())
    task = DenoiserTask(
        denoiser, autoencoder, None, condition_dropout=0.0, believed_only=believed_only
    )
    latents = random_tensor(2, 3, 4, 8, 12)

    class WrongOnTheRight(nn.Module):
        def forward(self, z, n, image, has_condition, bands):
            signal, sigma = amplitudes(n)
            noise = (z - signal * latents) / sigma
            noise[1, ..., 6:] += 5
            return noise

    generator = torch.Generator().manual_seed(1)
    found, _ = task.loss(WrongOnTheRight(), batch(latents), generator)
    assert float(found) == pytest.approx(loss, abs=1e-4)
    assert task.config().get("believed_only", False) == believed_only
