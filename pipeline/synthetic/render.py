"""Renders procedural scenes whose motion is known exactly, and writes their videos and true motion.

A scene is a stack of painted layers. A layer's material point q is at rest at q and at time t at q
+ u(q, t), with u(q, t) = sum_j a_j phi_j(q) cos(2 pi f_j t + theta_j) exp(-d_j t). A frame looks
up, for the position x of each pixel, the q with q + u(q, t) = x. Positions are in picture widths: x
from 0 to 1, y downwards from 0 to 0.625; the center of pixel i of W is at (i + 0.5) / W.
Displacements are in pixels of the working resolution, 256 wide.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from safetensors.numpy import save_file
from scipy.interpolate import make_interp_spline
from threadpoolctl import threadpool_limits

from pipeline.images.film import TICKS_PER_SECOND, TimedFrame, write_h264
from pipeline.motion.spectrum import to_spectrum
from schemas.sample import complex_to_channels

WORKING_SIZE = (256, 160)
VIDEO_SIZE = (512, 320)
ASPECT = 0.625
TEXELS_PER_WIDTH = 1024
"""Texture pixels per picture width: twice the video's."""
MARGIN = 0.125
"""Width of what is painted beyond each side of the picture, in picture widths."""
_NODES_PER_WIDTH = 48
"""Nodes per picture width at which u is inverted; cubic splines interpolate between them, with an
error under 1e-3 px.
"""
_EDGE_PX = 3
"""Truth this near a layer's edge is not trusted, because flow estimators see a neighborhood."""

Points = Float64[np.ndarray, "2 *points"]
_Shape = Callable[[Points], Points]
"""phi: maps positions at rest to directions, whose largest length is about 1."""


@runtime_checkable
class Motion(Protocol):
    """Terms of u, sum_j c_j(t) phi_j(q)."""

    def weights(self, times: float | np.ndarray) -> np.ndarray:
        """c [terms, *times], picture widths."""
        ...

    def basis(self, q: Points) -> np.ndarray:
        """phi [terms, 2, *points]."""
        ...

    def displace(self, q: Points, t: float) -> Points:
        """The sum of the terms at time t, picture widths."""
        ...


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One term of u: an oscillation of a layer."""

    shape: _Shape
    amplitude_px: float
    """a, pixels at 256 wide, where the shape is 1."""
    frequency_hz: float
    phase: float = 0.0
    """theta, radians."""
    damping: float = 0.0
    """d, 1/s; 0 if wind drives it."""

    def weight(self, times: float | np.ndarray) -> float | np.ndarray:
        """a cos(2 pi f t + theta) exp(-d t), in picture widths."""
        wave = np.cos(2 * np.pi * self.frequency_hz * times + self.phase)
        return self.amplitude_px / WORKING_SIZE[0] * wave * np.exp(-self.damping * times)

    def weights(self, times: float | np.ndarray) -> np.ndarray:
        """`weight`, with an axis for the only term."""
        return np.asarray(self.weight(times))[None]

    def basis(self, q: Points) -> np.ndarray:
        """The shape, with an axis for the only term."""
        return self.shape(q)[None]

    def displace(self, q: Points, t: float) -> Points:
        """The displacement of this term, picture widths."""
        return self.weight(t) * self.shape(q)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A painted sheet and how it sways."""

    texture: Float32[np.ndarray, "rows columns 4"]
    """RGB times alpha, and alpha, 0 to 255, at rest, including MARGIN."""
    modes: tuple[Motion, ...] = ()

    @property
    def texels_per_width(self) -> float:
        """Texture pixels per picture width."""
        return self.texture.shape[1] / (1 + 2 * MARGIN)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A stack of layers before a camera."""

    layers: tuple[Layer, ...]
    """From back to front; the first is opaque."""
    pan_px_per_s: tuple[float, float] = (0.0, 0.0)
    """Speed of the picture's content as the camera turns, pixels at 256 wide a second."""
    grain: float = 0.0
    """Standard deviation of the camera's noise, gray levels."""
    cut_to: tuple[float, "Scene"] | None = None
    """The time of a cut, seconds, and the scene that is shown from then on."""

    def pan(self, times: float | np.ndarray) -> np.ndarray:
        """Shift of the whole picture since time 0, [2, *times], picture widths."""
        return np.multiply.outer(self.pan_px_per_s, times) / WORKING_SIZE[0]


def pixel_centers(size: tuple[int, int]) -> Points:
    """Positions [2, H, W] of the pixel centers of a picture of `size` (width, height)."""
    width, height = size
    return np.stack(
        np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) * ASPECT / height)
    )


def displacement(layer: Layer, q: Points, t: float) -> Points:
    """u(q, t), picture widths."""
    return sum((mode.displace(q, t) for mode in layer.modes), np.zeros_like(q))


def rest_points(layer: Layer, x: Points, t: float) -> Points:
    """q with q + u(q, t) = x, to 5e-4 px, by fixed-point iteration, which converges because the
    gradient of u stays under 1/2. Raises ValueError if it does not converge.
    """
    q = x
    for _ in range(40):
        last, q = q, x - displacement(layer, q, t)
        if np.abs(q - last).max() < 5e-4 / WORKING_SIZE[0]:
            return q
    raise ValueError(f"the motion at {t} s folds the picture over: its gradient must stay under 1")


@functools.cache
def _upsampling(count: int, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the nodes along one side, two of them beyond each end, and the matrix [nodes,
    count] of spline weights at the pixel centers.
    """
    nodes = (np.arange(round(length * _NODES_PER_WIDTH) + 5) - 2) / _NODES_PER_WIDTH
    weights = make_interp_spline(nodes, np.eye(len(nodes)))(
        (np.arange(count) + 0.5) * length / count
    )
    return nodes, np.ascontiguousarray(weights.T, np.float32)


def _texel_map(
    scene: Scene, layer: Layer, t: float, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the texture that each pixel shows at time t, float32 [H, W] each."""
    (xs, across), (ys, down) = _upsampling(size[0], 1.0), _upsampling(size[1], ASPECT)
    nodes = np.stack(np.meshgrid(xs, ys)) - scene.pan(t)[:, None, None]
    texels = (rest_points(layer, nodes, t) + MARGIN) * layer.texels_per_width - 0.5
    return tuple((part.T @ down).T @ across for part in texels.astype(np.float32))


def render_frame(
    scene: Scene, t: float, size: tuple[int, int] = VIDEO_SIZE
) -> UInt8[np.ndarray, "height width 3"]:
    """The frame at time t, RGB. Layers cover each other by their alpha."""
    if scene.cut_to is not None and t >= scene.cut_to[0]:
        return render_frame(scene.cut_to[1], t, size)
    frame = np.zeros((size[1], size[0], 3), np.float32)
    for index, layer in enumerate(scene.layers):
        rgba = cv2.remap(
            layer.texture,
            *_texel_map(scene, layer, t, size),
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        transparency = 1 - cv2.cvtColor(rgba[..., 3], cv2.COLOR_GRAY2BGR) / 255 if index else 0.0
        frame = cv2.cvtColor(rgba, cv2.COLOR_BGRA2BGR) + frame * transparency
    if scene.grain:
        rng = np.random.default_rng(round(t * TICKS_PER_SECOND))
        frame += scene.grain * rng.standard_normal(frame.shape, np.float32)
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)


def true_motion(
    scene: Scene,
    start_s: float,
    times: Float64[np.ndarray, " time"],
    size: tuple[int, int] = WORKING_SIZE,
) -> Float32[np.ndarray, "time 2 height width"]:
    """The motion texture F_t(p) = u(q, start + t) - u(q, start), for the q seen at p at the start;
    in pixels of `size` (Generative Image Dynamics, section 3).

    `times` are seconds after the start. Each pixel follows the front-most layer that covers at
    least half of it.
    """
    front, _ = _front_layers(scene, start_s, size)
    x = pixel_centers(size) - scene.pan(start_s)[:, None, None]
    changes = [scene.pan(times)[:1], scene.pan(times)[1:]]
    shapes = [np.ones_like(x)[None] * axis for axis in np.eye(2)[..., None, None]]
    for index, layer in enumerate(scene.layers):
        seen = front == index
        if not seen.any():
            continue
        q = rest_points(layer, x[:, seen], start_s)
        for mode in layer.modes:
            changes.append(mode.weights(start_s + times) - mode.weights(start_s)[:, None])
            shapes.append(np.zeros((len(changes[-1]), *x.shape)))
            shapes[-1][..., seen] = mode.basis(q)
    weights = np.concatenate(changes).T * size[0]
    return np.tensordot(weights, np.concatenate(shapes), 1).astype(np.float32)


def trusted_mask(
    scene: Scene,
    start_s: float,
    motion: Float32[np.ndarray, "time 2 height width"],
    times: Float64[np.ndarray, " time"],
) -> Bool[np.ndarray, "height width"]:
    """Where the true motion can be trusted: pixels at least _EDGE_PX from any layer's edge that
    stay in the picture and uncovered at all `times` (seconds after the start).
    """
    height, width = motion.shape[2:]
    front, edge = _front_layers(scene, start_s, (width, height))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _EDGE_PX + 1, 2 * _EDGE_PX + 1))
    valid = cv2.dilate(edge.astype(np.uint8), kernel) == 0
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    for (dx, dy), t in zip(motion, times, strict=True):
        later, _ = _front_layers(scene, start_s + t, (width, height))
        front_later = cv2.remap(
            later,
            columns + dx,
            rows + dy,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=-1,
        )
        valid &= front_later == front
    return valid


@functools.lru_cache(8)
def _coverage(layer: Layer, width: int) -> np.ndarray:
    """Alpha of a layer, 0 to 1, averaged over the area of a pixel in a picture of this width."""
    sigma = 0.4 * layer.texels_per_width / width
    return cv2.GaussianBlur(layer.texture[..., 3], (0, 0), sigma) / 255


def _front_layers(scene: Scene, t: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The index of the front-most layer with alpha > 0.5 at each pixel, float32, and the pixels at
    which any alpha is neither 0 nor 1.
    """
    front, edge = np.zeros(size[::-1], np.float32), np.zeros(size[::-1], bool)
    for index, layer in enumerate(scene.layers[1:], 1):
        alpha = cv2.remap(
            _coverage(layer, size[0]), *_texel_map(scene, layer, t, size), cv2.INTER_LINEAR
        )
        front[alpha > 0.5] = index
        edge |= (alpha > 0.02) & (alpha < 0.98)
    return front, edge


def write_clip(
    path: Path,
    scene: Scene,
    times: Float64[np.ndarray, " frames"],
    size: tuple[int, int] = VIDEO_SIZE,
) -> None:
    """Writes the frames at `times` (seconds, rounded to TICKS_PER_SECOND) as H.264 in mp4 (see
    encode.write_h264); the same bytes each time.
    """
    ticks = np.rint(times * TICKS_PER_SECOND).astype(int)
    ends = np.append(ticks[1:], 2 * ticks[-1] - ticks[-2])
    with threadpool_limits(1, "blas"):
        frames = (
            TimedFrame(
                render_frame(scene, begin / TICKS_PER_SECOND, size), int(begin), int(end - begin)
            )
            for begin, end in zip(ticks, ends, strict=True)
        )
        write_h264(
            path,
            frames,
            rate=round(1 / np.diff(times).mean()),
            options=dict(crf="12", preset="superfast"),
            index_first=False,
        )


def write_truth(
    path: Path,
    scene: Scene,
    *,
    start_s: float = 0.0,
    fps: float = 30.0,
    time: int = 150,
    frequencies: int = 16,
) -> None:
    """Writes the truth of one window at WORKING_SIZE as safetensors: motion float16 [T, 2, H, W],
    spectrum float32 [K, 4, H, W] with the raw channels re x, im x, re y, im y, both in pixels, and
    valid uint8 [H, W].
    """
    times = np.arange(time) / fps
    motion = true_motion(scene, start_s, times)
    spectrum = complex_to_channels(to_spectrum(motion, frequencies))
    valid = trusted_mask(scene, start_s, motion[::3], times[::3])
    tensors = {
        "motion": motion.astype(np.float16),
        "spectrum": spectrum.astype(np.float32),
        "valid": valid.astype(np.uint8),
    }
    save_file(tensors, path)


def bend(
    *, length: float, order: int = 1, waves: float = 0.0, shift: float = 0.0, lift: float = 0.15
) -> _Shape:
    """The shape of cantilevers with their tips at the picture's top, clamped `length` below, in
    bending mode `order` 1 or 2 (Euler-Bernoulli).

    A cosine of `waves` cycles across the picture modulates it; two modes a quarter cycle apart in
    `shift` (in cycles) and in phase make a traveling gust. `lift` is the share of vertical motion.
    """
    beta = (1.875104, 4.694091)[order - 1]  # roots of cos(b) cosh(b) = -1
    sigma = (np.cosh(beta) + np.cos(beta)) / (np.sinh(beta) + np.sin(beta))

    def shape(q: Points) -> Points:
        h = beta * np.clip(1 - q[1] / length, 0, 1.2)
        deflection = (np.cosh(h) - np.cos(h) - sigma * (np.sinh(h) - np.sin(h))) / 2
        deflection = deflection * np.cos(2 * np.pi * (waves * q[0] + shift))
        return np.stack([deflection, lift * deflection])

    return shape


def swing(*, pivot: tuple[float, float], length: float) -> _Shape:
    """The shape of a pendulum's small rotation about `pivot`, of length 1 at `length` from it."""
    return lambda q: np.stack([q[1] - pivot[1], pivot[0] - q[0]]) / length


def wave(
    *,
    direction: tuple[float, float],
    cycles: tuple[float, float],
    shift: float = 0.0,
    envelope: Callable[[Points], np.ndarray] | None = None,
) -> _Shape:
    """The shape of a standing wave along `direction`, with `cycles` per picture width in x and y,
    inside a smooth envelope (everywhere if there is none).
    """

    def shape(q: Points) -> Points:
        height = (envelope(q) if envelope else 1.0) * np.cos(
            2 * np.pi * (cycles[0] * q[0] + cycles[1] * q[1] + shift)
        )
        return np.stack([direction[0] * height, direction[1] * height])

    return shape


def traveling_wave(
    make_shape: Callable[..., _Shape],
    *,
    amplitude_px: float,
    frequency_hz: float,
    phase: float = 0.0,
    **kwargs,
) -> tuple[Mode, ...]:
    """A traveling wave as two standing modes, a quarter cycle apart in space and in time.

    `kwargs` are those of `make_shape`, which is `bend` or `wave`.
    """
    return tuple(
        Mode(
            shape=make_shape(shift=quarter, **kwargs),
            amplitude_px=amplitude_px,
            frequency_hz=frequency_hz,
            phase=phase + 2 * np.pi * quarter,
        )
        for quarter in (0.0, 0.25)
    )
