"""TODO: what this file is."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from model.data.augment import (
    NO_AUGMENT,
    AugmentConfig,
    augment_image,
    draw_augmentation,
    vector_map,
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
    """I_t."""
    flow: Float32[Tensor, "batch 2 height width"]
    """F_t, pixels."""
    weight: Float32[Tensor, "batch 1 height width"]
    """W, mean length of the motion, pixels."""
    keys: tuple[str, ...]


class PairDataset(ShardDataset):
    """The same samples in the same order, of each its picture and one of its later frames, drawn
    anew in every epoch.

    Mirrored, turned and zoomed as `augment` says; colours stay, since the later frame has those of
    its own light. Raises ValueError as `ShardDataset` does.
    """

    def __init__(
        self,
        selections: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        augment: AugmentConfig = NO_AUGMENT,
        *,
        split: str = "train",
    ):
        super().__init__(selections, statistics, split)
        self.augment = augment

    def batch(self, draws: Sequence[SampleDraw]) -> PairBatch:
        """These samples. Raises ValueError naming one whose bytes are not the one that was written."""
        parts = [self.load_pair(one) for one in draws]
        # rows in order: np.stack keeps channels last, and for those the gradients of oneDNN's
        # strided convolutions 1x1 write where they must not
        image, later, flow, weight = (
            torch.from_numpy(np.ascontiguousarray(np.stack(part)))
            for part in zip(*parts, strict=True)
        )
        return PairBatch(image, later, flow, weight, self.keys(draws))

    def load_pair(self, place: SampleDraw) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """I_0, I_t, F_t and W, augmented alike: what moved by F at A p moves by L^-1 F(A p) at p,
        and W grows by the zoom.
        """
        rng, row = place.rng(), self.shard_index[place.sample_index]
        image, pair = (
            read_image(self.files, row, self.size),
            read_pair(self.files, row, rng.random(), self.size),
        )
        affine = draw_augmentation(self.augment, self.size, rng).affine
        still = draw_augmentation(NO_AUGMENT, self.size, rng)._replace(affine=affine)
        pictures = [
            augment_image(one, still).transpose(2, 0, 1) for one in (image, pair.later_image)
        ]
        inverse = vector_map(affine)[::2, ::2]
        flow = np.tensordot(inverse, _warp_affine(pair.flow, still.is_affine_identity, affine), 1)
        weight = _warp_affine(pair.weight[None], still.is_affine_identity, affine) * np.sqrt(
            abs(np.linalg.det(inverse))
        )
        return pictures[0], pictures[1], flow.astype(np.float32), weight.astype(np.float32)


def _warp_affine(x: np.ndarray, still: bool, affine: np.ndarray) -> np.ndarray:
    """x(A p), bilinear."""
    x = x.astype(np.float32)
    if still:
        return x
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack(
        [
            cv2.warpAffine(
                one, affine, one.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
            for one in x
        ]
    )
