"""The real command on a small prior: what it writes, and each mistake in a sentence."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_autoencoder, train_denoiser
from jobs.measure.evaluate_prior import main
from model import checkpoints
from model.data.scenes import scene_digest
from tests.support.datasets import CONFIG, write_dataset

SHARDS = {"train-000000": [{}] * 6, "train-000001": [{}] * 3, "test-000000": [{}] * 4}
"""Scenes of three windows each: two, one, and two, the last of them of one window."""
SMALL = replace(CONFIG, size=(64, 48))
QUICK = ["--loader-workers", 0, "--log-every", 1, "--save-every", 2, "--steps", 2, "--batch", 2]
ROWS = [
    "prior, mean of samples",
    "prior, one sample",
    "no motion",
    "mean of training",
    "random training window",
    "nearest training window",
    "same clip, another window",
]


def run(job, *arguments: object) -> None:
    job([str(argument) for argument in arguments])


def name_scenes(out: Path, scenes: Sequence[str]) -> None:
    """Writes into the newest checkpoint which scenes it was trained on."""
    folder = checkpoints.load_checkpoint(out).folder
    config = json.loads((folder / "config.json").read_bytes())
    data = json.dumps(config | dict(scenes=scenes)).encode()
    digests = json.loads((folder / "digests.json").read_bytes())
    (folder / "config.json").write_bytes(data)
    digests["config.json"] = hashlib.sha256(data).hexdigest()
    (folder / "digests.json").write_text(json.dumps(digests))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dataset, and a prior that knows no scenes."""
    folder = tmp_path_factory.mktemp("prior")
    write_dataset(folder / "data", SHARDS, config=SMALL)
    run(
        train_autoencoder.main,
        *("smoke", "--data", folder / "data", "--out", folder / "ae"),
        *QUICK,
    )
    run(
        train_denoiser.main,
        *("smoke", "--data", folder / "data", "--autoencoder", folder / "ae"),
        *("--out", folder / "prior", "--mode", "independent"),
        *QUICK,
    )
    return folder


def evaluate(folder: Path, out: Path, *options: object) -> dict:
    run(
        main,
        *(folder / "prior", "--data", folder / "data", "--out", out),
        *("--samples", 2, "--steps", 2, *options),
    )
    return json.loads((out / "prior_evaluation.json").read_text())


def expect_error(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(main, *arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_an_older_checkpoint_is_measured_on_the_test_split(folder, tmp_path, capsys):
    name_scenes(folder / "prior", [])
    found = evaluate(folder, tmp_path / "out", "--loop-seconds", 0.5)
    printed = capsys.readouterr().out
    assert "does not name the scenes" in printed and "does not name" in found["remarks"][0]
    assert {one["split"] for one in found["windows"]} == {"test"}
    assert [len(found["scenes"]), len(found["windows"])] == [2, 3]
    assert dict.fromkeys(one["row"] for one in found["table"]) == dict.fromkeys(
        [*ROWS[:2], "prior, looped", *ROWS[2:], "real motion"]
    )
    for one in found["windows"]:
        assert one["rows"]["no motion"]["where"] == 0.5
        assert one["rows"]["prior, one sample"]["variety"] > 0
        seams = {row for row, found in one["rows"].items() if "seam_position" in found}
        assert seams == {"prior, one sample", "prior, looped"}
        assert (one["other"] is None) == ("same clip, another window" not in one["rows"])
        assert one["other"] != one["key"] != one["nearest"]
    others = [one["other"] for one in found["windows"]]
    assert None in others and len({*others}) == 3
    assert (
        "half its 95 % interval" in printed
        and "less each prediction" in printed
        and "real motion" in printed
    )
    page = (tmp_path / "out" / "prior_evaluation.html").read_text()
    assert page.count("<img") == 2 * 8 and "<script" not in page and "seam, velocity" in page
    assert (
        found["command"].startswith("quiver evaluate-prior")
        and len(found["checkpoints"][0]["sha256"]) == 64
    )


@pytest.mark.slow
def test_scenes_that_the_checkpoint_names_are_not_measured_but_known(folder, tmp_path):
    known = [scene_digest(None, f"clip-{name}") for name in ("train-000000-0", "test-000000-0")]
    name_scenes(folder / "prior", known)
    found = evaluate(folder, tmp_path / "out", "--windows-per-scene", 1)
    held_out = [f"clip-{name}" for name in ("train-000000-1", "train-000001-0", "test-000000-1")]
    assert {*found["scenes"]} == {scene_digest(None, name) for name in held_out}
    assert len(found["windows"]) == 3 and found["checkpoints"][0]["training_windows"] == 2
    assert all(
        one["nearest"].startswith(("clip-train-000000-0", "clip-test-000000-0"))
        for one in found["windows"]
    )
    row = next(one for one in found["table"] if (one["row"], one["measure"]) == (ROWS[1], "level"))
    values = [one["rows"][ROWS[1]]["level"] for one in found["windows"]]
    assert row["value"] == pytest.approx(sum(values) / 3) and row["scenes"] == 3
    (pair,) = [
        one
        for one in found["differences"]
        if (one["row"], one["than"], one["measure"]) == (ROWS[1], ROWS[2], "level")
    ]
    still = [one["rows"][ROWS[2]]["level"] for one in found["windows"]]
    assert pair["value"] == pytest.approx(sum(values) / 3 - sum(still) / 3)
    assert pair["low"] < pair["value"] < pair["high"]
    again = evaluate(folder, tmp_path / "again", "--windows-per-scene", 1)
    assert again["windows"] == found["windows"]


@pytest.mark.slow
def test_folds_are_pooled_each_on_the_scenes_that_it_has_not_seen(folder, tmp_path):
    names = ["train-000000-0", "train-000000-1", "train-000001-0", "test-000000-0", "test-000000-1"]
    scenes = [scene_digest(None, f"clip-{name}") for name in names]
    folds = [tmp_path / "first", tmp_path / "second"]
    for fold, known in zip(folds, (scenes[:3], scenes[3:]), strict=True):
        shutil.copytree(folder / "prior", fold)
        name_scenes(fold, known)
    options = ("--samples", 1, "--steps", 1, "--windows-per-scene", 1)
    run(main, *folds, "--data", folder / "data", "--out", tmp_path / "out", *options)
    found = json.loads((tmp_path / "out" / "prior_evaluation.json").read_text())
    assert [one["held_out_windows"] for one in found["checkpoints"]] == [2, 3]
    assert {one["scene"] for one in found["windows"][:2]} == {*scenes[3:]}
    assert {*found["scenes"]} == {*scenes}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenes", "options", "said"),
    [
        ("all", (), "the prior was trained on every scene of its 13 kept windows"),
        ("none", (), "no window that the prior was trained on"),
        ("none", ("--samples", 0), "--samples is 0"),
        ("none", ("--windows-per-scene", 0), "--windows-per-scene is 0"),
        ("some", ("--loop-seconds", 9), "a loop of 9 s was asked for"),
    ],
)
def test_mistakes_are_said_in_a_sentence(folder, tmp_path, capsys, scenes, options, said):
    numbers = ["train-000000-0", "train-000000-1", "train-000001-0", "test-000000-0"]
    every = [scene_digest(None, f"clip-{name}") for name in (*numbers, "test-000000-1")]
    named = {"all": every, "some": every[:2], "none": ["0" * 16]}[scenes]
    name_scenes(folder / "prior", named)
    out = tmp_path / "out"
    arguments = (folder / "prior", "--data", folder / "data", "--out", out, *options)
    assert said in expect_error(capsys, *arguments)
    assert not out.exists()


@pytest.mark.slow
def test_a_dataset_of_another_size_is_refused(folder, tmp_path, capsys):
    write_dataset(tmp_path / "data", {"train-000000": [{}]})
    said = expect_error(
        capsys, folder / "prior", "--data", tmp_path / "data", "--out", tmp_path / "out"
    )
    assert "has 40x32 pixels" in said and "expected those of the prior: 64x48 pixels" in said
