"""Images and normalized spectra: what the autoencoder and the denoiser are trained on."""

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
    warp_mask,
)
from model.data.loader import ShardDataset
from model.data.order import SampleDraw
from model.data.shard_reader import read_believed, read_image, read_spectrum
from model.normalizer import check_frequencies
from pipeline.dataset.open import DatasetView
from pipeline.motion.normalize import Normalization, channel_scales, normalize
from schemas.statistics import SpectrumStatistics


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """Which frequencies of a sample are read, and how they are normalized and augmented."""

    frequencies: int | None = None
    """How many frequencies, from the lowest on; None: all that have statistics."""
    drawn: int | None = None
    """At most so many of them are drawn for each sample in each epoch, as the autoencoder and stage
    1 of the denoiser learn one frequency at a time; None: all.
    """
    normalisation: Normalization = "adaptive"
    augment: AugmentConfig = NO_AUGMENT


class SpectrumBatch(NamedTuple):
    image: Float32[Tensor, "batch 3 height width"]
    """RGB, -1 to 1."""
    spectrum: Float32[Tensor, "batch freq 4 height width"]
    """S', normalized: re x, im x, re y, im y."""
    frequency_index: Int64[Tensor, "batch freq"]
    """Which frequencies these are, counted from 0."""
    believed: Float32[Tensor, "batch height width"]
    """1 where the flow is believed, else 0."""
    keys: tuple[str, ...]


class _SpectrumSample(NamedTuple):
    """One sample of a `SpectrumBatch`."""

    image: Float32[Tensor, "3 height width"]
    spectrum: Float32[Tensor, "freq 4 height width"]
    frequency_index: Int64[Tensor, " freq"]
    believed: Float32[Tensor, "height width"]
    key: str


class SpectrumDataset(ShardDataset):
    """The samples of one split as `SpectrumBatch`. Raises ValueError as `ShardDataset` does, and
    for frequencies that have no statistics.
    """

    def __init__(
        self,
        views: Sequence[DatasetView],
        statistics: SpectrumStatistics,
        config: SpectrumConfig | None = None,
        *,
        split: str = "train",
    ):
        super().__init__(views, statistics, split)
        self.config = config or SpectrumConfig()
        self.frequencies = check_frequencies(self.config.frequencies, len(statistics.scale))
        truncated = replace(statistics, scale=statistics.scale[: self.frequencies])
        self.scale = channel_scales(truncated, self.config.normalisation)
        self.lookup_tables = _build_lookup_tables(self.scale, self.config.normalisation)

    def __getitem__(self, index: int | SampleDraw) -> _SpectrumSample:
        """A sample; a bare number is the sample in the first epoch of seed 0."""
        if not isinstance(index, SampleDraw):
            index = SampleDraw(0, 0, range(len(self))[index])
        batch = self.batch([index])
        return _SpectrumSample(
            batch.image[0],
            batch.spectrum[0],
            batch.frequency_index[0],
            batch.believed[0],
            batch.keys[0],
        )

    def batch(self, draws: Sequence[SampleDraw]) -> SpectrumBatch:
        """These samples, each written straight into the batch's arrays, so that nothing is copied
        again.
        """
        width, height = self.size
        count = min(self.config.drawn or self.frequencies, self.frequencies)
        image = np.empty((len(draws), 3, height, width), np.float32)
        spectrum = np.empty((len(draws), count, 4, height, width), np.float32)
        believed = np.empty((len(draws), height, width), np.float32)
        arrays = zip(draws, image, spectrum, believed, strict=True)
        bands = [self._read(*parts) for parts in arrays]
        return SpectrumBatch(
            torch.from_numpy(image),
            torch.from_numpy(spectrum),
            torch.tensor(bands),
            torch.from_numpy(believed),
            self.keys(draws),
        )

    def _read(
        self, draw: SampleDraw, image: np.ndarray, spectrum: np.ndarray, believed: np.ndarray
    ) -> list[int]:
        """Writes a sample's image and coefficients, and where they are believed, into these arrays;
        returns its frequencies.
        """
        rng, location = draw.rng(), self.shard_index[draw.sample_index]
        bands = draw_bands(self.frequencies, self.config.drawn, rng)
        pixels = read_image(self.files, location, self.size)
        augmentation = draw_augmentation(self.config.augment, self.size, rng)
        affine, vectors = augmentation.affine, vector_map(augmentation.affine)
        cv2.split(augment_image(pixels, augmentation), list(image))
        slices = read_spectrum(self.files, location, bands, self.size)
        for k, raw, out in zip(bands, slices, spectrum, strict=True):
            if augmentation.is_affine_identity:
                _normalize_by_lookup(raw, self.lookup_tables[k], out)
            else:
                augment_spectrum(_as_float32(raw), affine, vectors, out)
                out[:] = normalize(out[None], self.scale[k : k + 1], self.config.normalisation)[0]
        believed[:] = warp_mask(read_believed(self.files, location, self.size), affine)
        return bands


def draw_bands(frequencies: int, drawn: int | None, rng: np.random.Generator) -> list[int]:
    """At most `drawn` of the frequencies, from the lowest on; all of them if it is None or 0."""
    if not drawn:
        return [*range(frequencies)]
    # sorts raw numbers of the generator, which every version of numpy must draw alike
    raw_numbers = rng.bit_generator.random_raw(frequencies)  # pyright: ignore[reportAttributeAccessIssue]
    return sorted(np.argsort(raw_numbers, kind="stable")[:drawn].tolist())


def _build_lookup_tables(
    scale: Float32[np.ndarray, "freq 4 1 1"], normalisation: Normalization
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each frequency, S' of every float16, indexed by its bits, for x and for y; both are the
    same array if they share a scale.
    """
    every_float16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 1, 1, -1)
    tables = []
    with np.errstate(invalid="ignore"):  # some bits are NaN, which no sample has
        values = np.broadcast_to(_as_float32(every_float16), (1, 4, 1, 1 << 16))
        for frequency_scale in scale:
            x, y = normalize(values, frequency_scale[None], normalisation)[0, ::2]
            tables.append((x, x if np.array_equal(x, y, equal_nan=True) else y))
    return tables


def _normalize_by_lookup(
    raw: Float16[np.ndarray, "4 height width"],
    tables: tuple[np.ndarray, np.ndarray],
    out: Float32[np.ndarray, "4 height width"],
) -> None:
    """Writes S' of raw coefficients to `out` by the tables of x and y, which hold every float16."""
    for bits, table, channels in zip(
        raw.view(np.uint16).reshape(2, 1, -1), tables, out.reshape(2, 1, -1), strict=True
    ):
        cv2.LUT(bits, table, dst=channels)


def _as_float32(half: np.ndarray) -> np.ndarray:
    """Converts float16 by torch, which is faster at it than numpy."""
    return torch.from_numpy(half).float().numpy()
