"""Modal dynamics: a picture that can be dragged, released, struck and blown at. Each band of its
spectral volume is a damped oscillator (docs/maths.md, 24 to 26; Davis 2015).

F(p) = Re sum_j phi_j(p) q_j, where phi_j = S_j / T are the shapes of bands k = 1 .. K-1 and each
q_j is a complex number with

    q'' = f - gamma q' - omega^2 q,    omega = 2 pi f_j,    gamma = alpha + beta omega^2.

`exact_step` solves this exactly over any time step with a constant force; `euler_step` is the
paper's, for comparison. All numbers are float64, every function is pure, and a state is two complex
numbers per mode, so that the JavaScript of a page can do the same in a few lines.
"""

from collections.abc import Sequence
from math import pi
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Complex128, Float, Float64

from pipeline.motion.spectrum import check_frequencies

ALPHA = 0.4
"""1/s: damping of every mode alike."""
BETA = 0.08
"""s: damping that grows with the frequency of a mode."""
_MIN_REACH_SHARE = 0.05
"""A point follows a pull in full if its power in that direction is at least this share of the
picture's mean power, and in part otherwise.
"""


class Modes(NamedTuple):
    """The oscillators of a picture: their shapes, frequencies and damping."""

    shapes: Complex128[np.ndarray, "modes 2 height width"]
    """phi_j, pixels."""
    omega: Float64[np.ndarray, " modes"]
    """Radians per second, undamped."""
    gamma: Float64[np.ndarray, " modes"]
    """1/s."""
    min_power: float
    """px^2: a point follows a pull in full if its power in that direction is at least this
    (docs/maths.md, 25).
    """


class State(NamedTuple):
    """Where every mode is, and how fast it moves."""

    q: Complex128[np.ndarray, " modes"]
    velocity: Complex128[np.ndarray, " modes"]
    """q', 1/s."""


def to_modes(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
    frames: int,
    fps: float,
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    stiffness: float = 1.0,
    damping: Sequence[float] | None = None,
) -> Modes:
    """The K - 1 modes of a spectral volume of T = `frames` frames. Band 0 has no restoring force
    and is left out.

    `stiffness` multiplies omega^2; `damping` gives gamma_j for each mode, 1/s, instead of alpha +
    beta omega^2. Raises ValueError if there is no band but the constant one, stiffness or fps is
    not over 0, a damping is negative, or there is not one damping for each mode.
    """
    check_frequencies(len(spectrum), frames)
    if len(spectrum) < 2:
        raise ValueError(
            "there is 1 frequency, expected at least 2: one band beside the constant one"
        )
    if not (stiffness > 0 and fps > 0):
        raise ValueError(f"stiffness is {stiffness:g} and fps {fps:g}, expected both over 0")
    omega = 2 * pi * np.arange(1, len(spectrum)) * fps / frames * np.sqrt(stiffness)
    gamma = alpha + beta * np.square(omega) if damping is None else np.array(damping, np.float64)
    if gamma.shape != omega.shape or not (gamma >= 0).all():
        raise ValueError(
            f"damping is {gamma.tolist()}, expected {len(omega)} numbers of at least 0, one for "
            "each mode"
        )
    shapes = spectrum[1:].astype(np.complex128) / frames
    power = float(np.square(np.abs(shapes)).sum())
    min_power = _MIN_REACH_SHARE * power / (2 * shapes[0, 0].size)
    return Modes(shapes=shapes, omega=omega, gamma=gamma, min_power=min_power)


def rest_state(modes: Modes) -> State:
    """The state in which nothing moves."""
    return State(np.zeros(len(modes.omega), complex), np.zeros(len(modes.omega), complex))


def displacement(modes: Modes, state: State) -> Float64[np.ndarray, "2 height width"]:
    """F, the displacement of every pixel, in pixels."""
    return np.real(np.tensordot(state.q, modes.shapes, 1))


def depth_from_weight(
    weight: Float[np.ndarray, "height width"],
) -> Float64[np.ndarray, "height width"]:
    """Depth from W, 0 in front to 1 behind: what moves most is nearest (docs/maths.md, 5). If
    nothing moves, all is behind.
    """
    largest = float(weight.max())
    return 1 - weight.astype(np.float64) / largest if largest > 0 else np.ones(weight.shape)


def exact_step(
    modes: Modes,
    state: State,
    seconds: float,
    force: Complex128[np.ndarray, " modes"] | None = None,
) -> State:
    """The exact state `seconds` >= 0 later, under a constant `force`, 1/s^2 (docs/maths.md, 24)."""
    decay, sine, cosine = propagator(modes.omega, modes.gamma, seconds)
    equilibrium = 0 if force is None else force / np.square(modes.omega)
    q, velocity, half = state.q - equilibrium, state.velocity, modes.gamma / 2
    return State(
        equilibrium + decay * (cosine * q + sine * (velocity + half * q)),
        decay * (cosine * velocity - sine * (np.square(modes.omega) * q + half * velocity)),
    )


def propagator(
    omega: Float64[np.ndarray, " modes"], gamma: Float64[np.ndarray, " modes"], seconds: float
) -> tuple[
    Float64[np.ndarray, " modes"], Float64[np.ndarray, " modes"], Float64[np.ndarray, " modes"]
]:
    """The decay, the sine over mu (seconds) and the cosine that make up an exact step.

    mu^2 = omega^2 - gamma^2 / 4. If it is negative, the growing half of sinh and cosh goes into the
    decay, so that nothing overflows: exp(-gamma t / 2) cosh(nu t) = exp(-r t) (1 + exp(-2 nu t)) /
    2, with r = gamma / 2 - nu = omega^2 / (gamma / 2 + nu).
    """
    half, square = gamma / 2, np.square(omega) - np.square(gamma) / 4
    mu = np.sqrt(np.abs(square))
    overdamped = square < 0
    rate = np.where(overdamped, np.square(omega) / (half + mu), half)
    twice = 2 * mu * seconds
    # (1 - exp(-x)) / x and sin(x) / x are both 1 at x = 0, which is critical damping.
    fading = np.divide(-np.expm1(-twice), twice, out=np.ones_like(twice), where=twice > 0)
    swaying = np.sinc(mu * seconds / pi)
    sine = seconds * np.where(overdamped, fading, swaying)
    cosine = np.where(overdamped, (1 + np.exp(-twice)) / 2, np.cos(mu * seconds))
    return np.exp(-rate * seconds), sine, cosine


def euler_step(
    modes: Modes,
    state: State,
    seconds: float,
    force: Complex128[np.ndarray, " modes"] | None = None,
) -> State:
    """The paper's semi-implicit Euler step: it updates the velocity, then the position with the new
    velocity. It diverges if `seconds` is large.
    """
    acceleration = (
        (0 if force is None else force)
        - modes.gamma * state.velocity
        - np.square(modes.omega) * state.q
    )
    velocity = state.velocity + seconds * acceleration
    return State(state.q + seconds * velocity, velocity)


def mode_energy(modes: Modes, state: State) -> Float64[np.ndarray, " modes"]:
    """(|q'|^2 + omega^2 |q|^2) / 2 of each mode, 1/s^2. It never grows without a force."""
    return (np.square(np.abs(state.velocity)) + np.square(modes.omega * np.abs(state.q))) / 2


def _solve_pull(
    modes: Modes, row: int, column: int, target: Float64[np.ndarray, "2"]
) -> Complex128[np.ndarray, " modes"]:
    """The smallest q that displaces a pixel by `target` (x, y), pixels (docs/maths.md, 25).

    q_j = conj(l . phi_j(p)): its magnitude is proportional to |l . phi_j|, its phase is
    -arg(l . phi_j), and l is such that the pixel reaches the target. In a direction in which the
    pixel hardly moves it follows only in part, and not at all if S = 0; otherwise everything else
    would be torn away. Raises IndexError for a pixel outside the picture.
    """
    at = modes.shapes[:, :, row, column]
    powers, axes = np.linalg.eigh(np.real(at.T @ at.conj()))
    floor = np.maximum(powers, modes.min_power)
    along = axes.T @ target
    return at.conj() @ (axes @ np.divide(along, floor, out=np.zeros(2), where=floor > 0))


def drag(modes: Modes, row: int, column: int, target: Float64[np.ndarray, "2"]) -> State:
    """The picture held so that a pixel is displaced by `target` (x, y), pixels. To release it,
    continue with `exact_step`.
    """
    q = _solve_pull(modes, row, column, target)
    return State(q, np.zeros_like(q))


def impulse(
    modes: Modes, state: State, row: int, column: int, velocity: Float64[np.ndarray, "2"]
) -> State:
    """The state after a blow that adds `velocity`, pixels per second, to that of a pixel."""
    return State(state.q, state.velocity + _solve_pull(modes, row, column, velocity))


class Wind(NamedTuple):
    """A smooth random force: gust(t) times a few waves per mode, near the mode's own frequency
    (docs/maths.md, 26).
    """

    omega: Float64[np.ndarray, "modes waves"]
    """Radians per second."""
    amplitude: Complex128[np.ndarray, "modes waves"]
    """1/s^2."""
    gust_omega: Float64[np.ndarray, " gusts"]
    gust_phase: Float64[np.ndarray, " gusts"]

    def force(self, time: float) -> Complex128[np.ndarray, " modes"]:
        """The force at `time`, seconds. A step takes the force at its middle."""
        gust = 1 + GUSTINESS * float(np.cos(self.gust_omega * time + self.gust_phase).mean())
        return gust * (self.amplitude * np.exp(1j * self.omega * time)).sum(axis=1)


WAVES_PER_MODE = 4
"""Waves in the force on a mode."""
GUSTINESS = 0.6
"""Share by which the gusts raise and lower the force."""
_GUST_COUNT, _GUST_HZ = 3, (0.05, 0.25)
"""Waves of the gusts, and the range of their frequencies."""


def make_wind(modes: Modes, strength: float, seed: int) -> Wind:
    """Wind that moves the picture, on average, with `strength` times the recorded amplitude.

    The recorded motion is q = 2 exp(i omega t). Under one wave at frequency w the steady motion is
    amplitude / |omega^2 - w^2 + i gamma w|, from which the amplitudes follow.
    """
    rng = np.random.default_rng(seed)
    shape = (len(modes.omega), WAVES_PER_MODE)
    # Waves lie within the width of the resonance, but never near 0 Hz, and without damping not all
    # exactly at the resonance.
    width = np.clip(modes.gamma / 2, 0.02 * modes.omega, 0.25 * modes.omega)[:, None]
    omega = modes.omega[:, None] + width * rng.uniform(-1, 1, shape)
    resistance = np.abs(
        np.square(modes.omega)[:, None] - np.square(omega) + 1j * modes.gamma[:, None] * omega
    )
    amplitude = (
        2 * strength / WAVES_PER_MODE**0.5 * resistance * np.exp(1j * rng.uniform(0, 2 * pi, shape))
    )
    return Wind(
        omega,
        amplitude,
        2 * pi * rng.uniform(*_GUST_HZ, _GUST_COUNT),
        rng.uniform(0, 2 * pi, _GUST_COUNT),
    )
