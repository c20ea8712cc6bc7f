"""Training samples in an order that a stopped training can go on with.

    Windows     the kept windows of one split of several data sets, or views of them, by number
    Examples    what the motion prior learns of them: pictures and normalised spectra
    Order       which of them follow each other: a function of the seed and the epoch, cut into
                global batches
    Position    how far a training has come in it: all that a checkpoint must hold
    loader      the batches of one rank from a position on, each with the position after it

The order knows nothing of ranks and loader workers, and what is drawn for a sample (its frequency,
its augmentation) is seeded by seed, epoch and the sample's number alone. So the same global batches
come from any number of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from model.data.handover import check_tmpdir, exit_on_lost_batch, receive_batches, share_batch
from model.data.order import EpochOrder, Position, SampleDraw
from model.data.shard_index import ShardIndex
from model.data.shard_reader import FileCache
from pipeline.dataset.open import DatasetView
from pipeline.dataset.scales import check_compatible, check_matches_shards
from schemas.statistics import SpectrumStatistics


class ShardDataset(Dataset, ABC):
    """The kept windows of one split, by number (rows.py says in which order).

    Raises ValueError where the statistics are of other training shards, where there is none, and
    where a video is held out in one data set and not in another.
    """

    def __init__(
        self, selections: Sequence[DatasetView], statistics: SpectrumStatistics, split: str
    ):
        check_compatible(selections)
        check_matches_shards(statistics, selections)
        self.size, self.shard_index, self.files = (
            statistics.size,
            ShardIndex(selections, split),
            FileCache(),
        )

    def __len__(self) -> int:
        return len(self.shard_index)

    def keys(self, draws: Sequence[SampleDraw]) -> tuple[str, ...]:
        """Names of these samples."""
        return tuple(self.shard_index[one.sample_index].key for one in draws)

    @abstractmethod
    def batch(self, draws: Sequence[SampleDraw]) -> tuple[Any, ...]:
        """What is learnt of these samples. Raises ValueError naming one whose bytes are not the one
        that was written.
        """


def load_batches(
    windows: ShardDataset,
    order: EpochOrder,
    position: Position,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pinned: bool = False,
) -> Iterator[tuple[Any, Position]]:
    """Without end, the batches of a rank from `position` on, each with the position after it: where
    a training goes on once it has learnt from the batch.

    `workers` processes read ahead; 0 reads when asked. `pinned` batches go to a GPU faster. Raises
    ValueError as `ShardDataset.batch` and `EpochOrder.batches`, OSError if one of the processes
    lacks memory or dies.
    """
    if order.count != len(windows):
        raise ValueError(f"the order is of {order.count} samples, expected {len(windows)}")
    if workers:
        check_tmpdir()
    draws, positions = (order.batches(position, rank, world) for _ in range(2))
    batches: Any = DataLoader(
        _BatchDataset(windows),
        batch_size=None,
        sampler=(some for some, _ in draws),
        num_workers=workers,
        pin_memory=pinned,
        collate_fn=_identity,
        worker_init_fn=exit_on_lost_batch,
        generator=torch.Generator(),  # else torch's global one is drawn from
    )
    return _raise_errors(
        receive_batches(batches) if workers else batches, (after for _, after in positions)
    )


def _raise_errors(batches: Any, positions: Iterator[Position]) -> Iterator[tuple[Any, Position]]:
    cv2.setNumThreads(1)  # its threads do not survive a fork: a worker would wait for them for ever
    for batch, after in zip(batches, positions, strict=False):
        if isinstance(batch, ValueError | OSError):
            raise batch
        yield batch, after


class _BatchDataset(Dataset):
    """Whole batches; an error of one is handed over as a value, since torch would make a page of
    text of it.
    """

    def __init__(self, windows: ShardDataset):
        self.windows = windows

    def __getitem__(self, draws: list[SampleDraw]) -> tuple[Any, ...] | ValueError | OSError:
        try:
            return share_batch(self.windows.batch(draws))
        except ValueError as error:
            return error


def _identity(batch: Any) -> Any:
    return batch
