"""Count coefficient moduli in histograms that merge exactly in any order; error under 0.4 %.

Non-negative float32 values are ordered as the integers with the same bits. Their sign bit is 0, so
that the top 16 bits make 32,768 bins, each at most 1/128 of its value wide. For a quantile that is
exact to the last bit, a second pass counts the lower 16 bits of the values in the one bin in which
the quantile lies (docs/design/maths.md, section 8).
"""

from collections.abc import Iterable
from math import ceil, floor

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.flow.consistency import BELIEVED
from pipeline.motion.spectrum import modulus
from schemas.sample import Sample

BINS = 1 << 15
FINE_BINS = 1 << 16
"""The number of float32 values in one bin."""
_MAX_FREQUENCIES = 4096
FINITE_BINS = 0x7F80
"""The number of bins of finite values; the bins from this one on hold infinities and NaN."""


def bins(modulus: Float32[np.ndarray, "*shape"]) -> Int32[np.ndarray, "*shape"]:
    """Returns the bin of each non-negative value."""
    return np.ascontiguousarray(modulus).view(np.int32) >> 16


def count_bins(modulus: Float32[np.ndarray, " values"], counts: Int64[np.ndarray, " bins"]) -> None:
    """Adds the number of these non-negative values in each bin to `counts`, in place."""
    added = np.bincount(bins(modulus))
    counts[: len(added)] += added


def moduli(sample: Sample) -> Float32[np.ndarray, "freq 2 pixels"]:
    """Returns |S_k| of each displacement component at each pixel whose flow is believed, in pixels:
    motion that the estimator invents must not decide what is usual.
    """
    channels = sample.spectrum
    # cv2.add converts float16 faster than numpy's astype
    rows = channels.reshape(-1, channels.shape[-1])
    floats = cv2.add(rows, 0.0, dtype=cv2.CV_32F)  # pyright: ignore
    parts = floats.reshape(len(channels), 2, 2, -1)
    believed = sample.confidence.reshape(-1) >= BELIEVED
    if not believed.all():
        parts = parts[..., believed]
    return modulus(parts[:, :, 0], parts[:, :, 1])


def add_sample(sample: Sample, counts: Int64[np.ndarray, "freq 2 bins"]) -> None:
    """Adds the `moduli` of each frequency and displacement component of a sample to `counts`, in
    place.
    """
    for values, frequency_counts in zip(moduli(sample), counts, strict=True):
        for component in range(2):
            count_bins(values[component], frequency_counts[component])


def count_samples(samples: Iterable[Sample], frequencies: int) -> Int64[np.ndarray, "freq 2 bins"]:
    """Returns the histogram of the `moduli` of samples; the counts add up to their number."""
    counts = np.zeros((frequencies, 2, BINS), np.int64)
    for sample in samples:
        add_sample(sample, counts)
    return counts


def merge(histograms: Iterable[Int64[np.ndarray, "_ 2 bins"]]) -> Int64[np.ndarray, "freq 2 bins"]:
    """Returns the sum of histograms, cut to the frequencies that all of them have. It does not
    depend on their order. Raises ValueError if there is no histogram.
    """
    total = None
    for counts in histograms:
        total = counts.copy() if total is None else total[: len(counts)] + counts[: len(total)]
    if total is None:
        raise ValueError("there is no histogram to merge, expected at least one")
    return total


def edges() -> Float64[np.ndarray, " edges"]:
    """Returns the lower edge of every finite bin and the upper edge of the last one, in pixels."""
    return (
        (np.arange(FINITE_BINS + 1, dtype=np.uint32) << 16)
        .view(np.float32)
        .astype(np.float64)
        .clip(max=np.finfo(np.float32).max)
    )


def _bin_centers() -> Float64[np.ndarray, " bins"]:
    """Returns the center of each bin, in pixels; 0 for the first, which holds 0."""
    low = edges()
    middle = np.zeros(BINS)
    middle[:FINITE_BINS] = (low[:-1] + low[1:]) / 2
    middle[0] = 0.0
    return middle


def quantile(counts: Int64[np.ndarray, " bins"], q: float) -> float:
    """Returns the q-quantile of the counted values, as numpy defines it, within 0.4 %. Raises
    ValueError if nothing was counted.
    """
    count, centers = int(counts.sum()), _bin_centers()
    values = [float(centers[find_bin(counts, rank)]) for rank in ranks(count, q)]
    return interpolate_ranks(values, count, q)


def ranks(count: int, q: float) -> tuple[int, int]:
    """Returns the ranks, counted from 0, of the two order statistics between which the q-quantile
    of `count` values lies. Raises ValueError if count is 0.
    """
    if count < 1:
        raise ValueError("nothing was counted, expected at least one value")
    place = (count - 1) * q
    return floor(place), ceil(place)


def interpolate_ranks(values: list[float], count: int, q: float) -> float:
    """Interpolates the two order statistics linearly, and rounds as numpy does."""
    low, high = values
    share = (count - 1) * q - floor((count - 1) * q)
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def find_bin(counts: Int64[np.ndarray, " bins"], rank: int) -> int:
    """Returns the bin of the order statistic `rank`, which is counted from 0."""
    return int(np.searchsorted(np.cumsum(counts), rank, side="right"))


def mean_power(counts: Int64[np.ndarray, " bins"]) -> float:
    """Returns the mean square of the counted values, which are taken as uniform within each bin."""
    used = np.flatnonzero(counts[:FINITE_BINS])
    low, high = edges()[used], edges()[used + 1]
    squares = np.where(used == 0, 0.0, (low * low + low * high + high * high) / 3)
    return float(counts[used] @ squares / max(counts.sum(), 1))


def fine_histogram(
    values: Float32[np.ndarray, " pixels"], coarse_bin: int
) -> Int64[np.ndarray, " fine"]:
    """Returns the counts of the lower 16 bits of the values in bin `coarse_bin`."""
    bits = np.ascontiguousarray(values).view(np.int32)
    return np.bincount(bits[bits >> 16 == coarse_bin] & 0xFFFF, minlength=FINE_BINS)


def fine_value(coarse_bin: int, counts: Int64[np.ndarray, " fine"], rank: int) -> float:
    """Returns the order statistic `rank`, counted from 0 within the bin, to the last bit."""
    low = find_bin(counts, rank)
    return float(np.array((coarse_bin << 16) + low, np.uint32).view(np.float32))


def encode(counts: Int64[np.ndarray, "freq 2 bins"]) -> bytes:
    """Encodes a histogram as safetensors: the flat indices of the bins that are not empty, their
    counts, and the shape.
    """
    index = np.flatnonzero(counts)
    arrays = {
        "index": index.astype(np.int64),
        "count": counts.ravel()[index],
        "shape": np.array(counts.shape, np.int64),
    }
    return save(arrays)


def decode(data: bytes) -> Int64[np.ndarray, "freq 2 bins"]:
    """Decodes what `encode` wrote. Raises ValueError unless it is a histogram of finite values."""
    try:
        arrays = load(data)
        freq, components, size = (int(n) for n in arrays["shape"])
        if not (0 < freq <= _MAX_FREQUENCIES and (components, size) == (2, BINS)):
            raise ValueError(f"shape is {freq} x {components} x {size}")
        _check_counts(arrays["index"], arrays["count"], freq * components * size)
        counts = np.zeros((freq, components, size), np.int64)
        counts.ravel()[arrays["index"]] = arrays["count"]
    except (KeyError, IndexError, ValueError, TypeError, OverflowError, SafetensorError) as error:
        raise ValueError(f"not a histogram file: {error}") from error
    return counts


def _check_counts(index: np.ndarray, count: np.ndarray, size: int) -> None:
    """Raises ValueError unless the indices are distinct bins of finite values, in order, and the
    counts are positive.
    """
    if (
        index.dtype != np.int64
        or count.dtype != np.int64
        or index.shape != count.shape
        or index.ndim != 1
    ):
        kinds = [f"{array.dtype}{list(array.shape)}" for array in (index, count)]
        expected = "two lists of int64, equally long"
        raise ValueError(f"index is {kinds[0]}, count {kinds[1]}, expected {expected}")
    if not (
        (index[:-1] < index[1:]).all()
        and (index >= 0).all()
        and (index < size).all()
        and (count > 0).all()
    ):
        raise ValueError("indices are not in order within the shape, or counts are not positive")
    if (index % BINS >= FINITE_BINS).any():
        raise ValueError("values that are not finite were counted")
