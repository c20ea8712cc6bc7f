"""The report's numbers against what they stand for, computed the long way."""

from dataclasses import fields, replace
from math import inf, isfinite
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.dataset import histogram
from pipeline.filters import PRESETS, RULES, Thresholds, judge
from pipeline.motion.spectrum import power_spectrum, to_motion, to_spectrum
from pipeline.report import stats
from pipeline.report.stats import (
    FAN_QUANTILES,
    THRESHOLD_RULES,
    MeasuredWindows,
    ShardLogEntry,
    adaptive_scalings,
    amplitude_shares,
    merge_logs,
    quantile_fan,
    rebin,
    resolution_scalings,
    sweep_threshold,
    truncation_errors,
)
from schemas.outcome import FilterMeasures

UNJUDGED = "believed_share"
"""It says how much of the picture the other measures are taken of; no rule compares it."""


@pytest.mark.parametrize("time", [24, 25])
def test_the_error_of_keeping_k_is_that_of_an_explicit_truncation(time):
    motion = np.random.default_rng(time).normal(size=(time, 2, 6, 7)).cumsum(axis=0)
    relative, pixels = truncation_errors(
        power_spectrum(motion.astype(np.float32)).sum(axis=0)[None], time
    )
    assert relative.shape == pixels.shape == (1, time // 2 + 1)
    for k in range(1, time // 2 + 2):
        lost = motion - to_motion(to_spectrum(motion, k), time)
        assert relative[0, k - 1] == pytest.approx(
            np.sqrt(np.square(lost).sum() / np.square(motion).sum()), abs=1e-6
        )
        assert pixels[0, k - 1] == pytest.approx(
            np.sqrt(np.square(lost).sum(axis=1).mean()), abs=1e-5
        )


def test_a_window_without_motion_has_no_error():
    relative, pixels = truncation_errors(np.zeros((1, 13)), 24)
    assert not relative.any() and not pixels.any()


def counted(values: np.ndarray) -> np.ndarray:
    return np.bincount(histogram.bins(values.astype(np.float32)), minlength=histogram.BINS)


def test_rebinning_keeps_every_count():
    values = np.random.default_rng(0).lognormal(0, 2, 20_000)
    values[:5_000] = 0
    counts = counted(values)
    assert rebin(counts, np.array([0.0, 1e30])).tolist() == [1.0]
    shares = rebin(counts, np.linspace(0, 4, 9))
    np.testing.assert_allclose(
        shares, np.histogram(values, np.linspace(0, 4, 9))[0] / len(values), atol=2e-3
    )
    assert shares[0] >= 0.25  # what does not move at all is in the first


def test_a_bin_that_an_edge_cuts_is_split_evenly():
    (which,), edges = histogram.bins(np.float32([1.0])), histogram.edges()
    counts = np.zeros(histogram.BINS, np.int64)
    counts[which] = 8
    low, high = edges[which], edges[which + 1]
    assert rebin(counts, np.array([low, low + (high - low) / 4, high])).tolist() == [0.25, 0.75]


def test_amplitudes_are_those_of_the_coefficients():
    moduli = np.random.default_rng(1).lognormal(0, 1, (2, 50_000))
    counts, edges = np.stack([counted(one) for one in moduli]), np.linspace(0, 2, 11)
    plain = np.histogram(moduli / np.array([[4], [2]]), edges)[0] / moduli.size
    np.testing.assert_allclose(
        amplitude_shares(counts, edges, resolution_scalings((4, 2))), plain, atol=1e-3
    )
    adapted = np.histogram(np.sqrt(moduli / 3.0), edges)[0] / moduli.size
    np.testing.assert_allclose(
        amplitude_shares(counts, edges, adaptive_scalings(3.0)), adapted, atol=1e-3
    )
    apart = np.histogram(np.sqrt(moduli / np.array([[3.0], [5.0]])), edges)[0] / moduli.size
    np.testing.assert_allclose(
        amplitude_shares(counts, edges, adaptive_scalings((3.0, 5.0))), apart, atol=1e-3
    )


def test_the_fan_takes_x_and_y_together():
    moduli = np.random.default_rng(2).lognormal(0, 1, (3, 2, 5_000))
    found = quantile_fan(np.array([[counted(c) for c in one] for one in moduli]))
    np.testing.assert_allclose(
        found, np.quantile(moduli.reshape(3, -1), FAN_QUANTILES, axis=1), rtol=4e-3
    )


def random_windows(
    count: int, seed: int, thresholds: Thresholds
) -> tuple[MeasuredWindows, list[FilterMeasures]]:
    """Measures on both sides of every threshold, most of them harmless."""
    rng, columns = np.random.default_rng(seed), {}
    for field in fields(FilterMeasures):
        if field.name == UNJUDGED:
            columns[field.name] = rng.random(count)
            continue
        present, rejects_above = next(
            (threshold, rule.rejects_above)
            for rule in THRESHOLD_RULES
            for preset in (PRESETS["subtle"], PRESETS["paper"])
            for threshold in [getattr(preset, rule.threshold)]
            if rule.measure == field.name and isfinite(threshold)
        )
        columns[field.name] = present * (
            rng.lognormal(-1, 0.6, count) if rejects_above else rng.lognormal(1, 0.6, count)
        )
    group = MeasuredWindows(SimpleNamespace(**columns), thresholds, rng.random(count) < 0.5)
    return group, [
        FilterMeasures(**{name: float(values[i]) for name, values in columns.items()})
        for i in range(count)
    ]


def test_every_threshold_has_a_rule_of_its_measure():
    assert {rule.threshold for rule in THRESHOLD_RULES} == {
        field.name for field in fields(Thresholds)
    }
    assert {rule.measure for rule in THRESHOLD_RULES} == {
        field.name for field in fields(FilterMeasures)
    } - {UNJUDGED}
    assert {rule.reason for rule in THRESHOLD_RULES} == RULES.keys()


@pytest.mark.sample(14)
@pytest.mark.slow
@pytest.mark.parametrize("rule", THRESHOLD_RULES, ids=lambda rule: rule.threshold)
@pytest.mark.parametrize("preset", ["paper", "subtle"])
def test_what_if_counts_what_would_be_judged(rule, preset):
    first, windows = random_windows(120, 3, PRESETS[preset])
    second, others = random_windows(40, 4, replace(PRESETS["subtle"], light_change=inf))
    values = getattr(first.measures, rule.measure)
    found = sweep_threshold(
        [first, second],
        rule,
        stats.axis_limits(rule.measure, values, [getattr(first.thresholds, rule.threshold)]),
    )
    assert (
        found.values == sorted(found.values)
        and rule.off_value in found.values
        and 100 <= len(found.values) <= 102
    )
    assert found.values[found.start] == getattr(PRESETS[preset], rule.threshold)
    for i in (0, found.start, len(found.values) // 2, len(found.values) - 1):
        passes = [
            (
                not judge(window, replace(group.thresholds, **{rule.threshold: found.values[i]})),
                stored,
            )
            for group, some in ((first, windows), (second, others))
            for window, stored in zip(some, group.is_stored, strict=True)
        ]
        assert found.kept[i] == sum(kept for kept, _ in passes) and found.stored[i] == sum(
            kept and bool(stored) for kept, stored in passes
        )
    assert (
        max(found.kept) == found.kept[found.values.index(rule.off_value)]
    )  # a rule that is off keeps the most


def test_an_axis_holds_the_windows_and_every_finite_threshold():
    low, high = stats.axis_limits("mean_motion_px", np.array([0.5, 1.0, 2.0]), [0.15, 8.0, inf])
    assert 0 < low < 0.15 and high > 8
    low, high = stats.axis_limits("cut_correlation", np.array([0.99, 0.99]), [-inf])
    assert low < 0.99 < high
    low, high = stats.axis_limits("light_change", np.zeros(3), [inf])
    assert low == 0 < high


def test_a_run_that_was_started_again_goes_on_where_it_was():
    found = merge_logs(
        [
            [
                ShardLogEntry(60, 10, 30, 0.5, 0.0),
                ShardLogEntry(120, 10, 30, 0.1, 0.4),
                ShardLogEntry(30, 20, 60, 0.0, 900.0),
            ],
            [ShardLogEntry(60, 5, 10, 0.0, 0.0)],
        ]
    )
    assert found is not None
    assert (
        found.minutes.tolist() == [1, 2, 2.5, 3.5]
        and found.windows.tolist() == [10, 20, 40, 45]
        and found.restarts == [2, 2.5]
    )
    assert found.rate == pytest.approx(45 / 210) and found.waiting_share == pytest.approx(18 / 130)
    assert merge_logs([[]]) is None
