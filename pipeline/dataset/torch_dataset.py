"""The samples of a dataset as a map-style PyTorch dataset (`DatasetView.to_torch`).

Each sample is read and checked as a whole, which suits notebooks and small trainings. Trainers read
by `model.data`, which reads only the arrays it needs, resumes inside an epoch, and augments.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from pipeline.motion.normalize import Normalizer

if TYPE_CHECKING:
    from pipeline.dataset.open import DatasetView


class TorchDataset(Dataset):
    """The samples of a dataset at these indices.

    An item is a dict of `key` (str), `image` (float32 [3, H, W], RGB, -1 to 1) and `spectrum`
    (float32 [K, 4, H, W], normalized; the channels are re x, im x, re y, im y).
    """

    def __init__(self, view: "DatasetView", indices: Sequence[int], normalizer: Normalizer):
        self.view, self.indices, self.normalizer = view, indices, normalizer

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.view[self.indices[index]]
        image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1).float() / 127.5 - 1
        spectrum = torch.from_numpy(self.normalizer.normalize(sample.spectrum))
        return dict(key=sample.key, image=image, spectrum=spectrum)
