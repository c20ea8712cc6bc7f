"""Attention across the K frequencies, added to a trained `SliceDenoiser`: the paper's frequency
coordination, stage 2 of the training.

After each block of the U-Net, the features [B K, C, h, w] are treated as K tokens at each pixel of
each sample, which attend to one another. The result is added through a projection that is initially
0, so that training starts exactly at the output of stage 1.
"""

from copy import deepcopy
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.prior.denoiser import DenoiserConfig, SliceDenoiser, VolumeDenoiser
from model.prior.diffusers_modules import get_timestep_embedding


class FrequencyAttention(nn.Module):
    """x + projection(attention(norm(x))), along the frequencies, at each pixel by itself."""

    position: Tensor

    def __init__(self, channels: int, config: DenoiserConfig):
        super().__init__()
        self.frequencies, self.heads = config.frequencies, channels // config.head_channels
        self.norm = nn.GroupNorm(config.norm_groups, channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        # sinusoidal in the frequency's index, as is the U-Net's own embedding of the frequency
        self.register_buffer(
            "position",
            get_timestep_embedding(torch.arange(self.frequencies), channels),
            persistent=False,
        )

    def forward(
        self, x: Float[Tensor, "slices channels h w"]
    ) -> Float[Tensor, "slices channels h w"]:
        """Slices are samples x K frequencies, where the frequencies of a sample follow each
        other.
        """
        tokens = self.norm(x).unflatten(0, (-1, self.frequencies)).permute(0, 3, 4, 1, 2)
        mixed = self.projection(self.attend(tokens + self.position.to(tokens.dtype)))
        return x + mixed.permute(0, 3, 4, 1, 2).flatten(0, 1)

    def attend(
        self, tokens: Float[Tensor, "batch h w freq channels"]
    ) -> Float[Tensor, "batch h w freq channels"]:
        """softmax(q k / sqrt(d)) v, the softmax in float32.

        It is written out, since torch's fused kernels accept at most 65,535 sequences on CUDA and
        there is one for each pixel; K x K is small.
        """
        heads = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(4, 0, 1, 2, 5, 3, 6)
        weight = (query @ key.mT / sqrt(query.shape[-1])).softmax(dim=-1, dtype=torch.float32)
        return (weight.to(value.dtype) @ value).transpose(-3, -2).flatten(-2)


class _CoordinatedBlock(nn.Module):
    """A block of the U-Net, then attention across frequencies on its output."""

    def __init__(self, block: Any, channels: int, config: DenoiserConfig):
        super().__init__()
        self.block = block
        self.attention = FrequencyAttention(channels, config)

    @property
    def resnets(self) -> nn.ModuleList:
        """The U-Net counts these to know how many skip connections an up block takes."""
        return self.block.resnets

    @property
    def has_cross_attention(self) -> bool:
        """Tells a U-Net with text which blocks take the text."""
        return getattr(self.block, "has_cross_attention", False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Takes and returns what the block does. The last skip connection of a down block is its
        output, so it is replaced as well.
        """
        outputs = self.block(*args, **kwargs)
        if not isinstance(outputs, tuple):
            return self.attention(outputs)
        hidden, skips = outputs
        hidden = self.attention(hidden)
        return hidden, (*skips[:-1], hidden)


class CoordinatedDenoiser(nn.Module):
    """A frozen `SliceDenoiser` whose frequencies attend to one another.

    The frozen layers stay as in evaluation, whatever the mode, so train() and eval() are alike.
    """

    def __init__(self, denoiser: SliceDenoiser):
        super().__init__()
        self.config = denoiser.config
        self.slices = denoiser.requires_grad_(False)
        unet, widths = self.slices.unet, self.config.channels
        unet.down_blocks = nn.ModuleList(self._with_attention(unet.down_blocks, widths))
        unet.mid_block = _CoordinatedBlock(unet.mid_block, widths[-1], self.config)
        unet.up_blocks = nn.ModuleList(self._with_attention(unet.up_blocks, widths[::-1]))
        self.train()

    def train(self, mode: bool = True) -> "CoordinatedDenoiser":
        """Leaves the frozen layers, which may have dropout, as in evaluation."""
        super().train(mode)
        self.slices.encoder.eval()
        return self

    def _with_attention(self, blocks: Any, widths: tuple[int, ...]) -> list[_CoordinatedBlock]:
        return [
            _CoordinatedBlock(block, width, self.config)
            for block, width in zip(blocks, widths, strict=True)
        ]

    def features(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features h w"]:
        """The condition c of photographs in -1 .. 1."""
        return self.slices.features(image)

    def forward(
        self,
        z: Float[Tensor, "batch freq 4 h w"],
        n: Int[Tensor, " batch"],
        features: Float[Tensor, "batch features h w"] | None,
    ) -> Float[Tensor, "batch freq 4 h w"]:
        """The noise in `z` at step `n`; without features, under the null condition. Raises
        ValueError as `SliceDenoiser` does.
        """
        return self.slices(z, n, features)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters of the attention across frequencies, the only ones that stage 2 trains."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def add_frequency_attention(denoiser: SliceDenoiser) -> CoordinatedDenoiser:
    """A copy of a trained stage 1 with attention across frequencies; until it is trained its output
    is the same to the last bit.
    """
    reference = next(denoiser.parameters())
    coordinated = CoordinatedDenoiser(deepcopy(denoiser))
    return coordinated.to(device=reference.device, dtype=reference.dtype)


def build_denoiser(config: DenoiserConfig) -> SliceDenoiser | CoordinatedDenoiser | VolumeDenoiser:
    """The network of `config.mode` with fresh weights."""
    if config.mode == "volume":
        return VolumeDenoiser(config)
    slices = SliceDenoiser(config)
    return slices if config.mode == "independent" else add_frequency_attention(slices)
