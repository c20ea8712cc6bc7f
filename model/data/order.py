"""The order in which samples are trained on, and how far a training has come in it.

The order is a function of the seed and the epoch alone, cut into global batches; it knows nothing
of ranks and loader workers, so that any number of them see the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class SampleDraw(NamedTuple):
    """A sample in an epoch; everything random about it (frequencies, augmentation) comes from
    `rng`.
    """

    seed: int
    epoch: int
    sample_index: int

    def rng(self) -> np.random.Generator:
        """The generator of this sample in this epoch."""
        # index + 1, since a last 0 would give the stream of [seed, epoch]
        return np.random.default_rng([self.seed, self.epoch, self.sample_index + 1])


@dataclass(frozen=True)
class Position:
    """How far a training has come: all that a checkpoint must hold to resume it."""

    epoch: int = 0
    consumed: int = 0
    """Samples of this epoch that were taken, by all ranks together."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Endless epochs, each a permutation of all samples, cut into global batches.

    A batch that an epoch cannot fill is filled from the next one, so that no sample is left out.
    """

    count: int
    """Number of samples."""
    seed: int
    global_batch: int
    """Samples a step, over all ranks."""

    def __post_init__(self):
        for name, least in (("count", 1), ("seed", 0), ("global_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")

    def epoch_samples(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        """The sample indices of an epoch, in order."""
        return _permutation(self.count, self.seed, epoch)

    def next_batch(self, position: Position) -> tuple[list[SampleDraw], Position]:
        """The global batch at a position, and the position after it."""
        draws, epoch, consumed = [], position.epoch, position.consumed
        while len(draws) < self.global_batch:
            missing = self.global_batch - len(draws)
            indices = self.epoch_samples(epoch)[consumed : consumed + missing]
            draws += [SampleDraw(self.seed, epoch, index) for index in indices.tolist()]
            consumed += len(indices)
            if consumed == self.count:
                epoch, consumed = epoch + 1, 0
        return draws, Position(epoch, consumed)

    def batches(
        self, position: Position, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[list[SampleDraw], Position]]:
        """Yields, without end, this rank's part of each global batch (every `world`-th sample) and
        the position after the batch.

        Raises ValueError if the ranks cannot share a batch evenly, or if the position cannot belong
        to this number of samples.
        """
        if not 0 <= rank < world or self.global_batch % world:
            raise ValueError(
                f"rank {rank} of {world} has no even share of a global batch of "
                f"{self.global_batch}, expected a multiple of the number of ranks"
            )
        if position.epoch < 0 or not 0 <= position.consumed < self.count:
            raise ValueError(
                f"{position.consumed} samples of epoch {position.epoch} were consumed, expected 0 "
                f"to {self.count - 1}: is it the position in another set of samples?"
            )
        return self._batches(position, rank, world)

    def _batches(
        self, position: Position, rank: int, world: int
    ) -> Iterator[tuple[list[SampleDraw], Position]]:
        while True:
            draws, position = self.next_batch(position)
            yield draws[rank::world], position


@lru_cache(4)
def _permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " samples"]:
    """Sorts PCG64's raw numbers, which every version of numpy must draw alike, unlike its own
    permutations.
    """
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(count), kind="stable")


def spread_indices(count: int, most: int) -> list[int]:
    """Up to `most` indices below `count`, evenly spread from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))})
