"""A stored sample moves again as it did, beside the frames that it was made from."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.decode.config import DecodeConfig
from pipeline.decode.media_file import PictureResult
from pipeline.decode.pool import shared_pool
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, from_contract, to_contract
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from pipeline.images.draw import warp
from pipeline.motion.spectrum import to_motion
from pipeline.preview.reconstruct import (
    Frame,
    Reconstruction,
    count_repeats,
    nearest_frames,
    read_settings,
    reconstruct,
)
from schemas.outcome import Quarantined, Reason
from schemas.run_contract import to_json_value
from schemas.sample import channels_to_complex
from schemas.seal import seal
from tests.support import videos
from tests.support.building import plan_video

CONFIG = BuildConfig(
    size=(96, 64),
    frequencies=12,
    plan=PlanConfig(frames=24, fps=15.0, stride=5),
    flow=FlowConfig(dis_preset="fine"),
    thresholds=PRESETS["none"],
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("reconstruction")
    path = videos.write_swaying(folder / "a.mp4", seconds=2.5, amplitude=2.0, hertz=1.25)
    rows, dataset = plan_video(path, CONFIG), Dataset(folder / "dataset")
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(CONFIG), {})
        for _ in build_shard(dataset, rows[0].shard, rows, CONFIG):
            pass
    finalize(dataset)
    return dataset


@pytest.fixture(scope="module")
def shown(dataset) -> Reconstruction:
    return reconstruct(DatasetView(dataset), dataset.planned_rows()[1].window().key)


@pytest.fixture
def moved(dataset, shown) -> Iterator[Path]:
    """The video, which the test may take away."""
    path = Path(shown.row.uri)
    yield path.rename(path.with_name("away.mp4"))
    path.with_name("away.mp4").replace(path)


def test_the_motion_is_that_of_the_stored_coefficients(shown):
    assert shown.settings == (CONFIG.plan, CONFIG.decode, CONFIG.size)
    assert np.array_equal(shown.motion, to_motion(channels_to_complex(shown.sample.spectrum), 24))
    assert 1 < np.abs(shown.motion[:, 0, 32]).max() < 5


def test_the_real_frames_are_those_of_the_video_at_the_same_times(shown):
    """Every second one: the video has 30 frames a second, the working rate is 15."""
    pool, start = shared_pool(DecodeConfig(), 1), shown.row.start_frame
    decoded = list(
        pool.frames(shown.row.uri, pool.probe(shown.row.uri), range(start, start + 47), CONFIG.size)
    )
    found = list(shown.real_frames())
    assert start == 10 and all(
        np.array_equal(a, b) for a, b in zip(found, decoded[::2], strict=True)
    )
    assert np.array_equal(found[0], shown.sample.image)
    assert all(
        np.array_equal(a, b) for a, b in zip(shown.real_frames(step=3), found[::3], strict=True)
    )


def test_the_start_frame_moved_by_the_motion_looks_like_the_real_frame(shown):
    """As much as when it is moved by the true motion: the rest is the video's coding."""
    soft = np.clip(1.5 - 3 * np.abs(np.linspace(-1, 1, 64)), 0, 1)[:, None] * np.ones((1, 96))
    sway = 2.0 * np.sin(2 * np.pi * 1.25 * (shown.row.start_time_s + np.arange(24) / 15))
    truth = [np.stack([(x - sway[0]) * soft, 0 * soft]).astype(np.float32) for x in sway]
    real = list(shown.real_frames())
    still = difference([shown.sample.image] * 24, real)
    assert (
        difference(list(shown.frames()), real)
        < 1.05 * difference([warp(shown.sample.image, flow) for flow in truth], real)
        < 0.6 * still
    )


def difference(frames: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Mean difference of levels, without the rim."""
    inside = np.s_[8:-8, 8:-8]
    return float(
        np.mean(
            [
                np.abs(a[inside].astype(float) - b[inside]).mean()
                for a, b in zip(frames, others, strict=True)
            ]
        )
    )


def test_magnified_motion_is_that_many_times_as_large(shown):
    twice = list(shown.frames(magnify=2.0, step=10))
    doubled = Reconstruction(
        row=shown.row, sample=shown.sample, settings=shown.settings, motion=2 * shown.motion
    )
    assert len(twice) == 3 and all(
        np.array_equal(a, b) for a, b in zip(twice, doubled.frames(step=10), strict=True)
    )
    assert not np.array_equal(twice[1], list(shown.frames(step=10))[1])


@pytest.mark.parametrize(
    "instants, expected",
    [([0.0, 0.04, 0.06, 0.1, 0.14, 0.16, 0.9], [0, 0, 1, 1, 1, 2, 2]), ([0.5], [2]), ([0.05], [0])],
)
def test_the_nearest_frame_is_taken_the_earlier_of_two(instants, expected):
    frames = [
        Frame(i, t, PictureResult(np.full((1, 1, 3), i, np.uint8), "ours"))
        for i, t in enumerate((0.0, 0.1, 0.2))
    ]
    assert [
        int(image[0, 0, 0]) for image in nearest_frames(iter(frames), np.array(instants))
    ] == expected


@pytest.mark.parametrize(
    ("fps", "expected"), [(10.0, 0), (20.0, 0), (8.0, 4), (5.0, 10), (12.0, 0)]
)
def test_frames_that_a_slow_video_shows_again_are_counted(fps, expected):
    """Of 20 at 10 a second: one in five has none of its own at 8, and every second at 5. That two
    frames look alike is no repetition.
    """
    frames = (
        Frame(i, i / fps, PictureResult(np.zeros((1, 1, 3), np.uint8), "ours")) for i in range(100)
    )
    assert count_repeats(nearest_frames(frames, np.arange(20) / 10)) == expected


def test_a_video_that_is_gone_or_another_is_quarantined(shown, moved):
    with pytest.raises(Quarantined) as gone:
        list(shown.real_frames())
    assert gone.value.reason == Reason.MISSING and "gone" in gone.value.detail
    elsewhere = replace(shown, row=replace(shown.row, uri="/not/mounted/a.mp4"))
    with pytest.raises(
        Quarantined, match="/not/mounted"
    ):  # a data set is looked at where its videos are not
        list(elsewhere.real_frames())
    videos.write_swaying(Path(shown.row.uri), seconds=2.5, seed=3)
    with pytest.raises(Quarantined) as replaced:
        list(shown.real_frames())
    assert replaced.value.reason == Reason.HASH_MISMATCH
    assert len(list(shown.frames())) == 24


def test_settings_come_back_as_they_were_recorded(dataset):
    config = BuildConfig(
        plan=PlanConfig(fps=12.5, test_fraction=0.0),
        decode=DecodeConfig(decoder="pyav", deadline_s=float("inf")),
        size=(320, 192),
    )
    assert from_contract(json.loads(json.dumps(to_json_value(to_contract(config))))) == config
    assert read_settings(dataset) == (CONFIG.plan, CONFIG.decode, CONFIG.size)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda run: run.pop("config"), "config"),
        (lambda run: run["config"].pop("decode"), "'decode'"),
        (lambda run: run["config"]["plan"].pop("fps"), "'fps' is missing"),
        (lambda run: run["config"]["plan"].update(speed=1), "speed"),
        (
            lambda run: run["config"]["plan"].update(frames="150"),
            "frames is '150', expected a whole number",
        ),
        (
            lambda run: run["config"]["plan"].update(frames=1),
            "frames is 1, expected a whole number from 2",
        ),
        (
            lambda run: run["config"]["plan"].update(fps=None),
            "fps is None, expected a number over 0",
        ),
        (lambda run: run["config"].update(size=[256]), "its settings cannot be read"),
        (
            lambda run: run["config"].update(size=[256.5, 160]),
            "width is 256.5, expected a whole number",
        ),
        (lambda run: run.update(config=[]), "run.json"),
    ],
)
def test_a_run_file_without_the_settings_is_refused(dataset, tmp_path, change, words):
    run = json.loads(dataset.run_json.read_bytes())
    change(run)
    del run["digest"]
    (tmp_path / "run.json").write_bytes(seal(run, indent=2))
    with pytest.raises(ValueError, match=r"run\.json") as refused:
        read_settings(Dataset(tmp_path))
    assert words in str(refused.value)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no dataset: there is no run\.json"):
        read_settings(Dataset(tmp_path))
    with pytest.raises(
        ValueError, match=r"has no manifest\.parquet, expected a dataset whose run has finished"
    ):
        reconstruct(DatasetView(Dataset(tmp_path)), "a-000000")
