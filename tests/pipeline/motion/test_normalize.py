"""Normalizations of spectral coefficients: inverse, order, scale, and the same for tensors."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.dataset.histogram import BINS, bins
from pipeline.motion.normalize import Normalization, channel_scales, denormalize, normalize
from tests.support.statistics_of import statistics_of

ALL = get_args(Normalization)
HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)
SPECTRA = arrays(np.float16, (3, 4, 2, 5), elements=HALVES).map(lambda a: a.astype(np.float32))
SCALES = arrays(np.float32, (3, 4, 1, 1), elements=st.floats(0.0009765625, 1000, width=32))


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ALL)
@given(spectrum=SPECTRA, scale=SCALES)
def test_it_comes_back_to_float32_accuracy(normalization, spectrum, scale):
    back = denormalize(normalize(spectrum, scale, normalization), scale, normalization)
    assert back.dtype == np.float32
    # log2(1 + r) near 0 keeps r, and far from 0 a relative error e of the logarithm is log(1 + r) e
    # of the value
    tolerance = 2e-6 if normalization == "log" else 6e-7
    np.testing.assert_allclose(back, spectrum, rtol=tolerance, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ALL)
@given(spectrum=SPECTRA, scale=SCALES)
def test_it_is_odd_and_keeps_order_and_zero(normalization, spectrum, scale):
    normalized = normalize(spectrum, scale, normalization)
    np.testing.assert_array_equal(normalize(-spectrum, scale, normalization), -normalized)
    assert ((normalized == 0) == (spectrum == 0)).all()
    flat = np.moveaxis(normalized, (0, 1), (-2, -1))
    values = np.moveaxis(spectrum, (0, 1), (-2, -1))
    order = np.argsort(values.reshape(-1, 3, 4), axis=0)
    assert (np.diff(np.take_along_axis(flat.reshape(-1, 3, 4), order, axis=0), axis=0) >= 0).all()


@pytest.mark.parametrize("normalization", ["adaptive", "linear", "log"])
def test_the_scale_becomes_one(normalization):
    scale = np.array([0.5, 3, 70], np.float32).reshape(3, 1, 1, 1).repeat(4, axis=1)
    np.testing.assert_allclose(normalize(-scale, scale, normalization), -1, rtol=1e-6)


def test_equation_four_by_hand():
    spectrum, scale = np.full((1, 4, 1, 1), -8, np.float32), np.full((1, 4, 1, 1), 2, np.float32)
    assert (normalize(spectrum, scale) == -2).all()
    assert (denormalize(np.full((1, 4, 1, 1), 3, np.float32), scale) == 18).all()


@pytest.mark.parametrize("normalization", ALL)
def test_tensors_give_what_arrays_give_and_carry_a_gradient(normalization):
    rng = np.random.default_rng(0)
    spectrum = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    scale = rng.uniform(1, 2, (3, 4, 1, 1)).astype(np.float32)
    normalized = normalize(spectrum, scale, normalization)
    np.testing.assert_allclose(
        normalize(torch.from_numpy(spectrum), torch.from_numpy(scale), normalization).numpy(),
        normalized,
        rtol=1e-6,
    )
    tensor = torch.from_numpy(normalized).requires_grad_()
    back = denormalize(tensor, torch.from_numpy(scale), normalization)
    np.testing.assert_allclose(back.detach().numpy(), spectrum, rtol=2e-6)
    back.sum().backward()
    assert tensor.grad is not None and (tensor.grad > 0).all()


def counts(*moduli: float) -> np.ndarray:
    """A histogram in which each frequency has one value, of that modulus, in both components."""
    histogram = np.zeros((len(moduli), 2, BINS), np.int64)
    for k, modulus in enumerate(moduli):
        histogram[k, :, bins(np.array([modulus], np.float32))[0]] = 1
    return histogram


def test_scales_of_statistics_stand_at_their_channels():
    statistics = statistics_of(counts(8, 2), size=(256, 160))
    np.testing.assert_allclose(
        channel_scales(statistics)[:, :, 0, 0], [[8] * 4, [2] * 4], rtol=0.004
    )
    np.testing.assert_array_equal(
        channel_scales(statistics, "resolution")[:, :, 0, 0], [[256, 256, 160, 160]] * 2
    )
    apart = statistics_of(np.stack([counts(8, 2)[:, 0], counts(4, 1)[:, 0]], axis=1), pool="none")
    np.testing.assert_allclose(
        channel_scales(apart)[:, :, 0, 0], [[8, 8, 4, 4], [2, 2, 1, 1]], rtol=0.004
    )


def test_a_frequency_at_which_nothing_moves_is_refused():
    with pytest.raises(ValueError, match=r"scale at 0.2 Hz is 0"):
        channel_scales(statistics_of(counts(8, 0)))
