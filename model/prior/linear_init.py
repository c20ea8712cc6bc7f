"""Initial weights of the autoencoder that make it a linear pyramid, which training then improves.

With random weights an AutoencoderKL learns nothing about spectral slices for hundreds of steps: it
would first have to pass on a slice's amplitude, and the normalizations before the last convolutions
of encoder and decoder remove just that. Here these normalizations are left out, and the weights are
such that the latents are the slice averaged over 4x4 pixels, and decoding is bilinear upsampling.
All other weights stay random, in channels beside this path. The path is exact, since x travels as
the pair (x, -x) and silu(x) - silu(-x) = x.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_IDENTITY_1X1_KERNEL = torch.ones(1, 1)
_IDENTITY_3X3_KERNEL = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
_AVERAGE_2X2_KERNEL = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]) / 4
"""For a convolution of stride 2 that starts at even pixels, as diffusers' does."""
_BILINEAR_KERNEL = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
"""Applied after each pixel was repeated, it is bilinear upsampling."""
_TO_SIGNED_PAIR = torch.cat([torch.eye(4), -torch.eye(4)])
_PASS_SIGNED_PAIR = torch.eye(8)
_FROM_SIGNED_PAIR = _TO_SIGNED_PAIR.T
_LOG_VARIANCE = -6.0
"""Log variance of the initial posterior: noise of 0.05, small beside the latents; 0 would drown
them.
"""


@torch.no_grad()
def init_linear_pyramid(kl: Any) -> None:
    """Sets the weights of an AutoencoderKL with 4 image channels, widths of at least 8 and at least
    4 latent channels.
    """
    for half in (kl.encoder, kl.decoder):
        half.conv_norm_out = nn.Identity()
        for name, module in half.named_modules():
            _init_layer(name, module)
        _zero_layer(half.conv_out)
        _route_channels(half.conv_in, _TO_SIGNED_PAIR, _IDENTITY_3X3_KERNEL)
        _route_channels(half.conv_out, _FROM_SIGNED_PAIR, _IDENTITY_3X3_KERNEL)
    for convolution in (kl.quant_conv, kl.post_quant_conv):
        _zero_layer(convolution)
        convolution.weight += torch.eye(len(convolution.weight))[:, :, None, None]
    kl.quant_conv.bias[len(kl.quant_conv.bias) // 2 :] = _LOG_VARIANCE


def _init_layer(name: str, module: nn.Module) -> None:
    """Makes residual branches add nothing, and shortcuts and resampling pass on the pair."""
    if name.endswith(("conv2", "to_out.0")):
        _zero_layer(module)
    elif name.endswith("conv_shortcut"):
        _route_channels(module, _PASS_SIGNED_PAIR, _IDENTITY_1X1_KERNEL)
    elif name.endswith("downsamplers.0.conv"):
        _route_channels(module, _PASS_SIGNED_PAIR, _AVERAGE_2X2_KERNEL)
    elif name.endswith("upsamplers.0.conv"):
        _route_channels(module, _PASS_SIGNED_PAIR, _BILINEAR_KERNEL)


def _zero_layer(layer: Any) -> None:
    """Sets the weights and biases to 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _route_channels(
    convolution: Any, matrix: Float[Tensor, "outputs inputs"], kernel: Float[Tensor, "y x"]
) -> None:
    """Makes the first outputs `matrix` times the first inputs, filtered by `kernel`, and
    independent of all other inputs.
    """
    outputs, inputs = matrix.shape
    convolution.weight[:outputs] = 0
    convolution.bias[:outputs] = 0
    convolution.weight[:outputs, :inputs] = matrix[:, :, None, None] * kernel
