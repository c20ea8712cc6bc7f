"""Views of a small data set: which windows they keep, and that what is derived of them is what is
derived of a whole.
"""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.histogram import count_samples
from pipeline.dataset.open import DatasetView, iter_samples, open_dataset
from pipeline.dataset.scales import check_matches_shards, compute_statistics, merge_histograms
from pipeline.dataset.views import ClipChoice, list_views, rebuild_views, refilter
from pipeline.filters import PRESETS, Thresholds
from schemas.statistics import decode_statistics
from tests.support.datasets import CONFIG, write_dataset

MOVING = [{"moving_share": 0.1 * i} for i in range(6)]
SHARDS = {
    "train-000000": MOVING,
    "train-000001": [{"moving_share": 0.1}] * 3,
    "test-000000": [*MOVING, {"mean_motion_px": 0.5, "moving_share": 0.1}],
}


def one_by_one(function, items):
    return ((item, function(item)) for item in items)


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "a", SHARDS)


def keys(selection: DatasetView) -> list[str]:
    return [
        key
        for split in ("train", "test")
        for key in selection.kept_windows(["key"], split)["key"].to_pylist()
    ]


def test_a_view_drops_what_its_thresholds_reject_and_has_statistics_of_its_own(dataset):
    judged = refilter(dataset, "strict", replace(PRESETS["paper"], camera_motion=0.25), one_by_one)
    assert (judged.kept, judged.dropped, judged.rejected, judged.to_extract) == (
        9,
        {"camera_motion": 6},
        1,
        0,
    )
    view = open_dataset(f"{dataset.root}:strict")
    rows = {row["key"]: row for row in pq.read_table(view.manifest_path).to_pylist()}
    assert (
        set(keys(view))
        == {key for key, row in rows.items() if row["outcome"] == "kept"}
        < set(keys(DatasetView(dataset)))
        and len(rows) == 16
    )
    assert {row["reason"] for row in rows.values()} == {None, "camera_motion", "no_motion"}
    again = count_samples(
        (
            sample
            for shard in ("train-000000", "train-000001")
            for sample in iter_samples(view, shard)
        ),
        4,
    )
    np.testing.assert_array_equal(merge_histograms([view]), again)
    statistics = decode_statistics(view.derived_path("statistics.json").read_bytes())
    assert statistics == compute_statistics([view]) and statistics.windows == 6
    check_matches_shards(statistics, [view])
    with pytest.raises(ValueError, match="another set of training shards"):
        check_matches_shards(statistics, [DatasetView(dataset)])


def test_a_view_that_drops_nothing_is_the_same_set(dataset):
    judged = refilter(dataset, "all", PRESETS["none"], one_by_one)
    assert (judged.kept, judged.to_extract) == (15, 1)
    check_matches_shards(
        decode_statistics(dataset.statistics.read_bytes()), [open_dataset(f"{dataset.root}:all")]
    )
    assert keys(open_dataset(f"{dataset.root}:all")) == keys(DatasetView(dataset))


def test_none_brings_back_what_was_stored(tmp_path):
    dataset = write_dataset(
        tmp_path / "a", SHARDS, config=replace(CONFIG, thresholds=PRESETS["none"])
    )
    assert refilter(dataset, "paper", PRESETS["paper"], one_by_one).dropped == {"no_motion": 1}
    assert refilter(dataset, "none", PRESETS["none"], one_by_one).kept == 16
    assert (
        list_views(dataset) == ["none", "paper"]
        and open_dataset(f"{dataset.root}:paper").thresholds() == PRESETS["paper"]
    )


def test_a_view_in_which_nothing_is_left_says_so(dataset):
    refilter(dataset, "empty", replace(PRESETS["paper"], no_motion_px=5.0), one_by_one)
    view = open_dataset(f"{dataset.root}:empty")
    assert not view.derived_path("statistics.json").exists()
    with pytest.raises(ValueError, match="empty has no training window: no window was kept"):
        compute_statistics([view])


def test_a_data_set_and_a_view_of_it_are_not_merged(dataset):
    refilter(dataset, "strict", replace(PRESETS["paper"], camera_motion=0.25), one_by_one)
    with pytest.raises(ValueError, match="a dataset and a view of it"):
        compute_statistics([DatasetView(dataset), open_dataset(f"{dataset.root}:strict")])


@pytest.mark.parametrize("name", ["", "../x", "a.b", "a/b", "x" * 61])
def test_a_name_that_is_no_file_name_is_refused(dataset, name):
    with pytest.raises(ValueError, match="expected up to 60 letters"):
        refilter(dataset, name, Thresholds(), one_by_one)


def test_a_view_that_is_not_there_is_named_beside_those_that_are(dataset):
    with pytest.raises(ValueError, match=r"has no view 'strict', and none at all: quiver refilter"):
        open_dataset(f"{dataset.root}:strict")


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path):
    write_dataset(tmp_path / "a:b", SHARDS)
    assert open_dataset(str(tmp_path / "a:b")).view is None


def test_a_view_leaves_out_the_clips_and_sources_that_a_list_names(tmp_path):
    dataset = write_dataset(tmp_path / "a", SHARDS)
    whole = DatasetView(dataset)
    clip = "clip-train-000000-1"
    choice = ClipChoice({clip})
    choice.check(whole)
    counts = refilter(dataset, "without", whole.thresholds(), one_by_one, choice=choice)
    assert counts.dropped == {"left_out": 3}
    view = open_dataset(f"{dataset.root}:without")
    assert set(keys(whole)) - set(keys(view)) == {f"{clip}-{number:06d}" for number in (3, 4, 5)}
    rows = pq.read_table(view.manifest_path).to_pylist()
    assert {row["reason"] for row in rows if row["clip_id"] == clip} == {"left_out"}
    # the definition keeps the list, so that the view can be written anew
    files = [view.derived_path(name).read_bytes() for name in ("json", "parquet", "index.json")]
    rebuild_views(dataset, one_by_one)
    assert files == [
        view.derived_path(name).read_bytes() for name in ("json", "parquet", "index.json")
    ]


def test_a_view_of_some_scenes_keeps_only_these(tmp_path):
    dataset = write_dataset(tmp_path / "a", SHARDS, source="garden")
    whole = DatasetView(dataset)
    for name, kept in (("garden", keys(whole)), ("clip-train-000001-0", None)):
        choice = ClipChoice(only={name})
        choice.check(whole)
        refilter(dataset, "only", whole.thresholds(), one_by_one, choice=choice)
        numbers = [f"clip-train-000001-0-{number:06d}" for number in range(3)]
        view = open_dataset(f"{dataset.root}:only")
        assert keys(view) == (kept or numbers)
        assert view.clip_choice() == ([], [name])
    with pytest.raises(ValueError, match=r"1 of 2 names are of no clip .* 'forest' for one"):
        ClipChoice({"garden", "forest"}).check(whole)
