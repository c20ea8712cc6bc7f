"""Loading a trained renderer; needs no dataset."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from model.checkpoints import load_checkpoint
from model.render.renderer import Renderer, RendererConfig


def to_unit_range(image: Tensor) -> Tensor:
    """Pixels from -1 .. 1 to 0 .. 1."""
    return (image + 1) / 2


def load_renderer(path: Path, warn: Callable[[str], object] = warnings.warn) -> Renderer:
    """The renderer in the --out folder of a training, with its averaged weights, on the CPU.

    `warn` is called with a sentence for each damaged checkpoint that is skipped. Raises ValueError
    if no complete checkpoint holds a renderer.
    """
    checkpoint = load_checkpoint(path, "renderer", warn)
    config = checkpoint.network_config("renderer", RendererConfig)
    # ImageNet's weights are only where training began: the checkpoint has all weights
    network = Renderer(replace(config, imagenet=None))
    checkpoint.load_into(network, "ema")
    return network.requires_grad_(False).eval()
