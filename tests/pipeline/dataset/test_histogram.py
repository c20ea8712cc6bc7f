from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pipeline.dataset.histogram import (
    BINS,
    bins,
    count_samples,
    decode,
    encode,
    find_bin,
    fine_histogram,
    fine_value,
    interpolate_ranks,
    mean_power,
    merge,
    quantile,
    ranks,
)
from pipeline.flow.consistency import BELIEVED
from schemas.sample import Sample, channels_to_complex
from tests.support.datasets import make_plan_row, random_sample


def test_bins_keep_the_order_and_are_narrow():
    values = np.sort(np.random.default_rng(0).lognormal(0, 3, 100_000).astype(np.float32))
    index = bins(values)
    assert (np.diff(index) >= 0).all()
    edges = (index.astype(np.uint32) << 16).view(np.float32)
    assert (edges <= values).all() and ((values - edges) / values).max() < 1 / 128


def make_sample(channels: np.ndarray, confidence: np.ndarray | None = None) -> Sample:
    """A sample with this spectrum, whose flow is believed everywhere or by this confidence."""
    row = make_plan_row("train-000000", 0)
    sample = random_sample(row, np.random.default_rng(0), channels=channels)
    return sample if confidence is None else replace(sample, confidence=confidence)


def test_counts_add_up_and_survive_the_file():
    rng = np.random.default_rng(1)
    channels = rng.normal(size=(3, 4, 32, 40)).astype(np.float16)
    counts = count_samples([make_sample(channels)], 3)
    modulus = np.abs(channels_to_complex(channels)[2, 1]).ravel()
    np.testing.assert_array_equal(counts[2, 1], np.bincount(bins(modulus), minlength=BINS))
    assert counts.shape == (3, 2, BINS) and (counts.sum(axis=2) == 1280).all()
    np.testing.assert_array_equal(decode(encode(counts)), counts)


def test_only_pixels_whose_flow_is_believed_are_counted():
    rng = np.random.default_rng(6)
    channels = rng.normal(size=(3, 4, 32, 40)).astype(np.float16)
    confidence = rng.choice(np.array([0, BELIEVED - 1, BELIEVED, 255], np.uint8), (32, 40))
    counts = count_samples([make_sample(channels, confidence)], 3)
    modulus = np.abs(channels_to_complex(channels)[2, 1])[confidence >= BELIEVED]
    assert 500 < modulus.size < 800
    np.testing.assert_array_equal(counts[2, 1], np.bincount(bins(modulus), minlength=BINS))
    nothing = np.zeros((32, 40), np.uint8)
    assert not count_samples([make_sample(channels, nothing)], 3).any()


def test_an_empty_histogram_survives_the_file():
    np.testing.assert_array_equal(
        decode(encode(np.zeros((2, 2, BINS), np.int64))), np.zeros((2, 2, BINS))
    )


@pytest.mark.parametrize("data", [b"", b"\0" * 64, encode(np.zeros((1, 2, BINS), np.int64))[:-8]])
def test_a_damaged_file_is_refused(data):
    with pytest.raises(ValueError, match="not a histogram file"):
        decode(data)


def counted(values: np.ndarray) -> np.ndarray:
    return np.bincount(bins(values), minlength=BINS)


@pytest.mark.parametrize("q", [0.001, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
def test_quantiles_of_heavy_tails_are_within_the_bound_of_numpys(q):
    values = np.random.default_rng(2).lognormal(1, 3, 1_000_000).astype(np.float32)
    assert quantile(counted(values), q) == pytest.approx(
        np.quantile(values.astype(np.float64), q), rel=0.004
    )


@pytest.mark.promise("P17")
def test_the_95th_percentile_of_merged_histograms_is_numpys_and_always_the_same():
    """Of 1e7 values with heavy tails, counted in unequal parts and merged in several orders."""
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.lognormal(0, 2, 5_000_000), rng.pareto(1.1, 5_000_000)]).astype(
        np.float32
    )
    parts = [counted(part) for part in np.split(values, [10, 1_000, 3_000_000, 7_777_777])]
    found = {quantile(sum(parts[i] for i in rng.permutation(len(parts))), 0.95) for _ in range(10)}
    assert len(found) == 1 and found.pop() == pytest.approx(
        np.quantile(values.astype(np.float64), 0.95), rel=0.005
    )


def test_the_95th_percentile_of_a_rayleigh_distribution_is_the_closed_form():
    rng = np.random.default_rng(3)
    modulus = np.abs(5 * (rng.normal(size=1_000_000) + 1j * rng.normal(size=1_000_000))).astype(
        np.float32
    )
    assert quantile(counted(modulus), 0.95) == pytest.approx(
        5 * np.sqrt(-2 * np.log(0.05)), rel=0.01
    )
    assert mean_power(counted(modulus)) == pytest.approx(50, rel=0.005)


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=60), st.floats(0.001, 0.999))
def test_with_fine_counts_a_quantile_is_numpys_to_the_last_bit(numbers, q):
    values = np.array(numbers, np.float32)
    counts = counted(values)

    def order(rank: int) -> float:
        which = find_bin(counts, rank)
        return fine_value(which, fine_histogram(values, which), rank - int(counts[:which].sum()))

    found = interpolate_ranks([order(rank) for rank in ranks(len(values), q)], len(values), q)
    assert found == np.quantile(values.astype(np.float64), q)
    assert quantile(counts, q) == pytest.approx(found, rel=0.004, abs=1e-38)


def test_merging_gives_the_same_bits_in_any_order():
    rng = np.random.default_rng(4)
    parts = [
        count_samples([make_sample(rng.normal(size=(2, 4, 32, 40)).astype(np.float16))], 2)
        for _ in range(6)
    ]
    together = encode(merge(parts))
    for _ in range(100):
        assert encode(merge(parts[i] for i in rng.permutation(6))) == together


def test_merging_takes_the_frequencies_that_all_have():
    many, few = np.ones((5, 2, BINS), np.int64), np.ones((3, 2, BINS), np.int64)
    for parts in ([many, few], [few, many]):
        np.testing.assert_array_equal(merge(parts), 2 * few)
    assert (many == 1).all() and (few == 1).all()


def test_values_that_are_not_finite_make_no_histogram():
    counts = np.zeros((1, 2, BINS), np.int64)
    counts[0, 1, 0x7F80] = 3
    with pytest.raises(ValueError, match="not finite"):
        decode(encode(counts))


def test_nothing_counted_has_no_quantile():
    with pytest.raises(ValueError, match="nothing was counted"):
        quantile(np.zeros(BINS, np.int64), 0.95)


@pytest.mark.parametrize(
    "arrays",
    [
        dict(index=np.array([1, 1]), count=np.array([1, 1]), shape=np.array([1, 2, BINS])),
        dict(index=np.array([-1]), count=np.array([1]), shape=np.array([1, 2, BINS])),
        dict(index=np.array([2 * BINS]), count=np.array([1]), shape=np.array([1, 2, BINS])),
        dict(index=np.array([1]), count=np.array([-1]), shape=np.array([1, 2, BINS])),
        dict(index=np.array([1]), count=np.array([1.0]), shape=np.array([1, 2, BINS])),
        dict(index=np.array([1]), count=np.array([1]), shape=np.array([10**9, 2, BINS])),
        dict(index=np.array([1]), count=np.array([1]), shape=np.array([2])),
        dict(index=np.array([1]), count=np.array([1])),
    ],
)
def test_a_hostile_file_is_refused(arrays):
    with pytest.raises(ValueError, match="not a histogram file"):
        decode(save(arrays))
