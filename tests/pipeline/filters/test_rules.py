"""The rules and presets, on measures that are made up."""

from dataclasses import asdict, fields, replace
from math import inf, nan

import pytest

from pipeline.filters import PRESETS, RULES, Thresholds, judge
from schemas.outcome import FilterMeasures, Reason
from tests.support.datasets import PASSING_MEASURES

SOUND = FilterMeasures(**PASSING_MEASURES)


def verdicts(preset: str = "subtle", **measures: float) -> list[Reason]:
    """Verdicts on a sound window in which these measures are replaced."""
    return judge(replace(SOUND, **measures), PRESETS[preset])


def test_a_sound_window_is_kept_by_every_preset():
    assert all(judge(SOUND, thresholds) == [] for thresholds in PRESETS.values())


@pytest.mark.parametrize("rate, low", [(6.0, True), (11.0, True), (12.5, False), (24.0, False)])
def test_few_source_frames_are_a_low_frame_rate(rate, low):
    assert (verdicts(frame_rate=rate) == [Reason.LOW_FRAME_RATE]) == low


def test_a_long_gap_is_a_low_frame_rate():
    assert verdicts(longest_gap_s=0.5) == [Reason.LOW_FRAME_RATE]


@pytest.mark.parametrize(
    "measures, reason",
    [
        (dict(cut_correlation=0.2), Reason.CUT),
        (dict(cut_histogram=0.7), Reason.CUT),
        (dict(light_change=0.6), Reason.FADE),
        (dict(contrast_change=0.9), Reason.FADE),
        (dict(frozen_share=0.9), Reason.FROZEN),
        (dict(sway_px=0.05), Reason.NO_MOTION),
        (dict(mean_motion_px=30.0), Reason.TOO_MUCH_MOTION),
        (dict(sway_px=60.0), Reason.TOO_MUCH_MOTION),
        (dict(large_motion_px=70.0), Reason.TOO_MUCH_MOTION),
        (dict(camera_share=0.95), Reason.CAMERA_MOTION),
        (dict(trend_share=0.8, drift_px=6.0, reversing_share=0.1), Reason.DRIFT),
        (dict(trend_share=0.995, drift_px=1.0), Reason.DRIFT),
        (dict(passing_share=0.9), Reason.PASSING),
        (dict(moving_confidence=0.1), Reason.UNRELIABLE_FLOW),
        (dict(unexplained_share=0.9), Reason.UNRELIABLE_FLOW),
        (dict(inconsistent_share=0.95), Reason.UNRELIABLE_FLOW),
    ],
)
def test_one_bad_measure_is_one_verdict_of_the_default(measures, reason):
    assert verdicts(**measures) == [reason]


@pytest.mark.parametrize(
    "measures",
    [
        dict(trend_share=0.8, drift_px=6.0, reversing_share=0.9),
        dict(trend_share=0.8, drift_px=0.8, reversing_share=0.1),
        dict(trend_share=0.1, drift_px=6.0, reversing_share=0.1),
        dict(trend_share=0.995, drift_px=0.2),
        dict(moving_share=1.0),
        dict(mean_motion_px=0.05),
    ],
)
def test_what_does_not_reject_alone_is_kept(measures):
    """A trend of motion that turns back, a short or a slight one; motion everywhere; and little
    motion on the average over the picture.
    """
    assert verdicts(**measures) == []


def test_fast_motion_must_be_explained_better():
    thresholds = PRESETS["subtle"]
    between = (thresholds.unexplained_share + thresholds.unexplained_share_fast) / 2
    assert verdicts(unexplained_share=between) == []
    assert verdicts(unexplained_share=between, large_motion_px=18.0) == [Reason.UNRELIABLE_FLOW]


def test_all_verdicts_are_kept_in_the_order_of_the_rules():
    worst = FilterMeasures(
        cut_correlation=-1.0,
        cut_histogram=1.0,
        light_change=1.0,
        contrast_change=1.0,
        frozen_share=1.0,
        frame_rate=1.0,
        longest_gap_s=9.0,
        believed_share=1.0,
        mean_motion_px=99.0,
        moving_share=1.0,
        sway_px=99.0,
        large_motion_px=99.0,
        camera_share=1.0,
        trend_share=1.0,
        drift_px=99.0,
        reversing_share=0.0,
        passing_share=1.0,
        moving_confidence=0.0,
        unexplained_share=2.0,
        inconsistent_share=1.0,
    )
    assert judge(worst, PRESETS["subtle"]) == [
        reason for reason in RULES if reason != Reason.NO_MOTION
    ]
    assert judge(worst, PRESETS["none"]) == []


def test_the_papers_rules_reject_a_mean_under_one_pixel_and_subtle_keeps_it():
    assert verdicts("paper", mean_motion_px=0.4) == [Reason.NO_MOTION]
    assert verdicts("subtle", mean_motion_px=0.4) == []


def test_the_papers_rules_take_motion_everywhere_for_the_camera_and_nothing_else():
    assert verdicts("paper", moving_share=0.99) == [Reason.CAMERA_MOTION]
    assert verdicts("paper", camera_share=1.0, passing_share=1.0, moving_confidence=0.0) == []


def test_every_rule_can_be_switched_off():
    """The shortest drift alone is a number: its rule is off if the share of the trend is."""
    kept = {"drift_px", "reversing_share"}
    off = {name: value for name, value in asdict(PRESETS["none"]).items() if name not in kept}
    assert {abs(value) for value in off.values()} == {inf}


@pytest.mark.parametrize("field", fields(Thresholds), ids=lambda field: field.name)
def test_a_threshold_that_is_no_number_is_refused(field):
    with pytest.raises(ValueError, match=f"{field.name} is nan, expected a number"):
        Thresholds(**{field.name: nan})
