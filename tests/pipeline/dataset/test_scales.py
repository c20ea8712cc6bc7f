"""Scales of small data sets against numpy on the very values that their shards hold."""

import json
import os
import zlib
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import scales
from pipeline.dataset.finalize import finalize
from pipeline.dataset.histogram import moduli
from pipeline.dataset.open import DatasetView, iter_samples, open_dataset
from pipeline.dataset.scales import (
    ScaleConfig,
    check_matches_shards,
    compute_statistics,
    count_fine_bins,
    required_fine_bins,
)
from pipeline.dataset.shards import read_sample
from schemas.sample import MOTION_MEMBER
from schemas.sample import encode_sample as encode_sample
from schemas.statistics import QUANTILES, decode_statistics, encode_statistics
from tests.support.datasets import CONFIG, PASSING_MEASURES, write_dataset

SHARDS = {
    "train-000000": [PASSING_MEASURES] * 3,
    "train-000001": [
        PASSING_MEASURES,
        PASSING_MEASURES | dict(mean_motion_px=0.1),
        PASSING_MEASURES,
    ],
    "test-000000": [PASSING_MEASURES] * 2,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("scales") / "a", SHARDS)


@pytest.fixture(scope="module")
def values(dataset):
    """|S_k| of every training sample, float64 [K, 2, N]."""
    found = [
        moduli(sample)
        for shard in ("train-000000", "train-000001")
        for sample in iter_samples(DatasetView(dataset), shard)
    ]
    assert len(found) == 5
    return np.concatenate(found, axis=2).astype(np.float64)


def exact(selections, config=None):
    config = config or ScaleConfig()
    wanted = required_fine_bins(scales.merge_histograms(selections), config)
    parts = [
        count_fine_bins(selection, shard, wanted)
        for selection in selections
        for shard in selection.training_shards()
    ]
    return compute_statistics(
        selections,
        config,
        {place: np.sum([part[place] for part in parts], axis=0) for place in wanted},
    )


def expected(values, pool, q):
    if pool == "all":
        return [np.quantile(values, q)] * len(values)
    if pool == "none":
        return [tuple(np.quantile(one, q) for one in frequency) for frequency in values]
    return [np.quantile(frequency, q) for frequency in values]


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.parametrize("pool", ["components", "none", "all"])
@pytest.mark.parametrize("q", [0.5, 0.95])
def test_scales_are_numpys_within_the_bound_and_to_the_last_bit_when_exact(
    dataset, values, pool, q
):
    config = ScaleConfig(quantile=q, pool=pool)
    np.testing.assert_allclose(
        compute_statistics([DatasetView(dataset)], config).scale,
        expected(values, pool, q),
        rtol=0.004,
    )
    assert list(exact([DatasetView(dataset)], config).scale) == expected(values, pool, q)


def test_every_listed_quantile_is_numpys(dataset, values):
    near, there = compute_statistics([DatasetView(dataset)]), exact([DatasetView(dataset)])
    assert (near.method, there.method) == ("histogram", "exact")
    for k, c in np.ndindex(values.shape[:2]):
        wanted = {str(q): np.quantile(values[k, c], q) for q in QUANTILES}
        found, rough = (getattr(one.frequencies[k], "xy"[c]) for one in (there, near))
        assert found.quantiles == wanted and found.p95 == wanted["0.95"]
        assert (
            rough.quantiles == pytest.approx(wanted, rel=0.004) and rough.count == values.shape[2]
        )
        assert rough.mean_power == pytest.approx(np.square(values[k, c]).mean(), rel=0.01)
    assert [f.hz for f in near.frequencies] == [k * 30 / 24 for k in range(4)]


def test_several_data_sets_are_one(dataset, values, tmp_path):
    other = write_dataset(tmp_path / "b", {"train-000000": [PASSING_MEASURES] * 4}, seed=9)
    more = [moduli(sample) for sample in iter_samples(DatasetView(other), "train-000000")]
    both = [DatasetView(dataset), DatasetView(other)]
    together = np.concatenate([values, *more], axis=2)
    assert list(exact(both).scale) == expected(together.astype(np.float64), "components", 0.95)
    assert (
        encode_statistics(compute_statistics(both))
        == encode_statistics(compute_statistics(both[::-1]))
        and compute_statistics(both).windows == 9
    )
    with pytest.raises(ValueError, match="there twice"):
        compute_statistics([DatasetView(dataset), DatasetView(dataset)])


def test_data_sets_of_another_size_are_not_merged(dataset, tmp_path):
    other = write_dataset(
        tmp_path / "b", {"train-000000": [PASSING_MEASURES]}, config=replace(CONFIG, size=(48, 32))
    )
    with pytest.raises(ValueError, match=r"48x32 pixels and 24 frames .* 40x32"):
        compute_statistics([DatasetView(dataset), DatasetView(other)])


def test_statistics_survive_their_file_and_belong_to_their_shards(dataset, tmp_path):
    statistics = compute_statistics([DatasetView(dataset)])
    assert (
        decode_statistics(encode_statistics(statistics))
        == statistics
        == decode_statistics(dataset.statistics.read_bytes())
    )
    check_matches_shards(statistics, [open_dataset(str(dataset.root))])
    other = write_dataset(tmp_path / "b", {"train-000000": [PASSING_MEASURES] * 4}, seed=9)
    for selections in ([DatasetView(other)], [DatasetView(dataset), DatasetView(other)]):
        with pytest.raises(ValueError, match="another set of training shards"):
            check_matches_shards(statistics, selections)


def test_a_shard_that_was_added_or_taken_away_is_noticed(tmp_path):
    dataset = write_dataset(tmp_path / "a", SHARDS)
    os.link(dataset.record_path("train-000000"), dataset.record_path("train-000009"))
    with pytest.raises(ValueError, match="another set of shards"):
        check_matches_shards(
            decode_statistics(dataset.statistics.read_bytes()), [DatasetView(dataset)]
        )
    dataset.record_path("train-000009").unlink()
    dataset.record_path("train-000001").unlink()
    with pytest.raises(ValueError, match="another set of shards"):
        compute_statistics([DatasetView(dataset)])
    with pytest.raises(ValueError, match=r"1 of 3 shards .* not built yet \(train-000001\)"):
        finalize(dataset)


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ({}, "no window was kept in its 0 shards"),
        ({"train-000000": [dict(mean_motion_px=0.1)] * 2}, "no window was kept in its 1 shards"),
        (
            {"test-000000": [{}] * 2, "train-000000": [dict(mean_motion_px=0.1)]},
            "all 2 windows that were kept are held out for test",
        ),
    ],
)
def test_a_data_set_with_nothing_to_learn_from_says_so(shards, words, tmp_path):
    dataset = write_dataset(tmp_path / "a", shards)
    assert not dataset.statistics.exists() and dataset.card.exists()
    with pytest.raises(ValueError, match=words):
        compute_statistics([DatasetView(dataset)])


def test_damage_is_named(tmp_path):
    dataset = write_dataset(tmp_path / "a", SHARDS)
    whole = dataset.merged_histogram.read_bytes()
    dataset.merged_histogram.write_bytes(whole[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"histogram.safetensors is damaged: quiver finalize"):
        compute_statistics([DatasetView(dataset)])
    dataset.index.write_text("{")
    with pytest.raises(ValueError, match=r"index.json is damaged"):
        compute_statistics([DatasetView(dataset)])
    finalize(dataset)
    assert dataset.merged_histogram.read_bytes() == whole
    dataset.histogram_path("train-000001").write_bytes(whole)
    with pytest.raises(
        OSError, match=r"train-000001.safetensors is not the histogram that was recorded"
    ):
        finalize(dataset)


def test_a_number_that_is_not_finite_in_a_shard_is_named(tmp_path):
    dataset = write_dataset(tmp_path / "a", {"train-000000": [PASSING_MEASURES]})
    (row,) = pq.read_table(dataset.manifest).to_pylist()
    tar = bytearray(dataset.tar_path("train-000000").read_bytes())
    motion = slice(row["motion_offset"], row["motion_offset"] + row["motion_size"])
    sample = read_sample(dataset.tar_path("train-000000"), row["key"], row)
    spectrum = sample.spectrum.copy()
    spectrum[1, 2, 3, 4] = np.nan
    tar[motion] = encode_sample(replace(sample, spectrum=spectrum))[MOTION_MEMBER]
    dataset.tar_path("train-000000").write_bytes(tar)
    with pytest.raises(
        OSError,
        match=rf"member {row['key']}.motion.safetensors of train-000000.tar "
        "has other bytes than were written",
    ):
        exact([DatasetView(dataset)])
    row["motion_crc32"] = zlib.crc32(tar[motion])
    with pytest.raises(
        ValueError, match=rf"sample '{row['key']}' .* spectrum has values that are not finite"
    ):
        read_sample(dataset.tar_path("train-000000"), row["key"], row)


@pytest.mark.parametrize("broken", [b"", b"[]", b"{}", b'{"format": 1}', b"[" * 100_000])
def test_a_file_that_is_no_statistics_is_refused(broken):
    with pytest.raises(ValueError, match="not a statistics file"):
        decode_statistics(broken)


def test_a_scale_that_is_no_number_is_refused(dataset):
    fields = json.loads(dataset.statistics.read_bytes())
    for scale in ([1.0], [1.0, -1.0, 1.0, 1.0], [1.0, "2", 1.0, 1.0], [[1.0, 2.0]] * 4, [True] * 4):
        with pytest.raises(ValueError, match="not a statistics file: "):
            decode_statistics(json.dumps(fields | dict(scale=scale)).encode())


def test_a_quantile_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="quantile is 95, expected a number between 0 and 1"):
        ScaleConfig(quantile=95.0)
