"""The settings of the denoiser: its U-Net, what it predicts, and the photograph's encoder."""

from dataclasses import dataclass
from typing import Literal, get_args

from model.prior.diffusers_modules import check_widths
from model.prior.diffusion import Prediction

Encoder = Literal["resnet", "efficientnet_lite0"]
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
    encoder: Encoder = "resnet"
    """The photograph's encoder: resnet, the paper's, learns all that it knows from the dataset;
    efficientnet_lite0 begins with features of ImageNet (docs/design/decisions/0015).
    """
    frozen_encoder: bool = True
    """Keep the weights of ImageNet as they are; without it, they are trained on."""
    encoder_dropout: float = 0.2
    """Share of ImageNet's features that are left out of a training step, at random."""
    image_channels: tuple[int, ...] = (64, 128, 256)
    """Width of each level of the photograph's encoder, of which efficientnet_lite0 takes the last;
    it needs as many levels as the autoencoder, so that its features have the size of the latents.
    """
    text_channels: int = 0
    """Width of the text embedding that a pretrained U-Net attends to, for which it is given zeros;
    0 without one.
    """
    heads: tuple[int, ...] = ()
    """Attention heads of each level of a pretrained U-Net; if empty, `head_channels` decides."""

    def __post_init__(self):
        for name, kind in (("mode", _Mode), ("prediction", Prediction), ("encoder", Encoder)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(
                    f"{name} is {value!r}, expected one of {', '.join(get_args(kind))}"
                )
        if not 0 <= self.encoder_dropout < 1:
            raise ValueError(f"encoder dropout is {self.encoder_dropout:g}, expected 0 to under 1")
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
        self._check_attention()

    def _check_attention(self):
        if not set(self.attention_levels) <= set(range(len(self.channels))):
            raise ValueError(
                f"attention levels are {self.attention_levels}, "
                f"expected some of 0 to {len(self.channels) - 1}"
            )
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
