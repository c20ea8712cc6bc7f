"""Fields of motion, and the wind that drives them.

A layer's material point q is displaced by u(q, t) = sum_j c_j(t) phi_j(q). The fields phi_j are
maps on a coarse grid. The weights are sums of sines, c_j(t) = sum_n a_jn (cos(2 pi f_n t +
theta_jn) - cos theta_jn), so that u(q, 0) = 0: the picture as it is painted is the first frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32
from scipy.sparse import csr_array

from pipeline.synthetic.render import ASPECT, MARGIN, Points

NODES_PER_WIDTH = 96
ROWS = round((ASPECT + 2 * MARGIN) * NODES_PER_WIDTH)
COLUMNS = round((1 + 2 * MARGIN) * NODES_PER_WIDTH)
NODES = np.stack(
    [(axis + 0.5) / NODES_PER_WIDTH - MARGIN for axis in np.mgrid[:ROWS, :COLUMNS][::-1]]
).astype(np.float32)
"""Position (x, y) of each node, picture widths [2, ROWS, COLUMNS]."""
_WAVES = 40
_SLOWEST_HZ, _FASTEST_HZ = 0.04, 8.0
_MAX_GRADIENT = 0.7
"""From 1 on, a sheet would fold over."""

Fields = Float32[np.ndarray, "joints rows columns 2"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sway:
    """The motion of a layer, as `pipeline.synthetic.render.Mode` is, with many fields at once."""

    fields: Fields
    """phi at the NODES, of length about 1."""
    frequencies: Float[np.ndarray, " waves"]
    amplitudes: Float[np.ndarray, "joints waves"]
    """a, picture widths."""
    phases: Float[np.ndarray, "joints waves"]

    def weights(self, times: float | np.ndarray) -> np.ndarray:
        """c [joints, *times] at `times`, seconds; picture widths."""
        times = np.asarray(times, np.float64)
        angle = np.multiply.outer(2 * np.pi * self.frequencies, times.ravel())
        phasors = self.amplitudes * np.exp(1j * self.phases)
        swings = phasors @ (np.exp(1j * angle) - 1)
        return np.real(swings).reshape(-1, *times.shape)

    def basis(self, q: Points) -> Float32[np.ndarray, "joints 2 *points"]:
        """phi_j(q)."""
        return _look_up(self.fields, q)

    def displace(self, q: Points, t: float) -> Points:
        """u(q, t), picture widths."""
        field = np.tensordot(self.weights(t).astype(np.float32), self.fields, 1)
        return _look_up(field[None], q)[0].astype(np.float64)

    def scaled(self, factor: float) -> "Sway":
        """The same motion, `factor` times as large."""
        return replace(self, amplitudes=self.amplitudes * factor)

    def size(self, covered: np.ndarray) -> float:
        """How far it goes: the 99th percentile, over the nodes that are `covered`, of the root mean
        square about the mean in 5 s, picture widths.
        """
        fields = self.fields[:, covered]
        covariance = np.atleast_2d(np.cov(self.weights(np.arange(0, 5, 1 / 10))))
        pulled = np.tensordot(covariance.astype(np.float32), fields, 1)
        squares = (fields * pulled).sum(axis=(0, 2))
        return float(np.sqrt(max(0, np.percentile(squares, 99)))) if squares.size else 0.0


def unfold(sways: Sequence[Sway]) -> tuple[Sway, ...]:
    """The motion of a layer, smaller if at some instant of 8 s it would nearly fold the sheet over:
    if u changes by more than _MAX_GRADIENT of the distance between two points.
    """
    if not sways:
        return ()
    times = np.arange(0, 8, 0.3)
    weights = np.concatenate([sway.weights(times) for sway in sways]).T.astype(np.float32)
    fields = np.concatenate([sway.fields for sway in sways])
    motion = np.moveaxis(np.tensordot(weights, fields, 1), -1, 0)
    across, down = (np.maximum(*np.abs(np.diff(motion, axis=axis))) for axis in (3, 2))
    steepest = float((across[:, 1:] + down[:, :, 1:]).max()) * NODES_PER_WIDTH
    factor = min(1.0, _MAX_GRADIENT / (steepest + 1e-9))
    return tuple(sway.scaled(factor) for sway in sways)


def _look_up(fields: Fields, q: Points) -> Float32[np.ndarray, "joints 2 *points"]:
    """Fields at the positions q, linear between the nodes. (cv2.remap would round the positions to
    1/32 of a node, which is 0.1 px.)
    """
    x, y = (q.reshape(2, -1) + MARGIN) * NODES_PER_WIDTH - 0.5
    columns, rows = (np.clip(v, 0, n - 1.001) for v, n in ((x, COLUMNS), (y, ROWS)))
    left, top = columns.astype(np.int32), rows.astype(np.int32)
    a, b = columns - left, rows - top
    corner = top * COLUMNS + left
    shares = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], -1).astype(np.float32)
    nodes = corner[:, None] + np.array([0, 1, COLUMNS, COLUMNS + 1], np.int32)
    starts = np.arange(len(corner) + 1, dtype=np.int32) * 4
    weights = csr_array(
        (shares.ravel(), nodes.ravel(), starts), shape=(len(corner), ROWS * COLUMNS)
    )
    flat = np.moveaxis(fields.reshape(len(fields), -1, 2), 1, 0).reshape(ROWS * COLUMNS, -1)
    return np.asarray(weights @ flat).T.reshape(len(fields), *q.shape)


def drive(
    rng: np.random.Generator,
    fields: Fields,
    sizes: np.ndarray,
    *,
    slope: float,
    resonances: np.ndarray,
    direct: float = 0.25,
    together: float = 0.7,
    delays: np.ndarray | float = 0.0,
) -> Sway:
    """Wind on the joints of a layer.

    sizes: root mean square of each weight, arbitrary unit (`Sway.scaled` gives it its size).
    slope: of the power over frequency, as -2 is of a random walk. resonances: frequency at which
    each joint likes to swing, Hz. direct: share of the power that moves it far above its resonance,
    which is little if it is heavy. together: share of the wind that all joints feel. delays:
    seconds after which it reaches them.
    """
    count = len(fields)
    edges = np.geomspace(_SLOWEST_HZ, _FASTEST_HZ, _WAVES + 1)
    frequencies = rng.uniform(edges[:-1], edges[1:])
    power = frequencies ** (slope + 1) / (1 + (frequencies / 4) ** 4)
    ratio = frequencies / np.asarray(resonances)[:, None]
    power = power * (direct + 1 / ((1 - ratio**2) ** 2 + (0.5 * ratio) ** 2) / (1 + ratio**2))
    shared, own = (
        rng.standard_normal((n, _WAVES)) + 1j * rng.standard_normal((n, _WAVES)) for n in (1, count)
    )
    lag = np.exp(-2j * np.pi * np.outer(np.broadcast_to(delays, count), frequencies))
    phasors = np.sqrt(power) * (together * shared * lag + np.sqrt(1 - together**2) * own)
    within = frequencies > 0.15  # slower waves are a trend within 5 s
    rms = np.sqrt((np.abs(phasors[:, within]) ** 2).sum(1, keepdims=True) / 2)
    phasors = phasors / rms * np.broadcast_to(sizes, count)[:, None]
    return Sway(
        fields=np.ascontiguousarray(fields, np.float32),
        frequencies=frequencies,
        amplitudes=np.abs(phasors),
        phases=np.angle(phasors),
    )


def branch_fields(
    bases: Float[np.ndarray, "joints 2"],
    tips: Float[np.ndarray, "joints 2"],
    levels: np.ndarray,
    softness: float = 0.02,
) -> Fields:
    """Fields of rods that bend, clamped at their bases: across the rod, growing with the square of
    the way along it, of length 1 at the tip. A base does not move.

    Among the rods of one level, each point belongs to the nearest; borders are `softness` picture
    widths wide.
    """
    bases, tips = bases.astype(np.float32), tips.astype(np.float32)
    rods = (tips - bases)[:, None, None]
    lengths = np.linalg.norm(rods, axis=-1) + 1e-6
    away = np.moveaxis(NODES, 0, -1) - bases[:, None, None]
    along = np.clip((away * rods).sum(-1) / lengths**2, 0, 1.6)
    gaps = np.linalg.norm(away - np.clip(along, 0, 1)[..., None] * rods, axis=-1)
    turned = np.stack([-away[..., 1], away[..., 0]], -1) / lengths[..., None]
    fields = along[..., None] * turned
    for level in np.unique(levels):
        members = levels == level
        near = gaps[members] - gaps[members].min(0)
        share = np.exp(-near / softness)
        fields[members] *= (share / share.sum(0))[..., None]
    return fields.astype(np.float32)


def gust_fields(
    profile: Float[np.ndarray, "rows columns"],
    cycles: tuple[float, ...],
    rng: np.random.Generator,
    direction: tuple[float, float] = (1.0, -0.12),
    rows_cycles: float = 0.0,
) -> Fields:
    """Fields of many stems side by side: `profile` says how far each node may go, and cosines of
    `cycles` per picture width that neighbors go together.
    """
    x, y = NODES
    waves = [
        np.cos(2 * np.pi * (c * x + rng.uniform(-1, 1) * rows_cycles * y + rng.random()))
        for c in cycles
    ]
    return np.stack([profile * w for w in waves]).astype(np.float32)[..., None] * np.asarray(
        direction, np.float32
    )
