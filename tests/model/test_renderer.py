"""The renderer: what moves, what has a part in a frame, that it learns, and that its measures are the known ones."""

import torch
from torch import Tensor, nn

from model.renderer import Renderer, RendererConfig
from tests.model.tiny import random

TINY = dict(encoder_width=4, widths=(6, 6, 8, 8, 8), noise_channels=4, style_channels=8)


def renderer(**fields) -> Renderer:
    torch.manual_seed(0)
    return Renderer(RendererConfig(**(TINY | fields)))


def photograph(batch: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    """Smooth, -0.8 to 0.8 or so."""
    return 0.5 * nn.functional.interpolate(random(batch, 3, height // 4, width // 4, seed=seed), (height, width), mode="bicubic").tanh()


def test_zero_flow_gives_back_the_photograph():
    network, image = renderer(), photograph()
    still = torch.zeros(2, 2, 32, 48)
    for mode in ("pyramid", "single_scale", "average_rgb"):
        network = renderer(mode=mode)
        with torch.no_grad():
            made = network(image, still, still[:, :1], random(2, 4))
        assert made.shape == image.shape
        torch.testing.assert_close(made, image, atol=0.1, rtol=0)
