"""Differences of films of the same photographs, beside numbers that are known."""

import pytest

from model.evaluate.paired import compare_evaluations, difference, pair_metric


def test_the_interval_of_paired_numbers_is_students():
    """Gosset's own table (1908): ten patients' hours of sleep by two drugs; the interval as in R's
    t.test(extra ~ group, paired = TRUE).
    """
    first, second = (
        (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0),
        (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4),
    )
    found = difference(first, second)
    assert found == pytest.approx((-1.58, -2.4598858, -0.7001142, 10), abs=1e-7)


def test_pairs_that_differ_alike_are_told_apart_however_much_they_vary():
    """The intervals of either alone would overlap."""
    found = difference([1.0, 5.0, 9.0], [1.1, 5.1, 9.1])
    assert found[:3] == pytest.approx((-0.1, -0.1, -0.1))


def test_a_single_photograph_has_no_interval_and_none_no_difference():
    assert difference([2.0], [1.5]) == (0.5, None, None, 1)
    for numbers in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="expected pairs of them"):
            difference(*numbers)


def pair(name: str, ssim: float, flicker: float) -> dict:
    return dict(name=name, ssim=ssim, real=dict(flicker=1.0), generated=dict(flicker=flicker))


def test_films_are_compared_by_photograph_and_not_by_their_order():
    ours, theirs = (
        [pair("a", 0.9, 0.0), pair("b", 0.5, 3.0)],
        [pair("b", 0.4, 1.5), pair("a", 0.8, 1.5)],
    )
    found = compare_evaluations(ours, theirs, ["ssim", "flicker", "fid"])
    assert list(found) == ["ssim", "flicker"]
    assert found["ssim"] == pytest.approx((0.1, 0.1, 0.1, 2)) and found[
        "flicker"
    ].value == pytest.approx((0.5 + 1.5) / 2)


def test_what_each_video_has_by_itself_counts_by_its_distance_from_the_real_one():
    assert (
        pair_metric(pair("a", 0.9, 0.25), "flicker") == 0.75
        and pair_metric(pair("a", 0.9, 0.25), "ssim") == 0.9
        and pair_metric(pair("a", 0.9, 0.25), "fid") is None
    )
