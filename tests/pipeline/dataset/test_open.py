"""`open_dataset` as Python code uses it: samples by number, their motion, normalization, torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.dataset import DatasetSample, DatasetView, open_dataset
from pipeline.dataset.folder import Dataset
from pipeline.dataset.views import refilter
from pipeline.filters import Thresholds
from pipeline.motion.normalize import channel_scales, normalize
from schemas.statistics import decode_statistics
from tests.support.datasets import CONFIG, write_dataset

SHARDS = {"train-000000": [{}, {"mean_motion_px": 0.0}, {}], "test-000000": [{}]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two training samples and a test sample are kept, and one window is rejected."""
    root = tmp_path_factory.mktemp("open") / "dataset"
    write_dataset(root, SHARDS)
    return root


def test_a_dataset_is_a_sequence_of_its_kept_samples(root):
    dataset = open_dataset(root)
    assert len(dataset) == 3 and len(list(dataset)) == 3
    assert [sample.key for sample in dataset[1:]] == [dataset[1].key, dataset[2].key]
    assert dataset[-1].key == dataset[2].key
    with pytest.raises(IndexError):
        dataset[3]


def test_a_sample_has_its_image_its_spectrum_and_its_motion(root):
    sample, (width, height) = open_dataset(str(root))[0], CONFIG.size
    assert sample.image.shape == (height, width, 3) and sample.image.dtype == np.uint8
    assert sample.spectrum.shape == (CONFIG.frequencies, 2, height, width)
    motion = sample.motion()
    assert motion.shape == (CONFIG.plan.frames, 2, height, width)
    full = np.zeros((CONFIG.plan.frames // 2 + 1, 2, height, width), complex)
    full[: CONFIG.frequencies] = sample.spectrum
    np.testing.assert_allclose(np.fft.rfft(motion, axis=0), full, atol=1e-2)
    volume = sample.volume()
    assert (volume.frames, volume.fps) == (CONFIG.plan.frames, CONFIG.plan.fps)
    assert (volume.spectrum == sample.stored.spectrum).all()


def test_the_normalizer_divides_by_the_scales_of_the_statistics(root):
    dataset, statistics = (
        open_dataset(root),
        decode_statistics(Dataset(root).statistics.read_bytes()),
    )
    for kind in ("adaptive", "log"):
        normalizer = dataset.normalizer(kind)
        channels = normalizer.normalize(dataset[0].spectrum)
        raw = dataset[0].stored.spectrum.astype(np.float32)
        assert (channels == normalize(raw, channel_scales(statistics, kind), kind)).all()
        np.testing.assert_allclose(
            normalizer.denormalize(channels), dataset[0].spectrum, rtol=1e-4, atol=1e-4
        )


def test_a_split_is_a_torch_dataset(root):
    dataset = open_dataset(root)
    assert (len(dataset.to_torch()), len(dataset.to_torch(split="test"))) == (2, 1)
    loader = torch.utils.data.DataLoader(dataset.to_torch(split="train"), batch_size=2)
    (batch,) = loader
    samples = [sample for sample in dataset if sample.key in batch["key"]]
    assert batch["key"] == [sample.key for sample in samples]
    assert batch["image"].min() >= -1 and batch["image"].max() <= 1
    spectra = [dataset.normalizer().normalize(sample.spectrum) for sample in samples]
    assert (batch["spectrum"].numpy() == np.stack(spectra)).all()


def test_torch_is_not_loaded_before_it_is_needed(root):
    code = (
        "import sys; from pipeline.dataset import open_dataset; "
        f"open_dataset({str(root)!r})[0].motion(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_view_has_its_own_samples(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", {"train-000000": [{}, {"mean_motion_px": 4.0}]})
    calm = Thresholds(too_much_motion_px=3.0)
    refilter(
        dataset, "calm", calm, lambda function, items: [(item, function(item)) for item in items]
    )
    view = open_dataset(f"{tmp_path / 'dataset'}:calm")
    assert isinstance(view, DatasetView) and len(view) == 1
    assert isinstance(view[0], DatasetSample) and view.normalizer().scale.shape == (4, 4, 1, 1)


@pytest.mark.parametrize(
    ("name", "use", "sentence"),
    [
        ("run.json", len, "holds no dataset"),
        ("manifest.parquet", len, "is missing: quiver finalize"),
        ("statistics.json", DatasetView.normalizer, "is missing: quiver finalize"),
        ("shards/train-000000.tar", lambda dataset: dataset[0], "quiver verify"),
    ],
)
def test_a_missing_file_is_one_sentence(tmp_path, name, use, sentence):
    write_dataset(tmp_path / "dataset", {"train-000000": [{}]})
    (tmp_path / "dataset" / name).unlink()
    with pytest.raises(ValueError, match=sentence):
        use(open_dataset(tmp_path / "dataset"))


def test_damage_and_mistakes_are_refused(tmp_path, root):
    write_dataset(tmp_path / "dataset", {"train-000000": [{}]})
    tar = Dataset(tmp_path / "dataset").tar_path("train-000000")
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ValueError, match="has other bytes than were written"):
        open_dataset(tmp_path / "dataset")[0]
    with pytest.raises(ValueError, match="split is 'valid', expected 'train' or 'test'"):
        open_dataset(root).to_torch(split="valid")
    with pytest.raises(ValueError, match="has no view 'none'"):
        open_dataset(f"{root}:none")
