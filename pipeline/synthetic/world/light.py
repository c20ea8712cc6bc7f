"""The light and the colors of a day, by which everything in a scene is painted."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.synthetic.world.canvas import Canvas, Color, mix, ramp

Rgb = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Day:
    """A light with the colors that belong to it; colors are 0 to 1."""

    sky: tuple[Rgb, Rgb]
    """At the top and at the horizon."""
    sun: Rgb
    """Tint of what is lit."""
    shadow: Rgb
    """Tint of what is in shadow."""
    leaves: tuple[Rgb, Rgb, Rgb]
    """Of plants: dark, middle and bright."""
    earth: tuple[Rgb, Rgb]
    clouds: float = 0.5
    """Share of the sky that is covered."""
    direction: tuple[float, float] = (-0.6, -0.8)
    """Unit vector towards the light, in the picture."""
    contrast: float = 1.0
    vignette: float = 0.3
    gray: float = 0.2
    """Share of the colors that is taken away."""

    def lit(self, colors: np.ndarray, shade: np.ndarray) -> np.ndarray:
        """Colors [*shape, 3] of things that receive a share `shade` [*shape] of the light."""
        tint = mix(np.asarray(self.shadow), np.asarray(self.sun), np.clip(shade, 0, 1.3))
        return np.asarray(colors, np.float32) * tint

    def foliage(self, rng: np.random.Generator, shade: np.ndarray, hue: float = 0.0) -> np.ndarray:
        """Colors [N, 3] of N leaves with a share `shade` [N] of the light."""
        varied = np.clip(shade + rng.normal(0, 0.1, len(shade)), 0, 1)
        colors = ramp(varied, *self.leaves) * rng.uniform(0.85, 1.15, (len(shade), 1))
        colors = colors * (1 + hue * np.array([1.0, 0.1, -0.6]))
        return self.lit(colors, shade + 0.15)

    def grade(self, color: Color, canvas: Canvas, exposure: float) -> Color:
        """Colors as a camera shows them, multiplied by `exposure`: somewhat grayer, with a
        shoulder, and with darker corners.
        """
        x, y = canvas.grid
        corners = 1 - self.vignette * ((x - 0.5) ** 2 + (y - 0.31) ** 2) / 0.345
        light = cv2.multiply(
            np.asarray(color, np.float32),
            cv2.merge([exposure * corners.astype(np.float32)] * 3),
        )
        light += np.float32(self.gray) * (
            cv2.cvtColor(light, cv2.COLOR_RGB2GRAY)[..., None] - light
        )
        steps = np.linspace(0, 2, 4096, dtype=np.float32)
        curve = np.where(steps < 0.6, steps, 1 - 0.4 * np.exp(-(steps - 0.6) / 0.4))
        table = np.clip(0.02 + 0.98 * curve**self.contrast, 0, 1).astype(np.float32)
        return table[np.clip(light * 2047.5, 0, 4095).astype(np.int16)]


_GREENS = (
    ((0.07, 0.13, 0.06), (0.22, 0.34, 0.12), (0.55, 0.62, 0.25)),
    ((0.05, 0.12, 0.09), (0.16, 0.30, 0.18), (0.42, 0.55, 0.36)),
    ((0.09, 0.14, 0.04), (0.33, 0.42, 0.13), (0.70, 0.72, 0.30)),
    ((0.10, 0.12, 0.06), (0.30, 0.32, 0.16), (0.58, 0.56, 0.34)),
)
_AUTUMN = (
    ((0.16, 0.08, 0.03), (0.55, 0.27, 0.07), (0.88, 0.62, 0.20)),
    ((0.15, 0.05, 0.03), (0.48, 0.14, 0.07), (0.82, 0.38, 0.16)),
    ((0.14, 0.11, 0.03), (0.50, 0.40, 0.10), (0.86, 0.76, 0.30)),
)
_EARTH = (
    ((0.20, 0.15, 0.10), (0.48, 0.40, 0.29)),
    ((0.22, 0.20, 0.17), (0.52, 0.49, 0.43)),
    ((0.25, 0.17, 0.09), (0.60, 0.47, 0.30)),
)
_SKIES: tuple[tuple[tuple[Rgb, Rgb], Rgb, Rgb, float], ...] = (
    (((0.25, 0.47, 0.78), (0.74, 0.85, 0.93)), (1.08, 1.03, 0.94), (0.36, 0.44, 0.56), 0.4),
    (((0.40, 0.55, 0.75), (0.83, 0.87, 0.89)), (1.0, 1.0, 0.97), (0.46, 0.50, 0.56), 0.65),
    (((0.62, 0.67, 0.72), (0.82, 0.84, 0.85)), (0.88, 0.90, 0.90), (0.55, 0.58, 0.60), 0.95),
    (((0.36, 0.45, 0.66), (0.97, 0.76, 0.52)), (1.22, 0.96, 0.66), (0.34, 0.34, 0.46), 0.4),
    (((0.24, 0.26, 0.44), (0.92, 0.58, 0.45)), (1.02, 0.74, 0.60), (0.28, 0.28, 0.40), 0.5),
    (((0.30, 0.42, 0.60), (0.70, 0.74, 0.76)), (0.92, 0.92, 0.86), (0.34, 0.40, 0.46), 0.8),
)
"""Sky, sun, shadow, clouds: noon, a light haze, overcast, golden hour, dusk, a dull morning."""


def make_day(rng: np.random.Generator) -> Day:
    """Draws a day."""
    sky, sun, shadow, clouds = _SKIES[rng.integers(len(_SKIES))]
    plants = _AUTUMN if rng.random() < 0.18 else _GREENS
    angle = rng.uniform(-2.6, -0.5)
    return Day(
        sky=sky,
        sun=sun,
        shadow=shadow,
        leaves=plants[rng.integers(len(plants))],
        earth=_EARTH[rng.integers(len(_EARTH))],
        clouds=float(np.clip(clouds + rng.normal(0, 0.2), 0, 1)),
        direction=(float(np.cos(angle)), float(np.sin(angle))),
        contrast=float(rng.uniform(0.95, 1.3)),
        gray=float(rng.uniform(0.05, 0.5)),
        vignette=float(rng.uniform(0.0, 0.4)),
    )
