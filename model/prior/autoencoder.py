"""The autoencoder of frequency slices: a slice of a normalized spectral volume to a quarter of its
width and height, and back.

    S'_k [4, H, W] (re x, im x, re y, im y) -> z [4, H/4, W/4] -> S'_k

The same network encodes every frequency, one at a time. The diffusion works on whitened latents,
(z - mean) / deviation, with one mean and one deviation for each latent channel over all
frequencies.
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
    """The settings of the network and its loss; the defaults are the paper's: base width 128,
    multipliers 1, 2, 4. Raises ValueError if a value is out of range.
    """

    channels: tuple[int, ...] = (128, 256, 512)
    """Width of each level, finest first; every level after the first halves the size."""
    layers_per_block: int = 2
    """Residual layers of each level of the encoder; the decoder has one more."""
    latent_channels: int = 4
    norm_groups: int = 32
    """Groups of the group normalization; divides every width."""
    middle_attention: bool = True
    """Attention between all pixels at the lowest level, as in latent diffusion models."""
    linear_start: bool = True
    """Begin as averaging and bilinear upsampling (model/prior/linear_init.py); without it, weights
    begin as diffusers draws them, which learns far more slowly.
    """
    gradient_weight: float = 0.2
    gradient_scales: int = 4
    """Number of scales at which gradients are compared: every 1st, 2nd, 4th, 8th pixel."""
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
                f"channels are {self.channels} and latent channels {self.latent_channels}, "
                "expected at least 8 and 4 for a linear start"
            )


class Reconstruction(NamedTuple):
    """The output of the network for a batch of slices; the posterior q(z | S') is a Gaussian with
    diagonal covariance.
    """

    slices: Float[Tensor, "batch 4 height width"]
    mean: Float[Tensor, "batch latent h w"]
    log_variance: Float[Tensor, "batch latent h w"]


class _AutoencoderLoss(NamedTuple):
    """The loss and its terms, of which it is the weighted sum."""

    total: Float[Tensor, ""]
    l1: Float[Tensor, ""]
    gradient: Float[Tensor, ""]
    kl: Float[Tensor, ""]


class SliceAutoencoder(nn.Module):
    """AutoencoderKL on normalized frequency slices, with the whitening of its latents."""

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
        """Mean and log variance of the posterior, in float32. Raises ValueError unless height and
        width are multiples of `downsampling_factor`.
        """
        height, width = x.shape[-2:]
        if height % self.downsampling_factor or width % self.downsampling_factor:
            raise ValueError(
                f"the slice is {width}x{height}, expected multiples of {self.downsampling_factor}"
            )
        posterior = self.kl.encode(x).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def decode(self, z: Float[Tensor, "batch latent h w"]) -> Float[Tensor, "batch 4 height width"]:
        """The slices, in float32, that latents (not whitened) stand for."""
        return self.kl.decode(z).sample.float()

    def forward(
        self,
        x: Float[Tensor, "batch 4 height width"],
        noise: Float[Tensor, "batch latent h w"] | None = None,
    ) -> Reconstruction:
        """Encodes and decodes `x`, through the posterior's mean, or through a sample of it if
        standard normal `noise` is given.
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
        """The loss of the reconstruction of `x`."""
        return autoencoder_loss(x, self(x, noise), self.config)

    def encode_white(
        self,
        x: Float[Tensor, "*batch 4 height width"],
        noise: Float[Tensor, "*batch latent h w"] | None = None,
    ) -> Float[Tensor, "*batch latent h w"]:
        """The whitened latents of `x`: the posterior's mean, or a sample of it if `noise` is
        given.
        """
        mean, log_variance = self.encode(x.flatten(0, -4))
        z = _sample_posterior(mean, log_variance, None if noise is None else noise.flatten(0, -4))
        return ((z - self.mean[:, None, None]) / self.deviation[:, None, None]).unflatten(
            0, x.shape[:-3]
        )

    def decode_white(
        self, z: Float[Tensor, "*batch latent h w"]
    ) -> Float[Tensor, "*batch 4 height width"]:
        """The normalized slices that whitened latents stand for."""
        latents = z * self.deviation[:, None, None] + self.mean[:, None, None]
        return self.decode(latents.flatten(0, -4)).unflatten(0, z.shape[:-3])

    def fit_whitening(self, latents: Iterable[Float[Tensor, "... latent _ _"]]) -> None:
        """Sets mean and deviation to those of batches of latents (not whitened) of training samples
        at all frequencies.
        """
        mean, deviation = moments(latents)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)


def _sample_posterior(
    mean: Float[Tensor, "batch latent h w"],
    log_variance: Float[Tensor, "batch latent h w"],
    noise: Float[Tensor, "batch latent h w"] | None,
) -> Float[Tensor, "batch latent h w"]:
    """A sample of the posterior, from standard normal `noise`, or its mean without noise."""
    return mean if noise is None else mean + (0.5 * log_variance).exp() * noise


def moments(
    latents: Iterable[Float[Tensor, "... latent _ _"]],
) -> tuple[Float[Tensor, " latent"], Float[Tensor, " latent"]]:
    """Mean and standard deviation of each channel over batches of any size, summed in float64.

    Raises ValueError if there is no batch, or if a channel does not vary, since it could not be
    divided by its deviation.
    """
    sums: list[Tensor] = []
    for batch in latents:
        values = batch.detach().double().flatten(0, -4).transpose(0, 1).flatten(1)
        count = torch.full_like(values[:, 0], values.shape[1])
        batch_sums = torch.stack([count, values.sum(1), values.square().sum(1)])
        sums = [batch_sums if not sums else sums[0] + batch_sums]
    if not sums:
        raise ValueError("there are no latents to whiten by, expected at least one batch")
    count, total, squares = sums[0]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    if not (deviation > 1e-6 * mean.abs()).all():
        raise ValueError(
            f"deviations of the latent channels are {deviation.tolist()}, expected all over 0"
        )
    return mean.float(), deviation.float()


def autoencoder_loss(
    x: Float[Tensor, "batch 4 height width"],
    reconstruction: Reconstruction,
    config: AutoencoderConfig,
) -> _AutoencoderLoss:
    """L1 + multi-scale gradient consistency + KL divergence, with the weights of `config`: 1, 0.2
    and 1e-6 in the paper.
    """
    l1 = (reconstruction.slices - x).abs().mean()
    gradient = gradient_consistency(x, reconstruction.slices, config.gradient_scales)
    kl = divergence(reconstruction.mean, reconstruction.log_variance)
    total = l1 + config.gradient_weight * gradient + config.kl_weight * kl
    return _AutoencoderLoss(total, l1, gradient, kl)


def gradient_consistency(
    x: Float[Tensor, "batch channels height width"],
    estimate: Float[Tensor, "batch channels height width"],
    scales: int,
) -> Float[Tensor, ""]:
    """sum_s mean |grad R_s|_1, where R_s is every 2^s-th pixel of R = estimate - x (MegaDepth, Li
    and Snavely 2018, equation 3).

    Scales at which a side has only one pixel are left out.
    """
    residual = estimate - x
    gradients = []
    for stride in (2**s for s in range(scales) if 2**s < min(x.shape[-2:])):
        coarse = residual[..., ::stride, ::stride]
        gradients.append(coarse.diff(dim=-1).abs().mean() + coarse.diff(dim=-2).abs().mean())
    return torch.stack(gradients).sum()


def divergence(
    mean: Float[Tensor, "batch latent h w"], log_variance: Float[Tensor, "batch latent h w"]
) -> Float[Tensor, ""]:
    """The KL divergence of the posterior from a standard normal distribution, in nats: summed over
    a slice's latents, averaged over slices.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
