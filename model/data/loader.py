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

from model.data.augment import OFF, AugmentConfig, augment_image, augment_spectrum, draw, vector_map
from model.data.handover import check_place, leave_with_what_is_lost, received, shared
from model.data.shard_index import Rows
from model.data.shard_reader import Files, read_picture, read_spectrum
from model.normalizer import check_frequencies
from pipeline.dataset.open import Selection
from pipeline.dataset.scales import check_alike, check_belongs
from pipeline.motion.normalize import Normalisation, channel_scales, normalise
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class ExampleConfig:
    """What is made of a sample."""

    frequencies: int | None = None
    """How many, from the lowest on; None: all of which there are statistics."""
    drawn: int | None = None
    """At most so many of them of each sample, drawn anew in every epoch: what stage 1 and the autoencoder learn from; None: all."""
    normalisation: Normalisation = "adaptive"
    augment: AugmentConfig = OFF


class Draw(NamedTuple):
    """A sample at its place in the order, and with it all that is drawn for it."""

    seed: int
    epoch: int
    number: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, self.number + 1])  # a last 0 would be the stream of [seed, epoch]


class Batch(NamedTuple):
    image: Float32[Tensor, "batch 3 height width"]
    """RGB, -1 to 1."""
    spectrum: Float32[Tensor, "batch freq 4 height width"]
    """S', normalised: re x, im x, re y, im y."""
    frequency: Int64[Tensor, "batch freq"]
    """Which ones these are, counted from 0."""
    keys: tuple[str, ...]


class Example(NamedTuple):
    image: Float32[Tensor, "3 height width"]
    spectrum: Float32[Tensor, "freq 4 height width"]
    frequency: Int64[Tensor, " freq"]
    key: str


class Windows(Dataset, ABC):
    """The kept windows of one split, by number (rows.py says in which order).

    Raises ValueError where the statistics are of other training shards, where there is none, and where a video is held out in one data
    set and not in another.
    """

    def __init__(self, selections: Sequence[Selection], statistics: SpectrumStatistics, split: str):
        check_alike(selections)
        check_belongs(statistics, selections)
        self.size, self.rows, self.files = statistics.size, Rows(selections, split), Files()

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self, draws: Sequence[Draw]) -> tuple[str, ...]:
        """Names of these samples."""
        return tuple(self.rows[one.number].key for one in draws)

    @abstractmethod
    def batch(self, draws: Sequence[Draw]) -> tuple[Any, ...]:
        """What is learnt of these samples. Raises ValueError naming one whose bytes are not the one that was written."""


class Examples(Windows):
    """Pictures and normalised spectra. Raises ValueError as `Windows` does, and for frequencies that the statistics do not have."""

    def __init__(self, selections: Sequence[Selection], statistics: SpectrumStatistics, config: ExampleConfig | None = None, *, split: str = "train"):
        super().__init__(selections, statistics, split)
        self.config = config or ExampleConfig()
        self.frequencies = check_frequencies(self.config.frequencies, len(statistics.scale))
        self.scale = channel_scales(replace(statistics, scale=statistics.scale[: self.frequencies]), self.config.normalisation)
        self.tables = tables(self.scale, self.config.normalisation)

    def __getitem__(self, index: int | Draw) -> Example:
        """A sample; by its bare number as the first epoch of seed 0 has it."""
        if not isinstance(index, Draw):
            index = Draw(0, 0, range(len(self))[index])
        batch = self.batch([index])
        return Example(batch.image[0], batch.spectrum[0], batch.frequency[0], batch.keys[0])

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """These samples, written side by side: nothing is copied once more."""
        (width, height), count = self.size, min(self.config.drawn or self.frequencies, self.frequencies)
        image = np.empty((len(draws), 3, height, width), np.float32)
        spectrum = np.empty((len(draws), count, 4, height, width), np.float32)
        bands = [self._read(one, *into) for one, *into in zip(draws, image, spectrum, strict=True)]
        return Batch(torch.from_numpy(image), torch.from_numpy(spectrum), torch.tensor(bands), self.keys(draws))

    def _read(self, place: Draw, image: np.ndarray, spectrum: np.ndarray) -> list[int]:
        """Writes a sample's picture and frequencies to these arrays; returns which frequencies these are."""
        rng, row = place.rng(), self.rows[place.number]
        bands = some_of(self.frequencies, len(spectrum), rng) if self.config.drawn else [*range(self.frequencies)]
        picture = read_picture(self.files, row, self.size)
        frequencies = zip(bands, read_spectrum(self.files, row, bands, self.size), spectrum, strict=True)
        augmentation = draw(self.config.augment, self.size, rng)
        affine, vectors = augmentation.affine, vector_map(augmentation.affine)
        still = augmentation.is_still
        cv2.split(augment_image(picture, augmentation), list(image))
        for k, raw, into in frequencies:
            if still:
                look_up(raw, self.tables[k], into)
            else:
                augment_spectrum(as_float32(raw), affine, vectors, into)
                into[:] = normalise(into[None], self.scale[k : k + 1], self.config.normalisation)[0]
        return bands


def some_of(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """So many different numbers under `count`, in order, by raw numbers of the generator, which every version of numpy must draw alike."""
    return sorted(np.argsort(rng.bit_generator.random_raw(count), kind="stable")[:wanted].tolist())  # pyright: ignore[reportAttributeAccessIssue]


def tables(scale: Float32[np.ndarray, "freq 4 1 1"], normalisation: Normalisation) -> list[list[np.ndarray]]:
    """Of each frequency, S' of every float16 by its bits: for x and for y, one and the same where they share a scale."""
    with np.errstate(invalid="ignore"):  # the bits that are NaN, which no sample has
        values = np.broadcast_to(as_float32(np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 1, 1, -1)), (1, 4, 1, 1 << 16))
        found = [normalise(values, one[None], normalisation)[0, ::2] for one in scale]
    return [[x, x if np.array_equal(x, y, equal_nan=True) else y] for x, y in found]


def look_up(raw: Float16[np.ndarray, "4 height width"], components: Sequence[np.ndarray], out: Float32[np.ndarray, "4 height width"]) -> None:
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
class Order:
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

    def epoch(self, epoch: int) -> Int64[np.ndarray, " samples"]:
        """The samples of an epoch, in order."""
        return _permutation(self.count, self.seed, epoch)

    def batch(self, position: Position) -> tuple[list[Draw], Position]:
        """The next global batch, and the position after it."""
        draws, epoch, consumed = [], position.epoch, position.consumed
        while len(draws) < self.global_batch:
            some = self.epoch(epoch)[consumed : consumed + self.global_batch - len(draws)]
            draws += [Draw(self.seed, epoch, index) for index in some.tolist()]
            consumed += len(some)
            if consumed == self.count:
                epoch, consumed = epoch + 1, 0
        return draws, Position(epoch, consumed)

    def batches(self, position: Position, rank: int = 0, world: int = 1) -> Iterator[tuple[list[Draw], Position]]:
        """Without end, this rank's part of each global batch, every `world`-th sample of it, and the position after the batch.

        Raises ValueError where ranks cannot share a batch evenly, or the position is of another set of samples.
        """
        if not 0 <= rank < world or self.global_batch % world:
            raise ValueError(f"rank {rank} of {world} has no even share of a global batch of {self.global_batch}, expected a multiple of the number of ranks")
        if position.epoch < 0 or not 0 <= position.consumed < self.count:
            raise ValueError(f"{position.consumed} samples of epoch {position.epoch} were consumed, expected 0 to {self.count - 1}: of another set of samples?")
        return self._batches(position, rank, world)

    def _batches(self, position: Position, rank: int, world: int) -> Iterator[tuple[list[Draw], Position]]:
        while True:
            draws, position = self.batch(position)
            yield draws[rank::world], position


@lru_cache(4)
def _permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " samples"]:
    """Sorted by PCG64's raw numbers, which every version of numpy must draw alike; its own permutations may change."""
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(count), kind="stable")


def loader(
    windows: Windows, order: Order, position: Position, *, rank: int = 0, world: int = 1, workers: int = 0, pinned: bool = False
) -> Iterator[tuple[Any, Position]]:
    """Without end, the batches of a rank from `position` on, each with the position after it: where a training goes on once it has learnt from the batch.

    `workers` processes read ahead; 0 reads when asked. `pinned` batches go to a GPU faster. Raises ValueError as `Windows.batch` and `Order.batches`,
    OSError if one of the processes lacks memory or dies.
    """
    if order.count != len(windows):
        raise ValueError(f"the order is of {order.count} samples, expected {len(windows)}")
    if workers:
        check_place()
    draws, positions = (order.batches(position, rank, world) for _ in range(2))
    batches: Any = DataLoader(
        _Batches(windows), batch_size=None, sampler=(some for some, _ in draws), num_workers=workers, pin_memory=pinned,
        collate_fn=_as_it_is, worker_init_fn=leave_with_what_is_lost,
        generator=torch.Generator(),  # else torch's global one is drawn from
    )  # fmt: skip
    return _sound(received(batches) if workers else batches, (after for _, after in positions))


def _sound(batches: Any, positions: Iterator[Position]) -> Iterator[tuple[Any, Position]]:
    cv2.setNumThreads(1)  # its threads do not survive a fork: a worker would wait for them for ever
    for batch, after in zip(batches, positions, strict=False):
        if isinstance(batch, ValueError | OSError):
            raise batch
        yield batch, after


class _Batches(Dataset):
    """Whole batches; an error of one is handed over as a value, since torch would make a page of text of it."""

    def __init__(self, windows: Windows):
        self.windows = windows

    def __getitem__(self, draws: list[Draw]) -> tuple[Any, ...] | ValueError | OSError:
        try:
            return shared(self.windows.batch(draws))
        except ValueError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch
