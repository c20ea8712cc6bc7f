"""From a photograph and its motion to frames.

animation        length, loop and strength of the motion: `animate`
warp             READ FIRST: animates a photograph without a network
splatting        moves features along a flow; the definition, and plain torch
mask             keeps parts of a photograph still
splatting_cpu    the compiled kernel of splatting (splatting_cpu.cpp)
renderer         the neural renderer
inference        loads a trained renderer
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.render.animation import animate
    from model.render.inference import load_renderer
    from model.render.renderer import NeuralRenderer, Renderer, RendererConfig
    from model.render.splatting import splat
    from model.render.warp import animate_frames

__all__ = [
    "NeuralRenderer",
    "Renderer",
    "RendererConfig",
    "animate",
    "animate_frames",
    "load_renderer",
    "splat",
]
_MODULES = {
    "NeuralRenderer": "renderer",
    "Renderer": "renderer",
    "RendererConfig": "renderer",
    "animate": "animation",
    "animate_frames": "warp",
    "load_renderer": "inference",
    "splat": "splatting",
}
"""The module of each name; they import torch, so they are loaded on first use."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
