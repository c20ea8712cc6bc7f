"""Metrics of motion: each rises when the thing that it measures is damaged, and stays when it is
not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.ndimage import gaussian_filter

from model.evaluate.motion import magnitude_distance, oscillation_share, spatial_coherence
from model.evaluate.spectral import log_spectral_distance, phase_coherence, shape_coherence
from pipeline.motion.spectrum import to_motion, to_spectrum

T, K, H, W = 80, 12, 24, 32
BANDS = np.arange(T // 2 + 1)[:, None, None, None]


def swaying() -> np.ndarray:
    """F [T, 2, H, W] of three smooth shapes that sway between the bands, some pixels far, at rest
    at t = 0.
    """
    rng, t = default_rng(0), np.arange(T)
    shapes = np.stack([gaussian_filter(rng.normal(size=(2, H, W)), (0, 6, 6)) for _ in range(3)])
    courses = np.stack(
        [np.sin(2 * np.pi * cycles * t / T + rng.uniform(0, 6)) for cycles in (2.4, 4.6, 7.3)]
    )
    motion = np.einsum("mt,mcyx->tcyx", courses - courses[:, :1], shapes / shapes.std() / 2)
    return motion.astype(np.float32)


def scrambled(motion: np.ndarray) -> np.ndarray:
    """Every band and pixel at a phase of its own; its power stays."""
    spectrum = to_spectrum(motion, T // 2 + 1)
    phase = default_rng(1).uniform(0, 2 * np.pi, (T // 2 + 1, 1, H, W)) * (
        (BANDS > 0) & (BANDS < T // 2)
    )
    return to_motion(spectrum * np.exp(1j * phase), T).astype(np.float32)


def banded(motion: np.ndarray) -> np.ndarray:
    """Every band and quarter of the picture at a phase of its own, as when bands are drawn one by
    one; neighbours keep together.
    """
    spectrum = to_spectrum(motion, T // 2 + 1)
    phase = default_rng(2).uniform(0, 2 * np.pi, (T // 2 + 1, 1, 2, 2)).repeat(
        H // 2, axis=2
    ).repeat(W // 2, axis=3) * ((BANDS > 0) & (BANDS < T // 2))
    return to_motion(spectrum * np.exp(1j * phase), T).astype(np.float32)


def shuffled(frames: np.ndarray) -> np.ndarray:
    return frames[default_rng(3).permutation(T)]


def drifting(motion: np.ndarray) -> np.ndarray:
    return motion + np.linspace(0, 4, T, dtype=np.float32)[:, None, None, None]


def jittering(motion: np.ndarray) -> np.ndarray:
    """The whole picture shakes from frame to frame."""
    return motion + default_rng(4).normal(size=(T, 2, 1, 1)).astype(np.float32)


def doubled(motion: np.ndarray) -> np.ndarray:
    return 2 * motion


def later(motion: np.ndarray) -> np.ndarray:
    """The same sway from another moment on, periodically: no damage."""
    return np.roll(motion, 7, axis=0)


TRUE = swaying()
POWER = to_spectrum(TRUE, K)


@dataclass
class Metric:
    """How bad a motion is, compared with the true one."""

    badness: Callable[[np.ndarray], float]
    worse: set[Callable]
    """Damages that it is there to see."""
    blind: set[Callable]
    """Damages of something else, at which it stays."""


METRICS = {
    "log spectral distance": Metric(
        lambda motion: float(log_spectral_distance(to_spectrum(motion, K), POWER, T).mean()) / 6,
        {doubled, shuffled, jittering, drifting},
        {scrambled, banded, later},
    ),
    "magnitude distance": Metric(
        lambda motion: magnitude_distance(motion, TRUE),
        {doubled, drifting, jittering},
        {shuffled, later},
    ),
    "spatial coherence": Metric(
        lambda motion: 1 - spatial_coherence(motion), {scrambled}, {doubled, shuffled, later}
    ),
    "phase coherence": Metric(
        lambda motion: 1 - phase_coherence(to_spectrum(motion, K)),
        {scrambled, banded},
        {doubled, later},
    ),
    "shape coherence": Metric(
        lambda motion: 1 - float(shape_coherence(to_spectrum(motion, K)).mean()),
        {scrambled, banded},
        {doubled, later},
    ),
    "oscillation share": Metric(
        lambda motion: 1 - oscillation_share(motion, K), {drifting, jittering, shuffled}, {doubled}
    ),
}
DAMAGES = [doubled, later, scrambled, banded, shuffled, drifting, jittering]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_metric_sees_the_damage_that_it_is_for_and_no_other(name, damage):
    metric = METRICS[name]
    change = metric.badness(damage(TRUE)) - metric.badness(TRUE)
    if damage in metric.worse:
        assert change > 0.1
    elif damage in metric.blind:
        assert abs(change) < 0.02


def test_magnitudes_of_known_distance():
    """All of 3 px against half of 5 and half of 0: (2 + 3) / 2; of as many as there are."""
    three, five = np.zeros((4, 2, 3, 5)), np.zeros((6, 2, 3, 4))
    three[:, 0], five[:3, 0], five[:3, 1] = 3, 3, 4
    assert magnitude_distance(three, five) == magnitude_distance(five, three) == pytest.approx(2.5)
    assert magnitude_distance(five, five[::-1]) == 0


def test_a_spectral_distance_of_known_decibels():
    spectrum = np.full((4, 2, 3, 5), 100 + 0j)
    np.testing.assert_allclose(
        log_spectral_distance(10 * spectrum, spectrum, T), [20, 20, 20], atol=1e-3
    )
    np.testing.assert_allclose(
        log_spectral_distance(spectrum, 10 * spectrum[:, :, :2], T), [20, 20, 20], atol=1e-3
    )


def test_what_stands_still_is_as_far_from_a_sway_as_a_hundredth_of_a_pixel_is():
    """A sway of 1 px is 40 dB over one of 0.01 px, and so is it over rest, where it then is
    counted.
    """
    still, t = np.zeros((T, 2, 3, 5)), np.arange(T)[:, None, None]
    still[:, 0] = np.cos(2 * np.pi * 2 * t / T)
    found = log_spectral_distance(np.zeros((4, 2, 3, 5), complex), to_spectrum(still, 4), T)
    np.testing.assert_allclose(found, [0, 40, 0], atol=1e-3)


def test_coherences_of_known_motions():
    checkered = np.indices((H, W)).sum(axis=0) % 2 * 2.0 - 1
    course = np.sin(np.arange(T))[:, None, None, None]
    assert spatial_coherence(course * np.ones((1, 2, H, W))) == pytest.approx(1)
    assert spatial_coherence(course * checkered[None, None].repeat(2, axis=1)) == pytest.approx(-1)
    assert abs(spatial_coherence(default_rng(0).normal(size=(T, 2, H, W)))) < 0.02
    assert spatial_coherence(np.ones((T, 2, H, W))) == 0
    assert phase_coherence(np.zeros((K, 2, H, W), complex)) == 0


def test_only_the_turn_between_bands_counts():
    """A pixel may have any phase, in every band alike: a travelling wave. With a delay of its own
    half of the pixels turn the other way.
    """
    phase = default_rng(0).uniform(0, 2 * np.pi, (2, H, W))
    wave = np.exp(1j * phase) * np.exp(1j * np.arange(K))[:, None, None, None]
    assert phase_coherence(wave) == pytest.approx(1)
    wave[::2, ..., : W // 4] *= -1
    assert phase_coherence(wave) == pytest.approx(0.5)


def test_phases_may_be_coherent_where_shapes_are_not():
    """Band 1 sways on the left, band 2 mostly on the right, all with the same turn between them."""
    spectrum = np.ones((3, 2, H, W), complex)
    spectrum[1, ..., W // 2 :], spectrum[2, ..., : W // 2] = 0.01, 0.01
    spectrum[2] *= 1j
    assert phase_coherence(spectrum) == pytest.approx(1) and shape_coherence(spectrum)[0] < 0.03


def share_of(course: np.ndarray, frequencies: int = K) -> float:
    return oscillation_share(course[:, None, None, None] * np.ones((1, 2, 3, 5)), frequencies)


def test_oscillation_shares_of_known_motions():
    t = np.arange(T)
    sway = np.sin(2 * np.pi * t / T)
    assert share_of(sway + 7) == pytest.approx(1) and share_of(
        np.cos(2 * np.pi * 5 * t / T)
    ) == pytest.approx(1, abs=0.01)
    assert share_of(t.astype(float)) == pytest.approx(0, abs=1e-9) and share_of(np.ones(T)) == 0
    assert share_of((-1.0) ** t) < 0.01 and share_of(np.sin(2 * np.pi * 20 * t / T)) < 0.01
    # as much energy in a line as in a sway
    line = np.linspace(-1, 1, T)
    assert share_of(
        sway + line * np.sqrt(np.square(sway).sum() / np.square(line).sum())
    ) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: log_spectral_distance(
                np.zeros((1, 2, 3, 5), complex), np.zeros((1, 2, 3, 5), complex), T
            ),
            "there are 1 frequencies, expected at least 2",
        ),
        (
            lambda: phase_coherence(np.zeros((2, 2, 3, 5), complex)),
            "there are 2 frequencies, expected at least 3",
        ),
        (
            lambda: share_of(np.zeros(30), 16),
            "frequencies is 16, expected 2 to 15 for a motion of 30 frames",
        ),
        (
            lambda: share_of(np.zeros(4), 2),
            "expected 2 to 2 for a motion of 4 frames, of which it takes 5 or more",
        ),
    ],
)
def test_too_little_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
