"""Histograms of coefficient moduli: exact to merge in any order, relative error under 0.4 %.

A non-negative float32 keeps its order when its bits are read as an integer. The sign bit is 0, so the top 16 bits give
32,768 bins whose width is at most 1/128 of their value.
"""

import cv2
import numpy as np
from jaxtyping import Float16, Float32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.spectrum import modulus

BINS = 1 << 15
MAX_FREQUENCIES = 4096


def bins(modulus: Float32[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """Bin of each non-negative value."""
    return (np.ascontiguousarray(modulus, np.float32).view(np.uint32) >> 16).astype(np.int64)


def histogram(channels: Float16[np.ndarray, "freq 4 height width"]) -> Int64[np.ndarray, "freq 2 bins"]:
    """Counts of |S_k| of each displacement component at each frequency, from a sample's channels; they add up to the
    number of coefficients.
    """
    floats = cv2.add(channels.reshape(-1, channels.shape[-1]), 0.0, dtype=cv2.CV_32F)  # pyright: ignore - numpy's astype is slow
    counts = [np.bincount(bins(modulus(*parts)).ravel(), minlength=BINS) for parts in floats.reshape(-1, 2, *channels.shape[2:])]
    return np.stack(counts).reshape(len(channels), 2, BINS)


def encode(counts: Int64[np.ndarray, "freq 2 bins"]) -> bytes:
    """Sparse: the flat indices of the bins that are not empty, and their counts."""
    index = np.flatnonzero(counts)
    arrays = {"index": index.astype(np.int64), "count": counts.ravel()[index], "shape": np.array(counts.shape, np.int64)}
    return save(arrays)


def decode(data: bytes) -> Int64[np.ndarray, "freq 2 bins"]:
    """Inverse of `encode`. Raises ValueError where the file does not hold a histogram."""
    try:
        arrays = load(data)
        freq, components, size = (int(n) for n in arrays["shape"])
        if not (0 < freq <= MAX_FREQUENCIES and (components, size) == (2, BINS)):
            raise ValueError(f"shape is {freq} x {components} x {size}")
        counts = np.zeros((freq, components, size), np.int64)
        counts.ravel()[arrays["index"]] = arrays["count"]
    except (KeyError, IndexError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"not a histogram file: {error}") from error
    return counts
