"""Pairs of a photograph and a later frame, with the flow between them: what the renderer is trained
on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from model.data.augment import (
    NO_AUGMENT,
    Augmentation,
    AugmentConfig,
    augment_image,
    draw_augmentation,
    vector_map,
    warp_affine,
)
from model.data.loader import ShardDataset
from model.data.order import SampleDraw
from model.data.shard_reader import read_image, read_pair
from pipeline.dataset.open import DatasetView
from schemas.statistics import SpectrumStatistics


class PairBatch(NamedTuple):
    image: Float32[Tensor, "batch 3 height width"]
    """I_0, RGB, -1 to 1."""
    later_image: Float32[Tensor, "batch 3 height width"]
    """I_t, RGB, -1 to 1."""
    flow: Float32[Tensor, "batch 2 height width"]
    """F_t, pixels."""
    weight: Float32[Tensor, "batch 1 height width"]
    """W, the mean magnitude of the motion, pixels."""
    keys: tuple[str, ...]


class PairDataset(ShardDataset):
    """The samples of one split as `PairBatch`, with another of the later frames in every epoch.

    `augment` mirrors, rotates, zooms and crops; colors are left alone, since the later frame has
    its own light. Raises ValueError as `ShardDataset` does.
    """

    def __init__(
        self,
        views: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        augment: AugmentConfig = NO_AUGMENT,
        *,
        split: str = "train",
    ):
        super().__init__(views, statistics, split)
        self.augment = augment

    def batch(self, draws: Sequence[SampleDraw]) -> PairBatch:
        """These samples. Raises ValueError naming one whose bytes are not the ones that were
        written.
        """
        pairs = [self._read(draw) for draw in draws]
        # rows in order: np.stack keeps channels last, and for those the gradients of oneDNN's
        # strided convolutions 1x1 write where they must not
        image, later_image, flow, weight = (
            torch.from_numpy(np.ascontiguousarray(np.stack(arrays)))
            for arrays in zip(*pairs, strict=True)
        )
        return PairBatch(image, later_image, flow, weight, self.keys(draws))

    def _read(self, draw: SampleDraw) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """I_0, I_t, F_t and W, augmented alike: a flow of F at A p becomes L^-1 F(A p) at p
        (augment.py), and W grows with the zoom.
        """
        rng, location = draw.rng(), self.shard_index[draw.sample_index]
        image = read_image(self.files, location, self.size)
        pair = read_pair(self.files, location, rng.random(), self.size)
        affine = draw_augmentation(self.augment, self.size, rng).affine
        motion_only = Augmentation(affine)
        first, later = (
            augment_image(frame, motion_only).transpose(2, 0, 1)
            for frame in (image, pair.later_image)
        )
        flow, weight = pair.flow.astype(np.float32), pair.weight[None].astype(np.float32)
        if not motion_only.is_affine_identity:
            flow, weight = (
                np.stack([warp_affine(channel, affine, cv2.INTER_LINEAR) for channel in array])
                for array in (flow, weight)
            )
        inverse = vector_map(affine)[::2, ::2]
        flow = np.tensordot(inverse, flow, 1)
        weight = weight * np.sqrt(abs(np.linalg.det(inverse)))
        return first, later, flow.astype(np.float32), weight.astype(np.float32)
