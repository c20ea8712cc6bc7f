"""The neural renderer: makes a frame from a photograph and the displacement of each of its pixels.

    I_0 [3, H, W], F_t [2, H, W], W [1, H, W] -> I_t [3, H, W]

Features of I_0 at strides 1 to 16 are splatted along F_t; what moves most is in front
(docs/design/maths.md, 15 and 16). A decoder computes I_t from them, coarse to fine. It is
co-modulated (Zhao et al. 2021): the style that modulates its convolutions (Karras et al. 2020) is
computed from noise and the coarsest warped features. Its output is added to the splatted photograph
through a gate, which is open in holes; a second gate gives back detail that splatting has smoothed
away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu
from torch.utils.checkpoint import checkpoint

from model.backbones import ResNet34, load_torchvision_weights
from model.efficientnet import EfficientNetLite0
from model.render.splatting import splat, splat_lost_detail

_STRIDES: tuple[int, ...] = (1, 2, 4, 8, 16)
MIN_SIDE_PX = 32
"""Smallest side of a photograph: the coarsest level then has two pixels."""
_HEAD_INIT_STD = 1e-3
"""Standard deviation of the last layer's initial weights: at the start nothing visible is added to
the splatted photograph.
"""
_INITIAL_GATE_LOGIT = -2.0
"""Logit of the gate at the start, outside of holes."""
_Mode = Literal["pyramid", "single_scale", "average_rgb"]


@dataclass(frozen=True, kw_only=True)
class RendererConfig:
    """Configures the paper's renderer and the baselines that it is compared with."""

    mode: _Mode = "pyramid"
    """pyramid: the paper's renderer. single_scale: its features are merged into one scale and
    splatted with learned weights (table 2). average_rgb: the photograph itself is splatted by the
    mean, and nothing is learned (supplement, figure 2a).
    """
    imagenet: str | None = None
    """File with torchvision's ImageNet weights of ResNet-34. Without it, the encoder starts from
    random weights.
    """
    encoder: Literal["resnet34", "efficientnet_lite0"] = "resnet34"
    """The network whose features are splatted: resnet34 is the paper's; efficientnet_lite0 is
    smaller and begins with weights of ImageNet (docs/design/decisions/0015).
    """
    frozen_encoder: bool = False
    """Keep the weights of efficientnet_lite0 as they are; without it, they are trained on."""
    encoder_width: int = 64
    """Channels of the first stage of the ResNet-34; torchvision's has 64."""
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    """Channels of the decoder at strides 1, 2, 4, 8, 16. The features at stride 1 have as many as
    the first.
    """
    single_stride: Literal[1, 2] = 2
    """Stride of the features in mode single_scale."""
    noise_channels: int = 64
    style_channels: int = 256
    alpha: float = 1.0
    """Features have the weight exp(alpha W); W is the mean magnitude of the motion, working pixels.
    """

    def __post_init__(self):
        if self.encoder not in ("resnet34", "efficientnet_lite0"):
            raise ValueError(
                f"encoder is {self.encoder!r}, expected resnet34 or efficientnet_lite0"
            )
        if len(self.widths) != len(_STRIDES) or min(self.widths) < 1:
            raise ValueError(
                f"widths are {self.widths}, expected {len(_STRIDES)} of at least 1, one for each "
                f"of the strides {_STRIDES}"
            )
        for name in ("encoder_width", "noise_channels", "style_channels"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name.replace('_', ' ')} is {getattr(self, name)}, expected at least 1"
                )
        if self.frozen_encoder and self.encoder == "resnet34":
            raise ValueError(
                "frozen_encoder is on and encoder is resnet34, which is trained, expected "
                "efficientnet_lite0"
            )
        if self.imagenet is not None and self.encoder != "resnet34":
            raise ValueError(
                f"imagenet is {self.imagenet}, a file of ResNet-34, and encoder {self.encoder}, "
                "expected resnet34"
            )
        if self.imagenet is not None and self.encoder_width != 64:
            raise ValueError(
                f"encoder width is {self.encoder_width}, expected 64, for which there are weights "
                "of ImageNet"
            )


class _WarpedFeatures(NamedTuple):
    """What the decoder computes a frame from."""

    features: tuple[Float[Tensor, "batch _ _ _"], ...]
    """Splatted features, finest level first."""
    holes: tuple[Bool[Tensor, "batch 1 _ _"], ...]
    """The holes of each level."""
    picture: Float[Tensor, "batch 3 height width"]
    """The splatted photograph; in its holes, the photograph."""
    picture_holes: Bool[Tensor, "batch 1 height width"]
    lost_detail: Float[Tensor, "batch 3 height width"]
    """What splatting has smoothed away of the photograph, by `splat_lost_detail`."""


class _ModulatedConv(nn.Module):
    """A 3 x 3 convolution whose input channels are scaled by a style and whose output is normalized
    to unit variance for white input.

    This equals weights that are modulated and demodulated for each sample (Karras et al. 2020,
    equations 1 and 3), but takes one convolution for all samples.
    """

    def __init__(self, width: int, out: int, style: int):
        super().__init__()
        # The norm of the weights cancels out; it only decides how fast a step turns them.
        self.weight = nn.Parameter(torch.randn(out, width, 3, 3) / (3 * width**0.5))
        self.bias = nn.Parameter(torch.zeros(out))
        self.scale = nn.Linear(style, width)
        nn.init.ones_(self.scale.bias)

    def forward(
        self, x: Float[Tensor, "batch _ height width"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch _ height width"]:
        scale = self.scale(style)
        length = (
            scale.float().square() @ self.weight.float().square().sum((2, 3)).mT + 1e-8
        ).rsqrt()
        y = nn.functional.conv2d(x * scale[:, :, None, None], self.weight, padding=1)
        return leaky_relu(y * length[:, :, None, None] + self.bias[:, None, None], 0.2)


class _Block(nn.Module):
    """One level of the decoder: two convolutions of the coarser level's output, enlarged, and the
    warped features and holes of this level.
    """

    def __init__(self, width: int, out: int, style: int):
        super().__init__()
        self.first = _ModulatedConv(width, out, style)
        self.second = _ModulatedConv(out, out, style)

    def forward(
        self, parts: Sequence[Float[Tensor, "batch _ _ _"]], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch _ _ _"]:
        size = parts[-1].shape[-2:]
        x = torch.cat(
            [
                interpolate(part, size, mode="bilinear") if part.shape[-2:] != size else part
                for part in parts
            ],
            dim=1,
        )
        return self.second(self.first(x, style), style)


class Renderer(nn.Module):
    """Encoder, splatting and decoder. In mode average_rgb it has no parameters."""

    def __init__(self, config: RendererConfig):
        super().__init__()
        self.config, self.keeps_activations = config, True
        if config.mode == "average_rgb":
            return
        self.strides: tuple[int, ...] = (
            _STRIDES if config.mode == "pyramid" else (config.single_stride,)
        )
        self.stem = nn.Conv2d(3, config.widths[0], 3, padding=1)
        if config.encoder == "resnet34":
            self.encoder = ResNet34(config.encoder_width)
            if config.imagenet is not None:
                load_torchvision_weights(self.encoder, Path(config.imagenet), "ResNet-34")
        else:
            self.encoder = EfficientNetLite0(_STRIDES[1:])
            self.encoder.requires_grad_(not config.frozen_encoder)
        feature_widths = (config.widths[0], *self.encoder.widths)
        injected = dict(zip(_STRIDES, feature_widths, strict=True))
        self.style = nn.Sequential(
            nn.Linear(config.noise_channels + injected[self.strides[-1]], config.style_channels),
            nn.LeakyReLU(0.2),
            nn.Linear(config.style_channels, config.style_channels),
            nn.LeakyReLU(0.2),
        )
        self.merge = self.metric = None
        if config.mode == "single_scale":
            width = injected[self.strides[0]]
            self.merge, self.metric = (
                nn.Conv2d(sum(feature_widths), width, 1),
                nn.Conv2d(width, 1, 1),
            )
        used = [stride for stride in _STRIDES if stride <= self.strides[-1]]
        widths = [*config.widths[: len(used)], 0]
        self.blocks = nn.ModuleList(
            _Block(
                coarser
                + (injected[stride] + 1 if stride in self.strides else 0)
                + (7 if stride == 1 else 0),
                width,
                config.style_channels,
            )
            for stride, width, coarser in zip(used, widths[:-1], widths[1:], strict=True)
        )
        self.head = nn.Conv2d(config.widths[0], 5, 3, padding=1)
        nn.init.normal_(self.head.weight, std=_HEAD_INIT_STD)

    def enable_gradient_checkpointing(self) -> None:
        """Computes the decoder's activations again in the backward pass; the name is diffusers'."""
        self.keeps_activations = False

    def sample_noise(
        self, batch: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch noise"]:
        """Standard normal z, on the generator's device or the CPU."""
        device = generator.device if generator else "cpu"
        return torch.randn((batch, self.config.noise_channels), generator=generator, device=device)

    def encode(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """Features of the photograph (-1 to 1), finest level first. All its frames share them."""
        if self.config.mode == "average_rgb":
            return ()
        levels = self.encoder(image)
        if self.config.encoder != "resnet34":
            # its linear outputs have deviations of 2 to 11: here each place has 1 over its channels
            levels = [normalize_channels(level) for level in levels]
        features = (self.stem(image), *levels)
        if self.merge is None:
            return features
        like = features[_STRIDES.index(self.strides[0])]
        return (self.merge(torch.cat([_resize_like(level, like) for level in features], dim=1)),)

    def warp(
        self,
        image: Float[Tensor, "batch 3 height width"],
        features: tuple[Float[Tensor, "batch _ _ _"], ...],
        flow: Float[Tensor, "batch 2 height width"],
        weight: Float[Tensor, "batch 1 height width"],
    ) -> _WarpedFeatures:
        """Splats the photograph and its features along `flow` (pixels), which is scaled down for
        each level. What has the largest `weight` is in front.
        """
        if self.config.mode == "average_rgb":
            picture, hole = _splat_and_fill(image, flow, None)
            return _WarpedFeatures((), (), picture, hole, torch.zeros_like(picture))
        alpha = self.config.alpha
        if self.metric is None:
            metrics = [alpha * _resize_like(weight, level) for level in features]
            metric = alpha * weight
        else:
            metrics = [self.metric(level) for level in features]
            metric = _resize_like(metrics[0], image)
        splatted = [
            splat(level, _rescale_flow(flow, level), "softmax", level_metric)
            for level, level_metric in zip(features, metrics, strict=True)
        ]
        picture, hole = _splat_and_fill(image, flow, metric)
        return _WarpedFeatures(
            tuple(level.features for level in splatted),
            tuple(level.holes for level in splatted),
            picture,
            hole,
            splat_lost_detail(image, picture, flow, metric),
        )

    def synthesize(
        self, warped: _WarpedFeatures, noise: Float[Tensor, "batch noise"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Decodes the frame, about -1 to 1, not clamped."""
        if self.config.mode == "average_rgb":
            return warped.picture
        style = self.style(torch.cat([noise, warped.features[-1].mean((2, 3))], dim=1))
        injected = {
            stride: (level, hole.to(level.dtype))
            for stride, level, hole in zip(self.strides, warped.features, warped.holes, strict=True)
        }
        x: list[Tensor] = []
        for level in reversed(range(len(self.blocks))):
            parts = [*x, *injected.get(_STRIDES[level], ())]
            if level == 0:
                holes = warped.picture_holes.to(warped.picture.dtype)
                parts += [warped.picture, holes, warped.lost_detail]
            block = self.blocks[level]
            x = [
                block(parts, style)
                if self.keeps_activations
                else checkpoint(block, parts, style, use_reentrant=False)
            ]
        head = self.head(x[0]).float()
        gate = torch.sigmoid(head[:, 3:4] + _INITIAL_GATE_LOGIT)
        gate, sharpness = gate.masked_fill(warped.picture_holes, 1.0), torch.sigmoid(head[:, 4:])
        return warped.picture + sharpness * warped.lost_detail + gate * head[:, :3]

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        flow: Float[Tensor, "batch 2 height width"],
        weight: Float[Tensor, "batch 1 height width"],
        noise: Float[Tensor, "batch noise"],
    ) -> Float[Tensor, "batch 3 height width"]:
        """I_t, about -1 to 1, not clamped, from I_0 (-1 to 1), F_t and W (working pixels). Raises
        ValueError for a side under 32 pixels.
        """
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIDE_PX:
            raise ValueError(
                f"the photograph is {width}x{height}, expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX}"
            )
        return self.synthesize(self.warp(image, self.encode(image), flow, weight), noise)


class NeuralRenderer:
    """Renders frames of one photograph, whose features are computed once."""

    def __init__(
        self,
        renderer: Renderer,
        photo: UInt8[np.ndarray, "rows columns 3"],
        seed: int = 0,
        device: str = "cpu",
    ):
        """Moves the trained renderer to the device and encodes the photograph. Raises ValueError
        for a side under 32 pixels.
        """
        rows, columns = photo.shape[:2]
        if min(rows, columns) < MIN_SIDE_PX:
            raise ValueError(
                f"the photograph is {columns}x{rows}, expected at least "
                f"{MIN_SIDE_PX}x{MIN_SIDE_PX} for the renderer"
            )
        self.renderer, self.device = renderer.to(device), device
        pixels = torch.from_numpy(photo.transpose(2, 0, 1).astype(np.float32, order="C"))[None]
        self.image = pixels.to(device) / 127.5 - 1
        self.noise = renderer.sample_noise(1, torch.Generator().manual_seed(seed)).to(device)
        with torch.no_grad():
            self.features = renderer.encode(self.image)

    def __call__(
        self,
        flow: Float32[np.ndarray, "2 rows columns"],
        weight: Float32[np.ndarray, "rows columns"],
    ) -> UInt8[np.ndarray, "rows columns 3"]:
        """The frame for displacements in pixels of the photograph, and W in working pixels. Raises
        ValueError if the network's output is not finite.
        """
        with torch.no_grad():
            motion = (
                torch.from_numpy(flow)[None].to(self.device),
                torch.from_numpy(weight)[None, None].to(self.device),
            )
            warped = self.renderer.warp(self.image, self.features, *motion)
            frame = self.renderer.synthesize(warped, self.noise)
            if not frame.isfinite().all():
                raise ValueError("the renderer makes values that are not finite: was it trained?")
            levels = ((frame[0] + 1) * 127.5).round().clamp(0, 255).byte()
            return levels.permute(1, 2, 0).cpu().numpy()


def _splat_and_fill(
    image: Float[Tensor, "batch 3 height width"],
    flow: Float[Tensor, "batch 2 height width"],
    metric: Float[Tensor, "batch 1 height width"] | None,
) -> tuple[Float[Tensor, "batch 3 height width"], Bool[Tensor, "batch 1 height width"]]:
    """The splatted photograph, with its holes filled from the photograph, and the holes. Without a
    metric it is splatted by the mean.
    """
    splatted = (
        splat(image, flow, "average") if metric is None else splat(image, flow, "softmax", metric)
    )
    return torch.where(splatted.holes, image, splatted.features), splatted.holes


def normalize_channels(
    x: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Mean 0 and deviation 1 over the channels of each place."""
    deviation, mean = torch.std_mean(x, dim=1, keepdim=True, correction=0)
    return (x - mean) / (deviation + 1e-5)


def _resize_like(
    x: Float[Tensor, "batch channels _ _"], like: Float[Tensor, "batch _ height width"]
) -> Float[Tensor, "batch channels height width"]:
    """`x` in the size of `like`, by area means if that is smaller, else bilinearly."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return interpolate(x, size, mode="area" if size < x.shape[-2:] else "bilinear")


def _rescale_flow(
    flow: Float[Tensor, "batch 2 _ _"], like: Float[Tensor, "batch _ height width"]
) -> Float[Tensor, "batch 2 height width"]:
    """A flow resized to `like`, in pixels of `like`."""
    (height, width), (h, w) = flow.shape[-2:], like.shape[-2:]
    return _resize_like(flow, like) * flow.new_tensor([w / width, h / height]).view(2, 1, 1)
