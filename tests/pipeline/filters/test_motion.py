"""The measures of displacements, against paths whose amplitude, trend and turns are known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.filters import PRESETS, judge
from pipeline.filters.lines import trend
from pipeline.filters.motion import measure_motion
from pipeline.flow.consistency import BELIEVED
from pipeline.motion.spectrum import GRID_STEP
from schemas.outcome import FilterMeasures, Reason
from tests.support.datasets import PASSING_MEASURES

T = 150
TIMES = np.arange(T) / 30
ROWS, COLUMNS = 20, 32


def measure(field: np.ndarray, confidence: np.ndarray | int = 255) -> dict[str, float]:
    """Measures of a motion texture [T, 2, h, w] on the grid, whose confidence [h, w] is given."""
    certain = np.broadcast_to(np.uint8(confidence), field.shape[2:])
    weight = np.hypot(field[:, 0], field[:, 1]).mean(axis=0)
    fine, coarse = (
        np.repeat(np.repeat(each, GRID_STEP, 0), GRID_STEP, 1) for each in (weight, certain)
    )
    return measure_motion(fine, field, np.ascontiguousarray(coarse))


def verdicts(field: np.ndarray) -> list[Reason]:
    """Verdicts of the default preset on a window that moves so and is sound otherwise."""
    sound = FilterMeasures(**PASSING_MEASURES)
    return judge(replace(sound, **measure(field)), PRESETS["subtle"])


def move(path: np.ndarray, rows: slice = slice(10, None)) -> np.ndarray:
    """The motion texture in which these rows, the lower half, follow a path [T] in x."""
    field = np.zeros((T, 2, ROWS, COLUMNS), np.float32)
    field[:, 0, rows] = path[:, None, None]
    return field


def sway(hertz: float, amplitude: float, phase: float = 0.0) -> np.ndarray:
    """The lower half sways, the upper half does not move."""
    angle = 2 * np.pi * hertz * TIMES + phase
    return move(amplitude * (np.cos(angle) - np.cos(phase)))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([0.4, 0.6, 1.0, 2.0]), st.floats(0.3, 12), st.floats(0, 6.28))
def test_the_sway_of_a_sine_is_its_amplitude(hertz, amplitude, phase):
    """Of whole periods, from which a straight line takes little."""
    assert measure(sway(hertz, amplitude, phase))["sway_px"] == pytest.approx(amplitude, rel=0.12)


def test_the_sway_of_a_line_is_none_and_its_drift_its_length():
    measures = measure(move(np.linspace(0, 6, T)))
    assert measures["sway_px"] == pytest.approx(0, abs=1e-2)
    assert measures["drift_px"] == pytest.approx(3, rel=0.01)  # averaged with the still half
    assert measures["trend_share"] == pytest.approx(1, abs=1e-4)


def test_a_lantern_of_one_percent_of_the_picture_decides_the_sway():
    path = 2 * np.sin(2 * np.pi * 0.8 * TIMES)
    field = move(path, slice(19, None))
    field[:, :, :, 12:] = 0
    assert measure(field)["sway_px"] == pytest.approx(2, rel=0.1)
    assert measure(field)["mean_motion_px"] < 0.05


def test_a_sine_turns_back_and_a_line_does_not():
    assert measure(sway(1.0, 2.0))["reversing_share"] == 1
    assert measure(move(np.linspace(0, 6, T)))["reversing_share"] == 0
    assert measure(sway(1.0, 2.0))["passing_share"] == 0
    assert measure(move(np.linspace(0, 6, T)))["passing_share"] == 0


def test_energy_decides_what_share_turns_back():
    """The half that goes away has nine times the energy of the half that sways."""
    field = sway(1.0, 1.0)
    line = np.linspace(-1, 1, T)
    field[:, 0, :10] = (line * 3 * np.sqrt(0.5) / line.std())[:, None, None]
    energies = np.square(field - field.mean(axis=0)).sum(axis=(0, 1, 3))
    assert energies[0] == pytest.approx(9 * energies[-1], rel=0.1)
    # what moves most counts alone: the sway has a third of its amplitude
    assert measure(field)["reversing_share"] == 0
    field[:, 0, :10] *= np.float32(0.6)
    assert measure(field)["reversing_share"] == pytest.approx(1 / (1 + 9 * 0.36), abs=0.05)


@settings(deadline=None, max_examples=30)
@given(st.integers(25, 125), st.floats(2, 4), st.floats(-9, 9).filter(lambda px: abs(px) > 1))
def test_one_short_pulse_passes(center, width, size):
    pulse = size * np.exp(-np.square((np.arange(T) - center) / width) / 2)
    measures = measure(move(pulse))
    assert (measures["passing_share"], measures["reversing_share"]) == (1, 0)
    assert Reason.PASSING in verdicts(move(pulse))


@pytest.mark.parametrize("hertz", [0.2, 0.3, 0.4, 1.0, 2.6])
@pytest.mark.parametrize("phase", [0.0, np.pi / 4, np.pi / 2, 2.0])
def test_sway_is_no_drift_whatever_its_phase(hertz, phase):
    assert Reason.DRIFT not in verdicts(sway(hertz, 2.0, phase))


def test_growth_is_a_drift_also_under_sway():
    field = sway(0.6, 0.5)
    field[:, 1] -= np.linspace(0, 6, T)[:, None, None].astype(np.float32)
    measures = measure(field)
    assert measures["drift_px"] == pytest.approx(6, rel=0.05)
    assert Reason.DRIFT in verdicts(field)


@given(st.floats(0.01, 20), st.floats(-3, 3))
def test_the_share_of_a_trend_is_the_share_of_energy(size, slope):
    rng = np.random.default_rng(0)
    line = slope * np.linspace(-1, 1, T)
    noise = rng.normal(0, size, T)
    design = np.stack([np.ones(T), np.linspace(-1, 1, T)], axis=1)
    total = line + noise
    residual = total - design @ np.linalg.lstsq(design, total, rcond=None)[0]
    share, _ = trend(np.broadcast_to(total[:, None, None], (T, 2, 1)).astype(np.float32))
    assert share == pytest.approx(1 - residual.var() / total.var(), abs=1e-4)


def test_a_still_motion_texture_has_no_trend():
    assert trend(np.zeros((T, 2, 12), np.float32)) == (0.0, 0.0)


def test_a_still_picture_has_no_motion_of_any_kind():
    measures = measure(np.zeros((T, 2, ROWS, COLUMNS), np.float32))
    assert measures.pop("believed_share") == measures.pop("moving_confidence") == 1
    assert set(measures.values()) == {0.0}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(-1000, 1000), st.integers(0, BELIEVED - 1))
def test_displacements_that_are_not_believed_change_no_measure(seed, invented, level):
    rng, field = np.random.default_rng(seed), sway(0.8, 2.0)
    doubtful = rng.random((ROWS, COLUMNS)) < 0.5
    confidence = np.where(doubtful, level, 255)
    other = field.copy()
    other[:, :, doubtful] = np.float32(invented) * rng.normal(size=(T, 2, 1)).astype(np.float32)
    assert measure(other, confidence) == measure(field, confidence)


def test_the_confidence_of_what_moves_most_is_that_of_the_pixels_that_do():
    confidence = np.full((ROWS, COLUMNS), 255)
    confidence[10:] = 51
    assert measure(sway(0.8, 2.0), confidence)["moving_confidence"] == pytest.approx(0.2)
    assert measure(sway(0.8, 2.0), confidence)["believed_share"] == 1


def test_next_to_nothing_believed_says_nothing():
    confidence = np.zeros((ROWS, COLUMNS), int)
    confidence[15, :30] = 255
    measures = measure(sway(0.8, 2.0), confidence)
    assert measures["sway_px"] == measures["camera_share"] == measures["passing_share"] == 0
    assert measures["mean_motion_px"] > 1
