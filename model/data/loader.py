"""Training samples in an order that a stopped training can go on with.

    Windows     the kept windows of one split of several data sets, or views of them, by number
    Examples    what the motion prior learns of them: pictures and normalised spectra
    Order       which of them follow each other: a function of the seed and the epoch, cut into global batches
    Position    how far a training has come in it: all that a checkpoint must hold
    loader      the batches of one rank from a position on, each with the position after it

The order knows nothing of ranks and loader workers, and what is drawn for a sample (its frequency, its augmentation) is
seeded by seed, epoch and the sample's number alone. So the same global batches come from any number of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.data.augment import NO_AUGMENT, AugmentConfig, augment_image, augment_spectrum, draw_augmentation, vector_map
from model.data.handover import check_tmpdir, exit_on_lost_batch, receive_batches, share_batch
from model.data.shard_index import ShardIndex
from model.data.shard_reader import FileCache, read_image, read_spectrum
from model.normalizer import check_frequencies
from pipeline.dataset.open import DatasetView
from pipeline.dataset.scales import check_compatible, check_matches_shards
from pipeline.motion.normalize import Normalization, channel_scales, normalize
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """What is made of a sample."""

    frequencies: int | None = None
    """How many, from the lowest on; None: all of which there are statistics."""
    drawn: int | None = None
    """At most so many of them of each sample, drawn anew in every epoch: what stage 1 and the autoencoder learn from; None: all."""
    normalisation: Normalization = "adaptive"
    augment: AugmentConfig = NO_AUGMENT


class SampleDraw(NamedTuple):
    """A sample at its place in the order, and with it all that is drawn for it."""

    seed: int
    epoch: int
    sample_index: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, self.sample_index + 1])  # a last 0 would be the stream of [seed, epoch]


class SpectrumBatch(NamedTuple):
    image: Float32[Tensor, "batch 3 height width"]
    """RGB, -1 to 1."""
    spectrum: Float32[Tensor, "batch freq 4 height width"]
    """S', normalised: re x, im x, re y, im y."""
    frequency_index: Int64[Tensor, "batch freq"]
    """Which ones these are, counted from 0."""
    keys: tuple[str, ...]


class SpectrumSample(NamedTuple):
    image: Float32[Tensor, "3 height width"]
    spectrum: Float32[Tensor, "freq 4 height width"]
    frequency_index: Int64[Tensor, " freq"]
    key: str


class ShardDataset(Dataset, ABC):
    """The kept windows of one split, by number (rows.py says in which order).

    Raises ValueError where the statistics are of other training shards, where there is none, and where a video is held out in one data
    set and not in another.
    """

    def __init__(self, selections: Sequence[DatasetView], statistics: SpectrumStatistics, split: str):
        check_compatible(selections)
        check_matches_shards(statistics, selections)
        self.size, self.shard_index, self.files = statistics.size, ShardIndex(selections, split), FileCache()

    def __len__(self) -> int:
        return len(self.shard_index)

    def keys(self, draws: Sequence[SampleDraw]) -> tuple[str, ...]:
        """Names of these samples."""
        return tuple(self.shard_index[one.sample_index].key for one in draws)

    @abstractmethod
    def batch(self, draws: Sequence[SampleDraw]) -> tuple[Any, ...]:
        """What is learnt of these samples. Raises ValueError naming one whose bytes are not the one that was written."""


class SpectrumDataset(ShardDataset):
    """Pictures and normalised spectra. Raises ValueError as `ShardDataset` does, and for frequencies that the statistics do not have."""

    def __init__(self, selections: Sequence[DatasetView], statistics: SpectrumStatistics, config: SpectrumConfig | None = None, *, split: str = "train"):
        super().__init__(selections, statistics, split)
        self.config = config or SpectrumConfig()
        self.frequencies = check_frequencies(self.config.frequencies, len(statistics.scale))
        self.scale = channel_scales(replace(statistics, scale=statistics.scale[: self.frequencies]), self.config.normalisation)
        self.lookup_tables = build_lookup_tables(self.scale, self.config.normalisation)

    def __getitem__(self, index: int | SampleDraw) -> SpectrumSample:
        """A sample; by its bare number as the first epoch of seed 0 has it."""
        if not isinstance(index, SampleDraw):
            index = SampleDraw(0, 0, range(len(self))[index])
        batch = self.batch([index])
        return SpectrumSample(batch.image[0], batch.spectrum[0], batch.frequency_index[0], batch.keys[0])

    def batch(self, draws: Sequence[SampleDraw]) -> SpectrumBatch:
        """These samples, written side by side: nothing is copied once more."""
        (width, height), count = self.size, min(self.config.drawn or self.frequencies, self.frequencies)
        image = np.empty((len(draws), 3, height, width), np.float32)
        spectrum = np.empty((len(draws), count, 4, height, width), np.float32)
        bands = [self._read(one, *into) for one, *into in zip(draws, image, spectrum, strict=True)]
        return SpectrumBatch(torch.from_numpy(image), torch.from_numpy(spectrum), torch.tensor(bands), self.keys(draws))

    def _read(self, place: SampleDraw, image: np.ndarray, spectrum: np.ndarray) -> list[int]:
        """Writes a sample's picture and frequencies to these arrays; returns which frequencies these are."""
        rng, row = place.rng(), self.shard_index[place.sample_index]
        bands = draw_frequencies(self.frequencies, len(spectrum), rng) if self.config.drawn else [*range(self.frequencies)]
        picture = read_image(self.files, row, self.size)
        frequencies = zip(bands, read_spectrum(self.files, row, bands, self.size), spectrum, strict=True)
        augmentation = draw_augmentation(self.config.augment, self.size, rng)
        affine, vectors = augmentation.affine, vector_map(augmentation.affine)
        still = augmentation.is_affine_identity
        cv2.split(augment_image(picture, augmentation), list(image))
        for k, raw, into in frequencies:
            if still:
                normalize_by_lookup(raw, self.lookup_tables[k], into)
            else:
                augment_spectrum(as_float32(raw), affine, vectors, into)
                into[:] = normalize(into[None], self.scale[k : k + 1], self.config.normalisation)[0]
        return bands


def draw_frequencies(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """So many different numbers under `count`, in order, by raw numbers of the generator, which every version of numpy must draw alike."""
    return sorted(np.argsort(rng.bit_generator.random_raw(count), kind="stable")[:wanted].tolist())  # pyright: ignore[reportAttributeAccessIssue]


def build_lookup_tables(scale: Float32[np.ndarray, "freq 4 1 1"], normalisation: Normalization) -> list[list[np.ndarray]]:
    """Of each frequency, S' of every float16 by its bits: for x and for y, one and the same where they share a scale."""
    with np.errstate(invalid="ignore"):  # the bits that are NaN, which no sample has
        values = np.broadcast_to(as_float32(np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 1, 1, -1)), (1, 4, 1, 1 << 16))
        found = [normalize(values, one[None], normalisation)[0, ::2] for one in scale]
    return [[x, x if np.array_equal(x, y, equal_nan=True) else y] for x, y in found]


def normalize_by_lookup(raw: Float16[np.ndarray, "4 height width"], components: Sequence[np.ndarray], out: Float32[np.ndarray, "4 height width"]) -> None:
    """Writes S' of raw coefficients to `out` by the tables of x and y, since a float16 is one of 65,536 values."""
    for bits, table, into in zip(raw.view(np.uint16).reshape(2, 1, -1), components, out.reshape(2, 1, -1), strict=True):
        cv2.LUT(bits, table, dst=into)


def as_float32(half: np.ndarray) -> np.ndarray:
    """Float16 as float32, by torch, which is fast at it."""
    return torch.from_numpy(half).float().numpy()


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

    def batches(self, position: Position, rank: int = 0, world: int = 1) -> Iterator[tuple[list[SampleDraw], Position]]:
        """Without end, this rank's part of each global batch, every `world`-th sample of it, and the position after the batch.

        Raises ValueError where ranks cannot share a batch evenly, or the position is of another set of samples.
        """
        if not 0 <= rank < world or self.global_batch % world:
            raise ValueError(f"rank {rank} of {world} has no even share of a global batch of {self.global_batch}, expected a multiple of the number of ranks")
        if position.epoch < 0 or not 0 <= position.consumed < self.count:
            raise ValueError(f"{position.consumed} samples of epoch {position.epoch} were consumed, expected 0 to {self.count - 1}: of another set of samples?")
        return self._batches(position, rank, world)

    def _batches(self, position: Position, rank: int, world: int) -> Iterator[tuple[list[SampleDraw], Position]]:
        while True:
            draws, position = self.next_batch(position)
            yield draws[rank::world], position


@lru_cache(4)
def _permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " samples"]:
    """Sorted by PCG64's raw numbers, which every version of numpy must draw alike; its own permutations may change."""
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(count), kind="stable")


def load_batches(
    windows: ShardDataset, order: EpochOrder, position: Position, *, rank: int = 0, world: int = 1, workers: int = 0, pinned: bool = False
) -> Iterator[tuple[Any, Position]]:
    """Without end, the batches of a rank from `position` on, each with the position after it: where a training goes on once it has learnt from the batch.

    `find_workers` processes read ahead; 0 reads when asked. `pinned` batches go to a GPU faster. Raises ValueError as `ShardDataset.batch` and `EpochOrder.batches`,
    OSError if one of the processes lacks memory or dies.
    """
    if order.count != len(windows):
        raise ValueError(f"the order is of {order.count} samples, expected {len(windows)}")
    if workers:
        check_tmpdir()
    draws, positions = (order.batches(position, rank, world) for _ in range(2))
    batches: Any = DataLoader(
        _BatchDataset(windows), batch_size=None, sampler=(some for some, _ in draws), num_workers=workers, pin_memory=pinned,
        collate_fn=_identity, worker_init_fn=exit_on_lost_batch,
        generator=torch.Generator(),  # else torch's global one is drawn from
    )  # fmt: skip
    return _raise_errors(receive_batches(batches) if workers else batches, (after for _, after in positions))


def _raise_errors(batches: Any, positions: Iterator[Position]) -> Iterator[tuple[Any, Position]]:
    cv2.setNumThreads(1)  # its threads do not survive a fork: a worker would wait for them for ever
    for batch, after in zip(batches, positions, strict=False):
        if isinstance(batch, ValueError | OSError):
            raise batch
        yield batch, after


class _BatchDataset(Dataset):
    """Whole batches; an error of one is handed over as a value, since torch would make a page of text of it."""

    def __init__(self, windows: ShardDataset):
        self.windows = windows

    def __getitem__(self, draws: list[SampleDraw]) -> tuple[Any, ...] | ValueError | OSError:
        try:
            return share_batch(self.windows.batch(draws))
        except ValueError as error:
            return error


def _identity(batch: Any) -> Any:
    return batch
