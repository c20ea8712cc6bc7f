"""Measures of predicted motion: known answers, and what they do when the prediction is damaged."""

import numpy as np
import pytest
from numpy.random import default_rng

from model.evaluate.prior.measures import (
    CELL_PX,
    NEIGHBOR_PX,
    RealMotion,
    amplitude_map,
    level_error,
    measure_amplitudes,
    measure_samples,
    spatial_coherence,
    variety,
    where,
)
from pipeline.motion.spectrum import to_spectrum

T, K, H, W = 40, 8, 48, 64
EVERYWHERE = np.ones((H, W), bool)


def swaying(seed: int = 0, part: int = 16) -> np.ndarray:
    """S of parts of `part` x `part` pixels, each of which sways from rest as one, at a frequency,
    with a size and a delay of its own.
    """
    rng, t = default_rng(seed), np.arange(T)[:, None, None]
    cycles, delay = rng.uniform(1, 4, (H // part, W // part)), rng.uniform(0, 6, (2, 3, 4))
    size = np.exp(rng.normal(size=(H // part, W // part)))
    motion = np.stack([size * np.sin(2 * np.pi * cycles * t / T + d) for d in delay], axis=1)
    motion = (motion - motion[:1]).repeat(part, axis=2).repeat(part, axis=3)
    return to_spectrum(motion, K).astype(np.complex64)


def real_motion(believed: np.ndarray = EVERYWHERE) -> RealMotion:
    return RealMotion(spectrum=swaying(), believed=believed, frames=T)


def test_the_real_motion_itself_is_perfect():
    real = real_motion()
    found = measure_samples([real.spectrum, real.spectrum], real)
    assert found["where"] == 1
    perfect = ("level", "spectrum", "spectrum_low", "space", "phase", "rest", "variety")
    assert {found[key] for key in perfect} == {0}


def test_an_amplitude_is_that_of_a_sine_in_pixels():
    t = np.arange(T)[:, None, None, None]
    motion = np.broadcast_to(3 * np.sin(2 * np.pi * 2 * t / T), (T, 2, H, W)) * [[[1]], [[0]]]
    np.testing.assert_allclose(amplitude_map(to_spectrum(motion, K), T), 3, rtol=1e-6)


def test_twice_the_motion_is_log_2_and_6_decibels_and_nothing_else():
    real = real_motion()
    found = measure_samples([2 * real.spectrum], real)
    assert found["where"] == 1
    assert found["level"] == pytest.approx(np.log(2), rel=1e-5)
    assert found["spectrum"] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert (found["space"], found["phase"], found["rest"]) == pytest.approx((0, 0, 0), abs=1e-6)
    assert measure_samples([real.spectrum / 2], real)["level"] == pytest.approx(np.log(2), rel=1e-5)


def test_shuffled_places_are_chance_and_reversed_ones_worse():
    real = real_motion()
    cells = [
        default_rng(seed).permuted(default_rng(0).normal(size=(60, 80))).repeat(CELL_PX, 0)
        for seed in range(40)
    ]
    maps = [part.repeat(CELL_PX, 1)[:H, :W] for part in cells]
    assert np.mean([where(part, real.amplitude, EVERYWHERE) for part in maps]) == pytest.approx(
        0.5, abs=0.05
    )
    assert where(-real.amplitude, real.amplitude, EVERYWHERE) == 0
    assert where(np.zeros((H, W)), real.amplitude, EVERYWHERE) == 0.5


def test_pixels_whose_flow_is_not_believed_count_nowhere():
    believed = EVERYWHERE.copy()
    believed[:, W // 2 :] = False
    real, damaged = real_motion(believed), swaying().copy()
    damaged[:, :, :, W // 2 :] = 1000 * default_rng(1).normal(size=(K, 2, H, W // 2))
    found = measure_samples([damaged], real)
    assert found["where"] == 1
    assert all(found[key] == 0 for key in ("level", "spectrum", "space", "phase", "rest"))
    assert measure_samples([damaged], real_motion())["level"] > 1


def test_a_cell_is_measured_by_its_believed_pixels():
    believed = EVERYWHERE.copy()
    believed[::2] = False
    real, damaged = real_motion(believed), real_motion().amplitude.copy()
    damaged[::2] = 100 - damaged[::2]
    assert (
        where(damaged, real.amplitude, believed) == 1 > where(damaged, real.amplitude, EVERYWHERE)
    )


def test_a_still_picture_has_a_floor_instead_of_infinity():
    found = measure_samples([np.zeros((K, 2, H, W), np.complex64)], real_motion())
    assert all(np.isfinite(value) for value in found.values())
    mean = real_motion().amplitude.mean()
    assert found["level"] == pytest.approx(np.log(mean / 0.01), rel=1e-4)
    assert found["where"] == 0.5 and found["rest_itself"] == 0


def test_the_mean_of_samples_finds_what_each_finds_in_part():
    real = real_motion()
    halves = [real.spectrum * (np.arange(W) % 16 < 8), real.spectrum * (np.arange(W) % 16 >= 8)]
    together, alone = measure_amplitudes(halves, real), measure_samples(halves, real)
    assert together["where"] == 1 > alone["where"]
    assert level_error(2 * real.amplitude, real.amplitude, EVERYWHERE) > 0


def test_coherence_in_space_knows_together_apart_and_against():
    rng = default_rng(0)
    field = rng.normal(size=(K, 2, 1, 1)) + 1j * rng.normal(size=(K, 2, 1, 1))
    assert spatial_coherence(field * np.ones((H, W)), EVERYWHERE) == pytest.approx(1)
    turns = (-1.0) ** (np.add.outer(np.arange(H), np.arange(W)) // NEIGHBOR_PX)
    assert spatial_coherence(field * turns, EVERYWHERE) == pytest.approx(-1)
    noise = rng.normal(size=(K, 2, H, W)) + 1j * rng.normal(size=(K, 2, H, W))
    assert spatial_coherence(noise, EVERYWHERE) == pytest.approx(0, abs=0.02)
    assert spatial_coherence(np.zeros_like(noise), EVERYWHERE) == 0


def test_phases_drawn_anew_damage_what_hangs_together_and_the_rest_at_the_start():
    real = real_motion()
    phases = np.exp(2j * np.pi * default_rng(1).random((K, 1, H, W))).astype(np.complex64)
    phases[0] = 1
    found = measure_samples([real.spectrum * phases], real)
    assert found["level"] == pytest.approx(0, abs=1e-5) == found["spectrum"]
    assert found["space"] > 0.5 and found["phase"] > 0.1 and found["rest"] > 0.2


def test_variety_is_nothing_among_equals_and_the_diagonal_among_strangers():
    a, b = np.zeros((2, K, 2, H, W), np.complex64)
    a[2, 0], b[3, 1] = 5, 7
    assert variety([a, 3 * a, a]) == pytest.approx(0, abs=1e-6)
    assert variety([a, b]) == pytest.approx(np.sqrt(2))
    assert variety([a, 0 * a]) == pytest.approx(1)
