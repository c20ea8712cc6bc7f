"""Training batches from the shards of datasets.

READ FIRST: loader.

    loader          ShardDataset, and the batches of one rank
    order           which samples follow each other, and how far a training has come
    spectra         images and normalized spectra, for the autoencoder and the denoiser
    pairs           a photograph, a later frame and the flow between them, for the renderer
    augment         mirror, rotation, zoom, crop and color jitter of an image and its motion
    scenes          what a scene is, and its digest
    shard_index     where each sample is stored
    shard_reader    partial, verified reads of a sample
    handover        batches from loader workers through shared memory
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.data.augment import AugmentConfig
    from model.data.loader import ShardDataset, load_batches
    from model.data.order import EpochOrder, Position
    from model.data.pairs import PairDataset
    from model.data.spectra import SpectrumConfig, SpectrumDataset

__all__ = [
    "AugmentConfig",
    "EpochOrder",
    "PairDataset",
    "Position",
    "ShardDataset",
    "SpectrumConfig",
    "SpectrumDataset",
    "load_batches",
]

_MODULES = {
    "AugmentConfig": "augment",
    "EpochOrder": "order",
    "PairDataset": "pairs",
    "Position": "order",
    "ShardDataset": "loader",
    "SpectrumConfig": "spectra",
    "SpectrumDataset": "spectra",
    "load_batches": "loader",
}
"""The module of each name. They load torch, so they are imported when a name is first used."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
