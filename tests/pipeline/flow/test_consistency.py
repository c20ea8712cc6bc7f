"""Confidence is high where flow can be known and 0 where it cannot; damping changes only the motion
that cannot be trusted.
"""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.flow.config import FlowConfig
from pipeline.flow.consistency import (
    HALF_CONFIDENCE_TEXTURE,
    REST_WEIGHT,
    TOLERANCE_PX,
    confidence,
    consistency_confidence,
    damp,
    disagreement,
    relative_disagreements,
    texture_confidence,
    texture_strength,
)
from pipeline.flow.estimator import make_estimator
from pipeline.motion.spectrum import to_motion, to_spectrum
from pipeline.synthetic.paint import Y, make_layer, noise
from pipeline.synthetic.render import (
    WORKING_SIZE,
    Mode,
    Scene,
    render_frame,
    true_motion,
    trusted_mask,
    wave,
)

SHAPE = (160, 256)


def paper(contrast: float, seed: int = 0) -> np.ndarray:
    """Gray noise of this standard deviation, smooth over a few pixels."""
    rough = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(SHAPE), (0, 0), 1.5)
    return np.clip(np.rint(128 + contrast * rough / rough.std()), 0, 255).astype(np.uint8)


def uniform(x: float, y: float) -> np.ndarray:
    """The same displacement at every pixel."""
    return np.broadcast_to(np.array([x, y], np.float32)[:, None, None], (2, *SHAPE)).copy()


def volume(seed: int = 0, frequencies: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((frequencies, 2, *SHAPE))
        + 1j * rng.standard_normal((frequencies, 2, *SHAPE))
    ).astype(np.complex64)


def certain(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


def test_consistent_flow_on_texture_is_trusted():
    trust = confidence(paper(30), relative_disagreements([(uniform(2, 1), uniform(-2, -1))]))
    assert trust[8:-8, 8:-8].min() >= 250


@pytest.mark.parametrize(
    "gray",
    [certain(0), certain(200), np.tile(np.linspace(0, 255, 256), (160, 1)).astype(np.uint8)],
    ids=["black", "gray", "ramp"],
)
def test_a_plain_area_is_not_trusted_however_consistent_its_flow(gray):
    assert confidence(gray, relative_disagreements([(uniform(2, 1), uniform(-2, -1))])).max() == 0


def test_a_straight_edge_is_not_trusted_and_its_corner_is():
    gray = certain(50)
    gray[60:, 100:] = 200
    trust = confidence(gray, relative_disagreements([(uniform(0, 0), uniform(0, 0))]))
    assert trust[110, 100] < 5 and trust[60, 100] > 250 and trust[60, 200] < 5


def test_a_few_levels_of_grain_are_hardly_texture():
    grain = np.random.default_rng(0).normal(10, 1.0, SHAPE)
    assert (
        texture_confidence(np.rint(grain).astype(np.uint8)).mean()
        < 0.1
        < 0.9
        < texture_confidence(paper(15)).mean()
    )


@given(st.floats(2, 30))
@settings(max_examples=10, deadline=None)
def test_texture_is_the_gradients_variance(contrast):
    """Both eigenvalues of isotropic noise are the variance of a derivative, on average; the smaller
    is a little less.
    """
    gray = paper(contrast)
    slope = cv2.Sobel(gray, cv2.CV_32F, 1, 0, scale=1 / 8).var()
    assert 0.5 * slope < texture_strength(gray).mean() < slope


def test_texture_of_the_constant_halves_the_confidence():
    strength = texture_strength(paper(8))
    np.testing.assert_allclose(
        texture_confidence(paper(8))[strength > HALF_CONFIDENCE_TEXTURE].min(), 0.5, atol=0.01
    )


def test_inconsistent_flow_is_not_trusted():
    assert (
        confidence(paper(30), relative_disagreements([(uniform(2, 1), uniform(2, 1))])).max() == 0
    )
    at_tolerance = consistency_confidence(
        relative_disagreements([(uniform(1, 0), uniform(-1 - TOLERANCE_PX, 0))])
    )
    np.testing.assert_allclose(at_tolerance[:, :200], np.exp(-1), rtol=1e-5)


def test_disagreement_is_measured_where_the_pixel_went():
    """Motion that grows to the right, F = (0.1 x, 0), is undone by B = (-x / 11, 0)."""
    x = np.broadcast_to(np.arange(256, dtype=np.float32), SHAPE)
    forward, back = (np.stack([field, np.zeros_like(field)]) for field in (x / 10, -x / 11))
    error = disagreement(forward, back)
    assert np.isnan(error[:, 235:]).all() and np.nanmax(error[:, :230]) < 1e-4
    assert np.abs(forward[0] + back[0])[:, :230].max() > 1


def test_a_pixel_that_leaves_the_image_is_judged_by_the_other_pairs_if_there_are_any():
    stays = uniform(0, 0), uniform(0, 0)
    leaves = uniform(1000, 0), uniform(-1000, 0)
    wrong = uniform(0, 0), uniform(50, 0)
    assert (consistency_confidence(relative_disagreements([stays, leaves])) == 1).all()
    np.testing.assert_allclose(
        consistency_confidence(relative_disagreements([stays, leaves, wrong])), 0.5, atol=1e-6
    )
    assert (consistency_confidence(relative_disagreements([leaves])) == 0).all()


def test_no_pair_of_flow_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        confidence(paper(30), relative_disagreements([]))


def test_a_fully_confident_spectrum_keeps_its_bits():
    np.testing.assert_array_equal(damp(volume(), certain(255)), volume())


def test_a_fully_confident_pixel_keeps_its_bits_whatever_is_around_it():
    trust = np.where(np.random.default_rng(1).random(SHAPE) < 0.3, 255, 40).astype(np.uint8)
    np.testing.assert_array_equal(
        damp(volume(), trust)[..., trust == 255], volume()[..., trust == 255]
    )


def test_a_spectrum_without_any_confidence_comes_to_rest():
    assert not damp(volume(), certain(0)).any()


def test_a_hole_amid_confident_motion_is_filled_by_it():
    trust, field = certain(255), np.full((1, 2, *SHAPE), 3 - 4j, np.complex64)
    trust[70:80, 120:130], field[..., 70:80, 120:130] = 0, 100
    filled = damp(field, trust)[..., 70:80, 120:130]
    np.testing.assert_allclose(filled, (3 - 4j), rtol=1.5 * REST_WEIGHT)


def test_far_from_confident_motion_there_is_none():
    trust, field = certain(0), np.full((1, 2, *SHAPE), 5, np.complex64)
    trust[:, :60] = 255
    damped = np.abs(damp(field, trust))[0, 0, 80]
    assert damped[62] > 4 and damped[100] < 0.05 and (np.diff(damped) < 1e-6).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.complex128])
def test_planes_of_any_precision_are_damped_alike(kind):
    trust = np.random.default_rng(4).integers(0, 256, SHAPE, np.uint8)
    planes = volume().real.astype(kind)
    damped = damp(planes, trust)
    assert damped.dtype == kind
    np.testing.assert_allclose(damped, damp(volume(), trust).real, atol=1e-5)


@given(st.integers(0, 9), st.floats(-3, 3))
@settings(max_examples=10, deadline=None)
def test_damping_is_linear(seed, factor):
    a, b, factor = volume(seed), volume(seed + 1), np.complex64(factor)
    trust = np.random.default_rng(seed).integers(0, 256, SHAPE, np.uint8)
    damped = damp(a + factor * b, trust)
    np.testing.assert_allclose(damped, damp(a, trust) + factor * damp(b, trust), atol=1e-4)


def test_a_damped_spectrum_is_the_spectrum_of_the_damped_motion_and_w_bounds_its_w():
    motion = to_motion(volume(2), 30).astype(np.float32)
    trust = np.random.default_rng(3).integers(0, 256, SHAPE, np.uint8)
    damped = damp(motion, trust)
    np.testing.assert_allclose(
        damp(to_spectrum(motion, 3).astype(np.complex64), trust),
        to_spectrum(damped, 3),
        atol=1e-4,
    )
    weight, bound = (np.hypot(*f.swapaxes(0, 1)).mean(axis=0) for f in (damped, motion))
    assert (weight <= damp(bound, trust) + 1e-6).all()


@pytest.mark.parametrize("shape", [(37, 51), (32, 32), (161, 255)])
def test_any_size_will_do(shape):
    field, trust = np.ones((1, 2, *shape), np.complex64), np.zeros(shape, np.uint8)
    trust[:, : shape[1] // 2] = 255
    damped = damp(field, trust)
    assert damped.shape == field.shape and np.abs(damped).max() < 1.001
    assert (damped[..., : shape[1] // 2] == 1).all()


def test_on_a_scene_before_a_plain_sky_damping_halves_the_error_of_the_sky_and_spares_the_rest():
    """A painted hill sways before a still sky with camera noise; DIS makes the sky sway."""
    rng = np.random.default_rng(0)
    sky = make_layer(np.full((*Y.shape, 3), (150, 170, 200), np.float32), 1.0)
    sway = Mode(
        shape=wave(direction=(0.9, 0.44), cycles=(0.5, 0.0)), amplitude_px=2.5, frequency_hz=0.6
    )
    hill = make_layer(
        np.clip(110 + 35 * noise(rng, 16, 4, 0.9), 0, 255)[..., None] * np.ones(3),
        np.clip((Y - 0.4) * 300, 0, 1),
        (sway,),
    )
    scene, times = Scene(layers=(sky, hill), grain=4.0), np.arange(0, 5, 0.25)
    estimator = make_estimator(FlowConfig())
    frames = estimator.prepare([render_frame(scene, t, WORKING_SIZE) for t in times])
    forward = estimator.displace([(frames[0], frame) for frame in frames])
    back = estimator.displace([(frame, frames[0]) for frame in frames[5::5]])
    trust = confidence(
        frames[0], relative_disagreements(list(zip(forward[5::5], back, strict=True)))
    )
    true = true_motion(scene, 0.0, times)
    valid = trusted_mask(scene, 0.0, true, times)
    raw, damped = (
        np.hypot(*(f - true).swapaxes(0, 1)).mean(axis=0) for f in (forward, damp(forward, trust))
    )
    bare = np.hypot(*true[5]) == 0
    assert damped[valid & bare].mean() < 0.5 * raw[valid & bare].mean()
    assert damped[valid & ~bare].mean() < 1.02 * raw[valid & ~bare].mean()
