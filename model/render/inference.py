"""TODO: what this file is."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from model.prior.inference import load_checkpoint, load_network_weights, restore_config
from model.render.renderer import Renderer, RendererConfig


def to_unit_range(image: Tensor) -> Tensor:
    """From -1 to 1 to 0 to 1."""
    return (image + 1) / 2


def load_renderer(path: Path) -> tuple[Renderer, list[str]]:
    """A trained renderer, by its averaged weights, on the CPU, and a sentence for each torn
    checkpoint that was passed over.

    Raises ValueError where there is none.
    """
    found, passed = load_checkpoint(path, "renderer")
    network = Renderer(
        replace(restore_config(found, "renderer", RendererConfig), imagenet=None)
    )  # whose weights are in the checkpoint
    load_network_weights(network, found, "ema")
    return network.requires_grad_(False).eval(), passed
