"""The denoiser learns: four photographs, four motions, and the right one for each."""

import pytest
import torch
from torch import Tensor

from model.prior.denoiser import DenoiserConfig, SliceDenoiser
from model.prior.diffusion import add_noise, denoising_error, draw_noise, mask_features
from model.prior.frequency_attention import build_denoiser
from model.prior.sampling import sample_latents
from tests.support.tiny import random_tensor

CONFIG = DenoiserConfig(
    mode="independent",
    prediction="velocity",
    frequencies=2,
    channels=(32, 32),
    attention_levels=(),
    layers_per_block=1,
    head_channels=16,
    norm_groups=8,
    image_channels=(16, 16, 32),
)
STEPS, RATE, REPEATS = 250, 5e-3, 8


def overfitted(photographs: Tensor, z0: Tensor) -> SliceDenoiser:
    """A stage 1 that has seen nothing but these pairs, each of them eight times in every step."""
    torch.manual_seed(0)
    eps, generator = build_denoiser(CONFIG), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(eps.parameters(), RATE, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1, (i + 1) / 20) * (1 - i / STEPS)
    )
    many = z0.repeat(REPEATS, 1, 1, 1, 1)
    for _ in range(STEPS):
        n, noise, kept = draw_noise(tuple(many.shape), generator)
        features = mask_features(eps.features(photographs).repeat(REPEATS, 1, 1, 1), kept)
        loss = denoising_error(
            eps(add_noise(many, n, noise), n, features), noise, n, CONFIG.prediction
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(eps.parameters(), 1.0)
        optimiser.step()
        rate.step()
    return eps


def correlations(found: Tensor, true: Tensor) -> Tensor:
    """Of each sample found with each true one."""
    return torch.corrcoef(torch.cat([found.flatten(1), true.flatten(1)]))[
        : len(found), len(found) :
    ]


@pytest.mark.thorough
def test_samples_are_the_motion_of_their_photograph():
    """What is sampled correlates with the motion that belongs to the photograph, and not with
    another's.

    Each photograph is sampled from the same four seeds, so what tells the samples apart is the
    photograph. One in eight may come out blurred.
    """
    photographs, z0 = (
        random_tensor(4, 3, 32, 32).clamp(-1, 1),
        random_tensor(4, 2, 4, 8, 8, seed=11),
    )
    eps = overfitted(photographs, z0)
    features = eps.features(photographs).detach().repeat_interleave(4, dim=0)
    found = correlations(
        sample_latents(eps, features, (2, 4, 8, 8), [1, 2, 3, 4] * 4, steps=20, guidance=1.0), z0
    )
    own = torch.arange(4).repeat_interleave(4)
    right, wrong = found[range(16), own], found[own[:, None] != torch.arange(4)]
    assert right.median() > 0.95
    assert wrong.abs().median() < 0.1
    assert torch.equal(found.argmax(dim=1), own)
    assert (right > 0.9).sum() >= 14
