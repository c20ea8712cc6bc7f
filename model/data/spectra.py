"""TODO: what this file is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64
from torch import Tensor

from model.data.augment import (
    NO_AUGMENT,
    AugmentConfig,
    augment_image,
    augment_spectrum,
    draw_augmentation,
    vector_map,
)
from model.data.loader import ShardDataset
from model.data.order import SampleDraw
from model.data.shard_reader import read_image, read_spectrum
from model.normalizer import check_frequencies
from pipeline.dataset.open import DatasetView
from pipeline.motion.normalize import Normalization, channel_scales, normalize
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """What is made of a sample."""

    frequencies: int | None = None
    """How many, from the lowest on; None: all of which there are statistics."""
    drawn: int | None = None
    """At most so many of them of each sample, drawn anew in every epoch: what stage 1 and the
    autoencoder learn from; None: all.
    """
    normalisation: Normalization = "adaptive"
    augment: AugmentConfig = NO_AUGMENT


class SpectrumBatch(NamedTuple):
    image: Float32[Tensor, "batch 3 height width"]
    """RGB, -1 to 1."""
    spectrum: Float32[Tensor, "batch freq 4 height width"]
    """S', normalised: re x, im x, re y, im y."""
    frequency_index: Int64[Tensor, "batch freq"]
    """Which ones these are, counted from 0."""
    keys: tuple[str, ...]


class _SpectrumSample(NamedTuple):
    image: Float32[Tensor, "3 height width"]
    spectrum: Float32[Tensor, "freq 4 height width"]
    frequency_index: Int64[Tensor, " freq"]
    key: str


class SpectrumDataset(ShardDataset):
    """Pictures and normalised spectra. Raises ValueError as `ShardDataset` does, and for
    frequencies that the statistics do not have.
    """

    def __init__(
        self,
        selections: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        config: SpectrumConfig | None = None,
        *,
        split: str = "train",
    ):
        super().__init__(selections, statistics, split)
        self.config = config or SpectrumConfig()
        self.frequencies = check_frequencies(self.config.frequencies, len(statistics.scale))
        self.scale = channel_scales(
            replace(statistics, scale=statistics.scale[: self.frequencies]),
            self.config.normalisation,
        )
        self.lookup_tables = _build_lookup_tables(self.scale, self.config.normalisation)

    def __getitem__(self, index: int | SampleDraw) -> _SpectrumSample:
        """A sample; by its bare number as the first epoch of seed 0 has it."""
        if not isinstance(index, SampleDraw):
            index = SampleDraw(0, 0, range(len(self))[index])
        batch = self.batch([index])
        return _SpectrumSample(
            batch.image[0], batch.spectrum[0], batch.frequency_index[0], batch.keys[0]
        )

    def batch(self, draws: Sequence[SampleDraw]) -> SpectrumBatch:
        """These samples, written side by side: nothing is copied once more."""
        (width, height), count = (
            self.size,
            min(self.config.drawn or self.frequencies, self.frequencies),
        )
        image = np.empty((len(draws), 3, height, width), np.float32)
        spectrum = np.empty((len(draws), count, 4, height, width), np.float32)
        bands = [self._read(one, *into) for one, *into in zip(draws, image, spectrum, strict=True)]
        return SpectrumBatch(
            torch.from_numpy(image),
            torch.from_numpy(spectrum),
            torch.tensor(bands),
            self.keys(draws),
        )

    def _read(self, place: SampleDraw, image: np.ndarray, spectrum: np.ndarray) -> list[int]:
        """Writes a sample's picture and frequencies to these arrays; returns which frequencies
        these are.
        """
        rng, row = place.rng(), self.shard_index[place.sample_index]
        bands = (
            _draw_frequencies(self.frequencies, len(spectrum), rng)
            if self.config.drawn
            else [*range(self.frequencies)]
        )
        picture = read_image(self.files, row, self.size)
        frequencies = zip(
            bands, read_spectrum(self.files, row, bands, self.size), spectrum, strict=True
        )
        augmentation = draw_augmentation(self.config.augment, self.size, rng)
        affine, vectors = augmentation.affine, vector_map(augmentation.affine)
        still = augmentation.is_affine_identity
        cv2.split(augment_image(picture, augmentation), list(image))
        for k, raw, into in frequencies:
            if still:
                _normalize_by_lookup(raw, self.lookup_tables[k], into)
            else:
                augment_spectrum(_as_float32(raw), affine, vectors, into)
                into[:] = normalize(into[None], self.scale[k : k + 1], self.config.normalisation)[0]
        return bands


def _draw_frequencies(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """So many different numbers under `count`, in order, by raw numbers of the generator, which
    every version of numpy must draw alike.
    """
    # pyright: ignore[reportAttributeAccessIssue]
    return sorted(np.argsort(rng.bit_generator.random_raw(count), kind="stable")[:wanted].tolist())


def _build_lookup_tables(
    scale: Float32[np.ndarray, "freq 4 1 1"], normalisation: Normalization
) -> list[list[np.ndarray]]:
    """Of each frequency, S' of every float16 by its bits: for x and for y, one and the same where
    they share a scale.
    """
    with np.errstate(invalid="ignore"):  # the bits that are NaN, which no sample has
        values = np.broadcast_to(
            _as_float32(np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 1, 1, -1)),
            (1, 4, 1, 1 << 16),
        )
        found = [normalize(values, one[None], normalisation)[0, ::2] for one in scale]
    return [[x, x if np.array_equal(x, y, equal_nan=True) else y] for x, y in found]


def _normalize_by_lookup(
    raw: Float16[np.ndarray, "4 height width"],
    components: Sequence[np.ndarray],
    out: Float32[np.ndarray, "4 height width"],
) -> None:
    """Writes S' of raw coefficients to `out` by the tables of x and y, since a float16 is one of
    65,536 values.
    """
    for bits, table, into in zip(
        raw.view(np.uint16).reshape(2, 1, -1), components, out.reshape(2, 1, -1), strict=True
    ):
        cv2.LUT(bits, table, dst=into)


def _as_float32(half: np.ndarray) -> np.ndarray:
    """Float16 as float32, by torch, which is fast at it."""
    return torch.from_numpy(half).float().numpy()
