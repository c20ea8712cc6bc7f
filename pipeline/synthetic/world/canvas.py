"""A canvas of any resolution, on which a scene is painted in picture widths."""

from functools import cached_property, lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from pipeline.synthetic.render import ASPECT, MARGIN

Gray = Float[np.ndarray, "rows columns"]
Color = Float[np.ndarray, "rows columns 3"]
"""Colors as they are displayed, 0 to 1."""
Sheet = UInt8[np.ndarray, "rows columns 4"]
"""Strokes: RGB times alpha, and alpha, 0 to 255."""
Points = Float[np.ndarray, "points 2"]
_SUBPIXEL_BITS = 4


class Canvas:
    """Painting tools at `texels` per picture width. Equal random numbers give the same painting at
    every resolution, but for its finest detail.
    """

    def __init__(self, texels: int):
        self.texels = texels
        self.columns = round((1 + 2 * MARGIN) * texels)
        self.rows = round((ASPECT + 2 * MARGIN) * texels)

    @cached_property
    def grid(self) -> tuple[Gray, Gray]:
        """Position x and y of each texel, picture widths."""
        columns, rows = np.arange(self.columns), np.arange(self.rows)
        x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
        return (x + 0.5) / self.texels - MARGIN, (y + 0.5) / self.texels - MARGIN

    def noise(
        self,
        rng: np.random.Generator,
        cells: int | float = 3,
        octaves: int = 7,
        fall: float = 0.55,
        stretch: float = 1.0,
    ) -> Gray:
        """Noise of mean 0 and deviation 1 whose amplitude falls by `fall` from octave to octave: 1
        is 1 / f, less is smoother. `cells` are in a picture width at the coarsest
        octave, and `stretch` times as many downwards.
        """
        rng = rng.spawn(1)[0]  # what is drawn after it is the same at every resolution
        total = np.zeros((2, 2), np.float32)
        for octave in range(octaves):
            count = cells * 2**octave
            shape = (round(count * 0.875 * stretch) + 3, round(count * 1.25) + 3)
            if max(shape[0] / self.rows, shape[1] / self.columns) > 1.2:
                break  # the octaves that are left are finer than a texel
            lattice = rng.standard_normal(shape, np.float32)
            size = (min(self.columns, 3 * shape[1]), min(self.rows, 3 * shape[0]))
            total = _enlarge(total, size) + fall**octave * _enlarge(lattice, size)
        total = _enlarge(total, (self.columns, self.rows))
        mean, deviation = cv2.meanStdDev(total)
        return (total - np.float32(mean.item())) / np.float32(deviation.item() + 1e-6)

    def sheet(self) -> Sheet:
        """A transparent sheet."""
        return np.zeros((self.rows, self.columns, 4), np.uint8)

    def draw(
        self,
        sheet: Sheet,
        polygons: Float[np.ndarray, "count corners 2"],
        colors: Float[np.ndarray, "count 3"],
    ) -> None:
        """Draws polygons (picture widths) one over the other. Each meets a horizontal or a vertical
        line at most twice.
        """
        scaled = ((np.asarray(polygons) + MARGIN) * self.texels - 0.5) * 2**_SUBPIXEL_BITS
        corners = np.rint(np.clip(scaled, -(2**20), 2**20)).astype(np.int32)
        levels = np.clip(np.asarray(colors) * 255, 0, 255)
        rgba = np.concatenate([levels, np.full((len(levels), 1), 255.0)], 1).tolist()
        for polygon, color in zip(corners, rgba, strict=True):
            cv2.fillConvexPoly(sheet, polygon, color, cv2.LINE_8, _SUBPIXEL_BITS)

    def blur(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """The image blurred by a Gaussian of `sigma` picture widths."""
        texels = sigma * self.texels
        if texels < 0.3:
            return image
        if texels < 6:
            return cv2.GaussianBlur(image, (0, 0), texels)
        scale = 3 / texels
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), 3)
        return cv2.resize(small, (self.columns, self.rows), interpolation=cv2.INTER_CUBIC)


@lru_cache(4)
def make_canvas(texels: int) -> Canvas:
    """The canvas of a resolution; its grid is computed once."""
    return Canvas(texels)


def _enlarge(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at another size (columns, rows), smoothly."""
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Colors: a where `share` is 0, b where it is 1. One of them may be a single color; `share` has
    no color axis.
    """
    share = np.asarray(share, np.float32)
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if share.ndim != 2:
        return a + (b - a) * share[..., None]
    channels = [
        a[..., c] + (b[..., c] - a[..., c]) * share  # three times as fast as three at once
        for c in range(3)
    ]
    return cv2.merge(channels)


def ramp(value: np.ndarray, *colors: tuple[float, ...] | np.ndarray) -> np.ndarray:
    """Colors of a ramp through `colors` at values 0 to 1; values beyond have its ends."""
    stops, steps = np.linspace(0, 1, len(colors)), np.linspace(0, 1, 512)
    channels = np.transpose(np.asarray(colors))
    table = np.stack([np.interp(steps, stops, channel) for channel in channels], -1)
    return table.astype(np.float32)[np.clip(value * 511, 0, 511).astype(np.int16)]


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; falling if `low` is above `high`."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def leaf_polygons(
    roots: Points, angles: np.ndarray, lengths: np.ndarray, widths: np.ndarray
) -> Float[np.ndarray, "leaves 6 2"]:
    """Lens-shaped leaves: from their roots along `angles` (radians from the x axis)."""
    along = np.stack([np.cos(angles), np.sin(angles)], -1) * lengths[:, None]
    across = np.stack([-np.sin(angles), np.cos(angles)], -1) * widths[:, None]
    shape = ((0, 0), (0.3, 0.9), (0.65, 0.8), (1, 0), (0.65, -0.8), (0.3, -0.9))
    return np.stack([roots + s * along + w * across for s, w in shape], 1)


def blade_polygons(
    roots: Points, tips: Points, widths: np.ndarray, bow: np.ndarray
) -> Float[np.ndarray, "blades 10 2"]:
    """Blades that taper from `widths` (half of it) at their roots to nothing; `bow` is the sideways
    bulge as a share of the length.
    """
    along = (tips - roots)[:, None]
    across = np.stack([-along[..., 1], along[..., 0]], -1)
    unit = across / (np.linalg.norm(across, axis=-1, keepdims=True) + 1e-9)
    s = np.linspace(0, 1, 5)[None, :, None]
    spine = roots[:, None] + s * along + s**2 * bow[:, None, None] * across
    half = widths[:, None, None] * (1 - s) ** 0.7 * unit
    return np.concatenate([spine + half, (spine - half)[:, ::-1]], 1)
