"""Training of the renderer: from a photograph and the true flow to a later frame, that frame."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.backbones import VGG16, load_torchvision_weights
from model.data.order import SampleDraw, spread_indices
from model.data.pairs import PairBatch, PairDataset
from model.evaluate.image_quality import psnr, ssim
from model.prior.autoencoder import gradient_consistency
from model.render.inference import to_unit_range
from model.render.renderer import MIN_SIDE_PX, Renderer, RendererConfig
from model.train.autoencoder_task import random_crop
from model.train.training_loop import to_device

_TEST_PAIR_COUNT = 8
"""Pairs of the test split that a renderer is evaluated on, spread over all."""
_LOGGED_PAIR_COUNT = 2
"""How many of these are drawn as images."""


@dataclass(frozen=True, kw_only=True)
class RenderingLoss:
    """The weights of the loss of a rendered frame: L1 + gradient + (1 - SSIM) + perceptual. Raises
    ValueError if a weight is negative, or the perceptual loss lacks its network.
    """

    gradient_weight: float = 0.2
    gradient_scales: int = 4
    ssim_weight: float = 0.1
    """Weight of 1 - SSIM."""
    perceptual_weight: float = 0.0
    """Weight of the mean difference of VGG-16's features, the paper's loss; it needs --vgg."""
    vgg: str | None = None
    """File of torchvision's weights of VGG-16 for ImageNet."""

    def __post_init__(self):
        for name in ("gradient_weight", "ssim_weight", "perceptual_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}, expected at least 0")
        if self.perceptual_weight > 0 and self.vgg is None:
            raise ValueError(
                f"perceptual_weight is {self.perceptual_weight:g} and vgg is missing, expected the "
                "file of torchvision's weights of VGG-16"
            )


class RendererTask:
    """Trains the renderer; a step learns from a random crop (width, height) of each pair, if one is
    given.

    Raises ValueError if there is nothing to train, if the crop is too small, or if a file of
    weights does not fit its network.
    """

    def __init__(
        self,
        config: RendererConfig,
        loss: RenderingLoss,
        test_set: PairDataset | None,
        *,
        crop: tuple[int, int] | None = None,
    ):
        if config.mode == "average_rgb":
            raise ValueError(
                "mode is 'average_rgb', which has nothing to learn, expected 'pyramid' or "
                "'single_scale'"
            )
        if crop is not None and min(crop) < MIN_SIDE_PX:
            raise ValueError(
                f"crop is {crop[0]}x{crop[1]}, expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX}"
            )
        self.settings, self.loss_settings, self.test_set, self.crop = config, loss, test_set, crop
        self.network, self.vgg = Renderer(config), None
        if loss.perceptual_weight > 0:
            self.vgg = VGG16().eval()
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
        cropped = random_crop(torch.cat(batch[:4], dim=1), self.crop, generator)
        image, later_image, flow, weight = cropped.split([3, 3, 2, 1], dim=1)
        return self.rendering_loss(network(image, flow, weight, noise), later_image)

    def rendering_loss(
        self,
        rendered: Float[Tensor, "batch 3 height width"],
        true: Float[Tensor, "batch 3 height width"],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its terms; frames are in -1 .. 1."""
        weights = self.loss_settings
        l1 = (rendered - true).abs().mean()
        gradient = gradient_consistency(true, rendered, weights.gradient_scales)
        dissimilarity = 1 - ssim(to_unit_range(rendered), to_unit_range(true)).mean()
        total = l1 + weights.gradient_weight * gradient + weights.ssim_weight * dissimilarity
        terms = {"l1": l1, "gradient": gradient, "dissimilarity": dissimilarity}
        if self.vgg is not None:
            terms["perceptual"] = _perceptual_loss(self.vgg.to(rendered.device), rendered, true)
            total = total + weights.perceptual_weight * terms["perceptual"]
        return total, terms

    def evaluate(
        self, network: Renderer, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM and L1 on the test split; for comparison also those of splatting the colors
        ("average_") and of the photograph itself ("still_").
        """
        if self.test_set is None:
            return {}, {}
        rows, images, average = [], {}, Renderer(replace(self.settings, mode="average_rgb"))
        for index in spread_indices(len(self.test_set), _TEST_PAIR_COUNT):
            batch = to_device(self.test_set.batch([SampleDraw(0, 0, index)]), device)
            noise = network.sample_noise(1, torch.Generator().manual_seed(index)).to(device)
            motion = batch.image, batch.flow, batch.weight, noise
            frames = {
                "": network(*motion).clamp(-1, 1),
                "average_": average(*motion),
                "still_": batch.image,
            }
            rows.append(
                {
                    prefix + name: float(value)
                    for prefix, frame in frames.items()
                    for name, value in _frame_metrics(frame, batch.later_image).items()
                }
            )
            if len(images) < _LOGGED_PAIR_COUNT:
                side_by_side = [batch.image[0], batch.later_image[0], frames[""][0]]
                image = to_unit_range(torch.cat(side_by_side, dim=2))
                images[f"frame/{batch.keys[0]}"] = image.cpu()
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, images

    def finalize_weights(self, network: nn.Module, device: torch.device) -> None:
        """Leaves the weights as they are."""


def _perceptual_loss(
    vgg: VGG16,
    rendered: Float[Tensor, "batch 3 height width"],
    true: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, ""]:
    """The mean absolute difference of features, summed over four depths (Johnson et al. 2016, with
    the absolute value in place of the square).
    """
    features = zip(vgg(rendered), vgg(true), strict=True)
    return torch.stack([(first - second).abs().mean() for first, second in features]).sum()


def _frame_metrics(
    rendered: Float[Tensor, "batch 3 height width"], true: Float[Tensor, "batch 3 height width"]
) -> dict[str, Tensor]:
    """Means over a batch of frames in -1 .. 1."""
    rendered_unit, true_unit = to_unit_range(rendered), to_unit_range(true)
    return {
        "psnr_db": psnr(rendered_unit, true_unit).clamp(max=99).mean(),
        "ssim": ssim(rendered_unit, true_unit).mean(),
        "l1": (rendered - true).abs().mean(),
    }
