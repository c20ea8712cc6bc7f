"""TODO: what this file is."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class SampleDraw(NamedTuple):
    """A sample at its place in the order, and with it all that is drawn for it."""

    seed: int
    epoch: int
    sample_index: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(
            [self.seed, self.epoch, self.sample_index + 1]
        )  # a last 0 would be the stream of [seed, epoch]


@dataclass(frozen=True)
class Position:
    """How far a training has come."""

    epoch: int = 0
    consumed: int = 0
    """Samples of this epoch that were taken, by all ranks together."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Epochs without end, each every sample once in an order of its own, cut into global batches.

    A batch that an epoch cannot fill goes on with the next one, so that no sample is left out.
    """

    count: int
    """Samples."""
    seed: int
    global_batch: int
    """Samples a step, over all ranks."""

    def __post_init__(self):
        for name, least in (("count", 1), ("seed", 0), ("global_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")

    def epoch_samples(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        """The samples of an epoch, in order."""
        return _permutation(self.count, self.seed, epoch)

    def next_batch(self, position: Position) -> tuple[list[SampleDraw], Position]:
        """The next global batch, and the position after it."""
        draws, epoch, consumed = [], position.epoch, position.consumed
        while len(draws) < self.global_batch:
            some = self.epoch_samples(epoch)[consumed : consumed + self.global_batch - len(draws)]
            draws += [SampleDraw(self.seed, epoch, index) for index in some.tolist()]
            consumed += len(some)
            if consumed == self.count:
                epoch, consumed = epoch + 1, 0
        return draws, Position(epoch, consumed)

    def batches(
        self, position: Position, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[list[SampleDraw], Position]]:
        """Without end, this rank's part of each global batch, every `world`-th sample of it, and
        the position after the batch.

        Raises ValueError where ranks cannot share a batch evenly, or the position is of another set
        of samples.
        """
        if not 0 <= rank < world or self.global_batch % world:
            raise ValueError(
                f"rank {rank} of {world} has no even share of a global batch of {self.global_batch}, expected a multiple of the number of ranks"
            )
        if position.epoch < 0 or not 0 <= position.consumed < self.count:
            raise ValueError(
                f"{position.consumed} samples of epoch {position.epoch} were consumed, expected 0 to {self.count - 1}: of another set of samples?"
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
    """Sorted by PCG64's raw numbers, which every version of numpy must draw alike; its own
    permutations may change.
    """
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(count), kind="stable")
