"""Measures of spectral volumes: known answers, and what they do when the thing that they measure is
damaged.
"""

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from model.evaluate.spectral import (
    amplitude_distance,
    initial_motion_ratio,
    normalized_amplitude,
    seam,
    shape_coherence,
)
from pipeline.motion.spectrum import to_spectrum

T, K, H, W = 60, 8, 12, 16
SCALE = np.full((K, 2, 1, 1), 4.0)


def swaying(rng: Generator, cycles: float, parts: int = 6) -> np.ndarray:
    """S of parts side by side, each at rest at t = 0 and swaying at one frequency, with its own
    size and delay.
    """
    t = np.arange(T)
    widths = np.array_split(np.arange(W), parts)
    motion = np.zeros((T, 2, H, W))
    for columns in widths:
        sway = np.sin(2 * np.pi * cycles * t / T + rng.uniform(0, 6)) * rng.uniform(1, 2)
        motion[:, :, :, columns] = (sway - sway[0])[:, None, None, None]
    return to_spectrum(motion, K).astype(np.complex128)


def turned(spectrum: np.ndarray, rng: Generator) -> np.ndarray:
    """Every band and part with a phase of its own, as when bands are drawn one by one."""
    phase = np.repeat(rng.uniform(0, 2 * np.pi, (len(spectrum), 1, 1, W // 2)), 2, axis=-1)
    return spectrum * np.exp(1j * phase * (np.arange(len(spectrum)) > 0)[:, None, None, None])


def test_an_amplitude_is_one_at_the_scale_and_knows_no_phase():
    spectrum = 4.0 * np.exp(1j * default_rng(0).uniform(0, 6, (K, 2, H, W)))
    np.testing.assert_allclose(normalized_amplitude(spectrum, SCALE), 1)
    np.testing.assert_allclose(normalized_amplitude(4 * spectrum, SCALE), 2)


def test_a_distance_is_that_of_numbers():
    a, b = np.full((K, 2, H, W), 1.5), np.full((K, 2, H, W), 0.5)
    assert (
        amplitude_distance(a, a) == 0
        and amplitude_distance(a, b) == amplitude_distance(b, a) == 1
        and amplitude_distance(np.zeros_like(a), a) == 1.5
    )


def test_bands_of_the_same_shape_are_coherent_whatever_their_common_phase():
    shape = default_rng(0).normal(size=(2, H, W)) + 1j * default_rng(1).normal(size=(2, H, W))
    spectrum = (
        shape * np.exp(1j * np.arange(K))[:, None, None, None] * np.arange(K)[:, None, None, None]
    )
    np.testing.assert_allclose(shape_coherence(spectrum), 1)
    apart = np.zeros((3, 2, H, W), complex)
    apart[1, 0], apart[2, 1] = 1, 1
    assert shape_coherence(apart).tolist() == [0]
    apart[2] = 0
    assert shape_coherence(apart).tolist() == [0]


def test_bands_drawn_one_by_one_lose_coherence_and_rest():
    between, whole = swaying(default_rng(0), 2.45), swaying(default_rng(0), 2)
    broken = [turned(spectrum, default_rng(1)) for spectrum in (between, whole)]
    np.testing.assert_allclose(np.abs(broken[0]), np.abs(between))
    assert shape_coherence(broken[0]).mean() < 0.6 < 0.9 < shape_coherence(between).mean()
    assert initial_motion_ratio(whole, T) < 1e-5 and initial_motion_ratio(broken[1], T) > 0.5


def test_a_true_motion_rests_at_the_start():
    motion = default_rng(0).normal(size=(T, 2, H, W))
    motion[0] = 0
    assert initial_motion_ratio(
        to_spectrum(motion, T // 2 + 1).astype(np.complex128), T
    ) == pytest.approx(0, abs=1e-5)
    assert initial_motion_ratio(np.zeros((K, 2, H, W), complex), T) == 0


def test_two_frequencies_have_no_neighbours():
    with pytest.raises(ValueError, match="there are 2 frequencies, expected at least 3"):
        shape_coherence(np.zeros((2, 2, H, W), complex))


def turning(count: int, cycles: float = 1.0) -> list[np.ndarray]:
    """Frames of a sway, every pixel at a phase of its own."""
    phase = default_rng(0).uniform(0, 2 * np.pi, (2, H, W))
    return [np.cos(2 * np.pi * cycles * t / count + phase) for t in range(count)]


def test_a_loop_that_closes_has_a_seam_like_any_other_frame():
    score = seam(iter(turning(40)))
    assert all(value == pytest.approx(1, abs=0.1) for value in score)


def test_a_jump_and_a_stop_are_seen():
    """A quarter turn is missing: the jump is sqrt(2) of the radius, and a step is 2 pi 0.75 / 40 of
    it.
    """
    jump = seam(turning(40, 0.75))
    assert (
        jump.position_typical == pytest.approx(2**0.5 / (2 * np.pi * 0.75 / 40), rel=0.1)
        and jump.velocity > 10
    )
    there_and_back = [np.full((2, H, W), float(x)) for x in (0, 1, 2, 3, 4, 3, 2, 1)]
    assert seam(there_and_back) == pytest.approx((1, 1, 1, 6**0.5), rel=1e-6)


def test_a_seam_of_known_numbers():
    """Positions 0 0 1 1 3: steps 0 1 0 2, at the seam -3; bends 1 -1 2 inside, over it -5 and 3."""
    frames = [np.full((2, 1, 1), float(x)) for x in (0, 0, 1, 1, 3)]
    assert seam(frames) == pytest.approx((1.5, 2.5, 3 / (5 / 4) ** 0.5, 5 / 2**0.5))


def test_what_stands_still_has_no_seam_and_a_jump_from_standing_still_has_no_bound():
    still = [np.zeros((2, H, W))] * 5
    assert seam(still) == (0, 0, 0, 0)
    assert seam([np.ones((2, H, W)), *still]).position < np.inf
    with pytest.raises(ValueError, match="the loop has 3 frames, expected at least 4"):
        seam(still[:3])
    with pytest.raises(ValueError, match="the loop has 0 frames"):
        seam([])
