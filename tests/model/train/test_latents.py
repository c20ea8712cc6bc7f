"""Latents that are encoded beforehand are those of a step that encodes its own samples."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.augment import NO_AUGMENT, AugmentConfig
from model.data.order import SampleDraw
from model.data.spectra import SpectrumConfig, SpectrumDataset
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.train.latents import LatentDataset, encode_latents, latent_paths
from pipeline.dataset.open import DatasetView
from pipeline.dataset.scales import compute_statistics
from tests.support.datasets import write_dataset
from tests.support.tiny import perturb_weights

COLORLESS = AugmentConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> DatasetView:
    root = tmp_path_factory.mktemp("latents") / "data"
    return DatasetView(write_dataset(root, {"train-000000": [{}] * 3}))


@pytest.fixture(scope="module")
def autoencoder() -> SliceAutoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        channels=(8, 8, 8), layers_per_block=1, norm_groups=4, middle_attention=False
    )
    network = SliceAutoencoder(config)
    perturb_weights(network)
    return network.eval()


def spectra(view: DatasetView, augment: AugmentConfig = COLORLESS) -> SpectrumDataset:
    return SpectrumDataset([view], compute_statistics([view]), SpectrumConfig(augment=augment))


def encode(
    samples: SpectrumDataset, autoencoder: SliceAutoencoder, folder: Path, variants: int
) -> list[Path]:
    paths = latent_paths(samples, autoencoder, folder, variants)
    list(encode_latents(samples, autoencoder, paths))
    return paths


def test_each_epoch_has_the_images_and_latents_of_its_variant(view, autoencoder, tmp_path):
    samples = spectra(view)
    paths = encode(samples, autoencoder, tmp_path, 2)
    latents = LatentDataset(samples, paths)
    seen = []
    for epoch, repeat, variant in ((0, 0, 0), (1, 0, 1), (2, 0, 0), (2, 1, 1)):
        batch = latents.batch([SampleDraw(5, epoch, 2, repeat), SampleDraw(5, epoch, 0, repeat)])
        expected = samples.batch([SampleDraw(0, variant, 2), SampleDraw(0, variant, 0)])
        with torch.no_grad():
            encoded = autoencoder.encode_white(expected.spectrum)
        assert torch.equal(batch.image, expected.image)
        assert torch.equal(batch.believed, expected.believed)
        torch.testing.assert_close(batch.latents, encoded, atol=2e-3, rtol=2e-3)
        assert batch.keys == expected.keys
        assert torch.equal(batch.frequency_index, expected.frequency_index)
        seen.append(batch.latents)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_some_frequencies_are_a_part_of_all(view, autoencoder, tmp_path):
    samples = spectra(view, NO_AUGMENT)
    paths = encode(samples, autoencoder, tmp_path, 1)
    whole, part = LatentDataset(samples, paths), LatentDataset(samples, paths, drawn=2)
    draws = [SampleDraw(0, epoch, 1) for epoch in range(8)]
    everything, some = whole.batch(draws), part.batch(draws)
    for latents, bands, all_latents in zip(
        some.latents, some.frequency_index, everything.latents, strict=True
    ):
        assert torch.equal(latents, all_latents[bands])
    assert len({tuple(bands.tolist()) for bands in some.frequency_index}) > 2


def test_colors_are_drawn_anew_in_each_epoch(view, autoencoder, tmp_path):
    samples = spectra(view, AugmentConfig())
    latents = LatentDataset(samples, encode(samples, autoencoder, tmp_path, 1))
    first, second = (latents.batch([SampleDraw(0, epoch, 0)]) for epoch in (0, 1))
    assert torch.equal(first.latents, second.latents)
    assert not torch.equal(first.image, second.image)


def test_files_are_written_once_and_belong_to_an_autoencoder(view, autoencoder, tmp_path):
    samples = spectra(view)
    (path,) = encode(samples, autoencoder, tmp_path, 1)
    written = path.stat().st_mtime_ns
    first, second = encode(samples, autoencoder, tmp_path, 2)
    assert (first, first.stat().st_mtime_ns) == (path, written) and second.parent == path.parent
    other = SliceAutoencoder(autoencoder.config)
    (other_path,) = encode(samples, other, tmp_path, 1)
    (colored_path,) = encode(spectra(view, AugmentConfig()), autoencoder, tmp_path, 1)
    assert len({path.parent, other_path.parent, colored_path.parent}) == 3
    assert np.lib.format.open_memmap(path, "r").shape == (3, 4, 4, 8, 10)
