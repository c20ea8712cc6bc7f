"""Loads a trained renderer for inference."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from model.prior.inference import load_checkpoint, load_network_weights, restore_config
from model.render.renderer import Renderer, RendererConfig


def to_unit_range(image: Tensor) -> Tensor:
    """An image in -1 to 1, mapped to 0 to 1."""
    return (image + 1) / 2


def load_renderer(path: Path) -> tuple[Renderer, list[str]]:
    """The newest trained renderer in a folder, with its averaged weights, on the CPU, and one
    sentence for each incomplete checkpoint that was skipped.

    Raises ValueError if there is no complete checkpoint.
    """
    checkpoint, skipped = load_checkpoint(path, "renderer")
    # The checkpoint has the encoder's weights, so the file of ImageNet's is not needed again.
    config = replace(restore_config(checkpoint, "renderer", RendererConfig), imagenet=None)
    network = Renderer(config)
    load_network_weights(network, checkpoint, "ema")
    return network.requires_grad_(False).eval(), skipped
