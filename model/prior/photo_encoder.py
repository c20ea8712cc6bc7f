"""The photograph's encoder: from a photograph to the condition c [16, h, w], features at the size
of the latents.

    resnet             the paper's small ResNet, trained with the denoiser: `ImageEncoder`
    efficientnet_lite0 features of ImageNet at four depths, projected: `PretrainedEncoder`
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.efficientnet import EfficientNetLite0
from model.prior.autoencoder import moments
from model.prior.config import DenoiserConfig
from model.prior.diffusers_modules import ResnetBlock2D

_LEAST_WIDTH = 256
"""Width that smaller photographs are enlarged to for EfficientNet-Lite0, which was trained at 224:
of smaller ones its deeper features are few and about larger things.
"""


def build_encoder(config: DenoiserConfig) -> "ImageEncoder | PretrainedEncoder":
    """The encoder that `config` names, with random weights."""
    return ImageEncoder(config) if config.encoder == "resnet" else PretrainedEncoder(config)


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


class PretrainedEncoder(nn.Module):
    """EfficientNet-Lite0's features at four depths, brought to the size of the latents and to mean
    0 and deviation 1 over the training photographs, then three small convolutions.

    The weights of ImageNet are given by `load_efficientnet_weights(encoder.backbone, ...)`, the
    mean and deviation by `fit_scales`; a checkpoint has all of them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.backbone = EfficientNetLite0().requires_grad_(not config.frozen_encoder)
        self.factor = 2 ** (len(config.image_channels) - 1)
        channels, width = sum(self.backbone.widths), config.image_channels[-1]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        # no normalization: that a photograph shows little which moves is in the features' size
        self.leave = nn.Sequential(
            nn.Dropout2d(config.encoder_dropout),
            nn.Conv2d(channels, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, config.features, 3, padding=1),
        )
        for layer in self.leave:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features h w"]:
        """The features of photographs in -1 .. 1."""
        return self.leave(self.scaled_features(image))

    def scaled_features(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels h w"]:
        """The backbone's features at the size of the latents, divided by their deviation."""
        features = self._resized_features(image)
        return (features - self.mean[:, None, None]) / self.deviation[:, None, None]

    def _resized_features(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels h w"]:
        height, width = image.shape[-2:]
        size = (height // self.factor, width // self.factor)
        if width < _LEAST_WIDTH:
            larger = (round(height * _LEAST_WIDTH / width), _LEAST_WIDTH)
            image = _resize(image, larger)
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and next(self.backbone.parameters()).requires_grad
        ):
            return torch.cat([_resize(level, size) for level in self.backbone(image)], dim=1)

    @torch.no_grad()
    def fit_scales(self, images: Iterable[Float[Tensor, "batch 3 height width"]]) -> None:
        """Sets mean and deviation to those over batches of training photographs. Raises ValueError
        if there is none, or as `moments` does.
        """
        mean, deviation = moments(self._resized_features(image) for image in images)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, without aliasing where the result is smaller."""
    return nn.functional.interpolate(
        x, size, mode="bilinear", align_corners=False, antialias=x.shape[-1] > size[1]
    )
