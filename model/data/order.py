"""The order and mixture in which samples are trained on, and how far a training has come in it.

The order is a function of the seed and the epoch alone, cut into global batches; it knows nothing
of ranks and loader workers, so that any number of them see the same batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
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
    repeat: int = 0
    """How often the sample was drawn before in this epoch."""

    def rng(self) -> np.random.Generator:
        """The generator of this sample in this epoch."""
        # index + 1, since a last 0 would give the stream of [seed, epoch]
        entropy = [self.seed, self.epoch, self.sample_index + 1]
        return np.random.default_rng(entropy + [self.repeat] * (self.repeat > 0))


@dataclass(frozen=True)
class Position:
    """How far a training has come: all that a checkpoint must hold to resume it."""

    epoch: int = 0
    consumed: int = 0
    """Samples of this epoch that were taken, by all ranks together."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Endless epochs, each a permutation of all samples or a mixture of them, cut into global
    batches.

    A batch that an epoch cannot fill is filled from the next one, so that no sample is left out.
    """

    count: int
    """Number of samples."""
    seed: int
    global_batch: int
    """Samples a step, over all ranks."""
    mixture: "Mixture | None" = None

    def __post_init__(self):
        for name, least in (("count", 1), ("seed", 0), ("global_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")

    def epoch_samples(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        """The sample indices of an epoch, in order."""
        order = _permutation(self.count, self.seed, epoch)
        return order if self.mixture is None else self.mixture.draw(order)

    @lru_cache(4)  # noqa: B019  an order lives as long as its training
    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample indices of an epoch, and how often each was drawn before in it."""
        indices = self.epoch_samples(epoch)
        return indices, _count_earlier(indices)

    def next_batch(self, position: Position) -> tuple[list[SampleDraw], Position]:
        """The global batch at a position, and the position after it."""
        draws, epoch, consumed = [], position.epoch, position.consumed
        while len(draws) < self.global_batch:
            missing = self.global_batch - len(draws)
            indices, repeats = self._epoch(epoch)
            taken = slice(consumed, consumed + missing)
            pairs = zip(indices[taken].tolist(), repeats[taken].tolist(), strict=True)
            draws += [SampleDraw(self.seed, epoch, *pair) for pair in pairs]
            consumed += len(indices[taken])
            if consumed == len(indices):
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
        count = len(self.epoch_samples(max(0, position.epoch)))
        if position.epoch < 0 or not 0 <= position.consumed < count:
            raise ValueError(
                f"{position.consumed} samples of epoch {position.epoch} were consumed, expected 0 "
                f"to {count - 1}: is it the position in another set of samples?"
            )
        return self._batches(position, rank, world)

    def _batches(
        self, position: Position, rank: int, world: int
    ) -> Iterator[tuple[list[SampleDraw], Position]]:
        while True:
            draws, position = self.next_batch(position)
            yield draws[rank::world], position


@dataclass(frozen=True, eq=False)
class Mixture:
    """How often samples of each scene and of each dataset are drawn in an epoch.

    Raises ValueError if a number is out of range.
    """

    scenes: Int64[np.ndarray, " samples"]
    """A number for each sample; those of one scene have the same."""
    datasets: Int64[np.ndarray, " samples"]
    """The dataset of each sample, counted from 0."""
    windows_per_scene: int | None = None
    """At most so many samples of a scene of a dataset are drawn in an epoch, others in each."""
    weights: tuple[float, ...] | None = None
    """The share of each dataset in every epoch, and nearly in every batch, up to their sum; None:
    as many as it has.
    """

    def __post_init__(self):
        if self.windows_per_scene is not None and self.windows_per_scene < 1:
            raise ValueError(f"windows_per_scene is {self.windows_per_scene}, expected at least 1")
        if self.weights is not None:
            missing = np.setdiff1d(np.flatnonzero(np.greater(self.weights, 0)), self.datasets)
            if min(self.weights) < 0 or not 0 < sum(self.weights) < inf or len(missing):
                raise ValueError(
                    f"weights are {self.weights}, expected at least 0 and not all 0, and over 0 "
                    "only where there are training samples"
                )

    def draw(self, order: Int64[np.ndarray, " samples"]) -> Int64[np.ndarray, " drawn"]:
        """The sample indices of an epoch, from a permutation of all. A dataset that has fewer
        samples than its share is repeated.
        """
        if self.windows_per_scene is not None:
            # in each dataset by itself, so that none can be left with nothing
            scenes = self.scenes * (self.datasets.max() + 1) + self.datasets
            order = order[_count_earlier(scenes[order]) < self.windows_per_scene]
        if self.weights is None:
            return order
        shares = np.array(self.weights) / sum(self.weights)
        parts = [
            np.resize(order[self.datasets[order] == dataset], round(share * len(order)))
            for dataset, share in enumerate(shares)
            if share > 0
        ]
        # each dataset's samples at even distances
        places = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts])
        return np.concatenate(parts)[np.argsort(places, kind="stable")]


def parse_mix(mix: Sequence[str], names: Sequence[str]) -> tuple[float, ...]:
    """The weights of the datasets of these names from one NAME=WEIGHT for each. Raises ValueError
    unless every name has exactly one weight.
    """
    weights: dict[str, float] = {}
    for text in mix:
        name, _, weight = text.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(
                f"mix is {text!r}, expected NAME=WEIGHT with the weight a number"
            ) from None
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two datasets are named {twice[0]}: give one folder another name to mix")
    if sorted(weights) != sorted(names) or len(mix) != len(names):
        raise ValueError(
            f"mix names {', '.join(weights)}, expected each of {', '.join(names)} once"
        )
    return tuple(weights[name] for name in names)


def _count_earlier(values: Int64[np.ndarray, " count"]) -> Int64[np.ndarray, " count"]:
    """For each value, how many before it are equal."""
    sorter = np.argsort(values, kind="stable")
    sorted_values = values[sorter]
    is_first = np.append(True, sorted_values[1:] != sorted_values[:-1])[: len(values)]
    starts = np.flatnonzero(is_first)
    counts = np.empty(len(values), np.int64)
    counts[sorter] = np.arange(len(values)) - starts[np.cumsum(is_first) - 1]
    return counts


@lru_cache(4)
def _permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " samples"]:
    """Sorts PCG64's raw numbers, which every version of numpy must draw alike, unlike its own
    permutations.
    """
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(count), kind="stable")


def spread_indices(count: int, most: int) -> list[int]:
    """Up to `most` indices below `count`, evenly spread from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))})
