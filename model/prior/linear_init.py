"""The autoencoder's start: a linear pyramid, of which training then makes more.

At random weights an AutoencoderKL learns nothing of a spectral slice for hundreds of steps: its
first achievement would be to hand the slice's amplitude on, and the normalisations before the last
convolutions of encoder and decoder take just that away. Here they are left out, and the weights are
such that the latents are the slice averaged over 4x4 pixels, and decoding is bilinear enlargement.
Everything else stays as random as it was, beside this path. It is exact since silu(x) - silu(-x) =
x: x travels as the pair (x, -x).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_IDENTITY_1X1_KERNEL = torch.ones(1, 1)
_IDENTITY_3X3_KERNEL = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
_AVERAGE_2X2_KERNEL = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]) / 4
"""For a convolution of stride 2 that begins at even pixels, as diffusers' does."""
_BILINEAR_KERNEL = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
"""After repeating each pixel, bilinear enlargement."""
_TO_SIGNED_PAIR = torch.cat([torch.eye(4), -torch.eye(4)])
_PASS_SIGNED_PAIR = torch.eye(8)
_FROM_SIGNED_PAIR = _TO_SIGNED_PAIR.T
_LOG_VARIANCE = -6.0
"""Of the posterior, at first: noise of 0.05, little beside the latents. 0 would drown them."""


@torch.no_grad()
def init_linear_pyramid(kl: Any) -> None:
    """Sets the weights of an AutoencoderKL of 4 channels, whose widths are at least 8 and latents
    at least 4.
    """
    for half in (kl.encoder, kl.decoder):
        half.conv_norm_out = nn.Identity()
        for name, part in half.named_modules():
            _init_layer(name, part)
        _zero_layer(half.conv_out)
        _route_channels(half.conv_in, _TO_SIGNED_PAIR, _IDENTITY_3X3_KERNEL)
        _route_channels(half.conv_out, _FROM_SIGNED_PAIR, _IDENTITY_3X3_KERNEL)
    for one_by_one in (kl.quant_conv, kl.post_quant_conv):
        _zero_layer(one_by_one)
        one_by_one.weight += torch.eye(len(one_by_one.weight))[:, :, None, None]
    kl.quant_conv.bias[len(kl.quant_conv.bias) // 2 :] = _LOG_VARIANCE


def _init_layer(name: str, part: nn.Module) -> None:
    """Residual branches add nothing at first; what leads past them hands the pair on."""
    if name.endswith(("conv2", "to_out.0")):
        _zero_layer(part)
    elif name.endswith("conv_shortcut"):
        _route_channels(part, _PASS_SIGNED_PAIR, _IDENTITY_1X1_KERNEL)
    elif name.endswith("downsamplers.0.conv"):
        _route_channels(part, _PASS_SIGNED_PAIR, _AVERAGE_2X2_KERNEL)
    elif name.endswith("upsamplers.0.conv"):
        _route_channels(part, _PASS_SIGNED_PAIR, _BILINEAR_KERNEL)


def _zero_layer(layer: Any) -> None:
    """Weights and biases of 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _route_channels(
    convolution: Any, matrix: Float[Tensor, "outputs inputs"], kernel: Float[Tensor, "y x"]
) -> None:
    """The first outputs become `matrix` times the first inputs, each through `kernel`, and depend
    on no other.
    """
    outputs, inputs = matrix.shape
    convolution.weight[:outputs] = 0
    convolution.bias[:outputs] = 0
    convolution.weight[:outputs, :inputs] = matrix[:, :, None, None] * kernel
