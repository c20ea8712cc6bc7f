"""What the renderer learns from: a photograph, a true later frame, and the flow from one to the
other, as shards keep them.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.backbones import VGG16, load_torchvision_weights
from model.data.order import SampleDraw
from model.data.pairs import PairBatch, PairDataset
from model.evaluate.image_quality import psnr, ssim
from model.prior.autoencoder import gradient_consistency
from model.render.inference import to_unit_range
from model.render.renderer import MIN_SIDE_PX, Renderer, RendererConfig
from model.train.autoencoder_task import random_crop
from model.train.loop import to_device

_TEST_PAIR_COUNT, _LOGGED_PAIR_COUNT = 8, 2
"""Pairs of the test split by which a renderer is measured, spread over all, and how many of them
are drawn.
"""


@dataclass(frozen=True, kw_only=True)
class RenderingLoss:
    """What a made frame is measured by: L1 + gradient + SSIM + perceptual, each with its weight."""

    gradient_weight: float = 0.2
    gradient_scales: int = 4
    ssim_weight: float = 0.1
    """Of 1 - SSIM."""
    perceptual_weight: float = 0.0
    """Of the mean difference of VGG-16's features, the paper's loss; over 0 it needs --vgg."""
    vgg: str | None = None
    """File of torchvision's weights of VGG-16 for ImageNet."""

    def __post_init__(self):
        for name in ("gradient_weight", "ssim_weight", "perceptual_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}, expected at least 0")
        if self.perceptual_weight > 0 and self.vgg is None:
            raise ValueError(
                f"perceptual_weight is {self.perceptual_weight:g} and vgg is missing, expected the file of torchvision's weights of VGG-16"
            )


def _perceptual_loss(
    vgg: VGG16,
    made: Float[Tensor, "batch 3 height width"],
    true: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, ""]:
    """Mean absolute difference of features, summed over four depths (Johnson et al. 2016, with the
    absolute value).
    """
    return torch.stack(
        [(one - other).abs().mean() for one, other in zip(vgg(made), vgg(true), strict=True)]
    ).sum()


class RendererTask:
    """Trains the renderer."""

    def __init__(
        self,
        config: RendererConfig,
        loss: RenderingLoss,
        test: PairDataset | None,
        *,
        crop: tuple[int, int] | None = None,
    ):
        """A step learns from a part of `crop` (width, height) of each pair.

        Raises ValueError where there is nothing to train, the part is too small, or a file of
        weights is not what it is said to be.
        """
        if config.mode == "average_rgb":
            raise ValueError(
                "mode is 'average_rgb', which has nothing to learn, expected 'pyramid' or 'single_scale'"
            )
        if crop is not None and min(crop) < MIN_SIDE_PX:
            raise ValueError(
                f"crop is {crop[0]}x{crop[1]}, expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX}"
            )
        self.settings, self.loss_settings, self.test_set, self.crop = config, loss, test, crop
        self.network, self.vgg = (
            Renderer(config),
            VGG16().eval() if loss.perceptual_weight > 0 else None,
        )
        if self.vgg is not None:
            load_torchvision_weights(self.vgg, Path(str(loss.vgg)), "VGG-16")

    def keys(self, batch: PairBatch) -> list[str]:
        return list(batch.keys)

    def config(self) -> dict[str, Any]:
        return dict(
            kind="renderer",
            renderer=asdict(self.settings),
            loss=asdict(self.loss_settings),
            crop=self.crop,
        )

    def constant_states(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def loss(
        self, network: nn.Module, batch: PairBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        noise = self.network.sample_noise(len(batch.image), generator).to(batch.image.device)
        image, later, flow, weight = random_crop(
            torch.cat(batch[:4], dim=1), self.crop, generator
        ).split([3, 3, 2, 1], dim=1)
        return self.rendering_loss(network(image, flow, weight, noise), later)

    def rendering_loss(
        self,
        made: Float[Tensor, "batch 3 height width"],
        true: Float[Tensor, "batch 3 height width"],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its parts."""
        weights = self.loss_settings
        parts = {
            "l1": (made - true).abs().mean(),
            "gradient": gradient_consistency(true, made, weights.gradient_scales),
        }
        parts["dissimilarity"] = 1 - ssim(to_unit_range(made), to_unit_range(true)).mean()
        total = (
            parts["l1"]
            + weights.gradient_weight * parts["gradient"]
            + weights.ssim_weight * parts["dissimilarity"]
        )
        if self.vgg is not None:
            parts["perceptual"] = _perceptual_loss(self.vgg.to(made.device), made, true)
            total = total + weights.perceptual_weight * parts["perceptual"]
        return total, parts

    def evaluate(
        self, network: Renderer, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM on the test split, and of the mean of splatted photographs, and of the
        photographs themselves, for comparison.
        """
        if self.test_set is None:
            return {}, {}
        rows, pictures, average = [], {}, Renderer(replace(self.settings, mode="average_rgb"))
        for number in sorted(
            {
                round(i)
                for i in np.linspace(
                    0, len(self.test_set) - 1, min(_TEST_PAIR_COUNT, len(self.test_set))
                )
            }
        ):
            batch = to_device(self.test_set.batch([SampleDraw(0, 0, number)]), device)
            noise = network.sample_noise(1, torch.Generator().manual_seed(number)).to(device)
            motion = batch.image, batch.flow, batch.weight, noise
            made = {
                "": network(*motion).clamp(-1, 1),
                "average_": average(*motion),
                "still_": batch.image,
            }
            rows.append(
                {
                    name + key: float(value)
                    for name, one in made.items()
                    for key, value in _frame_metrics(one, batch.later).items()
                }
            )
            if len(pictures) < _LOGGED_PAIR_COUNT:
                pictures[f"frame/{batch.keys[0]}"] = to_unit_range(
                    torch.cat([batch.image[0], batch.later[0], made[""][0]], dim=2)
                ).cpu()
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, pictures

    def finalize_weights(self, network: nn.Module, device: torch.device) -> None:
        """Nothing is left to be done."""


def _frame_metrics(
    made: Float[Tensor, "batch 3 height width"], true: Float[Tensor, "batch 3 height width"]
) -> dict[str, Tensor]:
    """Of pictures of -1 to 1."""
    one, other = to_unit_range(made), to_unit_range(true)
    return {
        "psnr_db": psnr(one, other).clamp(max=99).mean(),
        "ssim": ssim(one, other).mean(),
        "l1": (made - true).abs().mean(),
    }
