"""Distances of features: against second implementations, known answers, and how sure they are."""

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.random import Generator, default_rng

import pipeline.torchvision_import  # noqa: F401  torchmetrics imports torchvision, which wants it where its compiled part does not fit
from model.evaluate.distributions import bootstrap, frechet, kid, precompute_kid, sliding_distances

from torchmetrics.image.fid import _compute_fid  # isort: skip
from torchmetrics.image.kid import poly_mmd  # isort: skip


def mixed(rng: Generator, samples: int, dimensions: int, shift: float = 0.0) -> np.ndarray:
    """Samples of a normal distribution with axes of its own."""
    return (rng.normal(size=(samples, dimensions)) + shift) @ rng.normal(
        size=(dimensions, dimensions)
    )


def gaussians(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(axis=0), np.cov(features.T)


@pytest.mark.parametrize(("dimensions", "samples"), [(4, 20), (32, 100), (64, 400)])
def test_frechet_agrees_with_scipy_and_with_torchmetrics(dimensions, samples):
    rng = default_rng(dimensions)
    real, generated = mixed(rng, samples, dimensions), mixed(rng, samples + 7, dimensions, 0.3)
    (m, c), (n, d) = gaussians(real), gaussians(generated)
    by_scipy = np.square(m - n).sum() + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    by_torchmetrics = _compute_fid(*(torch.from_numpy(one) for one in (m, c, n, d)))
    assert frechet(real, generated) == pytest.approx(by_scipy, rel=1e-6)
    assert frechet(real, generated) == pytest.approx(float(by_torchmetrics), rel=1e-6)


@pytest.mark.parametrize(("dimensions", "samples"), [(4, 20), (64, 400)])
def test_kid_agrees_with_torchmetrics(dimensions, samples):
    rng = default_rng(dimensions)
    real, generated = mixed(rng, samples, dimensions), mixed(rng, samples, dimensions, 0.3)
    assert kid(real, generated) == pytest.approx(
        float(poly_mmd(torch.from_numpy(real), torch.from_numpy(generated))), rel=1e-6
    )


def test_kid_of_different_counts_is_the_mean_over_pairs():
    real, generated = mixed(default_rng(0), 7, 3), mixed(default_rng(1), 5, 3, 1.0)

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    pairs = [
        [kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if a is not b or i != j]
        for a, b in ((real, real), (generated, generated))
    ]
    assert kid(real, generated) == pytest.approx(
        np.mean(pairs[0])
        + np.mean(pairs[1])
        - 2 * np.mean([kernel(x, y) for x in real for y in generated])
    )


def test_a_kernel_in_blocks_is_the_whole_one(monkeypatch):
    real, generated = mixed(default_rng(0), 50, 8), mixed(default_rng(1), 60, 8, 1.0)
    whole = kid(real, generated)
    monkeypatch.setattr("model.evaluate.distributions.MAX_KERNEL_ROWS", 7)
    assert kid(real, generated) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("dimensions", "samples"), [(4, 50), (32, 200), (200, 20)])
def test_equal_sets_are_not_apart(dimensions, samples):
    """Also where there are fewer samples than dimensions."""
    real = mixed(default_rng(3), samples, dimensions, 5.0)
    shuffled = default_rng(4).permutation(real)
    assert 0 <= frechet(real, shuffled) <= 1e-6 * np.trace(np.cov(real.T))
    assert kid(real, shuffled) <= 0


def test_frechet_of_known_distributions():
    """Shifted by 3 in one of two dimensions, and twice as wide: 9 + sum (s - 2 s)^2."""
    real = mixed(default_rng(5), 100, 2)
    spread = np.trace(np.cov(real.T))
    assert frechet(real, real + np.array([3, 0])) == pytest.approx(9)
    middle = real.mean(axis=0)
    assert frechet(real, middle + 2 * (real - middle)) == pytest.approx(spread)


def test_fewer_samples_than_dimensions_are_seen_in_what_they_span():
    """Dimensions in which nothing is change nothing: 10 samples of 4 dimensions among 50."""
    rng = default_rng(6)
    real, generated = mixed(rng, 10, 4), mixed(rng, 12, 4, 1.0)
    wide = [np.pad(one, ((0, 0), (0, 46))) for one in (real, generated)]
    assert frechet(*wide) == pytest.approx(frechet(real, generated), rel=1e-9)


@pytest.mark.parametrize("distance", [frechet, kid])
def test_a_distance_rises_with_the_shift_and_the_spread(distance):
    rng = default_rng(7)
    real, other = rng.normal(size=(300, 8)), rng.normal(size=(300, 8))
    for damage in (lambda amount: other + amount, lambda amount: other * (1 + amount)):
        found = [distance(real, damage(amount)) for amount in (0, 0.5, 1, 2)]
        assert found == sorted(found) and found[1] > 2 * abs(found[0])


def strangers(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """40 videos of each side, which have nothing to do with one another."""
    return rng.normal(size=(40, 1, 3)), 1.3 * rng.normal(size=(40, 1, 3)) + 0.5


def partners(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """40 pairs, of which the generated one follows the real one: much surer than strangers."""
    real = rng.normal(size=(40, 1, 3))
    return real, 1.3 * real + 0.3 * rng.normal(size=(40, 1, 3)) + 0.5


@pytest.mark.thorough
@pytest.mark.parametrize("distance", [frechet, kid])
@pytest.mark.parametrize("sets", [strangers, partners])
def test_an_interval_holds_the_mean_of_such_sets_as_often_as_it_says_and_is_as_wide_as_they_differ(
    sets, distance
):
    """Of 100 sets 95 are expected, and fewer than 88 of a true 95 % have a probability of 0.2 %. An
    interval that is twice as wide would hold it always: 95 % of 1000 fresh sets lie within a spread
    of which it has 0.7 to 1.4 times.
    """
    rng, pairs = default_rng(8), sets is partners
    fresh = [distance(*(one[:, 0] for one in sets(rng))) for _ in range(1000)]
    found = np.array(
        [
            bootstrap(distance, *(list(one) for one in sets(rng)), rounds=60, pairs=pairs)
            for _ in range(100)
        ]
    )
    low, high = found[:, 1:].T
    assert 88 <= np.sum((low <= np.mean(fresh)) & (np.mean(fresh) <= high)) <= 100
    assert 0.7 < (high - low).mean() / np.diff(np.quantile(fresh, [0.025, 0.975])).item() < 1.4


def test_an_interval_is_around_the_distance_though_drawn_sets_are_farther_apart():
    """Of 15 samples in 20 dimensions some are drawn twice, others never, which looks like another
    distribution.
    """
    rng = default_rng(12)
    real, generated = (list(rng.normal(size=(15, 1, 20))) for _ in range(2))
    value, low, high = bootstrap(frechet, real, generated, rounds=50)
    assert low < value < high and value == frechet(np.concatenate(real), np.concatenate(generated))


def test_an_interval_is_of_videos_and_narrower_for_more_of_them():
    """Frames that tell the same as their neighbours make nothing surer."""
    rng = default_rng(9)
    real, generated = rng.normal(size=(40, 1, 3)), rng.normal(size=(40, 1, 3)) + 1

    def width(videos: int, frames: int) -> float:
        _, low, high = bootstrap(
            frechet,
            *(list(one[:videos].repeat(frames, axis=1)) for one in (real, generated)),
            rounds=200,
        )
        return high - low

    assert width(10, 5) == pytest.approx(width(10, 1), rel=0.2)
    assert width(40, 1) < 0.7 * width(10, 1)


def test_an_interval_is_the_same_for_the_same_seed():
    videos = list(default_rng(0).normal(size=(6, 4, 3)))
    other = [one + 1 for one in videos]
    found = bootstrap(kid, videos, other, rounds=20, seed=1)
    assert (
        found
        == bootstrap(kid, videos, other, rounds=20, seed=1)
        != bootstrap(kid, videos, other, rounds=20, seed=2)
    )
    assert found.low < kid(np.concatenate(videos), np.concatenate(other)) < found.high


@pytest.mark.parametrize("rows", [2048, 9])
@pytest.mark.parametrize("pairs", [False, True])
def test_kernels_that_are_summed_once_say_what_those_of_the_drawn_samples_say(
    monkeypatch, pairs, rows
):
    """Of videos of 1 to 12 samples; what is not `kid` itself is computed from the drawn samples,
    round by round.
    """
    rng = default_rng(13)
    real, generated = (
        [mixed(rng, samples, 20, shift).astype(np.float32) for samples in (12, 1, 7, 4, 9)]
        for shift in (0.0, 0.3)
    )
    anew = bootstrap(lambda x, y: kid(x, y), real, generated, rounds=30, pairs=pairs)
    monkeypatch.setattr("model.evaluate.distributions.MAX_KERNEL_ROWS", rows)
    assert tuple(bootstrap(kid, real, generated, rounds=30, pairs=pairs)) == pytest.approx(
        tuple(anew), rel=1e-9
    )


def test_a_round_takes_no_kernel_anew():
    """Once summed, the samples are not looked at again, however many rounds there are."""
    real, generated = (list(default_rng(seed).normal(size=(3, 5, 4))) for seed in (0, 1))
    expected = kid(np.concatenate([real[0], real[0], real[2]]), np.concatenate(generated))
    of = precompute_kid(real, generated)
    for video in (*real, *generated):
        video[:] = np.nan
    assert of(np.array([2, 0, 1]), np.ones(3)) == pytest.approx(expected, rel=1e-9)


def test_pictures_that_decay_are_farther_in_each_later_window():
    rng = default_rng(11)
    real = rng.normal(size=(4, 100, 3))
    found = sliding_distances(
        frechet,
        real,
        [one + 0.6 * number for number, one in enumerate(rng.normal(size=(4, 100, 3)))],
    )
    assert found == sorted(found) and found[0] < 0.3 < found[1]


@pytest.mark.parametrize(
    ("real", "generated", "sentence"),
    [
        (np.ones((1, 3)), np.ones((5, 3)), "there are 1 real samples, expected at least 2"),
        (np.ones((5, 3)), np.ones((0, 3)), "there are 0 generated samples, expected at least 2"),
        (
            np.ones((5, 3)),
            np.ones((5, 4)),
            "features have 3 dimensions of the real and 4 of the generated samples",
        ),
        (
            np.ones((5, 3)),
            np.full((5, 3), np.nan),
            "features of the generated samples are not finite",
        ),
    ],
)
@pytest.mark.parametrize("distance", [frechet, kid])
def test_what_is_no_two_sets_is_refused(distance, real, generated, sentence):
    with pytest.raises(ValueError, match=sentence):
        distance(real, generated)


def test_what_has_no_interval_or_no_places_in_time_is_refused():
    one = [np.ones((3, 2))]
    with pytest.raises(
        ValueError,
        match="there are 1 real and 2 generated videos and 10 rounds, expected at least 2 of each",
    ):
        bootstrap(frechet, one, one * 2, rounds=10)
    with pytest.raises(
        ValueError,
        match="there are 1 windows of the real and 2 of the generated videos, expected as many",
    ):
        sliding_distances(frechet, one, one * 2)
    with pytest.raises(ValueError, match="a video has no samples"):
        bootstrap(kid, [*one, np.ones((0, 2))], one * 2, rounds=10)


def test_pairs_are_drawn_together():
    """A generated video that is its real one is at no distance from it, whatever is drawn; drawn
    apart, two sets of few videos are far.
    """
    videos = list(default_rng(0).normal(size=(4, 5, 3)) + 10 * np.arange(4)[:, None, None])
    together, apart = (
        bootstrap(frechet, videos, videos, rounds=20, pairs=pairs) for pairs in (True, False)
    )
    assert np.allclose(together, 0, atol=1e-6) and apart.high > 1
    with pytest.raises(ValueError, match="of pairs as many"):
        bootstrap(frechet, videos, videos[:3], rounds=20, pairs=True)
