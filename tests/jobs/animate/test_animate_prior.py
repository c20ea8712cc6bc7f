"""The real command with a trained prior: motion imagined for a photograph, and guided to a loop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from jobs import animate, train_autoencoder, train_denoiser
from jobs.cli.motion_source import load_motion
from model.prior.loop_guidance import seam_loss
from tests.support.datasets import CONFIG, write_dataset
from tests.support.videos import make_texture
from tests.support.weights import BROKEN_WEIGHTS, copy_with_weights

QUICK = ["--loader-workers", "0", "--batch", "2"]


def called(job, *arguments: object) -> None:
    job.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A photograph and a prior of windows of 24 frames at 30 a second, hardly trained."""
    folder = tmp_path_factory.mktemp("prior")
    write_dataset(
        folder / "data", {"train-000000": [{}] * 4}, config=replace(CONFIG, size=(64, 48))
    )
    called(
        train_autoencoder,
        "smoke",
        "--data",
        folder / "data",
        "--out",
        folder / "ae",
        "--steps",
        4,
        *QUICK,
    )
    options = ["--steps", 4, "--coordinate-steps", 2, "--coordinate-batch", 1, *QUICK]
    called(
        train_denoiser,
        "smoke",
        "--data",
        folder / "data",
        "--autoencoder",
        folder / "ae",
        "--out",
        folder / "prior",
        *options,
    )
    Image.fromarray(make_texture(128, 96)).save(folder / "photo.png")
    return folder


def film(folder: Path, *options: object) -> bytes:
    out = folder / "film.webp"
    called(
        animate,
        folder / "photo.png",
        "--checkpoint",
        folder / "prior",
        "--steps",
        3,
        "--out",
        out,
        *options,
    )
    return out.read_bytes()


@pytest.mark.slow
def test_a_prior_imagines_motion_of_its_seed(folder):
    first, again, other = (film(folder, "--seed", seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_guided_loop_closes(folder, capsys):
    film(folder, "--seconds", 0.6, "--loop", "guided")
    position, velocity = (
        float(word)
        for word in capsys.readouterr()
        .out.split("seam ")[1]
        .replace(" in position and ", " ")
        .split()[:2]
    )
    assert position <= 1.01 and velocity <= 1.01


@pytest.mark.slow
def test_guidance_brings_the_ends_of_the_motion_together(folder):
    options = dict[str, Any](
        photo=folder / "photo.png",
        checkpoint=folder / "prior",
        seconds=1.2,
        slow=2.0,
        steps=20,
        guidance=1.0,
        out=folder / "film.mp4",
    )
    volumes = [
        load_motion(animate.Animate(**options, loop=loop))[0].volume for loop in ("none", "guided")
    ]
    before, after = (
        float(seam_loss(torch.from_numpy(volume.spectrum)[None], 24, 18)) for volume in volumes
    )
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--seconds", "0.9"],
            "a loop of 0.9 s was asked for, expected 0.0666667 to 0.8 s,"
            " as long as the motion that the prior makes",
        ),
        ([], "--loop guided requires --checkpoint, whose sampling it guides, and --seconds"),
    ],
)
def test_loops_that_cannot_be_guided(folder, capsys, options, said):
    with pytest.raises(SystemExit) as stopped:
        film(folder, "--loop", "guided", *options)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("state", ["ema", "autoencoder"])
@pytest.mark.parametrize("how", BROKEN_WEIGHTS)
def test_a_prior_of_numbers_that_are_not_finite_or_make_such(folder, tmp_path, capsys, state, how):
    broken, out = (
        copy_with_weights(folder / "prior", tmp_path / "broken", state, BROKEN_WEIGHTS[how]),
        tmp_path / "out",
    )
    out.mkdir()
    with pytest.raises(SystemExit) as stopped:
        called(
            animate,
            folder / "photo.png",
            "--checkpoint",
            broken,
            "--steps",
            3,
            "--out",
            out / "film.mp4",
        )
    (said,) = capsys.readouterr().err.splitlines()
    expected = (
        "sampled values are not finite for seed 0"
        if how == "huge"
        else f"{broken / state}.safetensors has values that are not finite in "
    )
    assert stopped.value.code == 2 and expected in said and not list(out.iterdir())
