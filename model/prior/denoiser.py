"""The denoiser: eps(z; n, c), the noise in latents z [K, 4, h, w] at diffusion step n, given
features c [16, h, w] of the photograph.

Three networks have this signature, the paper's method and the two that it is compared with:

    independent   a 2D U-Net on one frequency at a time, with an embedding of the frequency beside
                  that of the step: `SliceDenoiser`
    coordinated   the same, trained and frozen, with attention across the frequencies after its
                  blocks: model/prior/frequency_attention.py
    volume        one 2D U-Net on the 4K channels of all frequencies at once: `VolumeDenoiser`
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.prior.config import DenoiserConfig
from model.prior.diffusers_modules import UNet2DConditionModel, UNet2DModel
from model.prior.diffusion import noise_from_output
from model.prior.photo_encoder import build_encoder


class SliceDenoiser(nn.Module):
    """The 2D U-Net on one frequency: stage 1, and the paper's "independent" ablation."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.unet = build_unet(config, config.latent_channels, class_embed_type="timestep")

    def features(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features h w"]:
        """The condition c of photographs in -1 .. 1."""
        return self.encoder(image)

    def forward(
        self,
        z: Float[Tensor, "batch freq 4 h w"],
        n: Int[Tensor, " batch"],
        features: Float[Tensor, "batch features h w"] | None,
        bands: Int[Tensor, "batch freq"] | None = None,
    ) -> Float[Tensor, "batch freq 4 h w"]:
        """The noise in `z` at step `n`; without features, under the null condition.

        `bands` says which frequency (0 .. K-1) each slice is, so that a training step need not have
        all of them; without it `z` has all K. Raises ValueError if the U-Net cannot halve the size
        of the latents as often as it has to, or if frequencies are missing without `bands`.
        """
        _check_latent(z, self.config, has_all_frequencies=bands is None)
        batch, freq = z.shape[:2]
        if bands is None:
            bands = torch.arange(freq, device=z.device).expand(batch, freq)
        condition = (
            _features_or_zeros(z, features, self.config).unsqueeze(1).expand(-1, freq, -1, -1, -1)
        )
        x = torch.cat([z, condition], dim=2).flatten(0, 1)
        output = _run_unet(self.unet, x, n.repeat_interleave(freq), self.config, bands.flatten())
        return noise_from_output(output.unflatten(0, (batch, freq)), z, n, self.config.prediction)


class VolumeDenoiser(nn.Module):
    """One U-Net on all frequencies, as channels side by side: the paper's "volume" ablation."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.unet = build_unet(config, config.latent_channels * config.frequencies)

    def features(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features h w"]:
        """The condition c of photographs in -1 .. 1."""
        return self.encoder(image)

    def forward(
        self,
        z: Float[Tensor, "batch freq 4 h w"],
        n: Int[Tensor, " batch"],
        features: Float[Tensor, "batch features h w"] | None,
    ) -> Float[Tensor, "batch freq 4 h w"]:
        """The noise in `z` at step `n`; without features, under the null condition. Raises
        ValueError as `SliceDenoiser` does.
        """
        _check_latent(z, self.config)
        x = torch.cat([z.flatten(1, 2), _features_or_zeros(z, features, self.config)], dim=1)
        return noise_from_output(
            _run_unet(self.unet, x, n, self.config).unflatten(1, z.shape[1:3]),
            z,
            n,
            self.config.prediction,
        )


def build_unet(config: DenoiserConfig, latent: int, **embedding: str) -> Any:
    """diffusers' U-Net from `latent` channels, beside those of the features, to `latent`
    channels.
    """
    attention = "CrossAttn" if config.text_channels else "Attn"
    prefixes = [
        attention if level in config.attention_levels else ""
        for level in range(len(config.channels))
    ]
    settings: dict[str, Any] = dict(
        in_channels=latent + config.features,
        out_channels=latent,
        down_block_types=tuple(f"{prefix}DownBlock2D" for prefix in prefixes),
        up_block_types=tuple(f"{prefix}UpBlock2D" for prefix in reversed(prefixes)),
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_groups,
        **embedding,
    )
    if not config.text_channels:
        return UNet2DModel(**settings, attention_head_dim=config.head_channels)
    heads = config.heads or tuple(width // config.head_channels for width in config.channels)
    # diffusers' name for the number of heads here is its name for their width above
    return UNet2DConditionModel(
        **settings, attention_head_dim=heads, cross_attention_dim=config.text_channels
    )


def _run_unet(
    unet: Any,
    x: Float[Tensor, "slices channels h w"],
    n: Int[Tensor, " slices"],
    config: DenoiserConfig,
    bands: Int[Tensor, " slices"] | None = None,
) -> Float[Tensor, "slices out h w"]:
    """Runs the U-Net on `x`. There is no text: a network that expects some gets one token of
    zeros.
    """
    text = (
        {"encoder_hidden_states": x.new_zeros(len(x), 1, config.text_channels)}
        if config.text_channels
        else {}
    )
    return unet(x, n, class_labels=bands, **text).sample


def _features_or_zeros(
    z: Float[Tensor, "batch freq 4 h w"],
    features: Float[Tensor, "batch features h w"] | None,
    config: DenoiserConfig,
) -> Float[Tensor, "batch features h w"]:
    """The features, or zeros as the null condition."""
    return z.new_zeros(len(z), config.features, *z.shape[-2:]) if features is None else features


def _check_latent(
    z: Float[Tensor, "batch freq 4 h w"], config: DenoiserConfig, has_all_frequencies: bool = True
) -> None:
    """Raises ValueError unless `z` has a size that the U-Net can halve, and all frequencies if it
    should.
    """
    factor, (height, width) = 2 ** (len(config.channels) - 1), z.shape[-2:]
    if has_all_frequencies and z.shape[1] != config.frequencies:
        raise ValueError(
            f"the latents have {z.shape[1]} frequencies, expected {config.frequencies}"
        )
    if height % factor or width % factor:
        raise ValueError(f"the latents are {width}x{height}, expected multiples of {factor}")
