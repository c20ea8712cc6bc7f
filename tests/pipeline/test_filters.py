"""Each rule rejects the fault that it is named after, on synthetic scenes; no number here comes
from a real clip.
"""

from dataclasses import asdict, replace
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import filters
from pipeline.filters import (
    PRESETS,
    RULES,
    Thresholds,
    compute_frame_delta,
    compute_frame_stats,
    inconsistent_share,
    judge,
    measure_frames,
    trend,
)
from pipeline.flow.consistency import relative_disagreements
from schemas.outcome import FilterMeasures, Reason
from tests.support.videos import make_texture, shift_image

T = 150
SOUND = FilterMeasures(
    cut_correlation=0.99,
    cut_histogram=0.01,
    fade_levels=1.0,
    frozen_share=0.0,
    frame_rate=30.0,
    longest_gap_s=1 / 30,
    mean_motion_px=1.5,
    moving_share=0.3,
    trend_share=0.1,
    drift_px=0.2,
    inconsistent_share=0.05,
)


def frame_measures(images: list[np.ndarray], rate: float = 30.0) -> dict[str, float]:
    stats = [compute_frame_stats(image) for image in images]
    deltas = [compute_frame_delta(a, b) for a, b in pairwise(stats)]
    return measure_frames(stats, deltas, np.arange(len(images)) / rate)


def verdicts(**measures: float) -> list[Reason]:
    """Verdicts on a sound window in which these measures are replaced."""
    return judge(replace(SOUND, **measures), PRESETS["subtle"])


def test_a_sound_window_is_kept_by_every_preset():
    assert all(judge(SOUND, thresholds) == [] for thresholds in PRESETS.values())


def test_a_cut_between_two_scenes_is_a_cut():
    a, b = make_texture(256, 160, 1), make_texture(256, 160, 2)
    assert verdicts(**frame_measures([a] * 10 + [b] * 10))[0] == Reason.CUT


def test_sway_and_noise_of_the_sensor_are_no_cut():
    rng, image = np.random.default_rng(0), make_texture(256, 160)
    images = [
        shift_image(image, 3 * np.sin(i / 3), 0).astype(float) + rng.normal(0, 3, image.shape)
        for i in range(20)
    ]
    assert verdicts(**frame_measures([np.clip(i, 0, 255).astype(np.uint8) for i in images])) == []


def test_fading_to_black_is_a_fade_and_a_passing_cloud_is_not():
    image = make_texture(256, 160).astype(float)
    fade = [(image * level).astype(np.uint8) for level in np.linspace(1, 0.2, 60)]
    cloud = [(image * level).astype(np.uint8) for level in np.linspace(1, 0.93, 60)]
    assert Reason.FADE in verdicts(**frame_measures(fade))
    assert verdicts(**frame_measures(cloud)) == []


@pytest.mark.parametrize("repeats, frozen", [(1, False), (2, False), (3, True), (20, True)])
def test_a_video_shown_twice_a_frame_is_sound_and_three_times_is_frozen(repeats, frozen):
    image = make_texture(128, 80)
    images = [shift_image(image, 0.5 * (i // repeats), 0) for i in range(40)]
    assert (Reason.FROZEN in verdicts(**frame_measures(images))) == frozen


@pytest.mark.parametrize("rate, low", [(6.0, True), (11.0, True), (12.5, False), (24.0, False)])
def test_few_source_frames_are_a_low_frame_rate(rate, low):
    assert (verdicts(frame_rate=rate) == [Reason.LOW_FRAME_RATE]) == low


def test_a_long_gap_is_a_low_frame_rate():
    assert verdicts(longest_gap_s=0.5) == [Reason.LOW_FRAME_RATE]


def motion_of(field: np.ndarray) -> dict[str, float]:
    """Measures of a motion texture [T, 2, h, w]."""
    return filters.measure_motion(np.hypot(field[:, 0], field[:, 1]).mean(axis=0), field)


def sway(hertz: float, amplitude: float, phase: float = 0.0) -> np.ndarray:
    """The lower half sways, the upper half does not move."""
    angle = 2 * np.pi * hertz * np.arange(T) / 30 + phase
    field = np.zeros((T, 2, 20, 32), np.float32)
    field[:, 0, 10:] = (amplitude * (np.cos(angle) - np.cos(phase)))[:, None, None]
    return field


def test_a_panning_camera_is_camera_motion():
    field = np.zeros((T, 2, 20, 32), np.float32)
    field[:, 0] = 3 * np.sin(np.arange(T) / 4)[:, None, None]
    measures = motion_of(field)
    assert measures["moving_share"] == 1 and Reason.CAMERA_MOTION in verdicts(**measures)
    assert Reason.CAMERA_MOTION not in verdicts(**motion_of(sway(0.8, 3)))


@pytest.mark.parametrize("hertz", [0.2, 0.3, 0.4, 1.0, 2.6])
@pytest.mark.parametrize("phase", [0.0, np.pi / 4, np.pi / 2, 2.0])
def test_sway_is_no_drift_whatever_its_phase(hertz, phase):
    assert Reason.DRIFT not in verdicts(**motion_of(sway(hertz, 2.0, phase)))


def test_growth_is_a_drift_also_under_sway():
    field = sway(0.6, 0.5)
    field[:, 1] -= np.linspace(0, 6, T)[:, None, None].astype(np.float32)
    measures = motion_of(field)
    assert measures["drift_px"] == pytest.approx(6, rel=0.05)
    assert Reason.DRIFT in verdicts(**measures)


@given(st.floats(0.01, 20), st.floats(-3, 3))
def test_the_share_of_a_trend_is_the_share_of_energy(size, slope):
    rng = np.random.default_rng(0)
    line = slope * np.linspace(-1, 1, T)
    noise = rng.normal(0, size, T)
    design = np.stack([np.ones(T), np.linspace(-1, 1, T)], axis=1)
    total = line + noise
    residual = total - design @ np.linalg.lstsq(design, total, rcond=None)[0]
    share, _ = trend(np.broadcast_to(total[:, None, None, None], (T, 2, 1, 1)).astype(np.float32))
    assert share == pytest.approx(1 - residual.var() / total.var(), abs=1e-4)


def test_a_still_motion_texture_has_no_trend():
    assert trend(np.zeros((T, 2, 3, 4), np.float32)) == (0.0, 0.0)


def test_flow_that_comes_back_is_consistent_and_flow_that_does_not_is_not():
    def share(*pairs: tuple[np.ndarray, np.ndarray]) -> float:
        return inconsistent_share(relative_disagreements(pairs))

    forward = np.zeros((2, 40, 64), np.float32)
    forward[0] = 2.0
    wrong = -forward
    wrong[0, :, 32:] = 1.0
    assert share((forward, -forward)) == 0.0
    assert share((forward, wrong)) == pytest.approx(0.5, abs=0.05)
    assert share((forward, -forward), (forward, wrong)) == pytest.approx(0.25, abs=0.03)
    assert share((forward + 100, wrong)) == 1.0
    assert verdicts(inconsistent_share=0.5) == [Reason.UNRELIABLE_FLOW]


def test_all_verdicts_are_kept_in_the_order_of_the_rules():
    worst = FilterMeasures(
        cut_correlation=-1.0,
        cut_histogram=1.0,
        fade_levels=255.0,
        frozen_share=1.0,
        frame_rate=1.0,
        longest_gap_s=9.0,
        mean_motion_px=99.0,
        moving_share=1.0,
        trend_share=1.0,
        drift_px=99.0,
        inconsistent_share=1.0,
    )
    assert judge(worst, PRESETS["subtle"]) == [
        reason for reason in RULES if reason != Reason.NO_MOTION
    ]
    assert judge(worst, PRESETS["none"]) == []


def test_the_papers_rules_reject_a_mean_under_one_pixel_and_subtle_keeps_it():
    small = replace(SOUND, mean_motion_px=0.4)
    assert judge(small, PRESETS["paper"]) == [Reason.NO_MOTION]
    assert judge(small, PRESETS["subtle"]) == []


def test_every_threshold_can_be_switched_off():
    assert {abs(value) for value in asdict(PRESETS["none"]).values()} - {inf} <= {
        Thresholds().drift_px
    }
