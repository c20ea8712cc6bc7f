"""A picture to be pulled, let go, struck and blown at: its bands as damped oscillators
(docs/maths.md, 24 to 26; Davis 2015).

F(p) = Re sum_j phi_j(p) q_j, where phi_j = S_j / T are the shapes of bands k = 1 .. K-1 and each
q_j is a complex number with

    q'' = f - gamma q' - omega^2 q,    omega = 2 pi f_j,    gamma = alpha + beta omega^2.

`step` is the exact solution over any time for a force that is constant meanwhile; `euler_step`,
beside it, is the paper's. All numbers are float64, every function is pure, and a state is two
complex numbers for each mode, so that a page can do the same in a few lines.
"""

from collections.abc import Sequence
from math import pi
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Complex128, Float, Float64

from pipeline.motion.spectrum import check_frequencies

ALPHA = 0.4
"""1/s: what damps every mode alike."""
BETA = 0.08
"""s: what damps fast modes more."""
_MIN_REACH_SHARE = 0.05
"""A point is pulled in full where, in that direction, it moves by at least this share of the
picture's mean power; elsewhere by less.
"""


class Modes(NamedTuple):
    """What sways, how fast, and how it is damped."""

    shapes: Complex128[np.ndarray, "modes 2 height width"]
    """phi_j, pixels."""
    omega: Float64[np.ndarray, " modes"]
    """Radians per second, undamped."""
    gamma: Float64[np.ndarray, " modes"]
    """1/s."""
    min_power: float
    """px^2: power of a direction from which on a point follows its pull in full (docs/maths.md,
    25).
    """


class State(NamedTuple):
    """Of every mode."""

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
    """The K - 1 modes of a spectral volume of T `frames`; band 0, which nothing pulls back, is left
    out.

    `stiffness` multiplies omega^2; `damping` is the gamma_j of each mode in place of alpha + beta
    omega^2, 1/s. Raises ValueError where there is no band beside the mean, and where stiffness or
    fps is not over 0, a damping is under 0, or there is not one for each mode.
    """
    check_frequencies(len(spectrum), frames)
    if len(spectrum) < 2:
        raise ValueError(
            "there is 1 frequency, expected at least 2: of a band beside the constant one"
        )
    if not (stiffness > 0 and fps > 0):
        raise ValueError(f"stiffness is {stiffness:g} and fps {fps:g}, expected both over 0")
    omega = 2 * pi * np.arange(1, len(spectrum)) * fps / frames * np.sqrt(stiffness)
    gamma = alpha + beta * np.square(omega) if damping is None else np.array(damping, np.float64)
    if gamma.shape != omega.shape or not (gamma >= 0).all():
        raise ValueError(
            f"damping is {gamma.tolist()}, expected a number of at least 0 for each of {len(omega)} modes"
        )
    shapes = spectrum[1:].astype(np.complex128) / frames
    return Modes(
        shapes,
        omega,
        gamma,
        _MIN_REACH_SHARE * float(np.square(np.abs(shapes)).sum()) / (2 * shapes[0, 0].size),
    )


def rest_state(modes: Modes) -> State:
    """Nothing moves."""
    return State(np.zeros(len(modes.omega), complex), np.zeros(len(modes.omega), complex))


def displacement(modes: Modes, state: State) -> Float64[np.ndarray, "2 height width"]:
    """F, pixels, of the whole picture."""
    return np.real(np.tensordot(state.q, modes.shapes, 1))


def depth_from_weight(
    weight: Float[np.ndarray, "height width"],
) -> Float64[np.ndarray, "height width"]:
    """0 in front to 1 behind, of W: what moves most is nearest (docs/maths.md, 5). All behind where
    nothing moves.
    """
    most = float(weight.max())
    return 1 - weight.astype(np.float64) / most if most > 0 else np.ones(weight.shape)


def exact_step(
    modes: Modes,
    state: State,
    seconds: float,
    force: Complex128[np.ndarray, " modes"] | None = None,
) -> State:
    """`seconds` later, exactly, for a `force` (1/s^2) that is constant meanwhile: none without. Any
    time of 0 or more (docs/maths.md, 24).
    """
    decay, sine, cosine = propagator(modes.omega, modes.gamma, seconds)
    rest = 0 if force is None else force / np.square(modes.omega)
    q, velocity, half = state.q - rest, state.velocity, modes.gamma / 2
    return State(
        rest + decay * (cosine * q + sine * (velocity + half * q)),
        decay * (cosine * velocity - sine * (np.square(modes.omega) * q + half * velocity)),
    )


def propagator(
    omega: Float64[np.ndarray, " modes"], gamma: Float64[np.ndarray, " modes"], seconds: float
) -> tuple[
    Float64[np.ndarray, " modes"], Float64[np.ndarray, " modes"], Float64[np.ndarray, " modes"]
]:
    """A decay, sine and cosine (over mu: seconds, and 1) of which an exact step is made.

    mu^2 = omega^2 - gamma^2 / 4. Under 0, the growing half of sinh and cosh is drawn into the
    decay, so that nothing overflows: exp(-gamma t / 2) cosh(nu t) = exp(-r t) (1 + exp(-2 nu t)) /
    2, with r = gamma / 2 - nu = omega^2 / (gamma / 2 + nu).
    """
    half, square = gamma / 2, np.square(omega) - np.square(gamma) / 4
    mu = np.sqrt(np.abs(square))
    over = square < 0
    slow = np.where(over, np.square(omega) / (half + mu), half)
    twice = 2 * mu * seconds
    # (1 - exp(-x)) / x and sin(x) / x, both 1 at x = 0, where damping is critical
    fading = np.divide(-np.expm1(-twice), twice, out=np.ones_like(twice), where=twice > 0)
    swaying = np.sinc(mu * seconds / pi)
    sine = seconds * np.where(over, fading, swaying)
    cosine = np.where(over, (1 + np.exp(-twice)) / 2, np.cos(mu * seconds))
    return np.exp(-slow * seconds), sine, cosine


def euler_step(
    modes: Modes,
    state: State,
    seconds: float,
    force: Complex128[np.ndarray, " modes"] | None = None,
) -> State:
    """The paper's: velocity by the acceleration, then place by the new velocity. For comparison:
    bursts once `seconds` are many.
    """
    acceleration = (
        (0 if force is None else force)
        - modes.gamma * state.velocity
        - np.square(modes.omega) * state.q
    )
    velocity = state.velocity + seconds * acceleration
    return State(state.q + seconds * velocity, velocity)


def mode_energy(modes: Modes, state: State) -> Float64[np.ndarray, " modes"]:
    """(|q'|^2 + omega^2 |q|^2) / 2 of each, 1/s^2: never grows while no force acts."""
    return (np.square(np.abs(state.velocity)) + np.square(modes.omega * np.abs(state.q))) / 2


def _solve_pull(
    modes: Modes, row: int, column: int, wanted: Float64[np.ndarray, "2"]
) -> Complex128[np.ndarray, " modes"]:
    """The smallest q that takes a pixel by `wanted` (x, y), pixels (docs/maths.md, 25).

    q_j = conj(l . phi_j(p)): magnitude in proportion to |l . phi_j|, phase -arg(l . phi_j), with l
    such that the pixel goes where it is wanted. In a direction in which it hardly moves it follows
    in part, and not at all where S = 0, so that the rest does not burst. Raises IndexError for a
    pixel outside the picture.
    """
    at = modes.shapes[:, :, row, column]
    powers, axes = np.linalg.eigh(np.real(at.T @ at.conj()))
    floor = np.maximum(powers, modes.min_power)
    along = axes.T @ wanted
    return at.conj() @ (axes @ np.divide(along, floor, out=np.zeros(2), where=floor > 0))


def drag(modes: Modes, row: int, column: int, wanted: Float64[np.ndarray, "2"]) -> State:
    """Held so that a pixel is displaced by `wanted`, pixels. To release it, go on with `step`."""
    q = _solve_pull(modes, row, column, wanted)
    return State(q, np.zeros_like(q))


def impulse(
    modes: Modes, state: State, row: int, column: int, velocity: Float64[np.ndarray, "2"]
) -> State:
    """A blow that adds `velocity`, pixels per second, to that of a pixel."""
    return State(state.q, state.velocity + _solve_pull(modes, row, column, velocity))


class Wind(NamedTuple):
    """A smooth random force: gust(t) times a few waves for each mode, near its own frequency
    (docs/maths.md, 26).
    """

    omega: Float64[np.ndarray, "modes waves"]
    """Radians per second."""
    amplitude: Complex128[np.ndarray, "modes waves"]
    """1/s^2."""
    gust_omega: Float64[np.ndarray, " gusts"]
    gust_phase: Float64[np.ndarray, " gusts"]

    def force(self, time: float) -> Complex128[np.ndarray, " modes"]:
        """At `time`, seconds: the same whatever the frame rate. In a step, take that at its middle."""
        gust = 1 + GUSTINESS * float(np.cos(self.gust_omega * time + self.gust_phase).mean())
        return gust * (self.amplitude * np.exp(1j * self.omega * time)).sum(axis=1)


WAVES_PER_MODE, _GUST_COUNT, GUSTINESS = 4, 3, 0.6
"""Waves of a mode's force, waves of the gusts, and by which share these raise and lower it."""
_GUST_HZ = (0.05, 0.25)


def make_wind(modes: Modes, strength: float, seed: int) -> Wind:
    """Wind in which the picture moves, on average, with `strength` times the amplitude that was
    recorded.

    Steady motion under one wave at w is amplitude / |omega^2 - w^2 + i gamma w|, by which the
    amplitudes are chosen; q = 2 exp(i omega t) is the recorded motion.
    """
    rng = np.random.default_rng(seed)
    shape = (len(modes.omega), WAVES_PER_MODE)
    # within the width of the resonance, but neither near standing still nor, where nothing damps,
    # all at its very middle
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
