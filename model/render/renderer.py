"""The renderer: a photograph and where each of its pixels goes, to the frame that is seen then.

    I_0 [3, H, W], F_t [2, H, W], W [1, H, W] -> I_t [3, H, W]

Features of I_0 at strides 1 to 16 are splatted along F_t, what moves most in front (docs/maths.md,
15 and 16), and a decoder makes I_t of them from coarse to fine. It is co-modulated (Zhao et al.
2021): the style that modulates its convolutions (Karras et al. 2020) is made of noise and of the
coarsest warped features. It adds to the splatted photograph, through a gate that is open in holes,
and through another gives back what splatting has smoothed away.
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

from model.backbones import ResNet34, load_torchvision_weights
from model.render.splatting import splat, splat_lost_detail

_STRIDES: tuple[int, ...] = (1, 2, 4, 8, 16)
MIN_SIDE_PX = 32
"""Pixels of a side, so that the coarsest level has two."""
_HEAD_INIT_STD = 1e-3
"""Deviation of the last layer's first weights: nothing that could be seen is added to the splatted
photograph.
"""
_INITIAL_GATE_LOGIT = -2.0
"""Logit of the gate at the start, where there is no hole."""
_Mode = Literal["pyramid", "single_scale", "average_rgb"]


@dataclass(frozen=True, kw_only=True)
class RendererConfig:
    """The paper's renderer, and what it is compared with."""

    mode: _Mode = "pyramid"
    """pyramid: the paper's. single_scale: its features merged into one scale, splatted with learnt
    weights (table 2). average_rgb: the photograph itself, splatted by the mean, with nothing to
    learn (supplement, figure 2a).
    """
    imagenet: str | None = None
    """File of torchvision's weights of ResNet-34 for ImageNet; without it, the encoder begins at
    random.
    """
    encoder_width: int = 64
    """Channels of the ResNet-34's first stage; torchvision's has 64."""
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    """Channels of the decoder at strides 1, 2, 4, 8, 16; the first also of the features at stride
    1.
    """
    single_stride: Literal[1, 2] = 2
    """Of the features in mode single_scale."""
    noise_channels: int = 64
    style_channels: int = 256
    alpha: float = 1.0
    """Features are weighted by exp(alpha W), W the mean length of the motion in working pixels."""

    def __post_init__(self):
        if len(self.widths) != len(_STRIDES) or min(self.widths) < 1:
            raise ValueError(
                f"widths are {self.widths}, expected {len(_STRIDES)} of at least 1, one for each of the strides {_STRIDES}"
            )
        for name in ("encoder_width", "noise_channels", "style_channels"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name.replace('_', ' ')} is {getattr(self, name)}, expected at least 1"
                )
        if self.imagenet is not None and self.encoder_width != 64:
            raise ValueError(
                f"encoder width is {self.encoder_width}, expected 64, for which there are weights of ImageNet"
            )


class _WarpedFeatures(NamedTuple):
    """What a frame is made of."""

    features: tuple[Float[Tensor, "batch _ _ _"], ...]
    """Splatted, finest first."""
    holes: tuple[Bool[Tensor, "batch 1 _ _"], ...]
    """Of each level."""
    picture: Float[Tensor, "batch 3 height width"]
    """The splatted photograph; in holes, the photograph."""
    picture_holes: Bool[Tensor, "batch 1 height width"]
    lost_detail: Float[Tensor, "batch 3 height width"]
    """What splatting has smoothed away of it, as `splat_lost_detail` finds it."""


class _ModulatedConv(nn.Module):
    """A convolution 3 x 3 whose input channels a style scales, and whose output is brought back to
    length 1 for white input.

    The same as modulated and demodulated weights of each sample (Karras et al. 2020, equations 1
    and 3), with one convolution for all.
    """

    def __init__(self, width: int, out: int, style: int):
        super().__init__()
        # their length says nothing, only how fast a step turns them
        self.weight, self.bias = (
            nn.Parameter(torch.randn(out, width, 3, 3) / (3 * width**0.5)),
            nn.Parameter(torch.zeros(out)),
        )
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
    """One level of the decoder: what the coarser one made, enlarged, beside this level's warped
    features and holes.
    """

    def __init__(self, width: int, out: int, style: int):
        super().__init__()
        self.first, self.second = _ModulatedConv(width, out, style), _ModulatedConv(out, out, style)

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
    """Encoder, splatting and decoder; in mode average_rgb, without parameters."""

    def __init__(self, config: RendererConfig):
        super().__init__()
        self.config = config
        if config.mode == "average_rgb":
            return
        self.strides: tuple[int, ...] = (
            _STRIDES if config.mode == "pyramid" else (config.single_stride,)
        )
        self.stem, self.encoder = (
            nn.Conv2d(3, config.widths[0], 3, padding=1),
            ResNet34(config.encoder_width),
        )
        if config.imagenet is not None:
            load_torchvision_weights(self.encoder, Path(config.imagenet), "ResNet-34")
        found = (config.widths[0], *self.encoder.widths)
        injected = dict(zip(_STRIDES, found, strict=True))
        self.style = nn.Sequential(
            nn.Linear(config.noise_channels + injected[self.strides[-1]], config.style_channels),
            nn.LeakyReLU(0.2),
            nn.Linear(config.style_channels, config.style_channels),
            nn.LeakyReLU(0.2),
        )
        single, width = config.mode == "single_scale", injected[self.strides[0]]
        self.merge, self.metric = (
            (nn.Conv2d(sum(found), width, 1), nn.Conv2d(width, 1, 1)) if single else (None, None)
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

    def sample_noise(
        self, batch: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch noise"]:
        """Standard normal z, on the generator's device or the CPU."""
        device = generator.device if generator else "cpu"
        return torch.randn((batch, self.config.noise_channels), generator=generator, device=device)

    def encode(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """Of the photograph, -1 to 1, finest first: the same for all frames."""
        if self.config.mode == "average_rgb":
            return ()
        found = (self.stem(image), *self.encoder(image))
        if self.merge is None:
            return found
        like = found[_STRIDES.index(self.strides[0])]
        return (self.merge(torch.cat([_resize_like(one, like) for one in found], dim=1)),)

    def warp(
        self,
        image: Float[Tensor, "batch 3 height width"],
        features: tuple[Float[Tensor, "batch _ _ _"], ...],
        flow: Float[Tensor, "batch 2 height width"],
        weight: Float[Tensor, "batch 1 height width"],
    ) -> _WarpedFeatures:
        """Photograph and features moved by `flow` (pixels), which becomes smaller with each
        level; what has the largest `weight` is in front.
        """
        if self.config.mode == "average_rgb":
            picture, hole = _splat_and_fill(image, flow, None)
            return _WarpedFeatures((), (), picture, hole, torch.zeros_like(picture))
        metrics = [
            self.config.alpha * _resize_like(weight, one)
            if self.metric is None
            else self.metric(one)
            for one in features
        ]
        moved = [
            splat(one, _rescale_flow(flow, one), "softmax", metric)
            for one, metric in zip(features, metrics, strict=True)
        ]
        metric = (
            self.config.alpha * weight if self.metric is None else _resize_like(metrics[0], image)
        )
        picture, hole = _splat_and_fill(image, flow, metric)
        return _WarpedFeatures(
            tuple(one.features for one in moved),
            tuple(one.holes for one in moved),
            picture,
            hole,
            splat_lost_detail(image, picture, flow, metric),
        )

    def synthesize(
        self, warped: _WarpedFeatures, noise: Float[Tensor, "batch noise"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The frame, about -1 to 1, not clamped."""
        if self.config.mode == "average_rgb":
            return warped.picture
        style = self.style(torch.cat([noise, warped.features[-1].mean((2, 3))], dim=1))
        injected = {
            stride: (one, hole.to(one.dtype))
            for stride, one, hole in zip(self.strides, warped.features, warped.holes, strict=True)
        }
        x: list[Tensor] = []
        for level in reversed(range(len(self.blocks))):
            own = (
                (warped.picture, warped.picture_holes.to(warped.picture.dtype), warped.lost_detail)
                if level == 0
                else ()
            )
            x = [self.blocks[level]([*x, *injected.get(_STRIDES[level], ()), *own], style)]
        added = self.head(x[0]).float()
        gate, sharpness = (
            torch.sigmoid(added[:, 3:4] + _INITIAL_GATE_LOGIT).masked_fill(
                warped.picture_holes, 1.0
            ),
            torch.sigmoid(added[:, 4:]),
        )
        return warped.picture + sharpness * warped.lost_detail + gate * added[:, :3]

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        flow: Float[Tensor, "batch 2 height width"],
        weight: Float[Tensor, "batch 1 height width"],
        noise: Float[Tensor, "batch noise"],
    ) -> Float[Tensor, "batch 3 height width"]:
        """I_t of I_0 (-1 to 1), F_t and W (working pixels), about -1 to 1, not clamped. Raises
        ValueError for a side under 32 pixels.
        """
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIDE_PX:
            raise ValueError(
                f"the photograph is {width}x{height}, expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX}"
            )
        return self.synthesize(self.warp(image, self.encode(image), flow, weight), noise)


class NeuralRenderer:
    """Makes frames of one photograph, whose features are computed once."""

    def __init__(
        self,
        renderer: Renderer,
        photo: UInt8[np.ndarray, "rows columns 3"],
        seed: int = 0,
        device: str = "cpu",
    ):
        """Of a trained renderer, which goes to the device. Raises ValueError for a side under 32
        pixels.
        """
        rows, columns = photo.shape[:2]
        if min(rows, columns) < MIN_SIDE_PX:
            raise ValueError(
                f"the photograph is {columns}x{rows}, expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX} for the renderer"
            )
        self.renderer, self.device = renderer.to(device), device
        self.image = (
            torch.from_numpy(photo.transpose(2, 0, 1).astype(np.float32, order="C"))[None].to(
                device
            )
            / 127.5
            - 1
        )
        self.noise = renderer.sample_noise(1, torch.Generator().manual_seed(seed)).to(device)
        with torch.no_grad():
            self.features = renderer.encode(self.image)

    def __call__(
        self,
        flow: Float32[np.ndarray, "2 rows columns"],
        weight: Float32[np.ndarray, "rows columns"],
    ) -> UInt8[np.ndarray, "rows columns 3"]:
        """The photograph by displacements in its pixels, and W in working pixels. Raises ValueError
        where the network gives what is not finite.
        """
        with torch.no_grad():
            motion = (
                torch.from_numpy(flow)[None].to(self.device),
                torch.from_numpy(weight)[None, None].to(self.device),
            )
            made = self.renderer.synthesize(
                self.renderer.warp(self.image, self.features, *motion), self.noise
            )
            if not made.isfinite().all():
                raise ValueError("the renderer makes values that are not finite: was it trained?")
            return (
                ((made[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            )


def _splat_and_fill(
    image: Float[Tensor, "batch 3 height width"],
    flow: Float[Tensor, "batch 2 height width"],
    metric: Float[Tensor, "batch 1 height width"] | None,
) -> tuple[Float[Tensor, "batch 3 height width"], Bool[Tensor, "batch 1 height width"]]:
    """The splatted photograph, by the mean without a metric, with its holes filled from the
    photograph; and the holes.
    """
    moved = (
        splat(image, flow, "average") if metric is None else splat(image, flow, "softmax", metric)
    )
    return torch.where(moved.holes, image, moved.features), moved.holes


def _resize_like(
    x: Float[Tensor, "batch channels _ _"], like: Float[Tensor, "batch _ height width"]
) -> Float[Tensor, "batch channels height width"]:
    """To the size of `like`: by means of areas where that is smaller."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return (
        interpolate(x, size, mode="area")
        if size < x.shape[-2:]
        else interpolate(x, size, mode="bilinear")
    )


def _rescale_flow(
    flow: Float[Tensor, "batch 2 _ _"], like: Float[Tensor, "batch _ height width"]
) -> Float[Tensor, "batch 2 height width"]:
    """A flow in the size and in the pixels of `like`."""
    (height, width), (h, w) = flow.shape[-2:], like.shape[-2:]
    return _resize_like(flow, like) * flow.new_tensor([w / width, h / height]).view(2, 1, 1)
