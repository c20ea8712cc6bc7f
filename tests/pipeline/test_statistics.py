import numpy as np
import pytest

from pipeline.statistics import BINS, bins, decode, encode, histogram
from schemas.sample import from_channels


def test_bins_keep_the_order_and_are_narrow():
    values = np.sort(np.random.default_rng(0).lognormal(0, 3, 100_000).astype(np.float32))
    index = bins(values)
    assert (np.diff(index) >= 0).all()
    edges = (index.astype(np.uint32) << 16).view(np.float32)
    assert (edges <= values).all() and ((values - edges) / values).max() < 1 / 128


def test_counts_add_up_and_survive_the_file():
    rng = np.random.default_rng(1)
    channels = rng.normal(size=(3, 4, 8, 9)).astype(np.float16)
    counts = histogram(channels)
    modulus = np.abs(from_channels(channels)[2, 1]).ravel()
    np.testing.assert_array_equal(counts[2, 1], np.bincount(bins(modulus), minlength=BINS))
    assert counts.shape == (3, 2, BINS) and (counts.sum(axis=2) == 72).all()
    np.testing.assert_array_equal(decode(encode(counts)), counts)


def test_an_empty_histogram_survives_the_file():
    np.testing.assert_array_equal(decode(encode(np.zeros((2, 2, BINS), np.int64))), np.zeros((2, 2, BINS)))


@pytest.mark.parametrize("data", [b"", b"\0" * 64, encode(np.zeros((1, 2, BINS), np.int64))[:-8]])
def test_a_damaged_file_is_refused(data):
    with pytest.raises(ValueError, match="not a histogram file"):
        decode(data)
