"""Predictions without a prior: known answers."""

import numpy as np
import pytest
from numpy.random import default_rng

from model.evaluate.prior.baselines import (
    MEAN_MAP,
    NEAREST,
    OTHER_WINDOW,
    RANDOM,
    STILL,
    describe_photograph,
    predict_baselines,
    read_training_motions,
)
from model.evaluate.prior.measures import amplitude_map
from model.evaluate.prior.windows import list_windows, read_spectrum
from model.normalizer import normalizer_from_statistics
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.prior.denoiser import SliceDenoiser
from model.prior.inference import Prior
from pipeline.dataset.open import open_dataset
from schemas.statistics import decode_statistics
from tests.support.datasets import CONFIG, write_dataset
from tests.support.tiny import tiny_config

T, K = CONFIG.plan.frames, CONFIG.frequencies


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """An untrained prior, the windows of a dataset, and what the baselines know of them."""
    root = tmp_path_factory.mktemp("baselines") / "data"
    write_dataset(root, {"train-000000": [{}] * 5})
    view = open_dataset(root)
    statistics = decode_statistics(view.derived_path("statistics.json").read_bytes())
    config = AutoencoderConfig(channels=(8, 8, 16), norm_groups=4)
    prior = Prior(
        SliceDenoiser(tiny_config(frequencies=K)).eval(),
        SliceAutoencoder(config).eval(),
        normalizer_from_statistics(statistics, "adaptive"),
    )
    windows = list_windows([view])
    return prior, windows, read_training_motions(windows, prior, "cpu")


def test_the_mean_motion_has_the_mean_amplitude_and_borrowed_phases(known):
    _, windows, training = known
    spectra = [read_spectrum(window.load(), K) for window in windows]
    mean = training.mean_motion(spectra[2])
    expected = np.mean([amplitude_map(spectrum, T) for spectrum in spectra], axis=0)
    np.testing.assert_allclose(amplitude_map(mean, T), expected, rtol=1e-4)
    moving = np.abs(spectra[2]) > 1e-3
    np.testing.assert_allclose(
        np.exp(1j * np.angle(mean[moving])), np.exp(1j * np.angle(spectra[2][moving])), atol=1e-3
    )


def test_the_nearest_window_has_the_most_similar_photograph(known):
    prior, windows, training = known
    for window in windows:
        image = window.load().image
        noise = default_rng(0).integers(-3, 4, image.shape)
        similar = np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)
        assert training.nearest(describe_photograph(prior, similar, "cpu")) == window
    assert training.descriptions.std(axis=0).min() > 0


def test_every_baseline_is_what_its_name_says(known):
    _, windows, training = known
    spectra = {window.key: read_spectrum(window.load(), K) for window in windows}

    def predict(draws: int, other=windows[1]):
        return predict_baselines(training, windows[3], other, draws, default_rng(0))

    found = predict(5)
    assert list(found) == [STILL, MEAN_MAP, RANDOM, NEAREST, OTHER_WINDOW]
    assert not found[STILL][0].any()
    np.testing.assert_array_equal(found[NEAREST][0], spectra[windows[3].key])
    np.testing.assert_array_equal(found[OTHER_WINDOW][0], spectra[windows[1].key])
    drawn = [key for one in found[RANDOM] for key, s in spectra.items() if np.array_equal(one, s)]
    assert {*drawn} == {*spectra} and OTHER_WINDOW not in predict(5, None)
    more = predict(8)
    assert len(more[RANDOM]) == 8
    for a, b in zip(
        found[RANDOM] + found[MEAN_MAP], more[RANDOM][:5] + more[MEAN_MAP], strict=True
    ):
        np.testing.assert_array_equal(a, b)
