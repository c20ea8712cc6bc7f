"""P15: what is derived from the records is the same in whatever order they are taken;
tests/jobs/cli/test_care.py deletes and damages each file.
"""

import random

import pytest

from pipeline.dataset import histogram
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.scales import compute_statistics
from schemas.statistics import encode_statistics
from tests.faults.reference import SHARDS, choose_count
from tests.support.datasets import write_dataset

pytestmark = pytest.mark.promise("P15")
ORDERS = choose_count(100, 20)


def shuffled(items: list, seed: int) -> list:
    return random.Random(seed).sample(items, len(items))


def test_histograms_of_shards_merge_in_any_order(reference, record_property):
    dataset = Dataset(reference.root)
    counts = [
        histogram.decode(dataset.histogram_path(shard).read_bytes())
        for shard in SHARDS
        if shard.startswith("train")
    ]
    merged = dataset.merged_histogram.read_bytes()
    record_property("injections", ORDERS)
    for seed in range(ORDERS):
        first, *others = shuffled(counts, seed)
        for one in others:
            first = histogram.merge([first, one])
        assert histogram.encode(first) == merged


@pytest.mark.slow
def test_statistics_of_data_sets_are_the_same_in_any_order(tmp_path, record_property):
    selections = [
        DatasetView(write_dataset(tmp_path / f"{i}", {"train-000000": [{}] * (i + 1)}, seed=i))
        for i in range(4)
    ]
    found = encode_statistics(compute_statistics(selections))
    record_property("injections", ORDERS)
    assert all(
        encode_statistics(compute_statistics(shuffled(selections, seed))) == found
        for seed in range(ORDERS)
    )
