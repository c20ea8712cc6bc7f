"""Batches of training samples: READ THIS FIRST of model/data.

    ShardDataset   the kept windows of one split of several datasets or views, by number
    load_batches   the batches of one rank from a position on, each with the position after it

What is random about a sample (its frequencies, its augmentation) is a function of the seed, the
epoch and the sample's number alone. So a training that is resumed, or that runs with other numbers
of ranks and loader workers, gets the same global batches.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from model.data.handover import check_tmpdir, exit_on_lost_batch, receive_batches, share_batch
from model.data.order import EpochOrder, Mixture, Position, SampleDraw, parse_mix
from model.data.shard_index import ShardIndex
from model.data.shard_reader import FileCache
from pipeline.dataset.open import DatasetView
from pipeline.dataset.scales import check_compatible, check_matches_shards
from schemas.statistics import SpectrumStatistics


class ShardDataset(Dataset, ABC):
    """The kept windows of one split, by number (shard_index.py says in which order).

    Raises ValueError if the statistics are those of other training shards, if the datasets do not
    fit together, and as `ShardIndex` does.
    """

    def __init__(self, views: Sequence[DatasetView], statistics: SpectrumStatistics, split: str):
        check_compatible(views)
        check_matches_shards(statistics, views)
        self.size, self.views = statistics.size, tuple(views)
        self.shard_index = ShardIndex(views, split)
        self.files = FileCache()

    def __len__(self) -> int:
        return len(self.shard_index)

    def scenes(self) -> list[str]:
        """The digests of the scenes of all samples, sorted."""
        return sorted({scene.decode() for scene in self.shard_index.scenes.tolist()})

    def mixture(self, mix: Sequence[str], windows_per_scene: int | None) -> Mixture | None:
        """What an epoch is made of, from one NAME=WEIGHT for each dataset, or none; None if all
        samples are drawn alike. Raises ValueError unless the names are those of the datasets'
        folders, and as `Mixture` does.
        """
        if not mix and windows_per_scene is None:
            return None
        scenes = np.unique(self.shard_index.scenes, return_inverse=True)[1]
        weights = parse_mix(mix, [Path(str(view)).name for view in self.views]) if mix else None
        # in the order of the samples, so that the order of the datasets does not matter
        present, first, datasets = np.unique(
            self.shard_index.datasets, return_index=True, return_inverse=True
        )
        rank = np.argsort(np.argsort(first))
        if weights is not None:
            absent = [name for name in range(len(self.views)) if name not in present]
            in_order = [int(number) for number in present[np.argsort(first)]] + absent
            weights = tuple(weights[number] for number in in_order)
        return Mixture(scenes, rank[datasets], windows_per_scene, weights)

    def keys(self, draws: Sequence[SampleDraw]) -> tuple[str, ...]:
        """The keys of these samples."""
        return tuple(self.shard_index[draw.sample_index].key for draw in draws)

    @abstractmethod
    def batch(self, draws: Sequence[SampleDraw]) -> tuple[Any, ...]:
        """The tensors of these samples. Raises ValueError naming a sample whose bytes are not the
        ones that were written.
        """


def load_batches(
    dataset: ShardDataset,
    order: EpochOrder,
    position: Position,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pinned: bool = False,
) -> Iterator[tuple[Any, Position]]:
    """Yields, without end, the batches of a rank from `position` on, each with the position at
    which a training is resumed after it.

    `workers` processes read ahead; with 0 this process reads when asked. `pinned` batches are
    copied to a GPU faster. Raises ValueError as `ShardDataset.batch` and `EpochOrder.batches` do,
    and OSError if a worker lacks memory or dies.
    """
    if order.count != len(dataset):
        raise ValueError(f"the order is of {order.count} samples, expected {len(dataset)}")
    if workers:
        check_tmpdir()
    draws, positions = (order.batches(position, rank, world) for _ in range(2))
    batches: Any = DataLoader(
        _BatchDataset(dataset),
        batch_size=None,
        sampler=(batch_draws for batch_draws, _ in draws),
        num_workers=workers,
        pin_memory=pinned,
        collate_fn=_identity,
        worker_init_fn=exit_on_lost_batch,
        generator=torch.Generator(),  # else it would draw from torch's global one
    )
    return _raise_errors(
        receive_batches(batches) if workers else batches, (after for _, after in positions)
    )


def _raise_errors(batches: Any, positions: Iterator[Position]) -> Iterator[tuple[Any, Position]]:
    # cv2's threads do not survive a fork: a worker would wait for them for ever
    cv2.setNumThreads(1)
    for batch, after in zip(batches, positions, strict=False):
        if isinstance(batch, ValueError | OSError):
            raise batch
        yield batch, after


class _BatchDataset(Dataset):
    """Complete batches by their draws; an error is returned as a value, since torch would turn a
    raised one into a page of text.
    """

    def __init__(self, dataset: ShardDataset):
        self.dataset = dataset

    def __getitem__(self, draws: list[SampleDraw]) -> tuple[Any, ...] | ValueError | OSError:
        try:
            return share_batch(self.dataset.batch(draws))
        except ValueError as error:
            return error


def _identity(batch: Any) -> Any:
    return batch
