"""Things that are no plants: water, cloth, flames and lanterns."""

import cv2
import numpy as np

from pipeline.synthetic.world.canvas import Canvas, Color, Gray, mix, ramp, smoothstep
from pipeline.synthetic.world.light import Day


def reflect(
    canvas: Canvas, rng: np.random.Generator, day: Day, color: Color, shore: float
) -> tuple[Color, Gray]:
    """Water below y = `shore` that mirrors what is above: darker, bluer, broken into streaks that
    get larger towards the viewer. Returns its colors and its mask.
    """
    x, y = canvas.grid
    near = np.clip((y - shore) / 0.4, 0, 1.3)
    depth = 1 / (near + 0.08)
    streaks = _perspective(canvas, canvas.noise(rng, 7, 6, 0.62, stretch=3.0), depth)
    swell = _perspective(canvas, canvas.noise(rng, 3, 4, 0.5, stretch=4.0), depth)
    calm = rng.uniform(0.3, 1.2)
    wobble = (0.003 + 0.02 * near) * calm
    u = x + wobble * 0.5 * streaks
    v = 2 * shore - y + wobble * (1.2 * streaks + 0.8 * swell) - 0.3 * near * 0.1
    u, v = (((axis + 0.125) * canvas.texels - 0.5).astype(np.float32) for axis in (u, v))
    mirror = cv2.remap(color, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    fresnel = np.clip(0.85 - 0.55 * near + 0.08 * streaks, 0.15, 0.95)
    deep = day.lit(np.array([0.10, 0.19, 0.20]) * np.ones((*x.shape, 1)), 0.7 + 0 * x)
    water = mix(deep, mirror * 0.88, fresnel)
    glints = smoothstep(1.5, 2.6, streaks + 0.5 * swell) * (0.15 + 0.35 * near)
    water = mix(water, np.asarray(day.sky[1]), np.clip(glints, 0, 1))
    return water, smoothstep(-1.0, 1.0, (y - shore) * canvas.texels / 1.5)


def _perspective(canvas: Canvas, noise: Gray, depth: Gray) -> Gray:
    """Noise on a plain that is seen at a slant; `depth` is the distance of each texel."""
    x = canvas.grid[0]
    columns = ((x - 0.5) * depth * 0.5 + 0.5) * canvas.texels
    rows = depth * 0.12 * canvas.texels
    return cv2.remap(
        noise,
        columns.astype(np.float32),
        rows.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


def fabric(
    canvas: Canvas,
    rng: np.random.Generator,
    day: Day,
    left: float,
    right: float,
    top: float,
    bottom: float,
) -> tuple[Color, Gray]:
    """A cloth that hangs from a seam at y = `top`, with folds, a weave, and stripes, checks, spots
    or no pattern. Returns its colors and its mask.
    """
    x, y = canvas.grid
    down = np.clip((y - top) / (bottom - top), 0, 1.2)
    folds, turn = rng.uniform(2.5, 7) / (right - left), rng.uniform(0, 6.28)
    drift = 0.012 * canvas.noise(rng, 2, 3, 0.5) * (0.3 + down)
    phase = 2 * np.pi * folds * (x + drift) + turn
    height = np.cos(phase) + 0.4 * np.cos(2.3 * phase + 1)
    slope = -np.sin(phase) - 0.9 * np.sin(2.3 * phase + 1)
    light = 0.74 + 0.3 * slope * (-day.direction[0]) * (0.35 + 0.65 * down) + 0.08 * height
    base = rng.uniform(0.25, 0.95, 3) ** rng.uniform(0.6, 1.4)
    ink = np.clip(base * rng.uniform(0.3, 1.6, 3), 0.03, 1)
    u, v = (x + 0.004 * height) * rng.uniform(12, 40), y * rng.uniform(12, 40)
    pattern = [
        0 * x,
        smoothstep(0.2, 0.5, np.cos(2 * np.pi * u)),
        smoothstep(0.1, 0.4, np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v) - 0.4),
        0.5 * (np.cos(2 * np.pi * u) > 0) + 0.5 * (np.cos(2 * np.pi * v) > 0),
    ][rng.integers(4)]
    weave = 1 + 0.05 * canvas.noise(rng, 90, 3, 1.0) + 0.03 * canvas.noise(rng, 4, 6, 0.6)
    color = day.lit(mix(base, ink, pattern) * weave[..., None], light)
    hem = bottom + 0.004 * height * down + 0.008 * np.cos(phase / 3)
    edge = 0.006 * np.sin(9 * y + turn) * down
    texel = 1.5 / canvas.texels
    mask = smoothstep(-texel, texel, y - top) * smoothstep(-texel, texel, hem - y)
    mask = mask * smoothstep(-texel, texel, x - left - edge)
    return color, mask * smoothstep(-texel, texel, right + edge - x)


def flame(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], high: float, wide: float
) -> tuple[Color, Gray]:
    """A flame with its foot at `at`: dark and blue at the wick, white within, orange at its rim.
    Returns its colors and its mask.
    """
    x, y = canvas.grid
    up = (at[1] - y) / high
    lick = canvas.noise(rng, 3 / wide * 0.06, 4, 0.6, stretch=0.6)
    lean = 0.16 * wide * lick * np.clip(up, 0, 1.5)
    profile = np.clip(up + 0.06, 0, None) ** 0.45 * np.clip(1.04 - up, 0, None) ** 0.9 * 1.7
    radius = np.abs(x - at[0] - lean) / (0.5 * wide * profile + 1e-4)
    heat = np.clip(1.15 - radius**1.6, 0, 1) * smoothstep(-0.08, 0.12, up)
    heat = heat * (1 - 0.45 * smoothstep(0.45, 1.05, up)) * smoothstep(1.04, 0.95, up)
    color = ramp(
        heat,
        (0.55, 0.10, 0.02),
        (0.93, 0.36, 0.06),
        (1.0, 0.66, 0.20),
        (1.05, 0.90, 0.55),
        (1.1, 1.04, 0.86),
    )
    foot = smoothstep(0.2, 0.0, up)
    color = mix(color, np.array([0.25, 0.28, 0.6]), 0.6 * foot)
    return color, smoothstep(0.02, 0.4, heat) * (1 - 0.4 * foot)


def lantern(
    canvas: Canvas, rng: np.random.Generator, at: np.ndarray, radius: float, color: np.ndarray
) -> tuple[Color, Gray]:
    """A paper lantern that glows from within, with ribs, caps and a tassel."""
    x, y = canvas.grid
    u, v = (x - at[0]) / radius, (y - at[1]) / (radius * rng.uniform(0.8, 1.25))
    distance = np.hypot(u, v)
    rib = np.cos(2 * np.pi * 7 * np.arcsin(np.clip(v, -1, 1)) / np.pi)
    glow = 1.15 - 0.6 * distance**2 + 0.07 * rib + 0.05 * canvas.noise(rng, 30, 4, 0.8)
    paper = np.asarray(color) * np.clip(glow, 0.1, 1.4)[..., None]
    paper = mix(paper, np.array([1.0, 0.85, 0.55]), 0.45 * smoothstep(0.9, 0.0, distance))
    cap = (np.abs(v) > 0.88) & (np.abs(v) < 1.06) & (np.abs(u) < 0.42)
    tassel = (v >= 1.05) & (v < 1.75) & (np.abs(u) < 0.07 + 0.03 * np.sin(60 * u))
    paper = np.where(cap[..., None], (0.16, 0.1, 0.07), paper)
    paper = np.where(tassel[..., None], np.asarray(color) * (0.8, 0.7, 0.4), paper)
    texel = 1.5 / canvas.texels / radius
    body = smoothstep(1 + texel, 1 - texel, distance) * (np.abs(v) < 0.95)
    return paper.astype(np.float32), np.maximum(body, cap | tassel).astype(np.float32)
