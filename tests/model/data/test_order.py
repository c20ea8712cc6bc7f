"""Mixtures: the share of each dataset, the cap on each scene, and what is drawn more than once."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.order import EpochOrder, Mixture, Position, parse_mix

SCENES = np.array([0] * 10 + [1] * 2 + [2] * 3)
DATASETS = np.array([0] * 12 + [1] * 3)


def order(batch: int = 4, **mixture: object) -> EpochOrder:
    mixture = {"scenes": SCENES, "datasets": DATASETS} | mixture
    return EpochOrder(count=15, seed=0, global_batch=batch, mixture=Mixture(**mixture))


def test_a_scene_gives_no_more_windows_than_it_may_and_others_in_each_epoch():
    capped = order(windows_per_scene=3)
    epochs = [capped.epoch_samples(epoch).tolist() for epoch in range(20)]
    for samples in epochs:
        assert Counter(SCENES[samples].tolist()) == {0: 3, 1: 2, 2: 3}
        assert len(set(samples)) == 8
    assert set().union(*epochs) == set(range(15))


def test_a_scene_in_two_datasets_is_capped_in_each():
    scenes = np.zeros(15, np.int64)
    capped = order(scenes=scenes, windows_per_scene=2, weights=(1.0, 3.0))
    for epoch in range(5):
        assert sorted(DATASETS[capped.epoch_samples(epoch)].tolist()) == [0, 1, 1, 1]


@settings(deadline=None)
@given(weight=st.floats(0.05, 20), batch=st.integers(1, 9))
def test_every_batch_has_nearly_the_share_of_each_dataset(weight, batch):
    mixed = order(batch=batch, weights=(1.0, weight))
    drawn = DATASETS[mixed.epoch_samples(3)]
    share = weight / (1 + weight)
    assert abs(drawn.sum() - share * 15) <= 0.5
    for start in range(len(drawn) - batch + 1):
        assert abs(drawn[start : start + batch].sum() - share * batch) < 2


def test_a_sample_that_is_repeated_in_an_epoch_is_drawn_differently():
    mixed = order(batch=15, weights=(1.0, 4.0))
    draws, after = mixed.next_batch(Position())
    assert after == Position(1, 0) and len(set(draws)) == 15
    repeated = [draw for draw in draws if draw.sample_index == 12]
    assert [draw.repeat for draw in repeated] == list(range(4))
    assert len({draw.rng().random() for draw in repeated}) == 4


def test_a_mixture_goes_on_where_it_was_stopped():
    mixed = order(batch=4, windows_per_scene=2, weights=(1.0, 1.0))
    stream = list(islice(mixed.batches(Position()), 9))
    for taken in range(1, 9):
        again = list(islice(mixed.batches(stream[taken - 1][1]), 9 - taken))
        assert again == stream[taken:]
    with pytest.raises(ValueError, match="6 samples of epoch 0 were consumed, expected 0 to 5"):
        mixed.batches(Position(0, 6))


def test_weights_are_given_by_the_names_of_the_datasets():
    assert parse_mix(["loops=1", "real=2.5"], ["real", "loops"]) == (2.5, 1)
    for mix, names, words in (
        (["real=1"], ["real", "loops"], "mix names real, expected each of real, loops once"),
        (["real=1", "real=2"], ["real", "real"], "two datasets are named real"),
        (["real=x"], ["real"], "mix is 'real=x', expected NAME=WEIGHT"),
        (["1"], ["1"], "mix names , expected"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_mix(mix, names)


@pytest.mark.parametrize("weights", [(-1.0, 2.0), (0.0, 0.0), (1.0, 1.0, 1.0), (1.0, np.inf)])
def test_weights_out_of_range_or_of_a_dataset_without_samples_are_refused(weights):
    with pytest.raises(ValueError, match="weights are"):
        order(weights=weights)
