"""The real commands, from shards to a spectral volume, on a dataset small enough for a few steps
each.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from jobs import report_statistics, sample, train_autoencoder, train_denoiser
from model import checkpoints
from model.prior.diffusers_modules import UNet2DConditionModel
from schemas.spectral_volume import decode_volume
from tests.support.datasets import CONFIG, write_dataset
from tests.support.videos import make_texture

SHARDS = {"train-000000": [{}] * 4, "train-000001": [{}] * 2, "test-000000": [{}] * 3}
SMALL = replace(CONFIG, size=(64, 48))
QUICK = ["--loader-workers", "0", "--log-every", "1", "--save-every", "2"]


def run_job(job, *arguments: object) -> None:
    job.main([str(argument) for argument in arguments])


def expect_error(job, capsys, *arguments: object) -> str:
    """Runs a job that must fail with exit code 2; returns its error message."""
    with pytest.raises(SystemExit) as stopped:
        run_job(job, *arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("quiver") and len(said) <= 2, said
    return said[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_dataset(folder / "data", SHARDS, config=SMALL)
    run_job(
        train_autoencoder,
        "smoke",
        "--data",
        folder / "data",
        "--out",
        folder / "ae",
        "--steps",
        4,
        "--batch",
        2,
        *QUICK,
    )
    options = ["--steps", 4, "--batch", 2, "--coordinate-steps", 2, "--coordinate-batch", 1, *QUICK]
    run_job(
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
    Image.fromarray(make_texture(80, 70)).save(folder / "photo.png")
    return folder


@pytest.mark.slow
def test_from_shards_to_motion_for_a_photograph(folder):
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        options = [
            "--checkpoint",
            folder / "prior",
            "--out",
            folder / f"{name}.safetensors",
            "--seed",
            seed,
            "--steps",
            3,
        ]
        run_job(sample, folder / "photo.png", *options)
    a, b, c = ((folder / f"{name}.safetensors").read_bytes() for name in "abc")
    found = decode_volume(a)
    assert (
        found.spectrum.shape == (4, 4, 48, 64)
        and (found.fps, found.frames) == (30.0, 24)
        and a == b != c
    )
    assert (found.spectrum[0, 1::2] == 0).all() and np.abs(found.spectrum).max() > 0


def test_checkpoints_hold_what_sampling_needs_and_both_stages_are_there(folder):
    config = checkpoints.load_checkpoint(folder / "prior").config
    assert (
        config["denoiser"]["mode"] == "coordinated"
        and len(config["units"]["scale"]) == 4
        and config["units"]["size"] == [64, 48]
    )
    assert (
        checkpoints.load_checkpoint(folder / "prior" / "slice").config["denoiser"]["mode"]
        == "independent"
    )
    (folder / "data").rename(folder / "away")
    run_job(
        sample,
        folder / "photo.png",
        "--checkpoint",
        folder / "prior",
        "--out",
        folder / "d.safetensors",
        "--steps",
        1,
    )
    (folder / "away").rename(folder / "data")


def test_the_autoencoder_reports_its_error_on_the_test_split(folder):
    last = json.loads((folder / "ae" / "log.jsonl").read_text().splitlines()[-1])
    assert (
        last["step"] == 4
        and {"test_l1", "test_share_of_zeros", "test_px", "test_px_share_of_zeros", "waiting_share"}
        <= last.keys()
    )


def test_the_second_stage_starts_from_the_first_and_leaves_it_as_it_is(folder):
    first = checkpoints.load_checkpoint(folder / "prior" / "slice").load_weights("ema")
    second = checkpoints.load_checkpoint(folder / "prior").load_weights("network")
    inside = {
        name.replace(".block.", ".").replace("denoiser.slices.", "denoiser."): value
        for name, value in second.items()
        if ".attention." not in name or ".attentions." in name
    }
    same = [
        name
        for name in first
        if name in inside and np.array_equal(first[name].numpy(), inside[name].numpy())
    ]
    assert set(same) == set(first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "extra"), [("independent", []), ("volume", ["--frequencies", "2"])]
)
def test_the_other_modes_train_and_sample(folder, mode, extra):
    out = folder / mode
    options = ["--mode", mode, "--steps", 2, "--batch", 2, *QUICK, *extra]
    run_job(
        train_denoiser,
        "smoke",
        "--data",
        folder / "data",
        "--autoencoder",
        folder / "ae",
        "--out",
        out,
        *options,
    )
    run_job(
        sample,
        folder / "photo.png",
        "--checkpoint",
        out,
        "--out",
        folder / f"{mode}.safetensors",
        "--steps",
        2,
        "--guidance",
        0,
    )
    assert len(decode_volume((folder / f"{mode}.safetensors").read_bytes()).spectrum) == (
        2 if extra else 4
    )


def inpainting(folder: Path, **fields: object) -> Path:
    """Writes a tiny pretrained inpainting U-Net in the format of diffusers."""
    cross = dict(
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        cross_attention_dim=8,
    )
    rest = dict(
        in_channels=9,
        block_out_channels=[8, 16],
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
    )
    UNet2DConditionModel(**(cross | rest | fields)).save_pretrained(folder / "unet")
    return folder


@pytest.mark.slow
def test_it_begins_with_a_pretrained_network_and_then_does_without(folder, tmp_path):
    pretrained, out = inpainting(tmp_path / "pretrained"), tmp_path / "out"
    options = [
        "--data",
        folder / "data",
        "--autoencoder",
        folder / "ae",
        "--out",
        out,
        "--pretrained",
        pretrained,
        "--prediction",
        "noise",
        "--batch",
        2,
        *QUICK,
    ]
    options += [
        "--coordinate-steps",
        1,
        "--coordinate-batch",
        1,
        "--learning-rate",
        1e-5,
        "--decay",
        0,
    ]
    run_job(train_denoiser, "smoke", *options, "--steps", 1, "--stage", "slice")
    found, theirs = (
        checkpoints.load_checkpoint(out / "slice"),
        load_file(pretrained / "unet" / "diffusion_pytorch_model.safetensors"),
    )
    assert (
        found.config["denoiser"]["channels"] == [8, 16]
        and found.config["denoiser"]["text_channels"] == 8
    )
    ours = found.load_weights("network")
    for name, value in theirs.items():
        mine = ours[f"denoiser.unet.{name}"]
        torch.testing.assert_close(
            mine[:, :4] if mine.shape != value.shape else mine,
            value[:, :4] if mine.shape != value.shape else value,
            atol=1e-4,
            rtol=0,
        )
    pretrained.rename(tmp_path / "away")
    run_job(train_denoiser, "smoke", *options, "--steps", 2)
    assert checkpoints.load_checkpoint(out / "slice").config["step"] == 2
    run_job(
        sample,
        folder / "photo.png",
        "--checkpoint",
        out,
        "--out",
        tmp_path / "m.safetensors",
        "--steps",
        2,
    )
    assert np.isfinite(decode_volume((tmp_path / "m.safetensors").read_bytes()).spectrum).all()


def test_an_unfinished_autoencoder_has_whitening_and_is_not_built_on(folder, tmp_path, capsys):
    options = ["smoke", "--data", folder / "data", "--out", tmp_path / "ae", "--batch", 2, *QUICK]
    run_job(train_autoencoder, *options, "--steps", 4)
    first, last = (
        checkpoints.read(tmp_path / "ae" / f"step-0000000{step}").load_weights("ema")["deviation"]
        for step in (2, 4)
    )
    assert (first != 1).all() and np.allclose(first, last, rtol=0.5)
    shutil.rmtree(tmp_path / "ae" / "step-00000004")
    denoiser = [
        "smoke",
        "--data",
        folder / "data",
        "--autoencoder",
        tmp_path / "ae",
        "--out",
        tmp_path / "x",
    ]
    assert "has come to step 2 of 4: finish it first" in expect_error(
        train_denoiser, capsys, *denoiser
    )


def test_fewer_steps_than_were_taken_are_refused(folder, tmp_path, capsys):
    options = [
        "smoke",
        "--data",
        folder / "data",
        "--out",
        tmp_path / "ae",
        "--batch",
        2,
        *QUICK,
        "--decay",
        0,
    ]
    run_job(train_autoencoder, *options, "--steps", 2)
    assert "steps are 1, and the training in" in expect_error(
        train_autoencoder, capsys, *options, "--steps", 1
    )


def test_scales_are_the_autoencoder_s(folder, tmp_path, capsys):
    """With other scales of the same shards the denoiser would be trained in other units than it is
    sampled in.
    """
    run_job(report_statistics, folder / "data", "--quantile", 0.5, "--out", tmp_path / "half.json")
    run_job(
        train_autoencoder,
        "smoke",
        "--data",
        folder / "data",
        "--statistics",
        tmp_path / "half.json",
        "--out",
        tmp_path / "ae",
        "--steps",
        2,
        *QUICK,
    )
    denoiser = [
        "smoke",
        "--data",
        folder / "data",
        "--autoencoder",
        tmp_path / "ae",
        "--out",
        tmp_path / "x",
    ]
    assert "was trained with other scales of these shards" in expect_error(
        train_denoiser, capsys, *denoiser
    )


@pytest.mark.slow
def test_a_second_stage_is_not_gone_on_with_another_first_one(folder, tmp_path, capsys):
    options = [
        "smoke",
        "--data",
        folder / "data",
        "--autoencoder",
        folder / "ae",
        "--out",
        tmp_path / "prior",
        "--batch",
        2,
        *QUICK,
        "--decay",
        0,
    ]
    both = [*options, "--coordinate-steps", 2, "--coordinate-batch", 1]
    run_job(train_denoiser, *both, "--steps", 2)
    assert "(frozen differ)" in expect_error(train_denoiser, capsys, *both, "--steps", 4)


def test_one_training_writes_to_a_folder(folder, tmp_path, capsys):
    (tmp_path / "ae").mkdir()
    code = (
        f"import fcntl, sys; file = open({str(tmp_path / 'ae' / '.lock')!r}, 'a'); "
        "fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline()
        with pytest.raises(SystemExit) as stopped:
            run_job(
                train_autoencoder,
                "smoke",
                "--data",
                folder / "data",
                "--out",
                tmp_path / "ae",
                "--steps",
                2,
                *QUICK,
            )
        other.communicate()
    assert stopped.value.code == 4 and "another training is writing to" in capsys.readouterr().err


@pytest.mark.slow
def test_wrong_requests_are_one_sentence(folder, tmp_path, capsys):
    other = write_dataset(tmp_path / "other", SHARDS, seed=7, config=SMALL).root
    empty = write_dataset(tmp_path / "empty", {"test-000000": [{}] * 2}, config=SMALL).root
    ae = ["smoke", "--data", folder / "data", "--out", tmp_path / "x", "--steps", 2]
    denoiser = ["--autoencoder", folder / "ae", *ae[1:]]
    photo = folder / "photo.png"
    pretrained, image = (
        inpainting(tmp_path / "inpainting"),
        inpainting(tmp_path / "image", in_channels=4),
    )
    small = tmp_path / "small.png"
    Image.fromarray(make_texture(30, 20)).save(small)
    out, noise = ["--out", tmp_path / "x.safetensors"], ["--prediction", "noise"]
    cases = [
        (
            train_autoencoder,
            ["large", *ae[1:]],
            "the preset is large, expected first one of smoke, laptop, small, paper, paper_512",
        ),
        (train_autoencoder, [], "the preset is missing"),
        (
            train_autoencoder,
            [*ae, "--statistics", other / "statistics.json"],
            "the statistics are of another set of training shards",
        ),
        (train_autoencoder, ["smoke", "--data", empty, *ae[3:]], "held out for test"),
        (train_autoencoder, [*ae, "--device", "cuda"], "device is cuda and there is no GPU"),
        (train_autoencoder, [*ae, "--frequencies", "9"], "frequencies is 9, expected 1 to 4"),
        (
            train_denoiser,
            ["smoke", *denoiser, "--data", other],
            "trained with the statistics of another set of training shards",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--normalisation", "resolution"],
            "--normalisation is resolution, and the autoencoder",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--frequencies", "9"],
            "frequencies is 9, expected 1 to 4",
        ),
        (train_denoiser, ["smoke", *denoiser, "--stage", "coordinate"], "holds no first stage"),
        (
            train_denoiser,
            ["smoke", *denoiser, "--autoencoder", folder / "prior"],
            "kind 'denoiser', expected 'autoencoder'",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--pretrained", pretrained],
            "prediction is 'velocity', expected 'noise'",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--start", folder / "prior", *noise],
            "whose network predicts the velocity, and --prediction is noise",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--image-channels", "8", "16"],
            "has 4 latent channels and 3 levels, expected 4 and the 2",
        ),
        (
            train_autoencoder,
            [*ae, "--crop", "30", "16"],
            "the crop is 30x16, expected multiples of 4",
        ),
        (train_autoencoder, [*ae, "--clip", "nan"], "expected to be positive"),
        (
            train_autoencoder,
            [*ae, "--layers-per-block", "0"],
            "layers per block are 0, expected at least 1",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--pretrained", pretrained, "--start", folder / "prior"],
            "and --pretrained is",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--pretrained", pretrained, "--mode", "volume"],
            "--mode volume of all frequencies at once",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--pretrained", tmp_path / "gone", *noise],
            "config.json is no file, expected a folder with config.json",
        ),
        (
            train_denoiser,
            ["smoke", *denoiser, "--pretrained", image, *noise],
            "in_channels is 4, expected 9",
        ),
        (
            sample,
            [photo, "--checkpoint", folder / "ae", *out],
            "kind 'autoencoder', expected 'denoiser'",
        ),
        (sample, [photo, "--checkpoint", tmp_path, *out], "holds no checkpoint"),
        (
            sample,
            [small, "--checkpoint", folder / "prior", *out],
            "30x20 pixels, expected at least 64x48",
        ),
        (sample, [tmp_path / "gone.jpg", "--checkpoint", folder / "prior", *out], "is missing"),
        (
            sample,
            [photo, "--checkpoint", folder / "prior", "--out", tmp_path / "x.mp4"],
            "ends in .safetensors",
        ),
        (
            sample,
            [photo, "--checkpoint", folder / "prior", "--out", tmp_path / "no" / "x.safetensors"],
            "expected a file in a folder that exists",
        ),
        (
            sample,
            [
                photo,
                "--checkpoint",
                folder / "prior",
                "--out",
                folder / "data" / "histogram.safetensors",
            ],
            "a dataset's own file",
        ),
    ]
    for job, arguments, words in cases:
        assert words in expect_error(job, capsys, *arguments), words
    assert not (tmp_path / "x.safetensors").exists()
