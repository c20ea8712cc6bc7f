"""Networks and images small enough for tests."""

from typing import Any

import torch
from torch import Tensor, nn

from model.prior.denoiser import DenoiserConfig

TINY_SETTINGS: dict[str, Any] = dict(
    channels=(16, 32),
    attention_levels=(1,),
    layers_per_block=1,
    head_channels=8,
    norm_groups=4,
    image_channels=(8, 8, 16),
)


def tiny_config(**fields: Any) -> DenoiserConfig:
    """A denoiser of three frequencies and two levels."""
    return DenoiserConfig(**(TINY_SETTINGS | dict(frequencies=3, mode="independent") | fields))


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def perturb_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """Moves every weight a little, so that none is 0 and each affects the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network
