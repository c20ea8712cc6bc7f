"""The autoencoder of one frequency: a slice of a normalised spectral volume to a quarter of its
size, and back.

    S'_k [4, H, W] (re x, im x, re y, im y) -> z [4, H/4, W/4] -> S'_k

Every frequency goes through the same network by itself. What is diffused is z whitened: (z - mean)
/ deviation, with one mean and one deviation for each latent channel, over all frequencies.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.prior.diffusers_modules import AutoencoderKL, check_widths
from model.prior.linear_init import init_linear_pyramid


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The paper's autoencoder: base width 128, multipliers 1, 2, 4."""

    channels: tuple[int, ...] = (128, 256, 512)
    """Width of each level, finest first; every level after the first halves the size."""
    layers_per_block: int = 2
    """Residual layers of a level in the encoder; the decoder has one more."""
    latent_channels: int = 4
    norm_groups: int = 32
    """Groups of the group normalisation; divides every width."""
    middle_attention: bool = True
    """Attention between all pixels at the lowest level, as in latent diffusion models."""
    linear_start: bool = True
    """Begin as averaging and bilinear enlargement (model/prior/linear_init.py); without, as
    diffusers does, which learns far more slowly.
    """
    gradient_weight: float = 0.2
    gradient_scales: int = 4
    """Scales at which gradients are compared: every 1st, 2nd, 4th, 8th pixel."""
    kl_weight: float = 1e-6

    def __post_init__(self):
        check_widths(self.channels, self.norm_groups)
        for name in ("layers_per_block", "latent_channels", "gradient_scales"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name.replace('_', ' ')} are {getattr(self, name)}, expected at least 1"
                )
        if self.linear_start and (min(self.channels) < 8 or self.latent_channels < 4):
            raise ValueError(
                f"channels are {self.channels} and latent channels {self.latent_channels}, expected at least 8 and 4 for a linear start"
            )


class Reconstruction(NamedTuple):
    """What the network makes of a batch of slices; the posterior q(z | S') is Gaussian, one by one."""

    slices: Float[Tensor, "batch 4 height width"]
    mean: Float[Tensor, "batch latent h w"]
    log_variance: Float[Tensor, "batch latent h w"]


class _AutoencoderLoss(NamedTuple):
    """The loss and what it is the weighted sum of."""

    total: Float[Tensor, ""]
    l1: Float[Tensor, ""]
    gradient: Float[Tensor, ""]
    kl: Float[Tensor, ""]


class SliceAutoencoder(nn.Module):
    """AutoencoderKL on normalised frequency slices, with the whitening of its latents."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        levels = len(config.channels)
        self.kl = AutoencoderKL(
            in_channels=4,
            out_channels=4,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=config.middle_attention,
        )
        if config.linear_start:
            init_linear_pyramid(self.kl)
        self.downsampling_factor = 2 ** (levels - 1)
        self.register_buffer("mean", torch.zeros(config.latent_channels))
        self.register_buffer("deviation", torch.ones(config.latent_channels))

    def encode(
        self, x: Float[Tensor, "batch 4 height width"]
    ) -> tuple[Float[Tensor, "batch latent h w"], Float[Tensor, "batch latent h w"]]:
        """Mean and logarithm of the variance of the posterior, in float32. Raises ValueError where
        the size is no multiple of 4.
        """
        height, width = x.shape[-2:]
        if height % self.downsampling_factor or width % self.downsampling_factor:
            raise ValueError(
                f"the slice is {width}x{height}, expected multiples of {self.downsampling_factor}"
            )
        posterior = self.kl.encode(x).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def decode(self, z: Float[Tensor, "batch latent h w"]) -> Float[Tensor, "batch 4 height width"]:
        """Slices of latents as `encode` gives them, in float32."""
        return self.kl.decode(z).sample.float()

    def forward(
        self,
        x: Float[Tensor, "batch 4 height width"],
        noise: Float[Tensor, "batch latent h w"] | None = None,
    ) -> Reconstruction:
        """`x` encoded and decoded, through the posterior's mean, or with standard normal `noise`
        through a sample of it.
        """
        mean, log_variance = self.encode(x)
        return Reconstruction(
            self.decode(_sample_posterior(mean, log_variance, noise)), mean, log_variance
        )

    def loss(
        self,
        x: Float[Tensor, "batch 4 height width"],
        noise: Float[Tensor, "batch latent h w"] | None = None,
    ) -> _AutoencoderLoss:
        """Of `x` against its reconstruction."""
        return autoencoder_loss(x, self(x, noise), self.config)

    def encode_white(
        self,
        x: Float[Tensor, "*batch 4 height width"],
        noise: Float[Tensor, "*batch latent h w"] | None = None,
    ) -> Float[Tensor, "*batch latent h w"]:
        """Whitened latents: of the posterior's mean, or with `noise` of a sample of it."""
        mean, log_variance = self.encode(x.flatten(0, -4))
        z = _sample_posterior(mean, log_variance, None if noise is None else noise.flatten(0, -4))
        return ((z - self.mean[:, None, None]) / self.deviation[:, None, None]).unflatten(
            0, x.shape[:-3]
        )

    def decode_white(
        self, z: Float[Tensor, "*batch latent h w"]
    ) -> Float[Tensor, "*batch 4 height width"]:
        """Normalised slices of whitened latents."""
        coloured = z * self.deviation[:, None, None] + self.mean[:, None, None]
        return self.decode(coloured.flatten(0, -4)).unflatten(0, z.shape[:-3])

    def fit_whitening(self, latents: Iterable[Float[Tensor, "... latent _ _"]]) -> None:
        """Sets mean and deviation to those of batches of latents, not white, of the training
        samples at all frequencies.
        """
        mean, deviation = moments(latents)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)


def _sample_posterior(
    mean: Float[Tensor, "batch latent h w"],
    log_variance: Float[Tensor, "batch latent h w"],
    noise: Float[Tensor, "batch latent h w"] | None,
) -> Float[Tensor, "batch latent h w"]:
    """A sample of the posterior made of standard normal `noise`, or its mean without."""
    return mean if noise is None else mean + (0.5 * log_variance).exp() * noise


def moments(
    latents: Iterable[Float[Tensor, "... latent _ _"]],
) -> tuple[Float[Tensor, " latent"], Float[Tensor, " latent"]]:
    """Mean and deviation of each channel over batches of any size, summed in float64.

    Raises ValueError where there are none, or where a channel does not vary, since nothing can be
    divided by 0.
    """
    sums: list[Tensor] = []
    for batch in latents:
        values = batch.detach().double().flatten(0, -4).transpose(0, 1).flatten(1)
        count = torch.full_like(values[:, 0], values.shape[1])
        added = torch.stack([count, values.sum(1), values.square().sum(1)])
        sums = [added if not sums else sums[0] + added]
    if not sums:
        raise ValueError("no latents to whiten by, expected at least one batch")
    count, total, squares = sums[0]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    if not (deviation > 1e-6 * mean.abs()).all():
        raise ValueError(
            f"deviations of the latent channels are {deviation.tolist()}, expected all over 0"
        )
    return mean.float(), deviation.float()


def autoencoder_loss(
    x: Float[Tensor, "batch 4 height width"], made: Reconstruction, config: AutoencoderConfig
) -> _AutoencoderLoss:
    """L1 + 0.2 multi-scale gradient consistency + 1e-6 KL, with the weights of `config`."""
    l1 = (made.slices - x).abs().mean()
    gradient = gradient_consistency(x, made.slices, config.gradient_scales)
    kl = divergence(made.mean, made.log_variance)
    return _AutoencoderLoss(
        l1 + config.gradient_weight * gradient + config.kl_weight * kl, l1, gradient, kl
    )


def gradient_consistency(
    x: Float[Tensor, "batch channels height width"],
    made: Float[Tensor, "batch channels height width"],
    scales: int,
) -> Float[Tensor, ""]:
    """sum_s mean |grad R_s|_1, R_s every 2^s-th pixel of R = made - x (MegaDepth, Li and Snavely
    2018, equation 3).

    Scales at which a side has only one pixel are left out.
    """
    residual = made - x
    strides = [2**s for s in range(scales) if 2**s < min(x.shape[-2:])]
    return torch.stack(
        [_mean_gradient(residual[..., ::stride, ::stride]) for stride in strides]
    ).sum()


def _mean_gradient(residual: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
    """Mean difference between neighbours along x plus that along y."""
    return residual.diff(dim=-1).abs().mean() + residual.diff(dim=-2).abs().mean()


def divergence(
    mean: Float[Tensor, "batch latent h w"], log_variance: Float[Tensor, "batch latent h w"]
) -> Float[Tensor, ""]:
    """KL of the posterior to a standard normal distribution, nats: summed over a slice's latents,
    averaged over slices.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
