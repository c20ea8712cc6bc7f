"""The denoiser: eps(z; n, c), the noise in latents z [K, 4, h, w] at diffusion step n, given
features c [16, h, w] of the photograph.

Three networks have this signature, the paper's method and the two that it is compared with:

    independent   a 2D U-Net on one frequency at a time, with an embedding of the frequency beside
                  that of the step: `SliceDenoiser`
    coordinated   the same, trained and frozen, with attention across the frequencies after its
                  blocks: model/prior/frequency_attention.py
    volume        one 2D U-Net on the 4K channels of all frequencies at once: `VolumeDenoiser`
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.prior.diffusers_modules import (
    ResnetBlock2D,
    UNet2DConditionModel,
    UNet2DModel,
    check_widths,
)
from model.prior.diffusion import Prediction, noise_from_output

_Mode = Literal["coordinated", "independent", "volume"]


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """The settings of the network; the defaults are the paper's: base width 128, multipliers 1, 4,
    8. Raises ValueError if a value is out of range.
    """

    mode: _Mode = "coordinated"
    frequencies: int = 16
    """K."""
    prediction: Prediction = "noise"
    """What the U-Net predicts; in the paper it is the noise. A velocity is learned faster
    (docs/design/decisions/0010).
    """
    channels: tuple[int, ...] = (128, 512, 1024)
    """Width of each level of the U-Net, finest first; every level after the first halves the size.
    """
    attention_levels: tuple[int, ...] = (1, 2)
    """Levels with attention between pixels, 0 the finest; the middle always has it."""
    layers_per_block: int = 2
    head_channels: int = 64
    """Width of an attention head; divides every width."""
    norm_groups: int = 32
    """Groups of the group normalization; divides every width."""
    latent_channels: int = 4
    features: int = 16
    """Channels of the photograph's features."""
    image_channels: tuple[int, ...] = (64, 128, 256)
    """Width of each level of the photograph's encoder; it needs as many levels as the autoencoder,
    so that its features have the size of the latents.
    """
    text_channels: int = 0
    """Width of the text embedding that a pretrained U-Net attends to, for which it is given zeros;
    0 without one.
    """
    heads: tuple[int, ...] = ()
    """Attention heads of each level of a pretrained U-Net; if empty, `head_channels` decides."""

    def __post_init__(self):
        if self.mode not in get_args(_Mode):
            raise ValueError(f"mode is {self.mode!r}, expected one of {', '.join(get_args(_Mode))}")
        if self.prediction not in get_args(Prediction):
            raise ValueError(
                f"prediction is {self.prediction!r}, "
                f"expected one of {', '.join(get_args(Prediction))}"
            )
        if self.frequencies < 1:
            raise ValueError(f"frequencies are {self.frequencies}, expected at least 1")
        check_widths(self.channels, self.norm_groups)
        check_widths(self.image_channels, self.norm_groups, "image channels")
        for name in ("layers_per_block", "head_channels", "latent_channels", "features"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name.replace('_', ' ')} are {getattr(self, name)}, expected at least 1"
                )
        if any(width % self.head_channels for width in self.channels):
            raise ValueError(
                f"channels are {self.channels}, "
                f"expected multiples of the {self.head_channels} channels of a head"
            )
        if not set(self.attention_levels) <= set(range(len(self.channels))):
            raise ValueError(
                f"attention levels are {self.attention_levels}, "
                f"expected some of 0 to {len(self.channels) - 1}"
            )
        self._check_text()

    def _check_text(self):
        if self.text_channels < 0:
            raise ValueError(f"text channels are {self.text_channels}, expected at least 0")
        if self.heads and not (self.text_channels and len(self.heads) == len(self.channels)):
            raise ValueError(
                f"heads are {self.heads}, expected some for each of {len(self.channels)} levels, "
                "of a network with text, or none"
            )
        if any(
            heads < 1 or width % heads
            for width, heads in zip(self.channels, self.heads, strict=False)
        ):
            raise ValueError(
                f"heads are {self.heads}, expected divisors of the channels {self.channels}"
            )


class ImageEncoder(nn.Module):
    """A small ResNet from a photograph to features at the size of the latents."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        widths, groups = config.image_channels, config.norm_groups
        self.enter = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList([_make_residual_block(widths[0], widths[0], groups)])
        for width, wider in pairwise(widths):
            self.blocks += [
                _make_residual_block(width, wider, groups, down=True),
                _make_residual_block(wider, wider, groups),
            ]
        # the last normalization gives the features the magnitude of the latents beside them: with
        # random weights it would be a twentieth of that, and the photograph would be ignored for
        # hundreds of steps
        self.leave = nn.Sequential(
            nn.GroupNorm(groups, widths[-1]),
            nn.SiLU(),
            nn.Conv2d(widths[-1], config.features, 3, padding=1),
            nn.GroupNorm(config.features, config.features),
        )

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features h w"]:
        """The features of photographs in -1 .. 1."""
        x = self.enter(image)
        for block in self.blocks:
            x = block(x, None)
        return self.leave(x)


def _make_residual_block(width: int, wider: int, groups: int, down: bool = False) -> Any:
    """A residual block without an embedding of the step; `down` halves the size first."""
    return ResnetBlock2D(
        in_channels=width,
        out_channels=wider,
        temb_channels=None,  # pyright: ignore[reportArgumentType]
        groups=groups,
        down=down,
    )


class SliceDenoiser(nn.Module):
    """The 2D U-Net on one frequency: stage 1, and the paper's "independent" ablation."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
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
        self.encoder = ImageEncoder(config)
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
