"""The real command, from shards to a renderer; it resumes where it stopped."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.animate import main as animate
from model.render.inference import load_renderer
from model.render.renderer import NeuralRenderer
from schemas.spectral_volume import SpectralVolume, encode_volume
from tests.support.datasets import write_dataset
from tests.support.weights import BROKEN_WEIGHTS, copy_with_weights


def train(*args: str) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-m", "jobs.train_renderer", "smoke", *args],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.thorough
def test_a_training_and_its_end(tmp_path):
    write_dataset(tmp_path / "data", {"train-000000": [{}] * 3, "test-000000": [{}]})
    args = [
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--decay",
        "0",
        "--loader-workers",
        "0",
        "--log-every",
        "2",
    ]
    first, second = train(*args, "--steps", "2"), train(*args, "--steps", "4")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "step 2 of 2" in first.stdout
    assert (
        "step 4 of 4" in second.stdout
        and "step 2 of" not in second.stdout
        and "test_psnr_db" in second.stdout
    )
    assert "without --imagenet the encoder begins at random" in first.stderr
    skipped: list[str] = []
    network = load_renderer(tmp_path / "out", warn=skipped.append)
    image = torch.zeros(1, 3, 32, 40)
    assert network(image, image[:, :2], image[:, :1], network.sample_noise(1)).shape == image.shape
    assert skipped == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("renderer")
    write_dataset(folder / "data", {"train-000000": [{}] * 2})
    made = train(
        "--data",
        str(folder / "data"),
        "--out",
        str(folder / "out"),
        "--steps",
        "3",
        "--learning-rate",
        "0.3",
        "--loader-workers",
        "0",
    )
    assert made.returncode == 0, made.stderr
    return folder / "out"


@pytest.fixture
def still(tmp_path) -> list[str]:
    """A photograph, and a motion that is zero."""
    across, down = np.meshgrid(np.linspace(60, 190, 64), np.linspace(60, 190, 40))
    pixels = np.stack([across, down, (across + down) / 2], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    (tmp_path / "still.safetensors").write_bytes(
        encode_volume(
            SpectralVolume(
                spectrum=np.zeros((4, 4, 20, 32), np.float32), fps=30.0, frames=30, provenance={}
            )
        )
    )
    return [str(tmp_path / "photo.png"), "--motion", str(tmp_path / "still.safetensors")]


@pytest.mark.slow
def test_a_trained_renderer_makes_the_frames(trained, still, tmp_path):
    """The frames are those of NeuralRenderer at the photograph's size; splatting would leave the
    photograph as it is, the network changes it.
    """
    animate(
        [
            *still,
            "--renderer",
            str(trained),
            "--out",
            str(tmp_path / "moving"),
            "--seconds",
            "0.2",
            "--seed",
            "5",
        ]
    )
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "moving").iterdir())]
    network = load_renderer(trained)
    photo = np.asarray(Image.open(tmp_path / "photo.png"))
    expected = NeuralRenderer(network, photo, 5)(
        np.zeros((2, 40, 64), np.float32), np.zeros((40, 64), np.float32)
    )
    assert len(frames) == 6 and frames[0].shape == (40, 64, 3)
    np.testing.assert_array_equal(frames[3], expected)
    assert (expected != photo).mean() > 0.5


def test_a_folder_without_a_renderer_is_refused(still, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        animate([*still, "--renderer", str(tmp_path), "--out", str(tmp_path / "moving.mp4")])
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert str(tmp_path) in told and told.count("\n") == 1
    assert not (tmp_path / "moving.mp4").exists()


@pytest.mark.parametrize("how", BROKEN_WEIGHTS)
def test_a_renderer_of_numbers_that_are_not_finite_or_make_such(
    trained, still, tmp_path, capsys, how
):
    broken, out = (
        copy_with_weights(trained, tmp_path / "broken", "ema", BROKEN_WEIGHTS[how]),
        tmp_path / "out",
    )
    out.mkdir()
    with pytest.raises(SystemExit) as stopped:
        animate([*still, "--renderer", str(broken), "--out", str(out / "moving.mp4")])
    (said,) = capsys.readouterr().err.splitlines()
    expected = (
        "the renderer makes values that are not finite"
        if how == "huge"
        else f"{broken / 'ema.safetensors'} has values that are not finite in "
    )
    assert stopped.value.code == 2 and expected in said and not list(out.iterdir())


@pytest.mark.slow
def test_a_loss_without_its_network_is_refused(tmp_path):
    refused = train(
        "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--perceptual-weight", "1"
    )
    assert refused.returncode == 2
    assert "vgg is missing, expected the file" in refused.stderr
