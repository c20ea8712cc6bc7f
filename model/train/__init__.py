"""Training of the three networks.

READ FIRST: training_loop.

    training_loop       the training loop, its settings, and what a task must provide
    autoencoder_task    what the autoencoder of spectral slices is trained for
    denoiser_task       what the denoiser is trained for, in either stage
    renderer_task       what the renderer is trained for
    latents             samples that the frozen autoencoder has encoded beforehand
    warm_start          seeded weights, and weights of an earlier training
    distributed         the processes that train together
    log                 log.jsonl and TensorBoard events
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.train.autoencoder_task import AutoencoderTask
    from model.train.denoiser_task import DenoiserTask
    from model.train.renderer_task import RendererTask, RenderingLoss
    from model.train.training_loop import Task, TrainConfig, train, train_on_shards

__all__ = [
    "AutoencoderTask",
    "DenoiserTask",
    "RendererTask",
    "RenderingLoss",
    "Task",
    "TrainConfig",
    "train",
    "train_on_shards",
]

_MODULES = {
    "AutoencoderTask": "autoencoder_task",
    "DenoiserTask": "denoiser_task",
    "RendererTask": "renderer_task",
    "RenderingLoss": "renderer_task",
    "Task": "training_loop",
    "TrainConfig": "training_loop",
    "train": "training_loop",
    "train_on_shards": "training_loop",
}
"""The module of each name. They load torch, so they are imported when a name is first used."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
