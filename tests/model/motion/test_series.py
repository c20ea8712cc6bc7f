"""Motion at any time, magnified, past its window and in loops: closed forms, energies and seams."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.random import default_rng

from model.evaluate.spectral import seam
from model.motion.series import (
    MotionSeries,
    crossfade_loop,
    energy,
    extrapolate,
    magnify,
    mean_magnitude,
    motion_at,
    parseval_energy,
    snap_loop,
    start_at_rest,
    sum_in_phase,
    to_series,
)
from model.motion.sinusoids import phasor_sum
from pipeline.dataset.shards import read_sample
from pipeline.motion.spectrum import to_motion, to_spectrum
from schemas.sample import channels_to_complex
from tests.support.datasets import write_dataset

T, FPS, K, H, W = 150, 30.0, 16, 6, 8
WINDOW = np.arange(T) / FPS


def drawn(seed: int = 0, frequencies: int = K) -> np.ndarray:
    """Coefficients that fall with frequency, real at 0."""
    rng = default_rng(seed)
    spectrum = rng.normal(size=(frequencies, 2, H, W)) + 1j * rng.normal(
        size=(frequencies, 2, H, W)
    )
    spectrum[0] = spectrum[0].real
    return spectrum * (T / (1 + np.arange(frequencies)))[:, None, None, None]


def sway(hz: float, seed: int = 0):
    """F(t) of one frequency, with a size and a phase for each pixel, and the mean."""
    rng = default_rng(seed)
    amplitude = rng.normal(size=(2, H, W)) + 1j * rng.normal(size=(2, H, W))
    mean = rng.normal(size=(2, H, W))
    return lambda times: (
        mean + (amplitude * np.exp(2j * np.pi * hz * np.asarray(times)[:, None, None, None])).real
    )


def recorded(*motions) -> np.ndarray:
    """The first K coefficients of a sum of motions."""
    return to_spectrum(sum(motion(WINDOW) for motion in motions), K)


def deviation(found: np.ndarray, true: np.ndarray) -> float:
    """Root mean square of the error over that of the true motion about its mean."""
    return float(
        np.sqrt(np.square(found - true).mean() / np.square(true - true.mean(axis=0)).mean())
    )


@pytest.mark.parametrize(("time", "frequencies"), [(150, 16), (150, 76), (33, 17), (8, 1)])
def test_whole_frames_are_those_of_the_inverse_transform(time, frequencies):
    spectrum = drawn(frequencies=frequencies)
    found = motion_at(to_series(spectrum, time, FPS), np.arange(time) / FPS)
    np.testing.assert_allclose(
        found, to_motion(spectrum, time), atol=2e-5 * float(np.abs(found).max())
    )


@pytest.mark.slow
@pytest.mark.parametrize(("time", "frequencies"), [(2, 2), (5, 3), (16, 9), (31, 16), (32, 17)])
def test_between_the_frames_of_a_window_with_all_its_bands_nothing_moves_much_further_than_in_them(
    time, frequencies
):
    """A wave of half the frame rate is 0 in every frame where its sine is, and must not be
    invented.
    """
    for seed in range(5):
        spectrum = drawn(seed, frequencies)
        spectrum[-1] = spectrum[-1].real if time % 2 == 0 else spectrum[-1]
        recorded, free = to_series(spectrum, time, FPS), extrapolate(spectrum, time, FPS)
        assert np.abs(free.waves).max() < 4 * np.abs(recorded.waves).max()


def test_frames_between_are_the_closed_form():
    wave, times = sway(0.6), np.array([0.01, 0.517, 3.3333, 12.0, -0.7])
    np.testing.assert_allclose(
        motion_at(to_series(recorded(wave), T, FPS), times), wave(times), atol=1e-5
    )


def test_a_frame_is_drawn_at_a_time():
    series = to_series(drawn(), T, FPS)
    frames = series.frames(iter(WINDOW))
    np.testing.assert_array_equal(next(frames), series.at(0.0))
    np.testing.assert_array_equal(next(frames), series.at(1 / FPS))


@pytest.mark.parametrize("hz", [0.37, 0.5, 0.9, 1.3, 1.77, 2.5])
def test_a_sway_between_bands_goes_on_past_the_window_at_its_frequency_and_phase(hz):
    """K bands have 96 % of its energy at worst, and yet the motion is known to 1 % eleven windows
    later. As it was recorded it would repeat.
    """
    wave, later = sway(hz), np.arange(11 * T, 12 * T) / FPS
    series = extrapolate(recorded(wave), T, FPS)
    assert series.hz[0] == pytest.approx(hz, abs=1e-4)
    for times in (WINDOW, later):
        assert deviation(motion_at(series, times), wave(times)) < 0.01
    assert deviation(motion_at(to_series(recorded(wave), T, FPS), later), wave(later)) > 0.2


def test_two_sways_go_on_each_at_its_own():
    one, other, later = sway(0.71, 1), sway(1.48, 2), np.arange(2 * T, 3 * T) / FPS
    series = extrapolate(recorded(one, other), T, FPS)
    assert sorted(series.hz[:2]) == pytest.approx([0.71, 1.48], abs=0.01)
    assert deviation(motion_at(series, later), one(later) + other(later)) < 0.1


def test_what_moves_does_not_repeat_and_keeps_its_energy():
    spectrum = recorded(sway(0.71, 1), sway(1.48, 2), sway(2.33, 3))
    series, later = extrapolate(spectrum, T, FPS), np.arange(T, 4 * T) / FPS
    assert deviation(motion_at(series, WINDOW + T / FPS), motion_at(series, WINDOW)) > 0.5
    assert energy(series, later) == pytest.approx(
        energy(to_series(spectrum, T, FPS), WINDOW), rel=0.1
    )


def test_drift_becomes_a_slow_sway():
    series = extrapolate(
        to_spectrum(np.linspace(0, 3, T)[:, None, None, None] * np.ones((2, H, W)), K), T, FPS
    )
    assert series.hz[0] == pytest.approx(0.1)
    assert np.abs(motion_at(series, np.arange(5 * T) / FPS)).max() < 4


def test_bands_on_their_own_stay_as_they_are():
    """Waves of whole cycles are in one band each, and repeat."""
    one, other, later = sway(0.4, 1), sway(1.0, 2), np.arange(T, 2 * T) / FPS
    series = extrapolate(recorded(one, other), T, FPS)
    assert sorted(series.hz[:2]) == pytest.approx([0.4, 1.0], abs=2e-3)
    assert deviation(motion_at(series, later), one(later) + other(later)) < 0.05


LOOPS = {
    "snap": lambda spectrum, period: snap_loop(spectrum, T, FPS, period),
    "crossfade": lambda spectrum, period: crossfade_loop(
        spectrum, T, FPS, period, min(1.0, period / 2)
    ),
}
PERIODS = [1.5, 2.5, 4.0, 5.0, 7.3, 20.0]
MOTIONS = {
    "between": lambda: recorded(sway(0.71, 1), sway(1.48, 2), sway(2.33, 3)),
    "any": drawn,
    "slow": lambda: recorded(sway(0.1, 1), sway(0.37, 2)),
}


@pytest.mark.sample(11)
@pytest.mark.slow
@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("way", LOOPS)
def test_a_loop_closes_keeps_its_energy_and_has_no_seam(way, period, motion):
    spectrum = MOTIONS[motion]()
    loop = LOOPS[way](spectrum, period)
    turn = np.arange(round(period * FPS)) / FPS
    frames = motion_at(loop, turn)
    scale = float(np.abs(frames).max())
    for time in (0.0, 0.317, period - 0.01):
        np.testing.assert_allclose(loop.at(time + period), loop.at(time), atol=1e-5 * scale)
        np.testing.assert_allclose(slope(loop, time + period), slope(loop, time), atol=2e-3 * scale)
    measured = np.square(frames - frames.mean(axis=0)).mean(axis=0).sum(axis=0).mean()
    assert energy(loop, turn) == pytest.approx(float(measured), rel=1e-4)
    assert measured == pytest.approx(energy(to_series(spectrum, T, FPS), WINDOW), rel=0.1)
    score = seam(frames)
    assert score.position < 1.05 and score.velocity < 1.05


def slope(series: MotionSeries, time: float) -> np.ndarray:
    """dF/dt, by differences."""
    return (series.at(time + 1e-2) - series.at(time - 1e-2)) / 2e-2


def test_the_recorded_motion_rushes_where_these_loops_do_not():
    wave = sway(0.5)
    rushing, snapped = (
        seam(motion_at(loop, WINDOW))
        for loop in (to_series(recorded(wave), T, FPS), snap_loop(recorded(wave), T, FPS, 5.0))
    )
    assert (
        rushing.position_typical > 3 > 1.5 > snapped.position_typical
        and rushing.velocity_typical > 1.5 > snapped.velocity_typical
    )


def test_snap_turns_every_wave_a_whole_number_of_times_and_at_least_once():
    loop = snap_loop(recorded(sway(0.12, 1), sway(0.71, 2), sway(1.48, 3)), T, FPS, 3.0)
    cycles = loop.hz * 3
    np.testing.assert_allclose(cycles, np.rint(cycles))
    assert (
        cycles.min() == 1
        and len(set(cycles)) == len(cycles)
        and {1, 2, 4} <= set(np.rint(cycles).astype(int))
    )
    powers = np.square(np.abs(loop.waves)).sum(axis=(1, 2, 3))
    assert set(cycles[np.argsort(-powers)[:3]].round().astype(int)) <= {1, 2, 4}


def test_waves_that_meet_do_not_cancel():
    """Two sways of opposite sign that both turn once a loop, beside one that turns twice: each
    turning has the energy that it had.
    """
    pairs = [(0.8, 1.0), (1.2, -1.0), (2.0, 0.5)]
    shapes = default_rng(0).normal(size=(3, 2, H, W))
    shapes[1] = shapes[0]
    motion = sum(
        size * np.sin(2 * np.pi * hz * WINDOW)[:, None, None, None] * shape
        for (hz, size), shape in zip(pairs, shapes, strict=True)
    )
    loop = snap_loop(to_spectrum(motion, K), T, FPS, 1.0)
    powers = dict(zip(loop.hz, np.square(np.abs(loop.waves)).sum(axis=(1, 2, 3)), strict=True))
    assert powers[1.0] == pytest.approx(2 * np.square(shapes[0]).sum(), rel=0.03)
    assert powers[2.0] == pytest.approx(0.25 * np.square(shapes[2]).sum(), rel=0.03)


def test_waves_are_added_in_step_with_their_energy():
    rng = default_rng(0)
    wave = (rng.normal(size=(2, H, W)) + 1j * rng.normal(size=(2, H, W))).astype(np.complex64)
    np.testing.assert_allclose(sum_in_phase(np.stack([wave, 0.75j * wave])), 1.25 * wave, rtol=1e-5)
    np.testing.assert_allclose(sum_in_phase(np.stack([-0.75 * wave, wave])), 1.25 * wave, rtol=1e-5)
    np.testing.assert_allclose(sum_in_phase(wave[None]), wave, rtol=1e-6)
    assert not sum_in_phase(np.stack([0 * wave, 0 * wave])).any()


def test_a_crossfade_is_the_motion_itself_after_the_blend():
    spectrum = recorded(sway(0.6, 1), sway(1.0, 2))
    loop, plain = crossfade_loop(spectrum, T, FPS, 3.5, 1.0), to_series(spectrum, T, FPS)
    times = np.array([1.0, 2.0, 3.4])
    ratio = (motion_at(loop, times) - loop.mean) / (motion_at(plain, times) - plain.mean)
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-2)
    assert 0.8 < ratio.flat[0] < 1.25
    np.testing.assert_allclose(
        loop.at(0.0) - loop.mean, (plain.at(3.5) - plain.mean) * ratio.flat[0], atol=1e-4
    )


def test_the_mean_magnitude_is_that_of_the_frames():
    motion = to_motion(drawn(), T)
    np.testing.assert_allclose(
        mean_magnitude(to_series(drawn(), T, FPS), WINDOW),
        np.hypot(motion[:, 0], motion[:, 1]).mean(axis=0),
        rtol=1e-4,
    )


def test_the_photograph_is_where_the_motion_rests():
    loop = snap_loop(drawn(), T, FPS, 4.0)
    rested = start_at_rest(loop)
    assert np.abs(loop.at(0.0)).max() > 0.1
    assert np.abs(rested.at(0.0)).max() < 1e-5 and np.abs(rested.at(4.0)).max() < 1e-5
    np.testing.assert_allclose(
        rested.at(1.3) - rested.at(0.4), loop.at(1.3) - loop.at(0.4), atol=1e-5
    )
    assert np.abs(start_at_rest(loop, 1.3).at(1.3)).max() < 1e-5


def test_magnifying_multiplies_all_or_bands_or_the_mean():
    spectrum = drawn()
    np.testing.assert_allclose(
        to_motion(magnify(spectrum, T, FPS, 2.5), T), 2.5 * to_motion(spectrum, T)
    )
    ranges = magnify(spectrum, T, FPS, 2.0, bands={(0.2, 0.6): 3.0, (2.0, 9.0): 0.0}) / spectrum
    np.testing.assert_allclose(ranges[:, 0, 0, 0], [2, 6, 6, 6, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0])
    each = magnify(spectrum, T, FPS, bands=[float(k) for k in range(K)], mean=-1.0) / spectrum
    np.testing.assert_allclose(each[:, 0, 0, 0], [-1, *range(1, K)])
    assert magnify(spectrum.astype(np.complex64), T, FPS, 2.0).dtype == np.complex64


def test_nothing_that_moves_stays_still():
    still = np.zeros((K, 2, H, W), np.complex64)
    still[0] = T
    for series in (
        extrapolate(still, T, FPS),
        snap_loop(still, T, FPS, 3.0),
        crossfade_loop(still, T, FPS, 3.0, 1.0),
        to_series(still[:1], T, FPS),
    ):
        np.testing.assert_allclose(motion_at(series, np.array([0.0, 1.7])), 1)
    assert snap_loop(still[:1], T, FPS, 3.0).hz.size == 0


def test_mistakes_are_named():
    spectrum = drawn()
    for mistake, match in [
        (lambda: to_series(spectrum, 20, FPS), "frequencies is 16, expected 1 to 11"),
        (lambda: to_series(spectrum, T, 0.0), "fps is 0, expected over 0"),
        (lambda: snap_loop(spectrum, T, FPS, 0.01), "a loop of 0.01 s was asked for"),
        (lambda: snap_loop(spectrum, T, FPS, float("nan")), "a loop of nan s was asked for"),
        (lambda: crossfade_loop(spectrum, T, FPS, 2.0, 0.0), "blend is 0 s"),
        (
            lambda: crossfade_loop(spectrum, T, FPS, 2.0, 2.1),
            "blend is 2.1 s, expected over 0 and at most the loop's 2 s",
        ),
        (
            lambda: magnify(spectrum, T, FPS, bands=[1.0, 2.0]),
            "there are 2 factors, expected one for each of 16",
        ),
        (lambda: magnify(spectrum, T, FPS, float("inf")), "expected finite numbers"),
        (
            lambda: magnify(spectrum, T, FPS, bands={(5.0, 6.0): 2.0}),
            "5 to 6 Hz holds no band of its own, expected a part of 0.2 to 3 Hz",
        ),
        (
            lambda: magnify(spectrum, T, FPS, bands={(0.2, 1.0): 2.0, (1.0, 2.0): 3.0}),
            "1 to 2 Hz holds no band of its own",
        ),
    ]:
        with pytest.raises(ValueError, match=match):
            mistake()


def test_a_stored_sample_loops(tmp_path: Path):
    """Of a data set, 4 coefficients of 24 frames, in float16."""
    dataset = write_dataset(tmp_path / "set", {"train-000000": [{}], "test-000000": [{}]})
    row = pq.read_table(
        dataset.root / "manifest.parquet", filters=[("outcome", "=", "kept")]
    ).to_pylist()[0]
    spectrum = channels_to_complex(
        read_sample(dataset.tar_path(row["shard"]), row["key"], row).spectrum
    )
    loop = snap_loop(spectrum, 24, FPS, 1.5)
    turn = np.arange(45) / FPS
    assert energy(loop, turn) == pytest.approx(
        energy(to_series(spectrum, 24, FPS), np.arange(24) / FPS), rel=0.1
    )
    assert seam(loop.frames(turn)).position < 1.05


@pytest.mark.parametrize("frames", [2, 24, 151])
def test_the_sum_of_a_turning_number_is_that_of_its_frames(frames):
    between = np.linspace(-3, 3, 61) * frames / 7
    cycles = np.concatenate([between, np.arange(-frames, frames + 1), [1e-13, frames - 1e-13, 0.5]])
    expected = np.exp(2j * np.pi * np.outer(cycles, np.arange(frames)) / frames).sum(axis=1)
    np.testing.assert_allclose(phasor_sum(cycles, frames), expected, atol=1e-9 * frames)


def test_the_recorded_energy_is_that_of_the_frames():
    for frames, count in ((24, 13), (24, 12), (25, 13)):
        spectrum = np.random.default_rng(frames).normal(size=(2, count, 2, 3, 4)).astype(np.float32)
        series = to_series(spectrum[0] + 1j * spectrum[1], frames, FPS)
        expected = energy(series, np.arange(frames) / FPS)
        assert parseval_energy(series, frames) == pytest.approx(expected, rel=1e-5)


LONG = [(100_000, 30.0, 4.0), (100_000, 1000.0, 12_000.0), (150, 30.0, 12_000.0)]


@pytest.mark.slow
@pytest.mark.parametrize("frames, fps, period", LONG)
def test_what_is_made_of_a_long_window_takes_no_memory_by_its_frames(frames, fps, period):
    """As much as a short one's: a file says how many frames there were, and none is shown."""
    spectrum = np.random.default_rng(0).normal(size=(16, 2, 8, 8)) * frames * (1 + 1j)
    tracemalloc.start()
    try:
        window = spectrum, frames, fps
        loops = (
            snap_loop(*window, period),
            crossfade_loop(*window, period, period / 4),
            extrapolate(*window),
        )
        assert all(np.isfinite(loop.at(0.5)).all() for loop in loops)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64e6
