"""`quiver preview` on a small dataset: each kind of file, and each mistake in a sentence."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageSequence

from jobs.preview import main
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.filters import Thresholds
from pipeline.flow.config import FlowConfig
from tests.support import videos
from tests.support.building import plan_video

ROOT = Path(__file__).resolve().parents[2]
CONFIG = BuildConfig(
    size=(64, 40),
    frequencies=12,
    plan=PlanConfig(frames=24, fps=30.0, stride=12),
    flow=FlowConfig(dis_preset="fast"),
    thresholds=Thresholds(no_motion_px=0.3),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """Windows of a swaying video, which are kept, and of a nearly still one, which are rejected."""
    folder = tmp_path_factory.mktemp("preview")
    paths = [
        videos.write_swaying(folder / f"{name}.mp4", seconds=1.5, amplitude=a, hertz=1.25, seed=i)
        for i, (name, a) in enumerate([("sways", 3.0), ("still", 0.1)])
    ]
    rows, dataset = (
        [
            replace(row, shard=f"train-{i:06d}")
            for i, path in enumerate(paths)
            for row in plan_video(path, CONFIG)
        ],
        Dataset(folder / "dataset"),
    )
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(CONFIG), {})
        for shard in ("train-000000", "train-000001"):
            list(build_shard(dataset, shard, [row for row in rows if row.shard == shard], CONFIG))
        finalize(dataset)
    return dataset


@pytest.fixture(scope="module")
def rows(dataset) -> dict[str, list[dict]]:
    """Rows of the manifest by outcome."""
    found = pq.read_table(dataset.manifest).to_pylist()
    return {
        outcome: [row for row in found if row["outcome"] == outcome]
        for outcome in ("kept", "rejected")
    }


def preview(dataset: Dataset, key: str, out: Path, *options: str) -> Path:
    main([str(dataset.root), key, "--out", str(out), *options])
    return out


def mp4_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def refused(capsys, *args: str) -> str:
    """The one sentence of a refusal."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and error.startswith("quiver: ")
    return error


@pytest.mark.slow
def test_the_command_writes_a_video_at_the_working_rate(dataset, rows, tmp_path):
    out = tmp_path / "a.mp4"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "jobs.cli.main",
            "preview",
            str(dataset.root),
            rows["kept"][0]["key"],
            "--out",
            str(out),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and str(out) in done.stdout and not done.stderr, done.stderr
    with av.open(str(out)) as file:
        assert file.streams.video[0].average_rate == 30
    frames = mp4_frames(out)
    start, motion, moved, real = np.split(np.stack(frames)[:, -166:-6, 6 : 6 + 4 * 262], 4, axis=2)
    assert len(frames) == 24 and frames[0].shape[1] >= 4 * 256
    assert np.abs(start - start[0].astype(int)).mean() < 1
    for panel in (motion, moved, real):
        assert max(np.abs(panel[i].astype(int) - panel[0]).mean() for i in range(24)) > 5
    assert (
        np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(moved, real, strict=True)])
        < 0.7 * np.abs(start - real.astype(int)).mean()
    )


@pytest.mark.parametrize(
    "suffix, count, milliseconds", [(".gif", 8, 800), (".webp", 24, 800), (".GIF", 8, 800)]
)
def test_an_animation_lasts_as_long_as_the_window(
    dataset, rows, tmp_path, suffix, count, milliseconds
):
    with Image.open(preview(dataset, rows["kept"][0]["key"], tmp_path / f"a{suffix}")) as file:
        times = [
            image.copy().info["duration"] for image in ImageSequence.Iterator(file)
        ]  # a copy reads it
    assert len(times) == count and sum(times) == milliseconds


def test_a_sheet_is_one_tall_picture(dataset, rows, tmp_path):
    with Image.open(preview(dataset, rows["kept"][0]["key"], tmp_path / "a.png")) as file:
        width, height = file.size
    assert 2 * 256 < width < 600 and height > 6 * 160


def test_the_same_sample_gives_the_same_bytes(dataset, rows, tmp_path):
    one, two = (
        preview(dataset, rows["kept"][0]["key"], tmp_path / f"{name}.mp4").read_bytes()
        for name in "ab"
    )
    assert one == two


def test_magnified_motion_is_larger_and_says_so(dataset, rows, tmp_path):
    plain, larger = (
        mp4_frames(preview(dataset, rows["kept"][0]["key"], tmp_path / f"{m}.mp4", "--magnify", m))
        for m in ("1", "2")
    )
    columns = np.s_[:, 6 + 2 * 262 : 3 * 262]
    change = [
        np.abs(frames[6][-166:-6][columns].astype(int) - frames[0][-166:-6][columns]).mean()
        for frames in (plain, larger)
    ]
    assert change[1] > 1.1 * change[0]
    assert not np.array_equal(plain[0][:16], larger[0][:16])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_without_the_video_the_preview_says_so_in_words(dataset, rows, tmp_path, capsys, suffix):
    video = Path(rows["kept"][0]["uri"])
    away = video.rename(video.with_name("away.mp4"))
    try:
        preview(dataset, rows["kept"][0]["key"], tmp_path / f"a{suffix}")
    finally:
        away.rename(video)
    assert "no real frames: the file is gone" in capsys.readouterr().err
    with_it = preview(dataset, rows["kept"][0]["key"], tmp_path / f"b{suffix}")
    if suffix == ".mp4":
        without, real = (
            np.stack(mp4_frames(path))[:, -166:-6, -256:] for path in (tmp_path / "a.mp4", with_it)
        )
        assert (
            np.abs(without - without[0].astype(int)).mean() < 1
            and without.mean() < 60 < real.mean()
        )


def test_an_unknown_key_is_answered_with_some_that_are_there(dataset, rows, tmp_path, capsys):
    error = refused(capsys, str(dataset.root), "nowhere-000000", "--out", str(tmp_path / "a.mp4"))
    assert (
        f"key 'nowhere-000000' is not in {dataset.root}; expected one of {len(rows['kept'])}"
        f" that are kept, such as {rows['kept'][0]['key']}" in error
    )
    assert not list(tmp_path.iterdir())


def test_a_rejected_window_is_answered_with_its_reason(dataset, rows, tmp_path, capsys):
    error = refused(
        capsys, str(dataset.root), rows["rejected"][0]["key"], "--out", str(tmp_path / "a.mp4")
    )
    assert (
        "was rejected (no_motion), so there is no sample of it" in error
        and rows["kept"][0]["key"] in error
    )


@pytest.mark.parametrize(
    "out, options, words",
    [
        ("a.mov", (), "a.mov, expected a name that ends in .mp4, .webm, .gif, .webp, .png"),
        ("a", (), "/a, expected a name that ends in .mp4"),
        ("nowhere/a.mp4", (), "expected a file in a folder that exists"),
        ("a.mp4", ("--magnify", "0"), "--magnify is 0, expected more than 0"),
        ("a.mp4", ("--magnify", "nan"), "--magnify is nan"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_file(
    dataset, rows, tmp_path, capsys, out, options, words
):
    assert words in refused(
        capsys, str(dataset.root), rows["kept"][0]["key"], "--out", str(tmp_path / out), *options
    )
    assert not list(tmp_path.iterdir())


def test_the_file_asked_for_is_judged_before_any_work(tmp_path, capsys):
    assert f"--out is {tmp_path / 'a.mov'}, expected a name that ends in" in refused(
        capsys, str(tmp_path / "nowhere"), "a-000000", "--out", str(tmp_path / "a.mov")
    )


def test_a_folder_that_is_no_data_set_is_refused(tmp_path, capsys):
    assert "holds no dataset: there is no run.json" in refused(
        capsys, str(tmp_path), "a-000000", "--out", str(tmp_path / "a.mp4")
    )


def test_a_damaged_shard_is_one_sentence(dataset, rows, tmp_path, capsys):
    import shutil

    copy = Dataset(shutil.copytree(dataset.root, tmp_path / "copy"))
    row = rows["kept"][0]
    with open(copy.tar_path(row["shard"]), "r+b") as file:
        file.seek(row["motion_offset"] - 512)
        file.write(b"nonsense")
    assert f"{row['key']}.motion.safetensors" in refused(
        capsys, str(copy.root), row["key"], "--out", str(tmp_path / "a.mp4")
    )
    copy.tar_path(row["shard"]).unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(copy.root), row["key"], "--out", str(tmp_path / "a.mp4")])
    assert stopped.value.code == 5 and not (tmp_path / "a.mp4").exists()
