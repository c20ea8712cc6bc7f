"""What stands still behind, under and between the things that sway. All functions return colors on
a whole canvas, or a pair of colors and a mask from 0 to 1.
"""

import cv2
import numpy as np

from pipeline.synthetic.world.canvas import Canvas, Color, Gray, mix, ramp, smoothstep
from pipeline.synthetic.world.light import Day


def sky(canvas: Canvas, rng: np.random.Generator, day: Day, horizon: float) -> Color:
    """A sky with clouds that are lit from the sun's side."""
    y = canvas.grid[1]
    top, low = day.sky
    color = mix(np.array(top), np.array(low), smoothstep(-0.15, horizon, y))
    puffs = canvas.noise(rng, 1.5, 7, 0.55, stretch=2.2)
    cover = smoothstep(1.1 - 2.2 * day.clouds, 2.4 - 2.2 * day.clouds, puffs)
    side = puffs - canvas.blur(np.roll(puffs, round(0.03 * canvas.texels), 0), 0.02)
    cloud = day.lit(np.full((*y.shape, 3), 0.88, np.float32), 0.8 + 0.5 * side)
    return mix(color, np.maximum(cloud, 0.8 * color), 0.85 * cover)


def ridges(canvas: Canvas, rng: np.random.Generator, day: Day, color: Color, horizon: float):
    """The color of a sky with two to four ridges of wooded hills before it, the far ones in haze.
    Returns the colors and the mask of all hills.
    """
    y = canvas.grid[1]
    land = np.zeros_like(y)
    count = int(rng.integers(2, 5))
    haze = np.asarray(day.sky[1]) * 0.92
    for i in range(count):
        near = (i + 1) / count
        line = canvas.noise(rng, 1.2 + i, 7, 0.5)[canvas.rows // 2]
        jag = canvas.noise(rng, 40, 4, 0.8)[canvas.rows // 3]
        top = horizon - 0.16 * (1 - near) - 0.02 + rng.normal(0, 0.015)
        edge = top + 0.045 * line + (0.002 + 0.006 * near) * jag
        mask = smoothstep(-1.0, 1.0, (y - edge[None]) * canvas.texels / 1.5)
        grain = canvas.noise(rng, 14 + 10 * i, 6, 0.75, stretch=1.5)
        shade = 0.42 + 0.16 * grain + 0.5 * np.clip(edge[None] + 0.1 - y, -0.3, 0.1)
        woods = day.lit(ramp(shade, *day.leaves), shade)
        depth = 0.85 * (1 - near) ** 0.7 + 0.1
        color = mix(color, mix(woods, haze, depth), mask)
        land = np.maximum(land, mask)
    return color, land


def ground(
    canvas: Canvas, rng: np.random.Generator, day: Day, horizon: float, kind: str = "grass"
) -> Color:
    """A plain in perspective, whose texture gets coarser towards the viewer."""
    x, y = canvas.grid
    depth = 0.12 / np.maximum(y - horizon + 0.02, 0.02)
    flat = [canvas.noise(rng, c, 8, 0.68) for c in (3, 5)]
    columns = ((x - 0.5) * depth * 0.6 + 0.5) * canvas.texels * 0.9 + 0.1 * canvas.texels
    rows = (depth * 0.55 % 1.6) * 0.5 * canvas.texels
    near, far = (
        cv2.remap(
            noise,
            (columns * scale).astype(np.float32),
            (rows * scale).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        for noise, scale in zip(flat, (1.0, 0.4), strict=True)
    )
    shade = 0.5 + 0.16 * near + 0.14 * far
    if kind == "grass":
        color = day.lit(ramp(shade, *day.leaves), shade + 0.1)
    else:
        color = day.lit(ramp(shade, *day.earth), shade + 0.1)
    return mix(color, np.asarray(day.sky[1]) * 0.9, 0.35 * np.exp(-(y - horizon) / 0.06))


def blurred_garden(canvas: Canvas, rng: np.random.Generator, day: Day) -> Color:
    """A background far out of focus: clouds of foliage, gaps of sky, and discs of light."""
    y = canvas.grid[1]
    shade = rng.uniform(0.4, 0.7) + 0.2 * canvas.noise(rng, 2, 4, 0.6) - 0.25 * (y - 0.3)
    color = day.lit(ramp(shade, *day.leaves), shade + 0.1)
    gaps = smoothstep(0.6, 1.8, canvas.noise(rng, 1.5, 4, 0.5) - 2.2 * (y - 0.2))
    color = mix(color, np.asarray(day.sky[1]), gaps * rng.uniform(0, 0.9))
    flowers = smoothstep(1.1, 1.9, canvas.noise(rng, 5, 3, 0.5))
    color = mix(color, rng.uniform(0.3, 0.95, 3), 0.7 * flowers * rng.choice([0.0, 0.6, 1.0]))
    color = canvas.blur(color, rng.uniform(0.015, 0.035))
    discs = np.zeros((canvas.rows, canvas.columns), np.float32)
    radius = rng.uniform(0.012, 0.035)
    for at in rng.uniform((-0.1, -0.1), (1.1, 0.6), (int(rng.integers(0, 45)), 2)):
        center = tuple(int(v) for v in (at + 0.125) * canvas.texels)
        strength = float(rng.uniform(0.05, 0.35))
        disc = np.zeros_like(discs)
        cv2.circle(disc, center, round(radius * canvas.texels), strength, -1)
        discs = np.maximum(discs, disc)
    glow = np.asarray(day.sun) * np.array([0.95, 0.97, 0.75])
    return color + canvas.blur(discs, 0.003)[..., None] * glow


def wall(canvas: Canvas, rng: np.random.Generator, day: Day) -> Color:
    """A wall of bricks, planks, stones or plaster, stained and unevenly lit."""
    x, y = canvas.grid
    kind = rng.choice(["bricks", "planks", "plaster", "stones"])
    stains = canvas.noise(rng, 2, 8, 0.62)
    base = rng.uniform(0.35, 0.7) * np.array([1.0, rng.uniform(0.75, 1), rng.uniform(0.55, 0.95)])
    joint, tone = np.zeros_like(x), np.zeros_like(x)
    if kind in ("bricks", "stones"):
        high = rng.uniform(0.035, 0.08)
        wide = high * (2.3 if kind == "bricks" else 1.5)
        bend = 0.006 if kind == "stones" else 0.001
        u, v = x + bend * canvas.noise(rng, 6, 3), y + bend * canvas.noise(rng, 6, 3)
        row = np.floor(v / high)
        column = np.floor(u / wide + 0.5 * (row % 2))
        tones = rng.normal(0, 1, (64, 64)).astype(np.float32)
        tone = tones[row.astype(int) % 64, column.astype(int) % 64]
        edge = np.minimum((v / high % 1) * high, (u / wide + 0.5 * (row % 2)) % 1 * wide)
        joint = 1 - smoothstep(0.002, 0.006, edge)
    elif kind == "planks":
        wide = rng.uniform(0.05, 0.11)
        column = np.floor(x / wide).astype(int)
        tone = rng.normal(0, 1, 64).astype(np.float32)[column % 64]
        tone = tone + canvas.noise(rng, 30, 4, 0.7, stretch=0.06)
        joint = 1 - smoothstep(0.001, 0.004, (x / wide % 1) * wide)
    shade = 1 + 0.13 * tone + 0.13 * stains + 0.07 * canvas.noise(rng, 40, 4, 0.9)
    color = base * shade[..., None]
    color = mix(color, base * (0.55 if kind != "bricks" else 1.15), 0.8 * joint)
    light = 0.75 + 0.25 * (x - 0.5) * -day.direction[0] + 0.15 * canvas.noise(rng, 1, 3, 0.5)
    return day.lit(color * 1.25, light)


def rocks(
    canvas: Canvas, rng: np.random.Generator, day: Day, color: Color, line: float, count: int
) -> tuple[Color, Gray]:
    """The picture with rocks that stand with their feet around y = `line`; and their mask."""
    x, y = canvas.grid
    color, covered = color.astype(np.float32), np.zeros_like(x)
    rough = canvas.noise(rng, 8, 6, 0.6)
    grain = canvas.noise(rng, 20, 6, 0.75)
    for _ in range(count):
        foot = line + rng.uniform(-0.02, 0.1)
        radius = rng.uniform(0.03, 0.1) * (0.6 + 2 * max(0.0, foot - line))
        at, wide = rng.uniform(-0.05, 1.05), radius * rng.uniform(1.0, 1.7)
        rows, columns = abs(y[:, 0] - foot) < 2 * radius, abs(x[0] - at) < 2 * wide
        part = np.ix_(rows, columns)
        u, v = (x[part] - at) / wide, (y[part] - foot) / radius
        distance = np.hypot(u, v) + 0.16 * rough[part]
        mask = smoothstep(1.0, 1.0 - 2.0 / (radius * canvas.texels), distance) * (v < 0.35)
        facing = -(u * day.direction[0] + v * day.direction[1]) * -0.35
        shade = np.clip(0.45 + facing + 0.14 * grain[part] - 0.25 * (v > 0.1), 0, 1)
        stone = day.lit(ramp(shade, (0.14, 0.13, 0.12), (0.62, 0.6, 0.56)), shade)
        under = smoothstep(1.6, 0.9, np.hypot(u, 3 * (v - 0.2))) * 0.5
        color[part] = mix(mix(color[part], color[part] * 0.4, under), stone, mask)
        covered[part] = np.maximum(covered[part], mask)
    return color, covered


def fence(
    canvas: Canvas, rng: np.random.Generator, day: Day, color: Color, line: float
) -> tuple[Color, Gray]:
    """The picture with a wooden fence whose posts stand at y = `line`; and its mask."""
    x, y = canvas.grid
    high, gap = rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.25)
    lean = 0.01 * np.sin(7 * x + rng.uniform(0, 6))
    post = np.abs((x / gap) % 1 - 0.5) * gap < 0.008 + 0.002 * np.sin(40 * x)
    post &= (y > line - high + lean) & (y < line + 0.01)
    rails = np.zeros_like(post)
    for share in (0.3, 0.7):
        rails |= np.abs(y - (line - share * high + lean)) < 0.006
    mask = canvas.blur((post | rails).astype(np.float32), 0.001)
    tone = 0.55 + 0.14 * canvas.noise(rng, 12, 6, 0.75)
    wood = day.lit(ramp(tone, (0.16, 0.12, 0.09), (0.66, 0.58, 0.48)), tone)
    return mix(color, wood, mask), mask
