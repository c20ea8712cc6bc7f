"""Interactive dynamics: frequencies, decay and exactness of the oscillators, and what a hand and
the wind do to a picture.
"""

import numpy as np
import pytest
from numpy.random import default_rng

from model.motion.modal import (
    Modes,
    State,
    depth_from_weight,
    displacement,
    drag,
    euler_step,
    exact_step,
    impulse,
    make_wind,
    mode_energy,
    propagator,
    rest_state,
    to_modes,
)

T, FPS, K, H, W = 150, 30.0, 16, 8, 10
P = (2, 3)


def spectrum(seed: int = 0) -> np.ndarray:
    """Coefficients that fall with frequency; nothing moves in the last two columns."""
    rng = default_rng(seed)
    drawn = (rng.normal(size=(K, 2, H, W)) + 1j * rng.normal(size=(K, 2, H, W))) * (
        T / (1 + np.arange(K))
    )[:, None, None, None]
    drawn[..., -2:] = 0
    return drawn.astype(np.complex64)


def any_state(modes: Modes, seed: int = 1) -> State:
    rng = default_rng(seed)
    q, v = rng.normal(size=(2, len(modes.omega), 2)) @ np.array([1, 1j])
    return State(q, v * modes.omega)


def frequency(signal: np.ndarray, seconds: float) -> float:
    """Hz of the peak of a long signal's spectrum, between its bins by a parabola through the
    logarithms under a smooth window.
    """
    power = np.log(np.abs(np.fft.rfft(signal * np.hanning(len(signal)), 8 * len(signal))) + 1e-300)
    peak = int(power.argmax())
    left, middle, right = power[peak - 1 : peak + 2]
    return (peak + 0.5 * (left - right) / (left - 2 * middle + right)) / (8 * seconds)


def followed(modes: Modes, state: State, count: int, dt: float, by=exact_step) -> np.ndarray:
    """q at 0, dt, ..."""
    found = []
    for _ in range(count):
        found.append(state.q)
        state = by(modes, state, dt)
    return np.array(found)


def test_undamped_modes_sway_at_their_bands():
    modes = to_modes(spectrum(), T, FPS, alpha=0.0, beta=0.0)
    q = followed(modes, State(np.ones(K - 1) + 0j, np.zeros(K - 1) + 0j), 3000, 1 / 30)
    for k in range(1, K):
        assert frequency(q[:, k - 1].real, 100.0) == pytest.approx(0.2 * k, rel=0.01)


@pytest.mark.parametrize("damping", [None, 0.4, 1.6])
def test_damped_modes_sway_slower_by_the_rule(damping):
    """sqrt(omega^2 - gamma^2 / 4) / 2 pi. The decay is divided out, so that the peak of what is
    left is the sway's alone.
    """
    modes = to_modes(spectrum(), T, FPS, damping=None if damping is None else [damping] * (K - 1))
    expected = np.sqrt(modes.omega**2 - modes.gamma**2 / 4) / (2 * np.pi)
    q = followed(modes, any_state(modes), 2000, 0.01)
    for j in range(K - 1):
        assert frequency(
            q[:, j].real * np.exp(modes.gamma[j] / 2 * 0.01 * np.arange(2000)), 20.0
        ) == pytest.approx(expected[j], rel=0.01)
    if damping is None:
        np.testing.assert_allclose(modes.gamma, 0.4 + 0.08 * modes.omega**2)


DAMPINGS = {"none": 0.0, "under": 1.0, "critical": None, "over": 60.0, "far over": 1e4}


@pytest.mark.parametrize("damping", DAMPINGS)
def test_energy_never_grows_without_a_force(damping):
    plain = to_modes(spectrum(), T, FPS)
    gamma = 2 * plain.omega if DAMPINGS[damping] is None else np.full(K - 1, DAMPINGS[damping])
    modes = to_modes(spectrum(), T, FPS, damping=gamma.tolist())
    for dt in (1e-3, 1 / 60, 0.5, 10.0, 1e6):
        state = any_state(modes)
        for _ in range(20):
            after = exact_step(modes, state, dt)
            assert (mode_energy(modes, after) <= mode_energy(modes, state) * (1 + 1e-9)).all()
            state = after
        assert np.isfinite(state.q).all()


@pytest.mark.parametrize("damping", DAMPINGS)
def test_a_step_of_a_second_is_a_thousand_of_a_millisecond(damping):
    plain = to_modes(spectrum(), T, FPS)
    gamma = 2 * plain.omega if DAMPINGS[damping] is None else np.full(K - 1, DAMPINGS[damping])
    modes, force = (
        to_modes(spectrum(), T, FPS, damping=gamma.tolist()),
        np.linspace(1, 9, K - 1) * (1 - 0.5j),
    )
    once = state = any_state(modes)
    once = exact_step(modes, once, 1.0, force)
    for _ in range(1000):
        state = exact_step(modes, state, 1e-3, force)
    np.testing.assert_allclose(state.q, once.q, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(state.velocity, once.velocity, rtol=1e-5, atol=1e-7)


def test_a_step_is_the_solution():
    """By the equation itself: at a force held long enough a mode comes to rest at f / omega^2, and
    meanwhile q'' is what the equation says.
    """
    modes, force = to_modes(spectrum(), T, FPS), np.linspace(1, 9, K - 1) * (1 - 0.5j)
    np.testing.assert_allclose(
        exact_step(modes, any_state(modes), 1e4, force).q, force / modes.omega**2
    )
    h, state = 1e-4, any_state(modes)
    before, here, after = (exact_step(modes, state, 0.3 + d, force) for d in (-h, 0.0, h))
    np.testing.assert_allclose((after.q - before.q) / (2 * h), here.velocity, rtol=1e-4, atol=1e-5)
    expected = force - modes.gamma * here.velocity - modes.omega**2 * here.q
    np.testing.assert_allclose(
        (after.velocity - before.velocity) / (2 * h), expected, rtol=1e-4, atol=1e-4
    )


def test_the_critical_limit_is_continuous():
    omega = np.full(7, 5.0)
    for seconds in (0.01, 0.3, 5.0):
        near = propagator(
            omega, 10 * (1 + np.array([-1e-7, -1e-10, -1e-14, 0, 1e-14, 1e-10, 1e-7])), seconds
        )
        decay, sine, cosine = near
        at = np.array([decay * sine, decay * cosine])
        np.testing.assert_allclose(
            at, np.exp(-5 * seconds) * np.array([[seconds], [1.0]]) * np.ones(7), rtol=1e-4
        )


def test_euler_comes_near_to_the_solution_and_bursts_where_that_does_not():
    modes = to_modes(spectrum(), T, FPS)
    exact = exact_step(modes, any_state(modes), 1.0).q
    errors = []
    for steps in (100, 1000, 10000):
        q = followed(modes, any_state(modes), steps + 1, 1 / steps, euler_step)[-1]
        errors.append(np.abs(q - exact).max())
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[2] < 0.01
    limit = (np.sqrt(modes.gamma**2 + 4 * modes.omega**2) - modes.gamma) / modes.omega**2
    for share, bursts in ((0.98, False), (1.02, True)):
        q = followed(modes, any_state(modes), 2000, share * float(limit.min()), euler_step)
        assert bool(np.abs(q[-1]).max() > 1e3) is bursts
    assert (
        np.abs(followed(modes, any_state(modes), 2000, 1.02 * float(limit.min()))[-1]).max() < 1e-9
    )


@pytest.mark.parametrize("wanted", [(3.0, 0.0), (0.0, -2.0), (1.5, 4.0)])
def test_the_pulled_point_follows_the_pointer(wanted):
    modes = to_modes(spectrum(), T, FPS)
    state = drag(modes, *P, np.array(wanted))
    moved = displacement(modes, state)
    np.testing.assert_allclose(moved[:, *P], wanted, atol=1e-9)
    assert np.abs(moved).max() == pytest.approx(np.linalg.norm(wanted), rel=1.0)
    assert (state.velocity == 0).all()


def test_a_pull_has_the_paper_s_magnitudes_and_phases_along_a_line():
    """Where a point moves along one direction d: |q| proportional to |d . S|, phase -arg(d . S)."""
    volume, d = spectrum(), np.array([0.6, 0.8])
    along = volume[:, 0, 2, 3].copy()
    volume[:, :, 2, 3] = along[:, None] * d
    q = drag(to_modes(volume, T, FPS), *P, 2 * d).q
    ratio = q / np.conj(along[1:])
    np.testing.assert_allclose(ratio, np.abs(ratio[0]), rtol=1e-5)
    across = drag(to_modes(volume, T, FPS), *P, np.array([-0.8, 0.6]))
    assert np.abs(across.q).max() < 1e-5


def test_nothing_moves_where_there_is_no_motion():
    modes = to_modes(spectrum(), T, FPS)
    wind = make_wind(modes, 1.0, seed=0)
    state = impulse(modes, drag(modes, *P, np.array([5.0, 5.0])), *P, np.array([30.0, 0.0]))
    for i in range(20):
        state = exact_step(modes, state, 0.05, wind.force(i * 0.05))
        assert (displacement(modes, state)[..., -2:] == 0).all()
    assert (drag(modes, 2, W - 1, np.array([9.0, 9.0])).q == 0).all()
    nothing = to_modes(0 * spectrum(), T, FPS)
    assert (drag(nothing, *P, np.array([9.0, 9.0])).q == 0).all()


def test_a_point_that_hardly_moves_does_not_tear_the_rest_along():
    volume = spectrum()
    volume[:, :, 2, 3] *= 1e-4
    modes = to_modes(volume, T, FPS)
    moved = displacement(modes, drag(modes, *P, np.array([5.0, 0.0])))
    assert np.abs(moved).max() < 1 and 0 < moved[0, 2, 3] < 0.01


def test_what_is_let_go_comes_to_rest():
    modes = to_modes(spectrum(), T, FPS)
    state, sizes = drag(modes, *P, np.array([4.0, 1.0])), []
    for _ in range(40):
        sizes.append(float(np.abs(displacement(modes, state)).max()))
        state = exact_step(modes, state, 1.0)
    assert max(sizes[5:]) < sizes[0] / 2 and sizes[-1] < 1e-2 * sizes[0]


def test_a_blow_gives_a_point_its_velocity():
    modes = to_modes(spectrum(), T, FPS)
    state = impulse(modes, rest_state(modes), *P, np.array([20.0, -10.0]))
    assert np.abs(displacement(modes, state)).max() == 0
    np.testing.assert_allclose(
        displacement(modes, exact_step(modes, state, 1e-5))[:, *P] / 1e-5, [20, -10], rtol=1e-2
    )


def test_wind_is_smooth_its_seed_s_own_and_as_strong_as_the_recorded_motion():
    modes = to_modes(spectrum(), T, FPS)
    wind = make_wind(modes, 1.0, seed=3)
    assert (wind.force(1.234) == make_wind(modes, 1.0, seed=3).force(1.234)).all()
    assert (wind.force(1.234) != make_wind(modes, 1.0, seed=4).force(1.234)).all()
    np.testing.assert_allclose(make_wind(modes, 2.0, seed=3).force(0.7), 2 * wind.force(0.7))
    assert np.abs(wind.force(1.0) - wind.force(1.001)).max() < 0.05 * np.abs(wind.force(1.0)).max()
    state, powers = rest_state(modes), []
    for i in range(8000):
        state = exact_step(modes, state, 0.025, wind.force((i + 0.5) * 0.025))
        powers += [np.square(np.abs(state.q))] if i > 2000 else []
    np.testing.assert_allclose(np.sqrt(np.mean(powers, axis=0)), 2, rtol=0.25)


def test_wind_in_finer_steps_is_the_same_wind():
    modes = to_modes(spectrum(), T, FPS)
    wind, ends = make_wind(modes, 1.0, seed=3), []
    for steps in (300, 3000):
        state = rest_state(modes)
        for i in range(steps):
            state = exact_step(modes, state, 5 / steps, wind.force((i + 0.5) * 5 / steps))
        ends.append(displacement(modes, state))
    np.testing.assert_allclose(ends[0], ends[1], atol=0.01 * np.abs(ends[1]).max())


def test_stiffness_and_depth():
    assert to_modes(spectrum(), T, FPS, stiffness=4.0).omega[0] == pytest.approx(
        2 * 2 * np.pi * 0.2
    )
    weight = np.array([[0.0, 1.0], [2.0, 4.0]], np.float32)
    assert depth_from_weight(weight).tolist() == [[1, 0.75], [0.5, 0]]
    assert depth_from_weight(0 * weight).tolist() == [[1, 1], [1, 1]]


def test_mistakes_are_named():
    for fields, match in [
        (dict(stiffness=0.0), "stiffness is 0"),
        (dict(damping=[1.0]), "expected 15 numbers of at least 0, one for each mode"),
        (dict(damping=[-1.0] * 15), "expected 15 numbers of at least 0"),
        (dict(alpha=-9.0), "expected 15 numbers of at least 0"),
    ]:
        with pytest.raises(ValueError, match=match):
            to_modes(spectrum(), T, FPS, **fields)
    with pytest.raises(ValueError, match="there is 1 frequency"):
        to_modes(spectrum()[:1], T, FPS)
    with pytest.raises(IndexError):
        drag(to_modes(spectrum(), T, FPS), H, 0, np.ones(2))
