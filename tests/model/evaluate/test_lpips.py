"""LPIPS against torchmetrics' own, with its weights and a network at random; files that are
something else.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import default_rng

import pipeline.torchvision_import  # noqa: F401  torchmetrics imports torchvision, which wants it where its compiled part does not fit
from model.backbones import AlexNet
from model.evaluate.image_quality import frame_psnr_ssim
from model.evaluate.lpips import load_lpips

from torchmetrics.functional.image import lpips as reference  # isort: skip
from torchmetrics.functional.image.psnr import peak_signal_noise_ratio  # isort: skip
from torchmetrics.functional.image.ssim import structural_similarity_index_measure  # isort: skip

HEADS = Path(reference.__file__).parent / "lpips_models" / "alex.pth"
"""The authors' weights of version 0.1, as torchmetrics brings them."""


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    """torchvision's layout, classifier and all, weights at random: no file of ImageNet's is at
    hand.
    """
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(AlexNet().state_dict() | {"classifier.1.weight": torch.zeros(3, 3)}, path)
    return path


def film(seed: int, count: int = 11) -> np.ndarray:
    return default_rng(seed).integers(0, 256, (count, 64, 80, 3), dtype=np.uint8)


def theirs(alexnet: Path, made: np.ndarray, true: np.ndarray) -> list[float]:
    network = reference._LPIPS(net="alex", pnet_rand=True)
    found = torch.load(alexnet, weights_only=True)
    layers = iter([value for name, value in found.items() if name.startswith("features.")])
    for value in network.net.parameters():
        value.data.copy_(next(layers))
    pair = [torch.from_numpy(one).movedim(-1, 1).float() / 255 for one in (made, true)]
    return network(*pair, normalize=True).flatten().tolist()


def test_it_agrees_with_torchmetrics(alexnet):
    made, true = film(0), film(1)
    np.testing.assert_allclose(
        load_lpips(alexnet, HEADS).measure_frames(made, true),
        theirs(alexnet, made, true),
        rtol=1e-4,
    )


def test_it_rises_with_noise_and_is_nothing_for_the_same(alexnet):
    measure, true = load_lpips(alexnet, HEADS), film(1, 2)
    found = [
        measure.measure_frames(
            np.clip(true + amount * default_rng(2).normal(size=true.shape), 0, 255).astype(
                np.uint8
            ),
            true,
        ).mean()
        for amount in (0, 10, 40)
    ]
    assert found[0] == 0 and found == sorted(found) and found[1] > 0
    assert {name: (one["file"], len(one["sha256"])) for name, one in measure.files.items()} == {
        "alexnet": ("alexnet.pth", 64),
        "lpips": ("alex.pth", 64),
    }


def test_the_smallest_pictures(alexnet):
    measure, true = load_lpips(alexnet, HEADS), film(1, 2)
    assert np.isfinite(measure.measure_frames(film(2, 2)[:, :31, :31], true[:, :31, :31])).all()
    with pytest.raises(ValueError, match="the picture is 31x30, expected at least 31x31 for LPIPS"):
        measure.measure_frames(true[:, :30, :31], true[:, :30, :31])


def test_likeness_agrees_with_torchmetrics():
    true = film(1, 3)
    made = np.clip(true + 30 * default_rng(2).normal(size=true.shape), 0, 255).astype(np.uint8)
    pair = [torch.from_numpy(one).movedim(-1, 1).float() / 255 for one in (made, true)]
    by_them = (
        peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3)),
        structural_similarity_index_measure(*pair, data_range=1.0, reduction="none"),
    )
    for ours, reference_of in zip(frame_psnr_ssim(made, true), by_them, strict=True):
        np.testing.assert_allclose(ours, reference_of, rtol=2e-3)
    assert np.isinf(frame_psnr_ssim(true, true)[0]).all() and frame_psnr_ssim(true, true)[
        1
    ] == pytest.approx(1)


def test_other_files_are_refused(alexnet, tmp_path):
    with pytest.raises(
        ValueError, match="nowhere is no file, expected torchvision's weights of AlexNet"
    ):
        load_lpips(tmp_path / "nowhere", HEADS)
    with pytest.raises(ValueError, match="nowhere is no file, expected LPIPS's weights"):
        load_lpips(alexnet, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"alex.pth holds no weights of AlexNet"):
        load_lpips(HEADS, HEADS)
    with pytest.raises(
        ValueError,
        match=r"alexnet.pth holds classifier.1.weight, .* expected LPIPS's weights of AlexNet's "
        r"features: lin0.model.1.weight",
    ):
        load_lpips(alexnet, alexnet)
    with pytest.raises(ValueError, match=r"vgg.pth holds .* expected LPIPS's weights"):
        load_lpips(alexnet, HEADS.with_name("vgg.pth"))
