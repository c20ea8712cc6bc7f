"""Which windows are held out, which are taken of each scene, and which other one is the ceiling."""

import pytest

from model.evaluate.prior.windows import (
    EvaluationWindow,
    find_other_window,
    is_held_out,
    list_windows,
    spread_over_scenes,
)
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView, open_dataset
from tests.support.datasets import write_dataset

VIEW = DatasetView(Dataset("nowhere"))


def window(start_s: float, clip: str = "a", scene: str = "s", split: str = "train"):
    key = f"{clip}-{start_s:g}"
    return EvaluationWindow(VIEW, 0, key, clip, scene, split, float(start_s))


def test_the_scene_decides_and_without_scenes_the_split():
    seen, unseen = window(0, scene="s"), window(0, scene="t", split="test")
    assert [is_held_out(one, ["s"]) for one in (seen, unseen)] == [False, True]
    assert [is_held_out(one, ["t"]) for one in (seen, unseen)] == [True, False]
    assert [is_held_out(one, None) for one in (seen, unseen)] == [False, True]


@pytest.mark.parametrize(
    ("per_scene", "starts"), [(1, [4]), (2, [2, 6]), (3, [1, 4, 7]), (99, list(range(9)))]
)
def test_windows_of_a_scene_are_spread_evenly(per_scene, starts):
    windows = [window(start) for start in reversed(range(9))]
    assert [one.start_s for one in spread_over_scenes(windows, per_scene)] == starts


def test_each_scene_and_each_of_its_clips_has_its_turn():
    windows = [window(start, clip, scene) for clip, scene in ("as", "bs", "ct") for start in (0, 1)]
    chosen = spread_over_scenes(windows, 2)
    assert sorted((one.scene, one.clip_id) for one in chosen) == [
        ("s", "a"),
        ("s", "b"),
        ("t", "c"),
        ("t", "c"),
    ]


def test_the_other_window_is_of_the_same_clip_and_half_a_window_away_if_there_is_one():
    windows = [window(start) for start in (0, 1, 2, 3, 4)] + [window(2.5, clip="b")]
    assert find_other_window(windows[0], windows, half_s=2.5) == windows[3]
    assert find_other_window(windows[2], windows, half_s=2.5) in (windows[0], windows[4])
    assert find_other_window(windows[5], windows, half_s=2.5) is None


def test_windows_are_listed_in_the_order_in_which_the_dataset_gives_them(tmp_path):
    write_dataset(
        tmp_path / "a", {"train-000000": [{}, {}, {"drift_px": 99.0}], "test-000000": [{}]}
    )
    view = open_dataset(tmp_path / "a")
    windows = list_windows([view])
    assert [one.key for one in windows] == [sample.key for sample in view]
    assert [one.load().key for one in windows] == [one.key for one in windows]
    assert {one.split for one in windows} == {"train", "test"}
    assert all(len(one.scene) == 16 for one in windows)
    with pytest.raises(ValueError, match="name a dataset twice"):
        list_windows([view, open_dataset(tmp_path / "a")])
